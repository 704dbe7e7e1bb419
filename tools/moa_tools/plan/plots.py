"""A plan as a heat map in a PNG file. Needs matplotlib, never a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from moa_rt import ArgumentError, AttentionPlan

from moa_tools.files import write_atomic
from moa_tools.plotting import new_figure, png

# Labels of a heat map's cells are drawn up to this many layers.
_MOST_LABELLED_LAYERS = 48


def _save(figure: Any, path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise ArgumentError(f"{path}: want a name that ends in .png")
    write_atomic(path, png(figure))


def short_tokens(count: int) -> str:
    """960 -> "960", 2048 -> "2k", 1536 -> "1.5k"."""
    return str(count) if count < 1024 else f"{count / 1024:.3g}k"


def spans_heat_map(
    plan: AttentionPlan, lengths: Sequence[int], path: Path, title: str = ""
) -> None:
    """Span of every layer (row) and KV head (column), one panel for each length, log colour.

    A cell's label is its span in tokens; dense heads have the brightest colour. Raises
    ArgumentError (no length, not .png), IoError.
    """
    if not lengths:
        raise ArgumentError("heat map: got no length")
    layers, heads = plan.num_layers, plan.num_kv_heads
    labelled = layers <= _MOST_LABELLED_LAYERS and heads <= 16
    width = max(2.2, (0.42 if labelled else 0.18) * heads + 1.4) * len(lengths) + 1.2
    figure = new_figure(width, max(2.8, 0.19 * min(layers, 80) + 1.5))
    axes = figure.subplots(1, len(lengths), squeeze=False, sharey=True)[0]
    for axis, n in zip(axes, lengths, strict=True):
        _panel(figure, axis, plan, n, labelled)
    axes[0].set_ylabel("layer")
    figure.suptitle(title or plan.model_name or "attention plan", fontsize=10)
    _save(figure, path)


def _panel(figure: Any, axis: Any, plan: AttentionPlan, n: int, labelled: bool) -> None:
    from matplotlib.colors import LogNorm

    spans = np.array([[head.span for head in row] for row in plan.spans(n)])
    least = min(plan.sink_size + 64, n)
    norm = LogNorm(vmin=least, vmax=max(n, least + 1))
    image = axis.imshow(spans, norm=norm, cmap="viridis", aspect="auto", interpolation="nearest")
    axis.set_title(f"N = {short_tokens(n)}\nKV {100 * plan.density(n):.1f} %", fontsize=9)
    axis.set_xlabel("KV head")
    axis.set_xticks(range(0, spans.shape[1], max(1, spans.shape[1] // 8)))
    axis.set_yticks(range(0, spans.shape[0], max(1, spans.shape[0] // 16)))
    axis.tick_params(labelsize=7)
    if labelled:
        for (layer, head), span in np.ndenumerate(spans):
            colour = "black" if norm(span) > 0.6 else "white"
            text = short_tokens(int(span))
            axis.text(head, layer, text, ha="center", va="center", fontsize=5.5, color=colour)
    _token_bar(figure, image, axis, least, n)


def _token_bar(figure: Any, image: Any, axis: Any, least: int, n: int) -> None:
    from matplotlib.ticker import NullFormatter, NullLocator

    bar = figure.colorbar(image, ax=axis, fraction=0.08, pad=0.03)
    ticks = [t for t in (64, 128, 256, 512, *(1024 * 2**i for i in range(12))) if least <= t <= n]
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    bar.set_ticks(ticks, labels=[short_tokens(t) for t in ticks])
    bar.ax.tick_params(labelsize=7)
