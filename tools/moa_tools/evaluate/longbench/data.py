"""The user's JSONL files, every field checked before a model is loaded."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moa_rt import ArgumentError, FormatError, IoError

from moa_tools.evaluate.longbench.scorers import Case
from moa_tools.evaluate.longbench.tasks import Dataset
from moa_tools.files import read_bounded
from moa_tools.strict_json import load_object

_MAX_FILE = 4 << 30
_MAX_SETTINGS = 1 << 20
# LongBench-E files end in _e, LV-Eval's in their length level.
_SUFFIX = re.compile(r"(?:_e|_(?P<level>\d{1,3}k))$")


@dataclass(frozen=True)
class Entry:
    """One line of a dataset."""

    context: str
    question: str
    answers: tuple[str, ...]
    length: int  # words or characters, as the authors counted them
    case: Case


@dataclass(frozen=True)
class DataFile:
    """One file: the dataset it holds, and its entries."""

    name: str  # the file's name without .jsonl
    dataset: str
    by_length: bool  # LongBench-E: reported in buckets of length
    sha256: str
    entries: tuple[Entry, ...]


def _field(line: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    if name not in line:
        raise FormatError(f'{where}: field "{name}": missing')
    value = line[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise FormatError(
            f'{where}: field "{name}": got {type(value).__name__}, want {kind.__name__}'
        )
    return value


def _texts(value: Any, name: str, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise FormatError(f'{where}: field "{name}": got {str(value)[:80]}, want a list of texts')
    return tuple(value)


def _entry(line: Any, where: str) -> Entry:
    if not isinstance(line, dict):
        raise FormatError(f"{where}: got {type(line).__name__}, want an object")
    answers = _texts(_field(line, "answers", list, where), "answers", where)
    if not answers:
        raise FormatError(f'{where}: field "answers": got an empty list, want at least one')
    classes = line.get("all_classes")
    keywords = line.get("answer_keywords")
    if keywords is not None and not isinstance(keywords, str):
        raise FormatError(f'{where}: field "answer_keywords": want a text')
    return Entry(
        context=_field(line, "context", str, where),
        question=_field(line, "input", str, where),
        answers=answers,
        length=_field(line, "length", int, where),
        case=Case(
            () if classes is None else _texts(classes, "all_classes", where), keywords or None
        ),
    )


def _lines(path: Path, data: bytes) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            yield where, json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{where}: {error}") from error


def load_file(path: Path, known: Mapping[str, Dataset], limit: int | None) -> DataFile:
    """One JSONL file. Raises IoError, FormatError, or ArgumentError for an unknown dataset."""
    suffix = _SUFFIX.search(path.stem)
    dataset = path.stem[: suffix.start()] if suffix else path.stem
    if dataset not in known:
        raise ArgumentError(f"{path}: dataset: got {dataset!r}, want one of {sorted(known)}")
    data = read_bounded(path, _MAX_FILE)
    entries = [_entry(line, where) for where, line in _lines(path, data)]
    if not entries:
        raise FormatError(f"{path}: got no line, want at least one")
    return DataFile(
        path.stem,
        dataset,
        by_length=path.stem.endswith("_e"),
        sha256=hashlib.sha256(data).hexdigest(),
        entries=tuple(entries[:limit]),
    )


def load_directory(
    place: Path, known: Mapping[str, Dataset], limit: int | None
) -> tuple[DataFile, ...]:
    """Every *.jsonl of a directory, or the one file given, sorted by name."""
    if place.is_dir():
        paths = sorted(place.glob("*.jsonl"))
        if not paths:
            raise ArgumentError(f"{place}: got no *.jsonl file, want at least one")
    elif place.exists():
        paths = [place]
    else:
        raise IoError(2, f"{place}: open: No such file or directory", str(place))
    return tuple(load_file(path, known, limit) for path in paths)


def load_settings(path: Path, kind: type) -> dict[str, Any]:
    """A published `dataset2prompt.json` (texts) or `dataset2maxlen.json` (numbers)."""
    values = load_object(path, _MAX_SETTINGS)
    for name, value in values.items():
        if not isinstance(value, kind) or isinstance(value, bool):
            raise FormatError(f"{path}: {name}: got {str(value)[:80]!r}, want {kind.__name__}")
        if isinstance(value, int) and not 1 <= value <= 4096:
            raise FormatError(f"{path}: {name}: got {value}, want 1 to 4096 tokens")
        if isinstance(value, str) and "{context}" not in value:
            raise FormatError(f"{path}: {name}: want a prompt with {{context}} in it")
    return values
