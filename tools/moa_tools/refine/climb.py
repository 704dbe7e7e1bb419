"""From a plan to better ones: try single heads, move some together, keep what truly loses less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moa_tools.progress import Reporter
from moa_tools.refine.curves import Alone, Curves
from moa_tools.refine.measured import Measured, OutOfTimeError
from moa_tools.refine.objective import Objective
from moa_tools.refine.options import RefineOptions
from moa_tools.refine.propose import propose
from moa_tools.search.problem import Floats, Ints
from moa_tools.search.rules import Candidates

# Prices of a moved token in units of what is hoped to be gained by one: bold moves first.
_PRICES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
# Plans measured in a round, rounds in a row that may find nothing, and what counts as better.
_TRIES, _PATIENCE, _BETTER = 8, 4, 1e-4
# What a third of the samples must not say of a plan that all are worth measuring for.
_WORSE = 4e-3
# A head of less than so many narrowest spans is not worth narrowing alone.
_NARROW = 2


@dataclass(frozen=True)
class Step:
    """A plan that was better than all before."""

    value: float
    choice: Ints
    parts: Mapping[str, float]


class Climb:
    """The state of one refinement; `steps` holds the start and every plan that was better."""

    def __init__(
        self,
        measured: Measured,
        objective: Objective,
        rules: Candidates,
        limits: Ints,
        layers: int,
        options: RefineOptions,
        reporter: Reporter,
    ) -> None:
        self._measured, self._objective, self._rules = measured, objective, rules
        self._limits, self._layers, self._options = limits, layers, options
        self._reporter = reporter
        self._tried: set[tuple[int, ...]] = set()
        self.steps: list[Step] = []

    @property
    def best(self) -> Step:
        """The last step."""
        return self.steps[-1]

    def begin(self, choice: Ints, parts: Mapping[str, float]) -> None:
        """The plan to start from."""
        self.steps = [Step(self._objective.value(parts), choice, parts)]

    def run(self) -> bool:
        """Epochs until one finds nothing; False if the time limit ended them."""
        self._measured.hurry()
        try:
            for epoch in range(self._options.epochs):
                before = self.best.value
                self._moves(self._look(epoch))
                if self.best.value >= before - _BETTER:
                    break
        except OutOfTimeError:
            self._reporter.info("refine: the time limit ends it")
            return False
        return True

    def _look(self, epoch: int) -> Curves:
        """What single moves cost, by first order and by trying heads alone."""
        now = self.best.choice
        order = self._measured.first_order(now)
        spans = {name: self._rules.column(_length(name)).astype(float) for name in order}
        curves = Curves(order, spans, now)
        alone = self._singles(curves)
        self._reporter.start(f"heads alone, epoch {epoch + 1}", len(alone))
        try:
            base = self._measured.losses(now, now, roughly=True)
            for head, rule in alone:
                trial = now.copy()
                trial[head] = rule
                found = self._measured.losses(trial, now, roughly=True)
                curves.bend(Alone(head, rule, {k: found[k] - base[k] for k in base}))
                self._reporter.advance(1)
        finally:
            self._reporter.stop()
        return curves

    def _singles(self, curves: Curves) -> list[tuple[int, int]]:
        """(head, rule): wide heads to the narrowest span, and all to dense, the likeliest first."""
        use, now = self._rules.spans, self.best.choice
        narrowest, widest = int(use.sum(axis=1).argmin()), int(use.sum(axis=1).argmax())
        wide = np.flatnonzero(use[now, 0] >= _NARROW * use[narrowest, 0])
        down = [(int(head), narrowest) for head in sorted(wide, key=lambda h: -use[now[h], 0])]
        hope = curves.total(self._objective.weights(self.best.parts))[:, widest]
        up = [
            (int(head), widest) for head in np.argsort(hope, kind="stable") if now[head] != widest
        ]
        return [*down, *up][: self._options.alone]

    def _moved(self) -> Floats:
        """How far (heads, rules) a rule is from the present one, in shares of the length."""
        lengths, now = self._measured.lengths, self.best.choice
        each = [
            np.abs(self._rules.column(n)[None] - self._rules.column(n)[now][:, None]) / n
            for n in lengths
        ]
        moved: Floats = np.mean(each, axis=0)
        return moved

    def _moves(self, curves: Curves) -> None:
        idle = 0
        for number in range(self._options.rounds):
            costs = curves.total(self._objective.weights(self.best.parts))
            hope = float(-np.minimum(costs, 0.0).min(axis=1).mean())
            found = propose(
                costs, self._moved(), self.best.choice, self._rules.spans, self._limits,
                self._layers, [p * max(4 * hope, 1e-6) for p in _PRICES], self._options.solver,
            )  # fmt: skip
            untried = [choice for choice in found if tuple(choice.tolist()) not in self._tried]
            if not untried:  # nothing was learnt that could change the next proposals
                break
            idle = 0 if self._round(curves, untried, number) else idle + 1
            if idle == _PATIENCE:
                break

    def _round(self, curves: Curves, untried: Sequence[Ints], number: int) -> bool:
        """Measures proposals; whether one of them is the new plan."""
        now, moved = self.best, self._moved()
        heads = np.arange(len(now.choice))
        weights = self._objective.weights(now.parts)
        best: Step | None = None
        told = []
        for choice in untried[:_TRIES]:
            self._tried.add(tuple(choice.tolist()))
            promised = float(curves.total(weights)[heads, choice].sum())
            change = self._change(now, choice, roughly=True)[0]
            if change < _WORSE:
                change, parts = self._change(now, choice, roughly=False)
                if now.value + change < (best or now).value - _BETTER:
                    best = Step(now.value + change, choice, parts)
            curves.learn(choice, change - promised, moved)
            changed = int((moved[heads, choice] > 0).sum())
            told.append(f"{changed} heads {promised:+.4f} -> {change:+.4f}")
        self._reporter.info(f"round {number + 1} at {now.value:.4f}: {'; '.join(told)}")
        if best is not None:
            self.steps.append(best)
            curves.move(best.choice)
        return best is not None

    def _change(self, now: Step, choice: Ints, roughly: bool) -> tuple[float, Mapping[str, float]]:
        """Of the objective from the present plan, and the parts of the other one."""
        parts = self._measured.losses(choice, now.choice, roughly)
        before = now.value
        if roughly:
            before = self._objective.value(self._measured.losses(now.choice, now.choice, roughly))
        return self._objective.value(parts) - before, parts


def _length(name: str) -> int:
    return int(name.split("@")[1])
