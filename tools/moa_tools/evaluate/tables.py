"""Markdown tables and numbers as they are printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    marks = ["---", *("---:" for _ in header[1:])]
    lines = [header, marks, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def number(value: float | None, digits: int = 3) -> str:
    """A fixed number of decimals, "-" for a missing value."""
    return "-" if value is None else f"{value:.{digits}f}"


def with_interval(value: float | None, interval: Sequence[float] | None, digits: int = 3) -> str:
    """As "0.930 [0.862, 0.966]"; the interval is left out where there is none."""
    if value is None or interval is None:
        return number(value, digits)
    return f"{number(value, digits)} [{number(interval[0], digits)}, {number(interval[1], digits)}]"


def rounded(value: float) -> float:
    """Six digits after the point: what results.json holds."""
    return round(float(value), 6)


def mean(values: Sequence[float]) -> float:
    """The mean, rounded as in results.json."""
    return rounded(sum(values) / len(values))


def cells(rows: Sequence[dict[str, Any]], label: str, length: int) -> dict[str, Any] | None:
    """The row of a plan at a length, None if it has not been measured."""
    found = [row for row in rows if row["plan"] == label and row["length"] == length]
    return found[0] if found else None
