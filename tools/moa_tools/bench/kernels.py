"""Our kernels alone: the C++ benchmarks of cuda/bench, run as they are and read line by line."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moa_rt import ArgumentError, DeviceError, FormatError, IoError

from moa_tools import strict_json
from moa_tools.bench.record import Row

SECTION = "kernels"
BENCHES = ("attention", "decoder")
_PREFIX, _SUFFIX = "moa_rt_", "_bench"
# Whole numbers that say what was run; every other number is a result.
_CASE = {"batch", "span", "tokens", "length", "chunk", "density", "nodes"}


def find(bench: str, directory: Path) -> Path:
    """The binary of that benchmark. Raises ArgumentError or IoError naming what is missing."""
    if bench not in BENCHES:
        raise ArgumentError(f"bench: got {bench!r}, want one of {', '.join(BENCHES)}")
    path = directory / f"{_PREFIX}{bench}{_SUFFIX}"
    for place in (path, directory / "cuda" / path.name):
        if place.is_file():
            return place
    raise IoError(2, f"{path}: no such file; built with -DMOA_RT_CUDA=ON and the tests", str(path))


def parse_line(line: str, bench: str) -> Row:
    """A row from one JSON line of a benchmark. Raises FormatError."""
    value: Any = strict_json.parse(line, f"{bench} bench")
    if not isinstance(value, dict):
        raise FormatError(f"{bench} bench: got {line[:80]!r}, want an object")
    case: dict[str, str | int | float] = {"bench": bench}
    figures: dict[str, float] = {}
    for name, entry in value.items():
        if isinstance(entry, str) or name in _CASE:
            case[name] = entry
        elif isinstance(entry, list):
            case[name] = " x ".join(str(part) for part in entry)
        elif entry is not None:
            figures[name] = float(entry)
    return Row(SECTION, "moa_rt", case, figures)


def measure(bench: str, directory: Path, turn: int = 0) -> Iterator[Row]:
    """Runs one benchmark; `turn` tells repeated runs of one session apart.

    Raises DeviceError with the benchmark's own words if it fails; the rows before that count.
    """
    path = find(bench, directory)
    process = subprocess.Popen(
        [str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        for line in process.stdout:
            if line.strip():
                row = parse_line(line, bench)
                yield Row(row.section, row.system, {**row.case, "turn": turn}, row.figures)
        complaint = process.stderr.read().strip()
    finally:
        process.kill()
        status = process.wait()
    if status != 0:
        raise DeviceError(f"{path.name}: exit status {status}: {complaint[:200]}")
