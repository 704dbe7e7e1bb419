"""Spends the budgets of lengths that no curve speaks of.

The program sees no worth in tokens there: of two rules that keep the same at every profiled length,
alpha + beta * N and the same bounded by `max_span`, it may take either. A head that is dense at 4k
should stay so at 8k if the budget at 8k has room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from moa_tools.search.rules import Candidates


def extend(
    choice: Sequence[int], rules: Candidates, limits: Mapping[int, int], profiled: Sequence[int]
) -> list[int]:
    """The choice (a rule for each head) with the same spans at `profiled` and wider ones elsewhere.

    `limits`: most tokens of all heads together, by length. Heads that keep most at the longest
    profiled length come first, each with the widest rule that still fits.
    """
    chosen = list(choice)
    same = np.stack([rules.column(n) for n in sorted(set(profiled))], axis=1)
    spans = np.stack([rules.column(n) for n in limits], axis=1)
    room = np.array(list(limits.values())) - spans[chosen].sum(axis=0)
    total = spans.sum(axis=1)
    for head in sorted(range(len(chosen)), key=lambda h: (-int(same[chosen[h], -1]), h)):
        now = chosen[head]
        twins = np.flatnonzero((same == same[now]).all(axis=1))
        for rule in sorted(twins.tolist(), key=lambda r: (-int(total[r]), r)):
            more = spans[rule] - spans[now]
            if (more <= room).all():
                chosen[head] = rule
                room = room - more
                break
    return chosen
