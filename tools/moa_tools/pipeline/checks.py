"""What can be known to be wrong before any work begins."""

from __future__ import annotations

from moa_rt import DeviceError, ModelConfig

from moa_tools.calibrate.options import complete as complete_calibration
from moa_tools.pipeline import curves as curve_step
from moa_tools.pipeline import step_options
from moa_tools.pipeline.options import PipelineOptions
from moa_tools.search.budgets import check_feasible
from moa_tools.search.rules import candidates
from moa_tools.text.user_files import check_paths


def check(options: PipelineOptions, config: ModelConfig) -> None:
    """Refuses complete options that a step would refuse.

    Raises ArgumentError (also for budgets that no plan can meet), IoError for sources that are not
    there, DeviceError for a GPU that is not.
    """
    _check_device(options.device)
    complete_calibration(step_options.for_calibrate(options), config)
    check_paths(options.sources)
    curve_step.settings(options)
    step_options.for_search(options)
    for budget in options.budgets:
        if options.refine:
            step_options.for_refine(options, budget)
        _check_budget(options, config, budget)


def warnings(options: PipelineOptions) -> list[str]:
    """What is allowed and yet not what one would want of complete options."""
    if options.validate_length not in (options.lengths or ()):
        return []
    return [
        f"validate_length: got {options.validate_length}, a length that is profiled; plans are "
        "better measured at one that they were not made from"
    ]


def _check_device(device: str) -> None:
    if device == "cpu":
        return
    from moa_tools.hf.load import torch_device

    index = torch_device(device).index or 0
    import torch

    if index >= torch.cuda.device_count():
        raise DeviceError(
            f"device: got {device!r}, want an index below {torch.cuda.device_count()}"
        )


def _check_budget(options: PipelineOptions, config: ModelConfig, budget: float) -> None:
    """As `search` will, once there are costs: sink and rounding are those of the curves to come."""
    curves = curve_step.without_costs(options, config)
    budgets = step_options.budgets_of(options, curves, budget)
    sink, rounding, lengths = curves.sink_size, curves.rounding, budgets.lengths
    grid = step_options.for_search(options).grid
    rules = candidates(lengths, lengths[0], options.longest, sink, grid, rounding)
    heads = config.num_hidden_layers * config.num_key_value_heads
    limits = budgets.kept_limits(heads, sink, rounding)
    check_feasible(budgets, limits, rules, sink, heads, rounding)
