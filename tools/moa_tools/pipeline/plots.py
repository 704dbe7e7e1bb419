"""PNG plots of curves, fronts and losses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moa_tools import strict_json
from moa_tools.convert.transaction import MANIFEST
from moa_tools.plotting import new_figure, png
from moa_tools.profile.cost_curves import CostCurves


def cost_curves(curves: CostCurves) -> bytes:
    """For each objective and length: every head's cost against its span, and their mean."""
    count = len(curves.curves)
    figure = new_figure(4.2 * min(count, 3), 3.2 * -(-count // 3))
    axes = figure.subplots(-(-count // 3), min(count, 3), squeeze=False)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    for curve, axis in zip(curves.curves, axes.flat, strict=False):
        rows = curve.costs.reshape(-1, curve.costs.shape[2])
        axis.plot(curve.spans, rows.T, color="tab:blue", alpha=0.2, linewidth=0.6)
        axis.plot(curve.spans, rows.mean(axis=0), color="black", linewidth=1.6, label="mean")
        axis.set_xscale("log", base=2)
        axis.set_yscale("symlog", linthresh=max(float(rows.max()) * 1e-4, 1e-12))
        axis.set_ylim(bottom=0)
        axis.set_title(curve.title, fontsize=9)
        axis.set_xlabel("span (tokens)")
        axis.set_ylabel("cost")
        axis.legend(fontsize=7)
    return png(figure)


def fronts(places: Mapping[str, Path]) -> bytes:
    """Each budget's Pareto front: every objective beside the first."""
    loaded = {b: strict_json.load_object(p / MANIFEST, 1 << 24) for b, p in places.items()}
    names = list(next(iter(loaded.values()))["plans"][0]["objectives"])
    pairs = [(names[0], other) for other in names[1:]] or [(names[0], names[0])]
    figure = new_figure(3.8 * len(pairs), 3.4)
    for axis, (x, y) in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        for budget, manifest in loaded.items():
            points = sorted((p["objectives"][x], p["objectives"][y]) for p in manifest["plans"])
            axis.plot(*zip(*points, strict=True), marker="o", linewidth=0.8, label=budget)
        axis.set_xlabel(x, fontsize=8)
        axis.set_ylabel(y, fontsize=8)
        axis.legend(title="density", fontsize=7, title_fontsize=7)
    return png(figure)


def quality(validation: Mapping[str, Any], uniform: str) -> bytes:
    """Loss of every validated plan against its density, for each objective; dense as a line."""
    names = sorted(validation["dense"]["objectives"])
    figure = new_figure(4.0 * len(names), 3.4)
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for label, mark, wanted in (("searched", "o", False), ("uniform", "x", True)):
            plans = [p for p in validation["plans"] if p["name"].endswith(uniform) == wanted]
            x = [p["density"] for p in plans]
            axis.plot(x, [p["objectives"][name] for p in plans], mark, label=label)
        axis.axhline(validation["dense"]["objectives"][name], color="grey", label="dense")
        axis.set_title(f"{name} at N = {validation['length']}", fontsize=9)
        axis.set_xlabel("density (KV bytes kept)")
        axis.set_ylabel("loss (nats a token)")
        axis.legend(fontsize=7)
    return png(figure)
