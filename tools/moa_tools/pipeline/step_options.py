"""What each step is asked for, from what the pipeline is asked for."""

from __future__ import annotations

from moa_tools.calibrate.options import CalibrateOptions
from moa_tools.pipeline.options import PipelineOptions
from moa_tools.profile.cost_curves import CostCurves
from moa_tools.refine.options import RefineOptions
from moa_tools.search.budgets import Budgets
from moa_tools.search.planner import SearchOptions

# Relative gap of a search over gates, whose worth is known to some per cent.
_GATES_GAP = 3e-3


def for_calibrate(options: PipelineOptions) -> CalibrateOptions:
    """Of the calibration set. `options`: complete, here and below."""
    return CalibrateOptions(
        lengths=options.lengths or (),
        validate_lengths=(options.validate_length or 0,),
        samples=options.samples,
        sources=options.sources,
        field=options.field,
        device=options.device,
        seed=options.seed,
    )


def for_search(options: PipelineOptions) -> SearchOptions:
    """Of every budget's search. Raises ArgumentError.

    Gates have one worth for all lengths: between lengths there is nothing to trade. Where there is
    room it is nearly 0, and a small gap of next to nothing takes minutes to prove.
    """
    learned = options.method == "gates"
    return SearchOptions(
        solver=options.solver,
        max_length=options.longest,
        grid_points=2 if learned else None,
        gap=_GATES_GAP if learned else None,
    )


def budgets_of(options: PipelineOptions, curves: CostCurves, budget: float) -> Budgets:
    """A budget as it holds at every length that is profiled or validated."""
    lengths = {curve.length for curve in curves.curves} | {options.validate_length or 0}
    return Budgets(dict.fromkeys(sorted(lengths), budget))


def for_refine(options: PipelineOptions, budget: float) -> RefineOptions:
    """Of a budget's refinement. Raises ArgumentError."""
    return RefineOptions(
        density=budget,
        budget_lengths=(options.validate_length,) if options.validate_length else (),
        device=options.device,
        solver=options.solver,
    )
