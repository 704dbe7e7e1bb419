"""Tables of attention kernels: ours beside the peers, and ours alone."""

from __future__ import annotations

from collections.abc import Sequence

from moa_tools.bench.attention import DECODE
from moa_tools.bench.markdown import markdown, number, percent
from moa_tools.bench.our_kernels import KERNELS, OURS, OurTime, decode_times, prefill_times
from moa_tools.bench.record import Row, Run

_Case = tuple[object, ...]
_CASE = ("model", "plan", "batch", "tokens")


def _our_times(run: Run, section: str, case: _Case) -> list[OurTime]:
    """Our kernel's times in that case, one for each time it ran."""
    model, plan, batch, tokens = case
    if section == DECODE:
        # The only batch and length that the C++ benchmark has these plans at.
        at = (batch, tokens) == (8, 8192)
        return decode_times(run).get((str(model), str(plan)), []) if at else []
    goal = {"dense": "P1", "mixed 50%": "P2"}.get(str(plan))
    return prefill_times(run, goal, str(model), int(str(tokens))) if goal else []


def attention_table(run: Run, section: str, rate: str, unit: str) -> str:
    """Case by case, fastest first, and how much longer each takes than the fastest.

    The amount of work is the case's own, so ours has the peers' unit.
    """
    cases: dict[_Case, list[Row]] = {}
    for row in run.select(section):
        cases.setdefault(tuple(row.case[name] for name in _CASE), []).append(row)
    rows = []
    for case, peers in cases.items():
        amount = peers[0].figures[rate] * peers[0].figures["us"]
        entries = [(row.figures["us"], row.system, f"{row.figures['spread']:.1%}") for row in peers]
        ours = _our_times(run, section, case)
        if ours:
            slow = max(ours, key=lambda time: time.us)
            entries.append((slow.us, f"**{OURS}**", percent(slow.spread)))
        fastest = min(entries)[0]
        for us, system, spread in sorted(entries):
            times = f"{us / fastest:.2f}x of {number(fastest)}"
            rows.append([*case, system, number(us), number(amount / us), times, spread])
    header = ["model", "plan", "batch", "tokens", "kernel", "us", unit]
    return markdown([*header, "time over the fastest", "spread"], rows)


def kernels_table(run: Run) -> str:
    """Our kernels, as the C++ benchmarks print them; the turns of a case follow one another."""
    cases: dict[_Case, list[list[object]]] = {}
    for row in run.select(KERNELS, OURS):
        described = _described(run, row)
        if described:
            what, *figures = described
            case = (row.case.get("goal"), row.case.get("model"), what)
            spread = percent(row.figures.get("spread"))
            cases.setdefault(case, []).append([*case, row.case["turn"], *figures, spread])
    header = ["goal", "model", "case", "turn", "time", "rate", "of its base", "spread"]
    return markdown(header, [row for turns in cases.values() for row in turns])


def _described(run: Run, row: Row) -> Sequence[str] | None:
    """Case, time, rate and what the rate or time is of its base; None for what is no kernel's."""
    case = row.case
    if "us_per_layer" in row.figures:
        return f"batch {case['batch']}, {case['span']} tokens a head", *_bandwidth(run, row)
    if "base_us" in row.figures:
        ratio = f"{row.figures['us'] / row.figures['base_us']:.3f}"
        base = f"{ratio} of {number(row.figures['base_us'])} us"
        what = f"batch {case['batch']}, {case['what']}"
        return what, f"{number(row.figures['us'])} us", "-", base
    if "visible_TFLOP_s" in row.figures:
        return f"{case['tokens']} tokens, {case['what']}", *_arithmetic(run, row)
    if "ms_step" in row.figures:
        what = ", ".join(f"{key} {value}" for key, value in case.items() if key in _STEP)
        share = f"{number(row.figures.get('share_of_roofline'))} of the roofline"
        time = f"{number(row.figures['ms_step'])} ms"
        return what, time, f"{number(row.figures['tok_s'])} tok/s", share
    return None


_STEP = ("density", "batch", "length", "sampling")


def _bandwidth(run: Run, row: Row) -> Sequence[str]:
    read = run.ceilings.get("read_TB_s")
    rate = row.figures["TB_s"]
    size = f"{number(row.figures['us_per_layer'])} us for {number(row.figures['layer_MB'])} MB"
    share = f"{rate / read:.3f} of {number(read)} TB/s read" if read else "-"
    return size, f"{number(rate)} TB/s", share


def _arithmetic(run: Run, row: Row) -> Sequence[str]:
    """The rate of a plan over our own dense rate at the same length."""
    rate = row.figures["visible_TFLOP_s"]
    same = {name: row.case[name] for name in ("model", "tokens", "turn")}
    dense = run.select(KERNELS, OURS, goal="P1", **same)
    base = dense[0].figures["visible_TFLOP_s"] if dense else None
    over = "-"
    if base and row.case["goal"] != "P1":
        over = f"{rate / base:.3f} of {number(base)} TFLOP/s dense"
    return f"{number(row.figures['ms'])} ms", f"{number(rate)} TFLOP/s visible", over
