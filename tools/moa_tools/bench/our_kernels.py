"""Our attention kernels in the peers' cases, from the rows of the C++ benchmarks."""

from __future__ import annotations

from dataclasses import dataclass

from moa_tools.bench.record import Run
from moa_tools.bench.statistics import Extreme, slowest

KERNELS, OURS = "kernels", "moa_rt"


@dataclass(frozen=True)
class OurTime:
    """Median microseconds of a kernel, one of the times it ran; `spread` of its rounds if told."""

    us: float
    spread: float | None

    @property
    def slowest(self) -> Extreme:
        """Its slowest round over its median."""
        return slowest(None, self.spread)

    @property
    def slowest_us(self) -> float:
        """Microseconds of its slowest round."""
        return self.us * self.slowest.factor


def decode_times(run: Run) -> dict[tuple[str, str], list[OurTime]]:
    """(model, plan) of an 8 x 8192 layer -> our kernel's times, one for each time it ran.

    A row has the time of a plan and of the base that it is a ratio of, each with its spread in runs
    since both are stored.
    """
    out: dict[tuple[str, str], list[OurTime]] = {}
    rows = [row for goal in ("D4", "D3") for row in run.select(KERNELS, OURS, goal=goal, batch=8)]
    for row in rows:
        model, what = str(row.case["model"]), str(row.case["what"])
        plan = "mixed 25%" if what.startswith("25") else "mixed 50%"
        times = out.setdefault((model, plan), [])
        times.append(OurTime(row.figures["us"], row.figures.get("spread")))
        if "dense" in what:
            out.setdefault((model, "dense"), []).append(
                OurTime(row.figures["base_us"], row.figures.get("base_spread"))
            )
    return out


def prefill_times(run: Run, goal: str, model: str, tokens: int) -> list[OurTime]:
    """Times of a prompt, dense (goal P1) or under the mixed plan (P2), one for each run of it."""
    rows = run.select(KERNELS, OURS, goal=goal, model=model, tokens=tokens)
    return [OurTime(row.figures["ms"] * 1e3, row.figures.get("spread")) for row in rows]
