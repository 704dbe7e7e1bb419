"""Moves from a plan: the integer program of `search` over what single moves are thought to cost."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from moa_tools.search.client import Solver
from moa_tools.search.problem import Floats, Ints, Problem, Task

_GAP = 2e-3
_SECONDS = 20.0


def _solve(costs: Floats, use: Ints, limits: Ints, layers: int, solver: str) -> Ints | None:
    shifted = costs - costs.min(axis=1, keepdims=True)
    scale = max(float(shifted.max(axis=1).sum()), 1e-12)
    problem = Problem((shifted / scale)[None], use, limits, layers, 0)
    with Solver(problem, solver) as opened:
        answer = opened.solve(Task(np.ones(1), np.full(1, np.inf), _GAP, _SECONDS))
    return answer.choice


def propose(
    costs: Floats,
    moved: Floats,
    now: Ints,
    use: Ints,
    limits: Ints,
    layers: int,
    prices: Sequence[float],
    solver: str,
) -> list[Ints]:
    """The best plan (heads,) within the limits for each price of a moved token; each plan once.

    costs and moved (heads, rules): thought change of the loss, and how far a rule is from the
    present one. The dearer moves are, the fewer are made: first order holds nearby only. The
    boldest plan comes first; the present one is left out. Raises what the solver raises.
    """

    def one(price: float) -> Ints | None:
        return _solve(costs + price * moved, use, limits, layers, solver)

    with ThreadPoolExecutor(len(prices)) as pool:
        found = [choice for choice in pool.map(one, prices) if choice is not None]
    heads = np.arange(len(now))
    unique: dict[tuple[int, ...], Ints] = {}
    for choice in found:
        if moved[heads, choice].any():
            unique.setdefault(tuple(choice.tolist()), choice)
    return list(unique.values())
