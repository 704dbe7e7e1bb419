"""The report of a pipeline and its plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moa_rt import AttentionPlan, ModelConfig

from moa_tools.calibrate.samples import CalibrationSet
from moa_tools.files import write_atomic
from moa_tools.pipeline import plots
from moa_tools.pipeline.options import PipelineOptions
from moa_tools.plan.describe import table
from moa_tools.plan.plots import spans_heat_map
from moa_tools.profile.cost_curves import CostCurves

UNIFORM = "uniform.json"
REFINED = "refined.json"


def choose(validation: Mapping[str, Any], budgets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """For each budget the figures of its best searched plan; the list is best first already."""
    return {
        budget: next(
            plan
            for plan in validation["plans"]
            if plan["name"].startswith(f"{budget}-") and not plan["name"].endswith(UNIFORM)
        )
        for budget in budgets
    }


def _uniform(validation: Mapping[str, Any], budget: str) -> dict[str, Any]:
    name = f"{budget}-{UNIFORM}"
    return next(dict(plan) for plan in validation["plans"] if plan["name"] == name)


def make(
    config: ModelConfig,
    calibration: CalibrationSet,
    curves: CostCurves,
    plans: Mapping[str, AttentionPlan],
    chosen: Mapping[str, Mapping[str, Any]],
    validation: Mapping[str, Any],
    settings: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Everything that was decided and measured, as a JSON value."""
    lengths = sorted({*calibration.lengths, *(curve.length for curve in curves.curves)})
    rows = {
        budget: {
            "file": f"plan-{budget}.json",
            "density": {str(n): plan.density(n) for n in lengths},
            "kv_bytes": {str(n): plan.cache_bytes(n, "bfloat16", config) for n in lengths},
            "measured": dict(chosen[budget]),
            "uniform": _uniform(validation, budget),
        }
        for budget, plan in plans.items()
    }
    return {
        "schema": 1,
        "model_name": curves.model_name,
        "fingerprint": config.fingerprint,
        "settings": dict(settings),
        "calibration": {
            "samples": len(calibration.samples),
            "tally": dict(calibration.manifest.get("tally", {})),
        },
        "curves": {"method": curves.method, "sha256": curves.sha256()},
        "validation_length": validation["length"],
        "dense": validation["dense"],
        "plans": rows,
        "seconds": dict(seconds),
    }


def as_text(report: Mapping[str, Any]) -> str:
    """The chosen plans beside uniform ones of the same budget, and dense."""
    objectives = sorted(report["dense"]["objectives"])
    header = ["budget", "plan", "density", "excess", *objectives, "same answer"]
    rows = []

    def row(budget: str, name: str, figures: Mapping[str, Any]) -> list[object]:
        same = figures["agreement"]
        return [
            budget,
            name,
            f"{figures['density']:.3f}",
            f"{figures['excess']:.4f}",
            *(f"{figures['objectives'][o]:.4f}" for o in objectives),
            "-" if same is None else f"{same:.2f}",
        ]

    for budget, plan in report["plans"].items():
        rows.append(row(budget, plan["file"], plan["measured"]))
        rows.append(row("", "uniform", plan["uniform"]))
    rows.append(row("", "dense", report["dense"]))
    title = f"{report['model_name']} at N = {report['validation_length']}, loss in nats a token"
    return f"{title}\n{table(header, rows)}"


def plot_names(budgets: Sequence[str]) -> list[str]:
    """PNG files that `write_plots` makes."""
    maps = [f"spans-{budget}.png" for budget in budgets]
    return [*maps, "curves.png", "front.png", "quality.png"]


def write_plots(
    place: Path,
    curves: CostCurves,
    plans: Mapping[str, AttentionPlan],
    validation: Mapping[str, Any],
    options: PipelineOptions,
) -> None:
    """Heat maps of spans, cost curves, Pareto fronts, and quality against density."""
    lengths = sorted({*(options.lengths or ()), options.validate_length or 1})
    for budget, plan in plans.items():
        spans_heat_map(plan, lengths, place / f"spans-{budget}.png", f"{budget} of the KV bytes")
    write_atomic(place / "curves.png", plots.cost_curves(curves))
    fronts = {budget: place / "search" / budget for budget in plans}
    write_atomic(place / "front.png", plots.fronts(fronts))
    write_atomic(place / "quality.png", plots.quality(validation, UNIFORM))
