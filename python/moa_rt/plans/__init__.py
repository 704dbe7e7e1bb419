"""Plans that ship with the package: one JSON file for each model and density.

A plan belongs to the model whose fingerprint it carries. Its density is the one it was searched
for, ``provenance["density"]``; `moa-tools search` writes it. The command ``moa-rt`` reads the same
files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moa_rt._core import AttentionPlan, ModelConfig
from moa_rt.errors import ArgumentError, FormatError

__all__ = ["DEFAULT_DENSITY", "ShippedPlan", "find", "shipped"]

DEFAULT_DENSITY = 0.5
# Densities this close are the same: 0.33 asks for a plan of 1/3.
_TOLERANCE = 0.005
_DIRECTORY = Path(__file__).parent


@dataclass(frozen=True)
class ShippedPlan:
    """A plan file that ships with the package.

    Attributes:
        path: the file.
        model_name: for people.
        fingerprint: of the model it was made for.
        density: share of the dense KV bytes that it was searched for.
    """

    path: Path
    model_name: str
    fingerprint: str
    density: float


def _read(path: Path) -> tuple[ShippedPlan, AttentionPlan]:
    plan = AttentionPlan.load(path)
    text = plan.provenance.get("density", "")
    try:
        density = float(text)
    except ValueError:
        density = float("nan")
    if not 0 < density <= 1 or not plan.fingerprint:
        raise FormatError(
            f"{path}: a shipped plan needs the model's fingerprint and provenance density in "
            f"(0, 1]: got {plan.fingerprint[:16]!r} and {text[:20]!r}"
        )
    return ShippedPlan(path, plan.model_name, plan.fingerprint, density), plan


def shipped(directory: Path = _DIRECTORY) -> list[ShippedPlan]:
    """All plans that ship, by model name and density. Raises FormatError for a broken file."""
    found = [_read(path)[0] for path in sorted(directory.glob("*.json"))]
    return sorted(found, key=lambda plan: (plan.model_name, plan.density))


def find(
    config: ModelConfig, density: float | None = None, directory: Path = _DIRECTORY
) -> AttentionPlan:
    """The shipped plan of this very model for a density (None: 0.5).

    Raises:
        ArgumentError: there is none; the message lists what there is.
    """
    wanted = DEFAULT_DENSITY if density is None else float(density)
    if not 0 < wanted <= 1:
        raise ArgumentError(f"density: got {wanted!r}, want in (0, 1]")
    plans = shipped(directory)
    own = [plan for plan in plans if plan.fingerprint == config.fingerprint]
    if own:
        nearest = min(own, key=lambda plan: abs(plan.density - wanted))
        if abs(nearest.density - wanted) <= _TOLERANCE:
            return AttentionPlan.load(nearest.path)
        densities = ", ".join(f"{plan.density:g}" for plan in own)
        raise ArgumentError(
            f"plan auto: density: got {wanted:g}, the shipped plans of {own[0].model_name} have "
            f"{densities}"
        )
    names = sorted({plan.model_name for plan in plans})
    raise ArgumentError(
        f"plan auto: no plan ships for the model with fingerprint {config.fingerprint[:16]}...; "
        f"there are plans for: {', '.join(names) or 'no model'}; `moa-tools pipeline` makes one"
    )
