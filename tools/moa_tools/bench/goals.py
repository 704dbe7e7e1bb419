"""The goals and what a run says about them. Every measured value comes with its base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moa_tools.bench import attention_cases as cases
from moa_tools.bench import end_rows
from moa_tools.bench.attention import DECODE, PREFILL
from moa_tools.bench.cpu_rows import SECTION as CPU
from moa_tools.bench.cpu_rows import repetitions
from moa_tools.bench.huggingface import DYNAMIC, STATIC
from moa_tools.bench.our_kernels import KERNELS, OURS, OurTime, decode_times, prefill_times
from moa_tools.bench.record import Row, Run
from moa_tools.bench.statistics import Extreme, Rounds, fastest, slowest

_Rate = tuple[float, str]


@dataclass(frozen=True)
class Finding:
    """One measured value, the base it is a ratio of, and the case."""

    value: float
    base: str


@dataclass(frozen=True)
class Goal:
    """`floor` and `target` are bounds from below, or from above where `less` is better."""

    name: str
    what: str
    floor: float
    target: float
    measure: Callable[[Run], list[Finding]]
    less: bool = False

    def state(self, findings: Sequence[Finding]) -> str:
        """By the worst finding: target, floor, missed, or not measured."""
        if not findings:
            return "not measured"
        worst = self.worst(findings).value
        for name, bound in (("target", self.target), ("floor", self.floor)):
            if worst <= bound if self.less else worst >= bound:
                return name
        return "missed"

    def worst(self, findings: Sequence[Finding]) -> Finding:
        """The finding that decides."""
        pick = max if self.less else min
        return pick(findings, key=lambda finding: finding.value)

    def best(self, findings: Sequence[Finding]) -> Finding:
        """The finding farthest from the bounds on their good side."""
        pick = min if self.less else max
        return pick(findings, key=lambda finding: finding.value)


def _kernel_rows(run: Run, goal: str) -> list[Row]:
    return run.select(KERNELS, OURS, goal=goal)


def _read_share(run: Run, goal: str, megabytes: tuple[float, float]) -> list[Finding]:
    """Bytes over time over the run's own read bandwidth, layers of that size alone."""
    read = run.ceilings.get("read_TB_s", 0.0)
    low, high = megabytes
    return [
        Finding(
            row.figures["TB_s"] / read,
            f"{row.figures['TB_s']:.2f} of {read:.2f} TB/s, {row.case['model']}, "
            f"batch {row.case['batch']}, {row.figures['layer_MB']:.0f} MB",
        )
        for row in _kernel_rows(run, goal)
        if read and low <= row.figures["layer_MB"] < high
    ]


def _ratio_rows(run: Run, goal: str, what: str) -> list[Finding]:
    return [
        Finding(
            row.figures["us"] / row.figures["base_us"],
            f"{row.figures['us']:.1f} over {row.figures['base_us']:.1f} us, {row.case['model']}, "
            f"batch {row.case['batch']}",
        )
        for row in _kernel_rows(run, goal)
        if str(row.case["what"]).startswith(what)
    ]


def _against(ours: list[OurTime], peers: list[Row]) -> Finding | None:
    """The fastest round of all peers over our slowest."""
    if not ours or not peers:
        return None
    best = min(peers, key=lambda row: min(row.rounds.of_rounds))
    theirs = min(best.rounds.of_rounds) * 1e6
    slow = max(ours, key=lambda time: time.slowest_us)
    return Finding(
        theirs / slow.slowest_us,
        f"{best.system} {theirs:.1f} us (fastest round) over {slow.slowest_us:.1f} us "
        f"({slow.slowest.what}), {best.case['model']}, {best.case['plan']}",
    )


def _d5(run: Run) -> list[Finding]:
    found = [
        _against(times, run.select(DECODE, model=model, plan=plan, batch=8, tokens=8192))
        for (model, plan), times in decode_times(run).items()
    ]
    return [finding for finding in found if finding]


def _p1(run: Run) -> list[Finding]:
    peers = run.select(PREFILL, "SDPA cuDNN", model=cases.MHA, plan="dense", tokens=8192)
    found = _against(prefill_times(run, "P1", cases.MHA, 8192), peers)
    return [found] if found else []


