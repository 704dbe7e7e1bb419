"""End-to-end rows: rates by the median of their rounds, whatever was stored beside the times.

A round is a third of the timed steps, and its time the mean of its steps: peers are timed by
rounds alone, and of our steps, timed one by one, none may be left out that theirs include.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

from moa_tools.bench.record import Row, Run
from moa_tools.bench.roofline import share
from moa_tools.bench.statistics import Extreme, Rounds

SECTION = "end to end"
_RATES = ("tok_s", "TB_s", "share_of_roofline")


def rounds_of(seconds: Sequence[Sequence[float]]) -> Rounds:
    """Seconds a step of every round, from times of its steps or of the round itself."""
    return Rounds(tuple((fmean(part),) for part in seconds))


def rates(
    batch: int, rounds: Rounds, step_bytes: int, read_bytes_a_second: float
) -> dict[str, float]:
    """Figures of a row by the median round; `read_bytes_a_second` 0 leaves the roofline out."""
    seconds = rounds.median
    out = {
        "tok_s": batch / seconds,
        "ms_step": seconds * 1e3,
        "spread": rounds.spread,
        "TB_s": step_bytes / seconds * 1e-12,
    }
    if read_bytes_a_second > 0.0:
        out["share_of_roofline"] = share(step_bytes, seconds, read_bytes_a_second)
    return out


def by_median(row: Row) -> Row:
    """The row with the rates of its median round: older runs stored those of the mean."""
    if not row.seconds or "ms_step" not in row.figures:
        return row
    rounds = rounds_of(row.seconds)
    figures = dict(row.figures)
    factor = figures["ms_step"] * 1e-3 / rounds.median
    for name in _RATES:
        if name in figures:
            figures[name] *= factor
    figures |= {"ms_step": rounds.median * 1e3, "spread": rounds.spread}
    return replace(row, figures=figures)


def select(run: Run, system: str | None = None, **case: str | int | float) -> list[Row]:
    """As `Run.select` of this section, every row by its median round."""
    return [by_median(row) for row in run.select(SECTION, system, **case)]


def tok_s_at(row: Row, extreme: Callable[..., Extreme]) -> tuple[float, Extreme]:
    """Tokens a second of the row's `fastest` or `slowest` round, and what stands for that round."""
    found = extreme(rounds_of(row.seconds) if row.seconds else None, row.figures.get("spread"))
    return row.figures["tok_s"] / found.factor, found
