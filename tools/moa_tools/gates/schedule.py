"""Budget, temperature and learning rate of every step.

The budget goes down from target to target and rests at each. While it moves, the gates are blurred
and melt into new plans; while it rests they are sharpened, so that little is lost in rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from moa_tools.gates.options import GatesOptions
from moa_tools.gates.prices import Grid

# The sigmoid's width while the budget moves and at the end of a rest, as shares of the way that
# Adam can move a price in all steps (about the learning rate a step).
_BLURRED, _SHARP = 1 / 37.5, 1 / 600
# The learning rate falls with this power of the width: a step must not throw sharp gates over.
_SLOWER = 0.75
_WARM_UP = 10
# Share of the steps that rest at a target, the longer the narrower it is.
_RESTING = 0.7
# A budget is kept this far above the narrowest plan's, and a little below dense.
_ABOVE_LEAST, _MOST = 1.1, 0.99


@dataclass(frozen=True)
class Phase:
    """Steps [first, last) on the way from one density to another, or at rest where both are one."""

    first: int
    last: int
    begin: float
    end: float

    @property
    def rests(self) -> bool:
        """Whether the budget stays."""
        return self.begin == self.end

    def done(self, step: int) -> float:
        """The share of the phase that is over, 1 at its last step."""
        return (step - self.first + 1) / (self.last - self.first)


def phases(options: GatesOptions) -> tuple[Phase, ...]:
    """All steps in order, from `densest` to `sparsest` with a rest at each target."""
    targets = sorted(set(options.targets), reverse=True)
    weights = {target: -math.log(target) for target in targets}
    ends = [*targets, *([options.sparsest] if options.sparsest not in weights else [])]
    moving = 1.0 - (_RESTING if targets else 0.0)
    total = math.log(options.densest / options.sparsest)
    shares: list[tuple[float, float, float]] = []
    at = options.densest
    for end in ends:
        shares.append((at, end, moving * math.log(at / end) / total))
        if end in weights:
            shares.append((end, end, _RESTING * weights[end] / sum(weights.values())))
        at = end
    return tuple(_in_steps(shares, options.step_count))


def _in_steps(shares: Sequence[tuple[float, float, float]], count: int) -> list[Phase]:
    found = []
    over, first = 0.0, 0
    for begin, end, share in shares:
        over += share
        last = min(count, round(over * count))
        if last > first:
            found.append(Phase(first, last, begin, end))
        first = last
    return found


class Schedule:
    """The phases of a training, and what they make of its steps."""

    def __init__(self, options: GatesOptions) -> None:
        self._options = options
        self.phases = phases(options)
        self._way = options.learning_rate * options.step_count

    def _phase(self, step: int) -> Phase:
        return next(phase for phase in self.phases if step < phase.last)

    def sweep(self, step: int) -> float:
        """The density of a step: never rising, from densest to sparsest in equal ratios."""
        phase = self._phase(step)
        return float(phase.begin * (phase.end / phase.begin) ** phase.done(step))

    def density(self, step: int, at: Grid) -> float:
        """The same at a length; not below what the narrowest plan takes there."""
        least = _ABOVE_LEAST * at.spans[0] / at.length
        return min(max(self.sweep(step), least), _MOST)

    def settled(self, step: int) -> bool:
        """Whether a rest ends with this step."""
        phase = self._phase(step)
        return phase.rests and step == phase.last - 1

    @property
    def rests(self) -> int:
        """How many rests there are."""
        return sum(phase.rests for phase in self.phases)

    def _sharpness(self, step: int) -> float:
        """0: as blurred as it gets, 1: as sharp."""
        phase = self._phase(step)
        if phase.rests:
            return phase.done(step)
        melting = max(0.0, 1.0 - 2.0 * phase.done(step))
        return 0.0 if phase.first == 0 else melting

    def temperature(self, step: int) -> float:
        """The sigmoid's width of a step, in units of price."""
        return float(self._way * _BLURRED * (_SHARP / _BLURRED) ** self._sharpness(step))

    def learning_rate(self, step: int) -> float:
        """Of Adam."""
        slower = (_SHARP / _BLURRED) ** (_SLOWER * self._sharpness(step))
        return float(self._options.learning_rate * min(1.0, (step + 1) / _WARM_UP) * slower)