def _p2(run: Run) -> list[Finding]:
    out = []
    for row in _kernel_rows(run, "P2"):
        if "rate_over_dense" not in row.figures:
            continue
        tokens, turn = row.case["tokens"], row.case["turn"]
        dense = run.select(KERNELS, OURS, goal="P1", model=cases.MHA, tokens=tokens, turn=turn)
        rate = f"{dense[0].figures['visible_TFLOP_s']:.0f} TFLOP/s, " if dense else ""
        text = f"own dense rate, {rate}{tokens} tokens"
        out.append(Finding(row.figures["rate_over_dense"], text))
    return out


def _p3(run: Run) -> list[Finding]:
    peers = run.select(PREFILL, "flex_attention", model=cases.MHA, plan="mixed 50%", tokens=8192)
    found = _against(prefill_times(run, "P2", cases.MHA, 8192), peers)
    return [found] if found else []


def _roofline(run: Run, **case: int | str) -> list[Finding]:
    read = run.ceilings.get("read_TB_s", 0.0)
    return [
        Finding(
            row.figures["TB_s"] / read,
            f"{row.figures['TB_s']:.2f} of {read:.2f} TB/s, {row.case['model']}, "
            f"{row.case['setting']}, batch {row.case['batch']}",
        )
        for row in end_rows.select(run, OURS, plan="dense", **case)
        if read
    ]


def _full(run: Run, system: str, plan: str) -> list[Row]:
    return end_rows.select(run, system, plan=plan, full=1)


def _e4(run: Run, plan: str) -> list[Finding]:
    """A plan's slowest round over the dense engine's fastest, both at full memory."""
    out = []
    for row in _full(run, OURS, plan):
        key = {"model": row.case["model"], "setting": row.case["setting"]}
        if key["model"] != "llama-2-7b":
            continue
        for base in end_rows.select(run, OURS, plan="dense", full=1, **key):
            allowed = _tokens_a_byte(row) / _tokens_a_byte(base)
            text = f"{key['setting']}; bytes allow {allowed:.2f}"
            out.append(_over(row, base, "own dense", text))
    return out


def _over(row: Row, base: Row, name: str, text: str) -> Finding:
    """Our slowest round over the base's fastest, in tokens a second."""
    ours, our_round = end_rows.tok_s_at(row, slowest)
    theirs, their_round = end_rows.tok_s_at(base, fastest)
    return Finding(
        ours / theirs,
        f"{name} {theirs:.0f} tok/s at batch {base.case['batch']} ({their_round.what}), ours "
        f"{ours:.0f} at {row.case['batch']} ({our_round.what}), {text}",
    )


def _tokens_a_byte(row: Row) -> float:
    """New tokens for each byte that a step reads: ratios of it are what bytes allow."""
    return row.figures["tok_s"] / row.figures["TB_s"]


def _e5(run: Run, system: str) -> list[Finding]:
    """Our 50 % plan's slowest round over the peer's fastest, each at its own largest batch."""
    out = []
    for row in _full(run, system, "dense"):
        key = {"model": row.case["model"], "setting": row.case["setting"]}
        for ours in end_rows.select(run, OURS, plan="uniform 50%", full=1, **key):
            out.append(_over(ours, row, system, f"{key['model']}, {key['setting']}"))
    return out


def _m1(run: Run, figure: str, scale: float, unit: str) -> list[Finding]:
    return [
        Finding(row.figures[figure] * scale, f"{unit}, {row.case['model']} {row.case['plan']}")
        for row in end_rows.select(run, OURS)
        if figure in row.figures
    ]


def _c1(run: Run) -> list[Finding]:
    read = run.ceilings.get("read_GB_s", 0.0)
    return [
        Finding(
            row.figures["decode_GB_s"] / read,
            f"{row.figures['decode_GB_s']:.1f} of {read:.1f} GB/s, {row.case['model']}, "
            f"{row.case['tokens']} tokens",
        )
        for row in run.select(CPU, OURS, plan="dense")
        if read
    ]


def _cpu_rate(row: Row, phase: str, extreme: Callable[[Rounds | None], Extreme]) -> _Rate:
    """Tokens a second of a row's fastest or slowest repetition, and what stands for that."""
    found = extreme(repetitions(row, phase))
    return row.figures[f"{phase}_tok_s"] / found.factor, found.what


