"""The goals and what a run says about them. Every measured value comes with its base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moa_tools.bench import attention_cases as cases
from moa_tools.bench.attention import DECODE, PREFILL
from moa_tools.bench.cpu_rows import SECTION as CPU
from moa_tools.bench.huggingface import DYNAMIC, STATIC
from moa_tools.bench.record import Row, Run

END, KERNELS, OURS = "end to end", "kernels", "moa_rt"


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


def our_decode_us(run: Run) -> dict[tuple[str, str], list[float]]:
    """(model, plan) of an 8 x 8192 layer -> our kernel's times, one for each time it ran."""
    out: dict[tuple[str, str], list[float]] = {}
    for row in _kernel_rows(run, "D4") + _kernel_rows(run, "D3"):
        if row.case["batch"] != 8:
            continue
        model, what = str(row.case["model"]), str(row.case["what"])
        plan = "mixed 25%" if what.startswith("25") else "mixed 50%"
        out.setdefault((model, plan), []).append(row.figures["us"])
        if "dense" in what:
            out.setdefault((model, "dense"), []).append(row.figures["base_us"])
    return out


def _against(ours: list[float], peers: list[Row]) -> Finding | None:
    """The best peer's fastest round over our slowest."""
    if not ours or not peers:
        return None
    best = min(peers, key=lambda row: row.figures["us"])
    fastest = min(best.rounds.of_rounds) * 1e6
    return Finding(
        fastest / max(ours),
        f"{best.system} {fastest:.1f} us over {max(ours):.1f} us, {best.case['model']}, "
        f"{best.case['plan']}",
    )


def _d5(run: Run) -> list[Finding]:
    found = [
        _against(times, run.select(DECODE, model=model, plan=plan, batch=8, tokens=8192))
        for (model, plan), times in our_decode_us(run).items()
    ]
    return [finding for finding in found if finding]


def our_prefill_us(run: Run, goal: str, model: str, tokens: int) -> list[float]:
    """Times of a prompt, dense (goal P1) or under the mixed plan (P2), one for each run of it."""
    rows = run.select(KERNELS, OURS, goal=goal, model=model, tokens=tokens)
    return [row.figures["ms"] * 1e3 for row in rows]


def _p1(run: Run) -> list[Finding]:
    peers = run.select(PREFILL, "SDPA cuDNN", model=cases.MHA, plan="dense", tokens=8192)
    found = _against(our_prefill_us(run, "P1", cases.MHA, 8192), peers)
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
    found = _against(our_prefill_us(run, "P2", cases.MHA, 8192), peers)
    return [found] if found else []


def _roofline(run: Run, **case: int | str) -> list[Finding]:
    read = run.ceilings.get("read_TB_s", 0.0)
    return [
        Finding(
            row.figures["TB_s"] / read,
            f"{row.figures['TB_s']:.2f} of {read:.2f} TB/s, {row.case['model']}, "
            f"{row.case['setting']}, batch {row.case['batch']}",
        )
        for row in run.select(END, OURS, plan="dense", **case)
        if read
    ]


def _full(run: Run, system: str, plan: str) -> list[Row]:
    return run.select(END, system, plan=plan, full=1)


def _e4(run: Run, plan: str) -> list[Finding]:
    out = []
    for row in _full(run, OURS, plan):
        key = {"model": row.case["model"], "setting": row.case["setting"]}
        if key["model"] != "llama-2-7b":
            continue
        for base in run.select(END, OURS, plan="dense", full=1, **key):
            dense = base.figures["tok_s"]
            allowed = _tokens_a_byte(row) / _tokens_a_byte(base)
            text = f"own dense {dense:.0f} tok/s, {key['setting']}; bytes allow {allowed:.2f}"
            out.append(Finding(row.figures["tok_s"] / dense, text))
    return out


def _tokens_a_byte(row: Row) -> float:
    """New tokens for each byte that a step reads: ratios of it are what bytes allow."""
    return row.figures["tok_s"] / row.figures["TB_s"]


def _e5(run: Run, system: str) -> list[Finding]:
    """Our 50 % plan over the peer, each at its own largest batch."""
    out = []
    for row in _full(run, system, "dense"):
        key = {"model": row.case["model"], "setting": row.case["setting"]}
        theirs = row.figures["tok_s"]
        for ours in run.select(END, OURS, plan="uniform 50%", full=1, **key):
            text = f"{system} {theirs:.0f} tok/s at batch {row.case['batch']}, {key['model']}"
            out.append(Finding(ours.figures["tok_s"] / theirs, f"{text}, {key['setting']}"))
    return out


def _m1(run: Run, figure: str, scale: float, unit: str) -> list[Finding]:
    return [
        Finding(row.figures[figure] * scale, f"{unit}, {row.case['model']} {row.case['plan']}")
        for row in run.select(END, OURS)
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


def _cpu_ratio(run: Run, figure: str, peer: str) -> list[Finding]:
    """Ours, dense, over the best peer whose name starts so."""
    out = []
    for row in run.select(CPU, OURS, plan="dense"):
        model, tokens = row.case["model"], row.case["tokens"]
        rows = run.select(CPU, model=model, tokens=tokens)
        peers = [r for r in rows if r.system.startswith(peer)]
        peers = [r for r in peers if figure in r.figures]
        if not peers:
            continue
        best = max(peers, key=lambda r: r.figures[figure])
        base = f"{best.system} {best.figures[figure]:.0f} tok/s, {tokens} tokens"
        out.append(Finding(row.figures[figure] / best.figures[figure], base))
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
         lambda run: _cpu_ratio(run, "decode_tok_s", "llama.cpp")),
    Goal("C3", "CPU prefill against llama.cpp", 1.0, 1.5,
         lambda run: _cpu_ratio(run, "prefill_tok_s", "llama.cpp")),
    Goal("C3", "CPU prefill against transformers", 2.0, 4.0,
         lambda run: _cpu_ratio(run, "prefill_tok_s", "transformers")),
)  # fmt: skip


def judge(run: Run) -> list[tuple[Goal, list[Finding]]]:
    """Every goal that this kind of run can measure, with what it found."""
    cpu = run.kind == "cpu"
    return [(goal, goal.measure(run)) for goal in GOALS if goal.name.startswith("C") == cpu]
