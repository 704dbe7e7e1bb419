"""The step that measures cost curves, by the method that was asked for."""

from __future__ import annotations

from pathlib import Path

from moa_tools.pipeline.options import Method
from moa_tools.progress import Reporter


def files(name: Path) -> list[Path]:
    """NAME.json and NAME.safetensors."""
    return [name.with_name(name.name + ".json"), name.with_name(name.name + ".safetensors")]


def make(
    method: Method,
    model: Path,
    calibration: Path,
    out: Path,
    device: str,
    reporter: Reporter,
) -> None:
    """Writes the curves. Raises what `profile` and `gates` raise."""
    if method == "influence":
        from moa_tools.profile.options import ProfileOptions
        from moa_tools.profile.run import profile

        profile(model, calibration, out, ProfileOptions(device=device), reporter)
        return
    from moa_tools.gates.run import GatesOptions, gates

    gates(model, calibration, out, GatesOptions(device=device), reporter)