def _cpu_ratio(run: Run, phase: str, peer: str) -> list[Finding]:
    """Ours, dense, at its slowest over the fastest round of the peers whose name starts so."""
    out = []
    for row in run.select(CPU, OURS, plan="dense"):
        model, tokens = row.case["model"], row.case["tokens"]
        rows = run.select(CPU, model=model, tokens=tokens)
        rates = [
            (*_cpu_rate(other, phase, fastest), other.system)
            for other in rows
            if other.system.startswith(peer) and f"{phase}_tok_s" in other.figures
        ]
        if not rates:
            continue
        theirs, their_round, name = max(rates)
        ours, our_round = _cpu_rate(row, phase, slowest)
        base = f"{name} {theirs:.0f} tok/s ({their_round}), ours {ours:.0f} ({our_round})"
        out.append(Finding(ours / theirs, f"{base}, {tokens} tokens"))
    return out


_LARGE, _SMALL, _MIDDLE = (256.0, 1e9), (0.0, 64.0), (64.0, 256.0)
GOALS = (
    Goal("D1", "decode attention, 256 MB or more a layer, of read bandwidth", 0.80, 0.93,
         lambda run: _read_share(run, "D1", _LARGE)),
    Goal("D2", "the same, batch 1, 32 MB a layer", 0.50, 0.70,
         lambda run: _read_share(run, "D2", _SMALL)),
    Goal("D2", "the same, batch 1, 128 MB a layer", 0.70, 0.87,
         lambda run: _read_share(run, "D2", _MIDDLE)),
    Goal("D3", "mixed plan over uniform plan of equal bytes, time", 1.10, 1.02,
         lambda run: _ratio_rows(run, "D3", ""), less=True),
    Goal("D4", "50 % plan over own dense attention, time", 0.56, 0.52,
         lambda run: _ratio_rows(run, "D4", "50"), less=True),
    Goal("D4", "25 % plan over own dense attention, time", 0.31, 0.27,
         lambda run: _ratio_rows(run, "D4", "25"), less=True),
    Goal("D5", "against the best peer kernel on the same plan", 1.0, 1.2, _d5),
    Goal("P1", "dense causal prefill attention at 8k, of cuDNN", 0.60, 1.0, _p1),
    Goal("P2", "per-head plan, visible-tile rate of own dense rate", 0.85, 0.95, _p2),
    Goal("P3", "against flex_attention with the same per-head mask", 1.0, 1.6, _p3),
    Goal("E1", "batch-1 decode, share of the roofline", 0.75, 0.90,
         lambda run: _roofline(run, batch=1)),
    Goal("E3", "full-memory dense decode, share of the roofline", 0.75, 0.90,
         lambda run: _roofline(run, full=1)),
    Goal("E4", "full memory, 50 % over own dense, 7B", 1.8, 1.95,
         lambda run: _e4(run, "uniform 50%")),
    Goal("E4", "full memory, 25 % over own dense, 7B", 3.2, 3.8,
         lambda run: _e4(run, "uniform 25%")),
    Goal("E5", "50 % plan against transformers' dynamic cache, each at its batch", 5.0, 10.0,
         lambda run: _e5(run, DYNAMIC)),
    Goal("E5", "50 % plan against static cache + compile, each at its batch", 2.0, 2.8,
         lambda run: _e5(run, STATIC)),
    Goal("M1", "allocated cache over the sum of the spans", 1.0, 1.0,
         lambda run: _m1(run, "cache_over_spans", 1.0, "cache bytes over spans"), less=True),
    Goal("M1", "everything else beyond weights, GB", 2.0, 1.0,
         lambda run: _m1(run, "beyond_weights_and_cache_GiB", 2**30 / 1e9, "GB"), less=True),
    Goal("C1", "CPU decode, of read bandwidth", 0.70, 0.85, _c1),
    Goal("C2", "CPU decode against llama.cpp, same bits and threads", 1.1, 1.5,
         lambda run: _cpu_ratio(run, "decode", "llama.cpp")),
    Goal("C3", "CPU prefill against llama.cpp", 1.0, 1.5,
         lambda run: _cpu_ratio(run, "prefill", "llama.cpp")),
    Goal("C3", "CPU prefill against transformers", 2.0, 4.0,
         lambda run: _cpu_ratio(run, "prefill", "transformers")),
)  # fmt: skip


def judge(run: Run) -> list[tuple[Goal, list[Finding]]]:
    """Every goal that this kind of run can measure, with what it found."""
    cpu = run.kind == "cpu"
    return [(goal, goal.measure(run)) for goal in GOALS if goal.name.startswith("C") == cpu]
