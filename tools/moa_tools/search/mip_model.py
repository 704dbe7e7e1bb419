"""The integer program as python-mip has it. Runs in the worker process only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mip
import numpy as np

from moa_tools.search.problem import Answer, Bools, Floats, Ints, Problem, Task, dominated_rules

SolverName = Literal["cbc", "highs"]
SOLVERS: dict[SolverName, str] = {"cbc": mip.CBC, "highs": mip.HIGHS}
_EXACT = 1e-10


class SolverMissingError(Exception):
    """The solver's library is not installed."""


def new_model(solver: SolverName) -> Any:
    """An empty model: one thread, fixed seed, silent."""
    try:
        model = mip.Model(solver_name=SOLVERS[solver])
    except Exception as error:  # python-mip has a different one for each solver
        raise SolverMissingError(str(error)) from error
    model.verbose = 0
    model.threads = 1
    model.seed = 1
    return model


def linear(variables: Sequence[Any], coefficients: Sequence[float] | Floats | Ints) -> Any:
    """sum(coefficient * variable)."""
    return mip.LinExpr(list(variables), [float(c) for c in coefficients])


@dataclass(frozen=True, eq=False)
class Choices:
    """Binary variables x[head, rule] for the rules that are allowed."""

    variables: list[Any]
    heads: Ints
    rules: Ints


def add_choices(model: Any, allowed: Bools) -> Choices:
    """One variable for each allowed (head, rule); every head takes exactly one."""
    heads, rules = np.nonzero(allowed)
    variables = [model.add_var(var_type=mip.BINARY) for _ in range(len(heads))]
    starts = np.searchsorted(heads, np.arange(allowed.shape[0] + 1))
    for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        model.add_constr(linear(variables[begin:end], [1.0] * (end - begin)) == 1)
    return Choices(variables, heads.astype(np.int64), rules.astype(np.int64))


def add_rows(model: Any, x: Choices, problem: Problem, task: Task) -> None:
    """Budgets, in whole units, and caps, scaled to 1; then the objective."""
    for k, limit in enumerate(problem.limits.tolist()):
        use = problem.use[:, k]
        unit = max(int(np.gcd.reduce(use)), 1)
        model.add_constr(linear(x.variables, use[x.rules] // unit) <= float(limit // unit))
    for o in np.flatnonzero(np.isfinite(task.caps)).tolist():
        cap = max(float(task.caps[o]), 1e-12)
        model.add_constr(linear(x.variables, problem.costs[o, x.heads, x.rules] / cap) <= 1.0)
    total = np.tensordot(task.weights, problem.costs, 1)[x.heads, x.rules]
    model.objective = mip.minimize(linear(x.variables, total))


def add_layer_limit(model: Any, x: Choices, problem: Problem) -> None:
    """At most `rules_per_layer` distinct rules in a layer, by a binary for each (layer, rule)."""
    used: dict[tuple[int, int], list[int]] = {}
    layers = x.heads // problem.layer_heads
    for i, key in enumerate(zip(layers.tolist(), x.rules.tolist(), strict=True)):
        used.setdefault(key, []).append(i)
    for layer in range(problem.layers):
        switches = []
        for key in sorted(k for k in used if k[0] == layer):
            switch = model.add_var(var_type=mip.BINARY)
            switches.append(switch)
            for i in used[key]:
                model.add_constr(x.variables[i] <= switch)
        model.add_constr(linear(switches, [1.0] * len(switches)) <= problem.rules_per_layer)


def run(model: Any, x: Choices, heads: int, gap: float, seconds: float) -> Answer:
    """Solves and reads the answer back, by the largest variable of each head."""
    model.max_mip_gap = max(gap, _EXACT)
    model.max_mip_gap_abs = _EXACT
    status = model.optimize(max_seconds=max(seconds, 0.01))
    known = mip.OptimizationStatus
    if status in (known.INFEASIBLE, known.INT_INFEASIBLE):
        return Answer("infeasible")
    if status not in (known.OPTIMAL, known.FEASIBLE) or model.num_solutions == 0:
        return Answer("none")
    values = np.array([v.x for v in x.variables])
    best = np.full(heads, -1.0)
    choice = np.full(heads, -1, dtype=np.int64)
    for head, rule, value in zip(x.heads.tolist(), x.rules.tolist(), values.tolist(), strict=True):
        if value > best[head]:
            best[head], choice[head] = value, rule
    found: Literal["optimal", "feasible"] = "optimal" if status == known.OPTIMAL else "feasible"
    return Answer(found, choice, float(model.objective_bound))


def solve_plain(problem: Problem, task: Task, solver: SolverName) -> Answer:
    """The whole program at once, without the rules that never pay."""
    model = new_model(solver)
    x = add_choices(model, ~dominated_rules(problem))
    add_rows(model, x, problem, task)
    if problem.rules_per_layer:
        add_layer_limit(model, x, problem)
    return run(model, x, problem.heads, task.gap, task.seconds)


def least_factor(problem: Problem, solver: SolverName) -> float:
    """By what the budgets would have to be multiplied, all of them, for any plan to exist.

    Heads are alike to the budgets, so a count for each rule says it all.
    """
    model = new_model(solver)
    counts = [model.add_var(var_type=mip.INTEGER, lb=0) for _ in range(problem.use.shape[0])]
    factor = model.add_var(lb=0)
    model.add_constr(linear(counts, [1.0] * len(counts)) == problem.heads)
    for k, limit in enumerate(problem.limits.tolist()):
        row = [*(problem.use[:, k] / max(limit, 1)).tolist(), -1.0]
        model.add_constr(linear([*counts, factor], row) <= 0)
    model.objective = mip.minimize(linear([factor], [1.0]))
    model.optimize(max_seconds=60)
    return float(factor.x)
