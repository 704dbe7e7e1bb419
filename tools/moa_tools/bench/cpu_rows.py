"""Rows of a CPU run: prefill and decode rates, best and median of the repetitions."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from moa_rt import ArgumentError

from moa_tools.bench.record import Row
from moa_tools.bench.statistics import Rounds

SECTION = "cpu"
PHASES = ("prefill", "decode")


@dataclass(frozen=True)
class Timing:
    """Seconds of reading a prompt, and seconds of each decode step after it."""

    prefill_seconds: float
    step_seconds: float


def row(
    system: str,
    case: dict[str, str | int | float],
    prompt: int,
    runs: Sequence[Timing],
    step_bytes: int = 0,
) -> Row:
    """Rates of one system from its repetitions; `step_bytes` 0 leaves the bandwidth out."""
    if not runs:
        raise ArgumentError(f"{system}: got no repetition, want at least one")
    prefill = [run.prefill_seconds for run in runs]
    step = [run.step_seconds for run in runs]
    figures = {
        "prefill_tok_s": prompt / statistics.median(prefill),
        "prefill_best_tok_s": prompt / min(prefill),
        "decode_tok_s": 1.0 / statistics.median(step),
        "decode_best_tok_s": 1.0 / min(step),
        "ms_step": statistics.median(step) * 1e3,
        "spread": max(step) / min(step) - 1.0,
    }
    if step_bytes:
        figures["decode_GB_s"] = step_bytes / statistics.median(step) * 1e-9
    return Row(SECTION, system, case, figures, (tuple(prefill), tuple(step)))


def repetitions(row: Row, phase: str) -> Rounds | None:
    """Times of a phase, each repetition a round of its own: contenders take turns after each."""
    if not row.seconds:
        return None
    return Rounds(tuple((value,) for value in row.seconds[PHASES.index(phase)]))
