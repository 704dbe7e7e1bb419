"""Markdown from a run file. A ratio is never printed without its base."""

from __future__ import annotations

from collections.abc import Callable

from moa_tools.bench import end_rows
from moa_tools.bench.attention import DECODE, PREFILL
from moa_tools.bench.cpu_rows import SECTION as CPU
from moa_tools.bench.goals import Finding, Goal, judge
from moa_tools.bench.kernel_tables import attention_table, kernels_table
from moa_tools.bench.ladder import climb, ladder_table
from moa_tools.bench.markdown import markdown, number, percent
from moa_tools.bench.our_kernels import KERNELS, OURS
from moa_tools.bench.record import Row, Run


def _figure(row: Row, name: str) -> str:
    return number(row.figures.get(name))


def _ceiling(name: str, value: float) -> str:
    """`read_before_GB_s` as "read before 51.2 GB/s"."""
    what, amount, _ = name.rsplit("_", 2)
    return f"{what.replace('_', ' ')} {number(value)} {amount}/s"


def _head(run: Run) -> str:
    env = run.environment
    parts = [env.get("device", "unknown device")]
    for name in ("driver", "torch", "transformers", "llama-cpp-python"):
        if name in env:
            parts.append(f"{name} {env[name]}")
    if run.kind == "cpu":
        parts.append(f"{env.get('threads', '?')} threads")
        load = [env.get(name, "?") for name in ("load_average", "load_average_after")]
        parts.append(f"load average {load[0]} before and {load[1]} after")
    lines = [
        f"{run.date[:10]}, commit {env.get('commit', 'unknown')}: {', '.join(parts)}.",
        f"Made by:\n\n```bash\n{run.command.replace('; ', chr(10))}\n```\n",
    ]
    if run.ceilings:
        texts = [_ceiling(name, value) for name, value in run.ceilings.items()]
        lines.append(f"Ceilings of this run: {', '.join(texts)}.")
    return "\n".join(lines)


def _bound(goal: Goal, value: float) -> str:
    return f"{'<=' if goal.less else '>='} {value:g}"


_STATES = {"target": "target met", "floor": "floor met, target not"}


def goals_table(run: Run) -> str:
    """Each goal: the worst case measured, its base, the bounds, whether the worst meets them.

    Values have three decimals, so that one just beyond a bound shows as that.
    """
    rows = []
    for goal, findings in judge(run):
        worst: Finding | None = goal.worst(findings) if findings else None
        best = goal.best(findings) if len(findings) > 1 else None
        state = goal.state(findings)
        rows.append(
            [
                goal.name,
                goal.what,
                f"{worst.value:.3f}" if worst else "-",
                worst.base if worst else "-",
                f"{best.value:.3f} (of {len(findings)} cases)" if best else "-",
                _bound(goal, goal.floor),
                _bound(goal, goal.target),
                _STATES.get(state, state),
            ]
        )
    header = [
        "goal",
        "what",
        "worst",
        "its base and case",
        "best",
        "floor",
        "target",
        "by the worst",
    ]
    return markdown(header, rows)


def _dense_rate(run: Run, row: Row) -> float | None:
    """Our own dense throughput at full memory in the same setting."""
    key = {"model": row.case["model"], "setting": row.case["setting"]}
    bases = end_rows.select(run, OURS, plan="dense", full=1, **key)
    return bases[0].figures["tok_s"] if bases else None


def _place(run: Run, row: Row) -> tuple[list[str], list[str], bool]:
    """Models and settings as the run has them, peers before ours."""
    names = ("model", "setting")
    seen = [list(dict.fromkeys(str(r.case[name]) for r in end_rows.select(run))) for name in names]
    at = [str(seen[i].index(str(row.case[name]))) for i, name in enumerate(names)]
    return at[1:], at[:1], row.system == OURS


def end_to_end_table(run: Run) -> str:
    """Throughput by the median round, latency and memory of every system, each at its batch."""
    rows = []
    for row in sorted(end_rows.select(run), key=lambda row: _place(run, row)):
        base = _dense_rate(run, row) if row.case.get("full") else None
        rate = row.figures["tok_s"]
        rows.append(
            [
                row.case["model"],
                row.case["setting"],
                row.system,
                row.case["plan"],
                row.case["density"],
                f"{row.case['batch']}{' (full)' if row.case.get('full') else ''}",
                number(rate),
                f"{rate / base:.2f}x of {number(base)}" if base else "-",
                _figure(row, "ms_step"),
                percent(row.figures.get("spread")),
                _figure(row, "TB_s"),
                _figure(row, "share_of_roofline"),
                _figure(row, "first_token_ms"),
                _figure(row, "cache_GiB"),
                _figure(row, "device_used_GiB"),
            ]
        )
    header = [
        "model", "setting", "system", "plan", "density", "batch", "tok/s",
        "over own dense at full memory", "ms/step", "spread", "TB/s", "share of roofline",
        "first token ms", "cache GiB", "device GiB",
    ]  # fmt: skip
    return markdown(header, rows)


def cpu_table(run: Run) -> str:
    """Prefill and decode on processors; the base of a ratio is our dense median in its case."""
    rows = []
    for row in run.select(CPU):
        key = {"model": row.case["model"], "tokens": row.case["tokens"]}
        bases = run.select(CPU, OURS, plan="dense", **key)
        ratio = "-"
        if bases:
            base = bases[0].figures["decode_tok_s"]
            ratio = f"{row.figures['decode_tok_s'] / base:.2f}x of {number(base)}"
        rows.append(
            [
                row.case["model"],
                row.case["tokens"],
                row.system,
                row.case["plan"],
                *(
                    f"{_figure(row, f'{phase}_tok_s')} ({_figure(row, f'{phase}_best_tok_s')})"
                    for phase in ("prefill", "decode")
                ),
                ratio,
                _figure(row, "decode_GB_s"),
                f"{row.figures['spread']:.1%}",
            ]
        )
    header = [
        "model", "tokens", "system", "plan", "prefill tok/s, median (best)",
        "decode tok/s, median (best)", "decode over our dense", "decode GB/s", "spread",
    ]  # fmt: skip
    return markdown(header, rows)


def render(run: Run) -> str:
    """The whole page: where and when, goals, every table that has rows, what is missing."""
    parts = [_head(run), "### Goals", goals_table(run)]
    sections: list[tuple[str, bool, Callable[[], str]]] = [
        ("End to end", bool(end_rows.select(run)), lambda: end_to_end_table(run)),
        ("One switch at a time", bool(climb(run).rungs), lambda: ladder_table(run)),
        (
            "Decode attention, one layer",
            bool(run.select(DECODE)),
            lambda: attention_table(run, DECODE, "TB_s", "TB/s kept"),
        ),
        (
            "Prefill attention, one layer",
            bool(run.select(PREFILL)),
            lambda: attention_table(run, PREFILL, "visible_TFLOP_s", "visible TFLOP/s"),
        ),
        ("Our kernels alone", bool(run.select(KERNELS, OURS)), lambda: kernels_table(run)),
        ("Processors", bool(run.select(CPU)), lambda: cpu_table(run)),
    ]
    for title, there, make in sections:
        if there:
            parts += [f"### {title}", make()]
    if run.missing:
        rows = [[m.what, m.reason.replace("|", "/")] for m in run.missing]
        parts += ["### Missing", markdown(["what", "why"], rows)]
    return "\n\n".join(parts) + "\n"
