"""The Pareto front by epsilon constraints: minimise one objective, cap the others on a grid.

As in the MoA paper (arXiv 2406.14909) with five grid points for each of up to three objectives: 3
solves for the ranges and 3 * 4^2 on the grid. Differences: the other objectives are only capped,
not bounded from below (which loses no Pareto point); they also enter the objective with a small
weight, so that a tie never yields a dominated plan; a solve whose answer is already known is left
out; a timed-out solve keeps what it found; one more solve weighs all objectives alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from moa_rt import ArgumentError, ResourceError

from moa_tools.search.problem import Answer, Floats, Ints, Problem, Task, objective_values

DEFAULT_GRID_POINTS = 5
# Above three objectives the grid gets coarser, so that a front stays about this many solves.
_MAX_SOLVES = 51
_TIE_WEIGHT = 1e-2
_SAME = 1e-9


class Solving(Protocol):
    """What solves a task."""

    def solve(self, task: Task) -> Answer:
        """The answer, already checked."""


@dataclass(frozen=True, eq=False)
class Point:
    """A choice on the front.

    Attributes:
        choice: int64 (heads,), rule of each head.
        values: float64 (objectives,).
        optimal: whether its solve reached the gap asked for.
        gap: relative distance of its solve's weighted objective to the proven bound.
        how: the solve: "retrieval at N=2048", "balanced" or with caps.
    """

    choice: Ints
    values: Floats
    optimal: bool
    gap: float
    how: str


@dataclass(frozen=True, eq=False)
class Front:
    """Points without a dominated one or a duplicate, by their objectives; and solves made."""

    points: tuple[Point, ...]
    solves: int
    timed_out: int


def intervals(objectives: int, grid_points: int | None) -> int:
    """Grid intervals of each objective."""
    if grid_points is not None:
        if not 2 <= grid_points <= 50:
            raise ArgumentError(f"grid points: got {grid_points}, want 2..50")
        return grid_points - 1
    count = DEFAULT_GRID_POINTS - 1
    while count > 1 and objectives + objectives * count ** (objectives - 1) > _MAX_SOLVES:
        count -= 1
    return count


def number_of_solves(objectives: int, grid_points: int | None) -> int:
    """At most this many, the balanced one not counted."""
    if objectives == 1:
        return 1
    cells: int = intervals(objectives, grid_points) ** (objectives - 1)
    return objectives + objectives * cells


class _Search:
    def __init__(
        self, problem: Problem, names: tuple[str, ...], solver: Solving, gap: float,
        seconds: float, step: Callable[[], None],
    ) -> None:  # fmt: skip
        self._problem, self._names, self._solver = problem, names, solver
        self._gap, self._seconds, self._step = gap, seconds, step
        self.points: list[Point] = []
        self.solves = self.timed_out = 0

    @property
    def _count(self) -> int:
        return len(self._names)

    def run(self, weights: Floats, caps: Floats, how: str) -> tuple[Answer, Point | None]:
        """One solve; what it finds becomes a point."""
        answer = self._solver.solve(Task(weights, caps, self._gap, self._seconds))
        self.solves += 1
        self._step()
        if answer.choice is None:
            self.timed_out += answer.status == "none"
            return answer, None
        values = objective_values(self._problem, answer.choice)
        total = float(weights @ values)
        gap = max(0.0, (total - answer.bound) / total) if total > _SAME else 0.0
        optimal = answer.status == "optimal"
        self.timed_out += not optimal
        point = Point(answer.choice, values, optimal, gap, how)
        self.points.append(point)
        return answer, point

    def weights(self, primary: int) -> Floats:
        """The primary objective, the others as tie breakers."""
        weights = np.full(self._count, _TIE_WEIGHT / self._count)
        weights[primary] = 1.0
        return weights

    def ranges(self) -> tuple[Floats, Floats]:
        """Least and largest value of each objective over the single solves."""
        singles = []
        for o, name in enumerate(self._names):
            answer, point = self.run(self.weights(o), np.full(self._count, np.inf), name)
            if point is None:
                raise _no_answer(answer, name, self._seconds)
            singles.append(point.values)
        table = np.stack(singles)
        return table.min(axis=0), table.max(axis=0)

    def grid(self, primary: int, low: Floats, high: Floats, count: int) -> None:
        """All caps for one primary objective, the loosest first."""
        others = [o for o in range(self._count) if o != primary and high[o] > low[o] * (1 + _SAME)]
        known: list[tuple[Floats, Point | None]] = [
            (np.full(self._count, np.inf), self.points[primary])
        ]
        for steps in itertools.product(range(count, 0, -1), repeat=len(others)):
            caps = np.full(self._count, np.inf)
            for o, step in zip(others, steps, strict=True):
                if step < count:  # the largest value binds nothing
                    caps[o] = low[o] + (high[o] - low[o]) * step / count
            if _is_known(caps, known):
                self._step()
                continue
            label = ", ".join(
                f"{self._names[o]} <= {step}/{count}" for o, step in zip(others, steps, strict=True)
            )
            answer, point = self.run(
                self.weights(primary), caps, f"{self._names[primary]}; {label}"
            )
            if point is not None or answer.status == "infeasible":
                known.append((caps, point))


def _is_known(caps: Floats, known: list[tuple[Floats, Point | None]]) -> bool:
    """Looser caps had no answer, or had one that meets these as well."""
    for other, point in known:
        if point is None:
            if (caps <= other).all():
                return True
        elif (caps <= other).all() and (point.values <= caps).all():
            return True
    return False


def _no_answer(answer: Answer, name: str, seconds: float) -> Exception:
    if answer.status == "infeasible":
        return ArgumentError("budgets: cannot be met together")
    return ResourceError(f"solver: no plan for {name} within {seconds:g} s; raise the time limit")


def front(
    problem: Problem,
    names: tuple[str, ...],
    solver: Solving,
    *,
    gap: float,
    seconds: float,
    grid_points: int | None = None,
    step: Callable[[], None] = lambda: None,
) -> Front:
    """Searches the front.

    Args:
        problem: costs and budgets.
        names: of the objectives.
        solver: solves a task.
        gap: relative gap of a solve.
        seconds: time limit of a solve.
        grid_points: of each objective's range, None for 5 or what keeps the number of solves.
        step: called after each solve.

    Raises:
        ArgumentError: no plan keeps the budgets.
        ResourceError: a solver died, or found nothing for one objective alone in its time.
    """
    search = _Search(problem, names, solver, gap, seconds, step)
    low, high = search.ranges()
    if len(names) > 1:
        spread = np.maximum(high - low, _SAME)
        search.run(1.0 / spread / (1.0 / spread).max(), np.full(len(names), np.inf), "balanced")
        for primary in range(len(names)):
            search.grid(primary, low, high, intervals(len(names), grid_points))
    return Front(nondominated(problem, search.points), search.solves, search.timed_out)


def nondominated(problem: Problem, points: list[Point]) -> tuple[Point, ...]:
    """Points that no other beats, ascending by their values.

    Of points with equal values one stays: the one that keeps the fewest tokens.
    """

    def order(point: Point) -> tuple[list[float], list[int], list[int]]:
        tokens = problem.use[point.choice].sum(axis=0).tolist()
        return point.values.tolist(), tokens, point.choice.tolist()

    kept: list[Point] = []
    for point in sorted(points, key=order):
        # Sorted ascending: only an earlier point can dominate or equal a later one.
        if not any((other.values <= point.values).all() for other in kept):
            kept.append(point)
    return tuple(kept)
