"""Few rules for each layer: column generation by layers, after Dantzig and Wolfe.

"At most m rules in a layer" makes the plain program's relaxation weak. Here a column is a whole
layer: a set of m rules and each head's better one. Only the budgets and caps tie layers together,
at most a handful of rows, so the master program has a handful of fractional layers, and its
multipliers give a bound that is good to a few parts in ten thousand. Then a small integer program
picks a set for each layer, and another one gives every head one of its layer's rules.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field, replace

import mip
import numpy as np

from moa_tools.search import mip_model
from moa_tools.search.problem import Answer, Bools, Floats, Ints, Problem, Task, objective_values

# Sets of rules that a layer may have: more of them than this are left to the plain program.
MAX_SETS = 40_000
_MAX_ROUNDS = 60
_POLISH_ROUNDS = 4
_SETS_OF_A_LAYER = 8
_PLAIN_SIZE = 20_000  # heads * rules that the plain program takes a minute or so for
_SLACK = 1e4  # of a unit of a row: beyond any real multiplier, costs being scaled to 1


@dataclass(eq=False)
class _State:
    """One solve. `cost` (L, H', R); `rows` (K, L, H', R) and each row's total must be <= 1."""

    cost: Floats
    rows: Floats
    sets: Ints  # (S, m)
    columns: dict[tuple[int, bytes], Ints] = field(default_factory=dict)
    bound: float = -np.inf
    prices: Floats = field(default_factory=lambda: np.zeros(0))

    def reduced(self, prices: Floats) -> Floats:
        reduced: Floats = self.cost + np.tensordot(prices, self.rows, 1)
        return reduced

    def add(self, layer: int, choice: Ints) -> bool:
        key = (layer, choice.tobytes())
        if key in self.columns:
            return False
        self.columns[key] = choice
        return True


def can_solve(problem: Problem) -> bool:
    """Whether the sets of rules of a layer can be listed."""
    m, count = min(problem.rules_per_layer, problem.use.shape[0]), problem.use.shape[0]
    sets = 1
    for i in range(m):
        sets = sets * (count - i) // (i + 1)
    return m > 0 and sets <= MAX_SETS


def _start(problem: Problem, task: Task) -> _State:
    shape = (problem.layers, problem.layer_heads, problem.use.shape[0])
    cost = np.tensordot(task.weights, problem.costs, 1).reshape(shape)
    rows = [
        np.broadcast_to(problem.use[:, k] / max(limit, 1), shape)
        for k, limit in enumerate(problem.limits.tolist())
    ]
    rows += [
        problem.costs[o].reshape(shape) / max(float(task.caps[o]), 1e-12)
        for o in np.flatnonzero(np.isfinite(task.caps)).tolist()
    ]
    m = min(problem.rules_per_layer, shape[2])
    sets = np.array(list(itertools.combinations(range(shape[2]), m)), dtype=np.int64)
    return _State(cost, np.stack(rows), sets, prices=np.zeros(len(rows)))


def _set_values(values: Floats, sets: Ints) -> Floats:
    """(S,): what a layer costs with each set, every head taking its better rule."""
    least = values[:, sets[:, 0]]
    for i in range(1, sets.shape[1]):
        least = np.minimum(least, values[:, sets[:, i]])
    total: Floats = least.sum(axis=0)
    return total


def _assign(values: Floats, rules: Ints) -> Ints:
    """(H',): each head's better rule of a set."""
    assigned: Ints = rules[values[:, rules].argmin(axis=1)]
    return assigned


def _price(state: _State, prices: Floats) -> tuple[float, bool]:
    """The bound that multipliers give, and whether a column came of it."""
    reduced = state.reduced(prices)
    total, new = -float(prices.sum()), False
    for layer, values in enumerate(reduced):
        by_set = _set_values(values, state.sets)
        best = int(by_set.argmin())
        total += float(by_set[best])
        new |= state.add(layer, _assign(values, state.sets[best]))
    return total, new


class _Master:
    """The linear program over the columns so far."""

    def __init__(self, state: _State, solver: mip_model.SolverName) -> None:
        self._state, self._done = state, 0
        self._model = mip_model.new_model(solver)
        slack = [self._model.add_var(obj=_SLACK) for _ in range(len(state.rows))]
        none = [self._model.add_var(obj=_SLACK) for _ in range(len(state.cost))]
        self._rows = [self._model.add_constr(mip_model.linear([v], [-1.0]) <= 1) for v in slack]
        self._layers = [self._model.add_constr(mip_model.linear([v], [1.0]) == 1) for v in none]
        self._first = len(slack) + len(none)

    def solve(self) -> tuple[float, Floats]:
        """Its value and the multipliers of the rows."""
        for layer, choice in column_list(self._state)[self._done :]:
            cost, use = column(self._state, layer, choice)
            entries = [*use.tolist(), 1.0]
            rows = [*self._rows, self._layers[layer]]
            self._model.add_var(obj=cost, column=mip.Column(rows, entries))
        self._done = len(self._state.columns)
        self._model.optimize(relax=True)
        prices = np.maximum([-float(row.pi) for row in self._rows], 0.0)
        return float(self._model.objective_value), prices


def column_list(state: _State) -> list[tuple[int, Ints]]:
    """(layer, choice) in the order they were found."""
    return [(key[0], choice) for key, choice in state.columns.items()]


def column(state: _State, layer: int, choice: Ints) -> tuple[float, Floats]:
    """Cost and use of rows (K,) of a layer's choice."""
    heads = np.arange(len(choice))
    return float(state.cost[layer, heads, choice].sum()), state.rows[:, layer, heads, choice].sum(1)


