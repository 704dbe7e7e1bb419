"""The ablation ladder: from a peer to our plan by one switch a rung."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moa_tools.bench import end_rows
from moa_tools.bench.huggingface import DYNAMIC, STATIC
from moa_tools.bench.markdown import markdown, number
from moa_tools.bench.our_kernels import OURS
from moa_tools.bench.record import Row, Run


@dataclass(frozen=True)
class Ladder:
    """(switch, row) of every rung up to the first that the run lacks; `lacks` names that one."""

    rungs: Sequence[tuple[str, Row]]
    lacks: str = ""


def climb(run: Run) -> Ladder:
    """From the first peer's dynamic cache to our plans, in its setting; empty without that peer.

    A rung is no higher than the one below it is there: a ratio over several switches says of none
    of them what it gives.
    """
    peers = end_rows.select(run, DYNAMIC)
    if not peers:
        return Ladder(())
    first = peers[0]
    key = {"model": first.case["model"], "setting": first.case["setting"]}
    same = {**key, "batch": first.case["batch"]}
    rungs = [("dynamic cache", first)]
    # The last rung turns two, which no run tells apart.
    for what, system, case in (
        ("static cache, compiled", STATIC, {**same, "plan": "dense"}),
        ("kernels and one graph a step", OURS, {**same, "plan": "dense", "full": 0}),
        ("fewer bytes", OURS, {**same, "plan": "uniform 50%", "full": 0}),
        ("larger batch", OURS, {**key, "plan": "uniform 50%", "full": 1}),
        ("fewer bytes still and a larger batch", OURS, {**key, "plan": "uniform 25%", "full": 1}),
    ):
        rows = end_rows.select(run, system, **case)
        if not rows:
            at = f"{case['plan']}, batch {case.get('batch', 'full')}"
            return Ladder(rungs, f"{what} ({system}, {at})")
        rungs.append((what, rows[0]))
    return Ladder(rungs)


def ladder_table(run: Run) -> str:
    """Every rung over the one before, and the rung that is lacking where the ladder ends early."""
    ladder = climb(run)
    rows = []
    before = None
    for what, row in ladder.rungs:
        rate = row.figures["tok_s"]
        over = f"{rate / before:.2f}x of {number(before)}" if before else "-"
        case = row.case
        rows.append([what, row.system, case["plan"], case["batch"], number(rate), over])
        before = rate
    table = markdown(["rung", "system", "plan", "batch", "tok/s", "over the rung before"], rows)
    if ladder.lacks:
        table += f"\n\nThe ladder ends here: the run has no row for {ladder.lacks}."
    return table
