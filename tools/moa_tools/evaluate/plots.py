"""PNG plots of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moa_tools.plotting import new_figure, png

Rows = Sequence[dict[str, Any]]

_WIDTH = 3.2  # inches of one panel


def depth_maps(name: str, labels: Sequence[str], lengths: Sequence[int], rows: Rows) -> bytes:
    """A heat map for each plan: length across, depth down, score as colour."""
    columns = min(4, max(1, len(labels)))
    lines = -(-max(1, len(labels)) // columns)
    figure = new_figure(_WIDTH * columns + 0.6, _WIDTH * lines)
    axes = figure.subplots(lines, columns, squeeze=False)
    image = None
    for axis in axes.flat[len(labels) :]:
        axis.set_visible(False)
    for label, axis in zip(labels, axes.flat, strict=False):
        mine = {row["length"]: row for row in rows if row["plan"] == label}
        depths = sorted({e["depth"] for row in mine.values() for e in row["by_depth"]})
        grid = np.full((len(depths), len(lengths)), np.nan)
        for column, length in enumerate(lengths):
            for entry in mine.get(length, {"by_depth": []})["by_depth"]:
                grid[depths.index(entry["depth"]), column] = entry["score"]
        image = axis.imshow(grid, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
        axis.set_title(label, fontsize=9)
        axis.set_xticks(range(len(lengths)), [str(n) for n in lengths], fontsize=7)
        axis.set_yticks(range(len(depths)), [f"{d:.2f}" for d in depths], fontsize=7)
        axis.set_xlabel("tokens", fontsize=8)
        axis.set_ylabel("depth", fontsize=8)
    if image is not None:
        figure.colorbar(image, ax=axes, label="score")
    figure.suptitle(f"{name}: score by depth and length", fontsize=10)
    return png(figure)


def lines(
    title: str,
    labels: Sequence[str],
    rows: Rows,
    value: str,
    *,
    x: str = "length",
    x_label: str = "tokens",
    level: float | None = None,
    log: bool = False,
) -> bytes:
    """A line for each plan with its interval as a band; `level` is drawn across."""
    figure = new_figure(6.4, 4.2)
    axis = figure.subplots()
    for label in labels:
        mine = [row for row in rows if row["plan"] == label and row.get(value) is not None]
        places = [row[x] for row in mine]
        axis.plot(places, [row[value] for row in mine], marker="o", markersize=4, label=label)
        interval = f"{value}_interval" if value != "score" else "interval"
        known = [row for row in mine if row.get(interval) is not None]
        low = [row[interval][0] for row in known]
        high = [row[interval][1] for row in known]
        axis.fill_between([row[x] for row in known], low, high, alpha=0.12)
    if level is not None:
        axis.axhline(level, color="grey", linestyle="--", linewidth=1)
    places = sorted({row[x] for row in rows})
    axis.set_xscale("log", base=2)
    axis.set_xticks(places, [str(place) for place in places], fontsize=8)
    axis.minorticks_off()
    if log:
        axis.set_yscale("log")
    axis.set_xlabel(x_label)
    axis.set_ylabel(value.replace("_", " "))
    axis.set_title(title, fontsize=10)
    if labels:
        axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    return png(figure)


def bars(title: str, rows: Rows, values: Sequence[str]) -> bytes:
    """Groups of bars, one for each plan, with intervals as whiskers."""
    figure = new_figure(max(4.0, 1.2 * len(rows) + 2), 4.0)
    axis = figure.subplots()
    width = 0.8 / len(values)
    for index, value in enumerate(values):
        known = [(i, row) for i, row in enumerate(rows) if row.get(value) is not None]
        places = [i + (index - (len(values) - 1) / 2) * width for i, _ in known]
        heights = np.array([row[value] for _, row in known])
        ends = np.array([row[f"{value}_interval"] for _, row in known]).reshape(-1, 2).T
        spread = np.maximum(np.abs(ends - heights), 0.0) if len(known) else None
        axis.bar(places, heights, width, yerr=spread, capsize=3, label=value.replace("_", " "))
    axis.set_xticks(range(len(rows)), [row["plan"] for row in rows], fontsize=8, rotation=20)
    axis.set_title(title, fontsize=10)
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3, axis="y")
    return png(figure)
