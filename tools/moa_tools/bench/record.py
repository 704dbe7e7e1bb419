"""One run, one JSON: where and when it ran, the ceilings, every figure, and what was missing.

Schema 1:
{"schema": 1, "kind": "gpu" | "cpu", "date", "command", "environment": {name: text},
 "ceilings": {name: number}, "rows": [Row], "missing": [{"what", "reason"}],
 "sections": [name]}
"sections" is what a GPU run was asked for; runs of before it was stored have none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moa_rt import ArgumentError, FormatError, UnsupportedError

from moa_tools import strict_json
from moa_tools.bench.statistics import Rounds
from moa_tools.files import read_bounded, write_atomic

SCHEMA = 1
KINDS = ("gpu", "cpu")
_MAX_BYTES = 64 << 20
_KEYS = {"schema", "kind", "date", "command", "environment", "ceilings", "rows", "missing"}

Case = Mapping[str, str | int | float]


@dataclass(frozen=True)
class Row:
    """One system in one case.

    Units are part of a figure's name: `us`, `ms`, `tok_s`, `TB_s`, `GiB`, `share_of_read`.
    `seconds` holds the raw times by round where there are any.
    """

    section: str
    system: str
    case: Case
    figures: Mapping[str, float]
    seconds: tuple[tuple[float, ...], ...] = ()

    @property
    def rounds(self) -> Rounds:
        """The raw times. Raises ArgumentError if the row has none."""
        return Rounds(self.seconds)

    def to_json(self) -> dict[str, Any]:
        """The row as plain values."""
        out: dict[str, Any] = {
            "section": self.section,
            "system": self.system,
            "case": dict(self.case),
            "figures": dict(self.figures),
        }
        if self.seconds:
            out["seconds"] = [list(row) for row in self.seconds]
        return out


NOT_ASKED = "was not asked for"


@dataclass(frozen=True)
class Missing:
    """A peer or a section without figures, and why."""

    what: str
    reason: str


@dataclass
class Run:
    """Everything one run measured."""

    kind: str
    date: str
    command: str
    environment: dict[str, str] = field(default_factory=dict)
    ceilings: dict[str, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    sections: list[str] = field(default_factory=list)

    def select(
        self, section: str, system: str | None = None, **case: str | int | float
    ) -> list[Row]:
        """Rows of a section (and system) whose case has these values."""
        return [
            row
            for row in self.rows
            if row.section == section
            and system in (None, row.system)
            and all(row.case.get(name) == value for name, value in case.items())
        ]

    def to_bytes(self) -> bytes:
        """The JSON document; equal runs give equal bytes."""
        document = {
            "schema": SCHEMA,
            "kind": self.kind,
            "date": self.date,
            "command": self.command,
            "environment": self.environment,
            "ceilings": self.ceilings,
            "rows": [row.to_json() for row in self.rows],
            "missing": [{"what": m.what, "reason": m.reason} for m in self.missing],
        }
        if self.sections:
            document["sections"] = self.sections
        return strict_json.dump(document)

    def save(self, path: Path) -> None:
        """Writes the file whole or not at all."""
        write_atomic(path, self.to_bytes())


def _object(value: Any, item: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(f"{item}: got {type(value).__name__}, want an object")
    return value


def _text(value: Any, item: str) -> str:
    if not isinstance(value, str):
        raise FormatError(f"{item}: got {type(value).__name__}, want a text")
    return value


def _number(value: Any, item: str) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not math.isfinite(value):
        raise FormatError(f"{item}: got {str(value)[:40]}, want a finite number")
    return float(value)


def _array(value: Any, item: str) -> list[Any]:
    if not isinstance(value, list):
        raise FormatError(f"{item}: got {type(value).__name__}, want a list")
    return value


def _keys(value: dict[str, Any], need: set[str], may: set[str], item: str) -> None:
    if need - set(value):
        raise FormatError(f"{item}: missing: {', '.join(sorted(need - set(value)))}")
    if set(value) - need - may:
        raise FormatError(f"{item}: unknown: {', '.join(sorted(set(value) - need - may))[:200]}")


def parse_row(value: Any, item: str) -> Row:
    """A row from plain values. Raises FormatError naming `item` and the field."""
    row = _object(value, item)
    _keys(row, {"section", "system", "case", "figures"}, {"seconds"}, item)
    case: dict[str, str | int | float] = {}
    for name, entry in _object(row["case"], f"{item}: case").items():
        case[name] = entry if isinstance(entry, str | int) else _number(entry, f"{item}: {name}")
    figures = {
        name: _number(entry, f"{item}: {name}")
        for name, entry in _object(row["figures"], f"{item}: figures").items()
    }
    seconds = tuple(
        tuple(_number(entry, f"{item}: seconds") for entry in _array(part, f"{item}: seconds"))
        for part in _array(row.get("seconds", []), f"{item}: seconds")
    )
    section = _text(row["section"], f"{item}: section")
    return Row(section, _text(row["system"], f"{item}: system"), case, figures, seconds)


def parse(text: bytes, path: str) -> Run:
    """Reads the text of a run. Raises FormatError or UnsupportedError naming the field."""
    document = _object(strict_json.parse(text, path), path)
    _keys(document, _KEYS, {"sections"}, path)
    if document["schema"] != SCHEMA:
        raise UnsupportedError(f"{path}: schema: got {document['schema']!r}, want {SCHEMA}")
    if document["kind"] not in KINDS:
        raise FormatError(f"{path}: kind: got {str(document['kind'])[:40]}, want gpu or cpu")
    environment = _object(document["environment"], f"{path}: environment")
    ceilings = _object(document["ceilings"], f"{path}: ceilings")
    rows = _array(document["rows"], f"{path}: rows")
    sections = _array(document.get("sections", []), f"{path}: sections")
    missing = []
    for i, entry in enumerate(_array(document["missing"], f"{path}: missing")):
        item = f"{path}: missing[{i}]"
        _keys(_object(entry, item), {"what", "reason"}, set(), item)
        missing.append(Missing(_text(entry["what"], item), _text(entry["reason"], item)))
    return Run(
        kind=document["kind"],
        date=_text(document["date"], f"{path}: date"),
        command=_text(document["command"], f"{path}: command"),
        environment={k: _text(v, f"{path}: environment {k}") for k, v in environment.items()},
        ceilings={k: _number(v, f"{path}: ceilings {k}") for k, v in ceilings.items()},
        rows=[parse_row(row, f"{path}: rows[{i}]") for i, row in enumerate(rows)],
        missing=missing,
        sections=[_text(name, f"{path}: sections") for name in sections],
    )


def load(path: Path) -> Run:
    """Reads a run file."""
    if not str(path):
        raise ArgumentError("RUN.json: want a path")
    return parse(read_bounded(path, _MAX_BYTES), str(path))
