"""Tables and numbers as Markdown has them."""

from __future__ import annotations

from collections.abc import Sequence


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; numbers are the caller's to format."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def percent(value: float | None) -> str:
    """A part of one as per cent with one decimal, a dash for nothing."""
    return "-" if value is None else f"{value:.1%}"


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, a dash for nothing."""
    if value is None:
        return "-"
    if value == 0 or 1e-3 <= abs(value) < 10**digits:
        text = f"{value:.{digits}g}"
        return text if "e" not in text else f"{value:.0f}"
    return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:.2e}"
