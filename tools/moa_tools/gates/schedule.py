"""Budget and temperature of every step."""

from __future__ import annotations

import math

from moa_tools.gates.options import GatesOptions
from moa_tools.gates.prices import Grid

# The sigmoid's width, first and last, as shares of the way that Adam can move a price in all steps
# (about the learning rate a step). Narrow: what the loss is blurred by, rounding loses again.
_WIDTHS = (1 / 45, 1 / 360)
# Share of the steps that rest at a target; the others go down in equal ratios.
_RESTING = 0.4
# A budget is kept this far above the narrowest plan's, and a little below dense.
_ABOVE_LEAST, _MOST = 1.1, 0.99


def _done(step: int, options: GatesOptions) -> float:
    return min(1.0, step / (options.step_count - 1))


def sweep(done: float, options: GatesOptions) -> float:
    """The density when this share of the steps is done: never rising, from densest to sparsest."""
    targets = sorted(set(options.targets), reverse=True)
    rest = _RESTING / len(targets) if targets else 0.0
    moving = 1.0 - rest * len(targets)
    total = math.log(options.densest / options.sparsest)
    at = options.densest
    for target in [*targets, options.sparsest]:
        share = moving * math.log(at / target) / total
        if done < share:
            return float(at * (target / at) ** (done / share))
        done -= share
        at = target
        if target in targets:
            if done < rest:
                return at
            done -= rest
    return at


def density_at(step: int, options: GatesOptions, at: Grid) -> float:
    """The budget of a step at a length; not below what the narrowest plan takes there."""
    least = _ABOVE_LEAST * at.spans[0] / at.length
    return min(max(sweep(_done(step, options), options), least), _MOST)


def temperature_at(step: int, options: GatesOptions) -> float:
    """The sigmoid's width of a step."""
    first, last = _WIDTHS
    way = options.learning_rate * options.step_count
    return float(way * first * (last / first) ** _done(step, options))
