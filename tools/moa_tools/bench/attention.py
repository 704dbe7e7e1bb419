"""Attention kernels of the peers, in the cases that the C++ benchmark times for ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import zip_longest
from typing import Any

from moa_rt import AttentionPlan, NumericError

from moa_tools.bench import attention_cases as cases
from moa_tools.bench.attention_cases import AttentionCase
from moa_tools.bench.peers import (
    CPU_GROUPS,
    GROUPS,
    NEEDS,
    Inputs,
    Peers,
    Work,
    make_inputs,
    reference_error,
)
from moa_tools.bench.record import Missing, Row
from moa_tools.bench.statistics import Rounds, interleave
from moa_tools.bench.timing import Timed, copies_for, l2_bytes, launch_timer, per_item, timer

DECODE, PREFILL = "decode attention", "prefill attention"
# bfloat16 results against float32: beyond this a peer computed something else.
_TOLERANCE = 2e-2


def decode_cases(device: str, plans: dict[str, AttentionPlan], quick: bool) -> list[AttentionCase]:
    """Those of D1, D3, D4 and D5."""
    if not device.startswith("cuda"):
        return [cases.dense(cases.TINY, 512, 2), cases.mixed(cases.TINY, 1024, 2, 0.5)]
    out = [cases.mixed(cases.MHA, 8192, 8, 0.5), cases.dense(cases.MHA, 8192, 8)]
    if quick:
        return out
    out += [cases.mixed(cases.MHA, 8192, 8, 0.25), cases.dense(cases.GQA, 8192, 8)]
    out += [cases.mixed(cases.GQA, 8192, 8, 0.5)]
    for name, plan in plans.items():
        model = cases.MHA if plan.num_kv_heads == 32 else cases.GQA
        out.append(cases.published(model, plan, name, 8192, 8))
    return out


def prefill_cases(device: str, plans: dict[str, AttentionPlan], quick: bool) -> list[AttentionCase]:
    """Those of P1, P2 and P3."""
    if not device.startswith("cuda"):
        return [cases.dense(cases.TINY, 256, 1), cases.mixed(cases.TINY, 1024, 1, 0.5)]
    out = [cases.mixed(cases.MHA, 8192, 1, 0.5), cases.dense(cases.MHA, 8192, 1)]
    if quick:
        return out
    out += [cases.mixed(cases.MHA, 4096, 1, 0.5), cases.dense(cases.MHA, 4096, 1)]
    for name, plan in plans.items():
        if plan.num_kv_heads == 32:
            out.append(cases.published(cases.MHA, plan, name, 8192, 1))
    return out


def _check(name: str, inputs: Inputs, out: Any) -> float:
    error = reference_error(inputs, out)
    if not error <= _TOLERANCE:
        raise NumericError(f"{name}: error {error:.2g} against float32, want below {_TOLERANCE}")
    return error


def _timed(
    name: str, prepare: Callable[[Inputs], Work], sets: list[Inputs]
) -> tuple[Timed, float, bool]:
    """(seconds of one layer, error, whether a graph was replayed) over rotated inputs."""
    works = [prepare(inputs) for inputs in sets]
    error = _check(name, sets[0], works[0]())
    device = str(sets[0].q.device)

    def all_of_them() -> None:
        for work in works:
            work()

    try:
        return per_item(timer(device, all_of_them), len(works)), error, True
    except RuntimeError:  # what cannot be captured is launched
        return per_item(launch_timer(device, all_of_them), len(works)), error, False


def _sets(case: AttentionCase, decode: bool, device: str) -> list[Inputs]:
    import torch

    size = case.batch * case.kv_heads * case.tokens * case.head_dim * 4
    # Prefill is bound by arithmetic: two sets are enough for fresh data.
    count = copies_for(size, l2_bytes(device)) if decode else 2
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    return [make_inputs(case, decode, device, dtype) for _ in range(count)]


def _figures(case: AttentionCase, decode: bool, times: Rounds) -> dict[str, float]:
    seconds = times.median
    out = {"us": seconds * 1e6, "spread": times.spread}
    if decode:
        return out | {"TB_s": case.kept_bytes / seconds * 1e-12}
    return out | {"visible_TFLOP_s": case.flops / seconds * 1e-12}


def measure_case(
    peers: Peers, case: AttentionCase, decode: bool, device: str
) -> Iterator[Row | Missing]:
    """One row for each peer that can, a name and a reason for each that cannot."""
    sets = _sets(case, decode, device)
    timers: dict[str, Timed] = {}
    notes: dict[str, tuple[float, bool]] = {}
    for name, prepare in peers.items():
        try:
            timers[name], error, captured = _timed(name, prepare, sets)
            notes[name] = (error, captured)
        except NotImplementedError:
            continue  # not made for this case
        except Exception as error:  # a peer's failure is a finding, not ours
            reason = f"{type(error).__name__}: {error}".strip().split("\n")[0][:200]
            yield Missing(f"{name} ({'decode' if decode else 'prefill'}, {case.plan})", reason)
    if not timers:
        return
    section = DECODE if decode else PREFILL
    for name, times in interleave(timers).items():
        figures = _figures(case, decode, times)
        figures |= {"error": notes[name][0], "captured": float(notes[name][1])}
        yield Row(section, name, case.label, figures, times.seconds)


def measure(
    group: str, device: str, plans: dict[str, AttentionPlan], quick: bool
) -> Iterator[Row | Missing]:
    """The peers of a group, in decode and prefill by turns: the goals need the first cases."""
    peers = (GROUPS if device.startswith("cuda") else CPU_GROUPS)[group]
    module = NEEDS.get(group)
    if module is not None and find_spec(module) is None:
        yield Missing(", ".join(peers), f"the module {module} is not installed")
        return
    both = decode_cases(device, plans, quick), prefill_cases(device, plans, quick)
    for decode, prefill in zip_longest(*both):
        if decode is not None:
            yield from measure_case(peers, decode, True, device)
        if prefill is not None:
            yield from measure_case(peers, prefill, False, device)
