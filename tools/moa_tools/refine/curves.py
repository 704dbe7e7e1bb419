"""What single moves are thought to cost at the present plan.

The derivative at a plan says how the loss begins to change as a head's attention moves to another
span. Where backups are gone already that is far from what the whole move costs: wide heads look
dispensable (their answers are right with room to spare) and narrow ones promising. So each head is
also moved alone, to the narrowest span and to dense; the derivative gives the shape between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from moa_tools.search.problem import Floats, Ints

# A derivative that is this far from the true change says nothing of the shape either.
_TRUSTED = 0.2


@dataclass(frozen=True)
class Alone:
    """The true change of every part when `head` alone moves to `rule`."""

    head: int
    rule: int
    change: Mapping[str, float]


def shaped(costs: Floats, spans: Floats, here: int, rule: int, change: float) -> Floats:
    """First-order costs (rules,) of a head at rule `here`, bent to hit `change` at `rule`.

    Only on that side; in proportion to the tokens where first order is of no use.
    """
    distance = float(spans[rule] - spans[here])
    if distance == 0:
        return costs
    share = np.clip((spans - spans[here]) / distance, 0.0, 1.0)
    promised = float(costs[rule])
    if promised * change > 0 and abs(promised) > _TRUSTED * abs(change):
        share = np.clip(costs / promised, -0.5, 1.5)
    bent: Floats = np.where((spans - spans[here]) * distance > 0, share * change, costs)
    return bent


class Curves:
    """Thought changes of the loss (heads, rules), 0 at the present rules.

    `parts`: by part and length. `spans`: (rules,) tokens at the length of each part.
    """

    def __init__(self, parts: Mapping[str, Floats], spans: Mapping[str, Floats], now: Ints) -> None:
        self._parts, self._spans = dict(parts), spans
        self.now = now
        self._own = np.zeros_like(next(iter(self._parts.values())))

    def bend(self, tried: Alone) -> None:
        """Takes in a move that was made alone."""
        here = int(self.now[tried.head])
        for name, change in tried.change.items():
            row = self._parts[name][tried.head]
            self._parts[name][tried.head] = shaped(row, self._spans[name], here, tried.rule, change)

    def total(self, weights: Mapping[str, float]) -> Floats:
        """Of the weighted objective."""
        total = sum((w * self._parts[name] for name, w in weights.items()), self._own.copy())
        shifted: Floats = total - total[np.arange(len(self.now)), self.now][:, None]
        return shifted

    def move(self, choice: Ints) -> None:
        """The plan is another one now; what was thought of it stays."""
        self.now = choice

    def learn(self, choice: Ints, surprise: float, moved: Floats) -> None:
        """Spreads what moves made together cost beyond their promise over the heads that moved.

        moved (heads, rules): how far each rule is from the present one. A head's share goes with
        its distance, to all rules on the same side.
        """
        heads = np.flatnonzero(moved[np.arange(len(choice)), choice] > 0)
        if len(heads) == 0:
            return
        far = moved[heads, choice[heads]]
        for head, rule, own in zip(heads, choice[heads], far, strict=True):
            spans = sum(s / s.max() for s in self._spans.values())
            side = np.sign(spans - spans[self.now[head]])
            reach = np.minimum(moved[head] / own, 1.0)
            same = side == side[rule]
            self._own[head] += np.where(same, surprise * own / far.sum() * reach, 0.0)
