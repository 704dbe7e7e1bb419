"""The step that measures cost curves, by the method that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moa_tools.pipeline.options import PipelineOptions
from moa_tools.progress import Reporter


def files(name: Path) -> list[Path]:
    """NAME.json and NAME.safetensors."""
    return [name.with_name(name.name + ".json"), name.with_name(name.name + ".safetensors")]


def settings(options: PipelineOptions) -> dict[str, Any]:
    """What the curves depend on beside the calibration set."""
    if options.method == "influence":
        return {"device": options.device}
    return {"device": options.device, "targets": list(_targets(options)), "steps": options.steps}


def _targets(options: PipelineOptions) -> tuple[float, ...]:
    """Densities at which the gates' sweep rests: its own ones and the budgets within its reach.

    Its own ones stay, so that another of them as a budget needs no new training.
    """
    from moa_tools.gates.options import DEFAULT_TARGETS, GatesOptions

    reach = GatesOptions()
    budgets = (b for b in options.budgets if reach.sparsest <= b <= reach.densest)
    return tuple(sorted({*DEFAULT_TARGETS, *budgets}, reverse=True))


def make(
    options: PipelineOptions, model: Path, calibration: Path, out: Path, reporter: Reporter
) -> None:
    """Writes the curves. Raises what `profile` and `gates` raise."""
    if options.method == "influence":
        from moa_tools.profile.options import ProfileOptions
        from moa_tools.profile.run import profile

        profile(model, calibration, out, ProfileOptions(device=options.device), reporter)
        return
    from moa_tools.gates.options import GatesOptions
    from moa_tools.gates.run import gates

    wanted = GatesOptions(device=options.device, steps=options.steps, targets=_targets(options))
    gates(model, calibration, out, wanted, reporter)