def _raise_bound(state: _State, solver: mip_model.SolverName, gap: float, deadline: float) -> None:
    """Column generation with smoothed multipliers."""
    master = _Master(state, solver)
    prices = state.prices
    for round_ in range(_MAX_ROUNDS):
        if round_:
            value, prices = master.solve()
            if value - state.bound <= gap * abs(value) or time.monotonic() > deadline:
                break
        mixed = 0.5 * state.prices + 0.5 * prices if round_ > 1 else prices
        for trial in (mixed, prices):
            bound, new = _price(state, trial)
            if bound > state.bound:
                state.bound, state.prices = bound, trial
                break
            if new and trial is mixed:
                break


def _near_best(state: _State, prices: Floats) -> None:
    """Columns of the sets that come next at these multipliers."""
    for layer, values in enumerate(state.reduced(prices)):
        by_set = _set_values(values, state.sets)
        for best in np.argsort(by_set, kind="stable")[:_SETS_OF_A_LAYER].tolist():
            state.add(layer, _assign(values, state.sets[best]))


def _pick_sets(
    state: _State, prices: Floats, solver: mip_model.SolverName, gap: float, seconds: float
) -> list[Ints] | None:
    """A set of rules for each layer by a program over columns; rows may give way at a price."""
    model = mip_model.new_model(solver)
    columns = column_list(state)
    variables = [model.add_var(var_type=mip.BINARY) for _ in columns]
    slack = [model.add_var() for _ in state.rows]
    data = [column(state, layer, choice) for layer, choice in columns]
    for layer in range(len(state.cost)):
        own = [v for v, (at, _) in zip(variables, columns, strict=True) if at == layer]
        model.add_constr(mip_model.linear(own, [1.0] * len(own)) == 1)
    for k, free in enumerate(slack):
        row = [float(use[k]) for _, use in data]
        model.add_constr(mip_model.linear([*variables, free], [*row, -1.0]) <= 1)
    total = [cost for cost, _ in data] + [1.5 * price + 0.01 for price in prices.tolist()]
    model.objective = mip.minimize(mip_model.linear([*variables, *slack], total))
    model.max_mip_gap = gap
    model.optimize(max_seconds=max(seconds, 0.01), max_nodes=2000)
    if model.num_solutions == 0:
        return None
    picked: dict[int, tuple[float, Ints]] = {}
    for variable, (layer, choice) in zip(variables, columns, strict=True):
        if layer not in picked or variable.x > picked[layer][0]:
            picked[layer] = (float(variable.x), choice)
    return [np.unique(picked[layer][1]) for layer in range(len(state.cost))]


def _fill(problem: Problem, task: Task, sets: list[Ints], solver: mip_model.SolverName,
          gap: float, seconds: float) -> Answer:  # fmt: skip
    """Every head one of its layer's rules."""
    allowed: Bools = np.zeros((problem.heads, problem.use.shape[0]), dtype=bool)
    for layer, rules in enumerate(sets):
        begin = layer * problem.layer_heads
        allowed[begin : begin + problem.layer_heads, rules] = True
    model = mip_model.new_model(solver)
    x = mip_model.add_choices(model, allowed)
    mip_model.add_rows(model, x, problem, task)
    return mip_model.run(model, x, problem.heads, gap, seconds)


def _improve(
    problem: Problem, task: Task, state: _State, solver: mip_model.SolverName, deadline: float
) -> tuple[Ints | None, float]:
    """Sets for the layers, then rules for the heads, a few times over. The best choice found."""
    best, best_value = None, np.inf
    for round_ in range(_POLISH_ROUNDS):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        spread = 0.15 * round_
        for factor in (1.0, 0.9 - spread, 1.1 + spread):
            _near_best(state, state.prices * max(factor, 0.1))
        sets = _pick_sets(state, state.prices, solver, task.gap / 4, left / 2)
        if sets is None:
            continue
        answer = _fill(problem, task, sets, solver, task.gap / 4, deadline - time.monotonic())
        if answer.choice is None:
            continue
        found = float(task.weights @ objective_values(problem, answer.choice))
        if found < best_value:
            best, best_value = answer.choice, found
        for layer in range(problem.layers):
            begin = layer * problem.layer_heads
            state.add(layer, answer.choice[begin : begin + problem.layer_heads])
        if best_value - state.bound <= task.gap * abs(best_value):
            break
    return best, best_value


def solve(problem: Problem, task: Task, solver: mip_model.SolverName) -> Answer:
    """The best found and a bound that holds for all plans; "optimal" within the gap, else not.

    The fewer the layers, the wider the gap: a small program that is not proven this way is given to
    the plain one for the time left, as is one for which no choice of sets fits.
    """
    deadline = time.monotonic() + task.seconds
    state = _start(problem, task)
    _raise_bound(state, solver, task.gap / 8, deadline)
    most = float(np.tensordot(task.weights, problem.costs, 1).max(axis=1).sum())
    if state.bound > most * (1 + 1e-9):
        return Answer("infeasible")  # even the dearest plan costs less than any feasible one
    best, value = _improve(problem, task, state, solver, deadline)
    proven = value - state.bound <= max(task.gap, 1e-9) * abs(value)
    left = deadline - time.monotonic()
    if best is None or (not proven and left > 0 and state.cost.size <= _PLAIN_SIZE):
        answer = mip_model.solve_plain(problem, replace(task, seconds=max(left, 0.0)), solver)
        bound = max(answer.bound, state.bound)
        if best is None or answer.status in ("optimal", "infeasible"):
            return replace(answer, bound=bound)
        if answer.choice is not None:
            other = float(task.weights @ objective_values(problem, answer.choice))
            best = answer.choice if other < value else best
        return Answer("feasible", best, bound)
    return Answer("optimal" if proven else "feasible", best, state.bound)
