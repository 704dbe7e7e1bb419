"""The step that measures cost curves, by the method that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from moa_rt import ModelConfig

from moa_tools.pipeline.options import PipelineOptions
from moa_tools.profile.cost_curves import CostCurve, CostCurves
from moa_tools.progress import Reporter

if TYPE_CHECKING:
    from moa_tools.gates.options import GatesOptions
    from moa_tools.profile.options import ProfileOptions


def files(name: Path) -> list[Path]:
    """NAME.json and NAME.safetensors."""
    return [name.with_name(name.name + ".json"), name.with_name(name.name + ".safetensors")]


def settings(options: PipelineOptions) -> dict[str, Any]:
    """What the curves depend on beside the calibration set. Raises ArgumentError."""
    if options.method == "influence":
        return {"device": _profile_options(options).device}
    wanted = _gates_options(options)
    return {"device": wanted.device, "targets": list(wanted.targets), "steps": wanted.steps}


def _profile_options(options: PipelineOptions) -> ProfileOptions:
    from moa_tools.profile.options import ProfileOptions

    return ProfileOptions(device=options.device)


def _gates_options(options: PipelineOptions) -> GatesOptions:
    """With the densities at which the sweep rests: its own ones and the budgets within its reach.

    Its own ones stay, so that another of them as a budget needs no new training.
    """
    from moa_tools.gates.options import DEFAULT_TARGETS, GatesOptions

    reach = GatesOptions()
    budgets = (b for b in options.budgets if reach.sparsest <= b <= reach.densest)
    targets = tuple(sorted({*DEFAULT_TARGETS, *budgets}, reverse=True))
    return GatesOptions(device=options.device, steps=options.steps, targets=targets)


def without_costs(options: PipelineOptions, config: ModelConfig) -> CostCurves:
    """Sink and spans of the curves that `make` will make; every cost is 1.

    Raises ArgumentError for a length that has no room for them.
    """
    if options.method == "influence":
        from moa_tools.profile.spans import profile_spans

        sink = _profile_options(options).sink
        knots = [profile_spans(length, sink) for length in options.lengths or ()]
    else:
        from moa_tools.gates.prices import grid

        sink = _gates_options(options).sink
        knots = [grid(length, sink).spans for length in options.lengths or ()]
    heads = config.num_hidden_layers, config.num_key_value_heads
    curves = tuple(
        CostCurve("none", spans[-1], np.array(spans, np.int64), np.ones((*heads, len(spans))))
        for spans in knots
    )
    return CostCurves(config.fingerprint, "", options.method, sink, curves, {})


def make(
    options: PipelineOptions, model: Path, calibration: Path, out: Path, reporter: Reporter
) -> None:
    """Writes the curves. Raises what `profile` and `gates` raise."""
    if options.method == "influence":
        from moa_tools.profile.run import profile

        profile(model, calibration, out, _profile_options(options), reporter)
        return
    from moa_tools.gates.run import gates

    gates(model, calibration, out, _gates_options(options), reporter)
