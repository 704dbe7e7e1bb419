"""One PNG from a run file: throughput by plan, and shares of the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moa_rt import MismatchError

from moa_tools.bench import end_rows
from moa_tools.bench.cpu_rows import SECTION as CPU
from moa_tools.bench.markdown import number
from moa_tools.bench.record import Row, Run
from moa_tools.files import write_atomic
from moa_tools.plotting import new_figure, png


def _label(row: Row) -> str:
    setting = row.case.get("setting", row.case.get("tokens", ""))
    batch = f", batch {row.case['batch']}" if "batch" in row.case else ""
    return f"{row.case['model']} {setting}: {row.system}, {row.case['plan']}{batch}"


def _bars(axes: Any, rows: Sequence[Row], figure: str, title: str, limit: float | None) -> None:
    rows = [row for row in rows if figure in row.figures]
    values = [row.figures[figure] for row in rows]
    colors = ["tab:blue" if row.system == "moa_rt" else "tab:gray" for row in rows]
    places = range(len(rows))
    axes.barh(places, values, color=colors)
    axes.set_yticks(places, [_label(row) for row in rows], fontsize=6)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9)
    axes.tick_params(axis="x", labelsize=7)
    for place, value in zip(places, values, strict=True):
        axes.text(value, place, f" {number(value)}", va="center", fontsize=6)
    if limit is not None:
        axes.axvline(limit, color="tab:red", linewidth=0.8)


def draw(run: Run, path: Path) -> None:
    """Writes the plot. Raises MismatchError if the run has nothing to draw."""
    gpu = run.kind == "gpu"
    rows = end_rows.select(run) if gpu else run.select(CPU)
    if not rows:
        raise MismatchError(f"plot: the {run.kind} run of {run.date} has no end-to-end rows")
    figure = new_figure(13, 1.5 + 0.22 * len(rows))
    left, right = figure.subplots(1, 2)
    if gpu:
        _bars(left, rows, "tok_s", "decode, tokens/s", None)
        _bars(right, rows, "share_of_roofline", "share of the roofline (red: the limit)", 1.0)
    else:
        _bars(left, rows, "decode_tok_s", "decode, tokens/s", None)
        _bars(right, rows, "prefill_tok_s", "prefill, tokens/s", None)
    device = run.environment.get("device", "unknown device")
    figure.suptitle(f"{device}, {run.date[:10]}, {run.environment.get('commit', '')}", fontsize=9)
    write_atomic(path, png(figure))
