"""The integer program against enumeration; what a solver may do wrong (E15)."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from moa_rt import ArgumentError, InternalError, ResourceError
from moa_tools.search import decompose, mip_model, pareto
from moa_tools.search.client import Solver
from moa_tools.search.problem import (
    CAP_TOLERANCE,
    Problem,
    Task,
    check,
    dominated_rules,
    objective_values,
)
from support_search import InProcess, all_values, feasible_choices, make_problem

# Shrinking would call the solver for minutes.
_PHASES = (Phase.explicit, Phase.generate)
_FEW = settings(max_examples=15, deadline=None, phases=_PHASES)
_SEEDS = st.integers(0, 2**31)


def _task(problem: Problem, weights: list[float], caps: list[float] | None = None) -> Task:
    none = [np.inf] * problem.costs.shape[0]
    return Task(np.array(weights), np.array(caps or none), 0.0, 60.0)


@pytest.mark.parametrize("solver", mip_model.SOLVERS)
@_FEW
@given(seed=_SEEDS, limit=st.sampled_from([0, 1, 2]), tightness=st.sampled_from([1.03, 1.1, 1.3]))
def test_mip_equals_enumeration(
    solver: mip_model.SolverName, seed: int, limit: int, tightness: float
) -> None:
    problem = make_problem(seed, layers=2, layer_heads=3, rules=4, objectives=2, limit=limit)
    values = all_values(problem, feasible_choices(problem))
    cap = float(values[:, 1].min()) * tightness
    task = _task(problem, [1.0, 0.01], [np.inf, cap])
    answer = mip_model.solve_plain(problem, task, solver)
    best, loosest = (
        float((values[values[:, 1] <= cap * (1 + more)] @ task.weights).min())
        for more in (0.0, CAP_TOLERANCE)
    )
    assert answer.status == "optimal"
    assert answer.choice is not None
    check(problem, answer.choice, task.caps)
    got = float(objective_values(problem, answer.choice) @ task.weights)
    assert loosest * (1 - 1e-9) <= got <= best * (1 + 1e-6)
    assert answer.bound <= best * (1 + 1e-6)


@pytest.mark.parametrize("solver", mip_model.SOLVERS)
@_FEW
@given(seed=_SEEDS, limit=st.sampled_from([1, 2, 3]))
def test_column_generation_bounds_the_optimum(
    solver: mip_model.SolverName, seed: int, limit: int
) -> None:
    problem = make_problem(seed, layers=2, layer_heads=3, rules=4, objectives=2, limit=limit)
    values = all_values(problem, feasible_choices(problem))
    task = _task(problem, [1.0, 0.01])
    best = float((values @ task.weights).min())
    answer = decompose.solve(problem, task, solver)
    assert answer.bound <= best * (1 + 1e-7)
    assert answer.choice is not None
    check(problem, answer.choice, task.caps)
    got = float(objective_values(problem, answer.choice) @ task.weights)
    assert got >= best * (1 - 1e-9)
    if answer.status == "optimal":
        assert got == pytest.approx(best, rel=1e-6)


def test_column_generation_is_near_the_optimum_where_layers_are_many() -> None:
    problem = make_problem(3, layers=24, layer_heads=8, rules=8, objectives=2, limit=2)
    task = Task(np.array([1.0, 0.01]), np.array([np.inf, np.inf]), 1e-3, 60.0)
    answer = decompose.solve(problem, task, "cbc")
    assert answer.choice is not None
    got = float(objective_values(problem, answer.choice) @ task.weights)
    assert got - answer.bound <= 0.01 * got


def test_column_generation_proves_that_caps_cannot_be_met() -> None:
    problem = make_problem(4, layers=2, layer_heads=3, rules=4, objectives=2, limit=2)
    least = float(all_values(problem, feasible_choices(problem))[:, 1].min())
    answer = decompose.solve(problem, _task(problem, [1.0, 0.0], [np.inf, least * 0.5]), "cbc")
    assert answer.status == "infeasible"


@_FEW
@given(seed=_SEEDS, limit=st.sampled_from([0, 2]))
def test_dominated_rules_are_never_needed(seed: int, limit: int) -> None:
    problem = make_problem(seed, layers=2, layer_heads=2, rules=5, objectives=2, limit=limit)
    choices = feasible_choices(problem)
    dropped = dominated_rules(problem)
    kept = choices[~dropped[np.arange(problem.heads), choices].any(axis=1)]
    for weights in ([1.0, 0.0], [0.0, 1.0], [0.5, 0.5]):
        everything = (all_values(problem, choices) @ weights).min()
        assert (all_values(problem, kept) @ weights).min() == pytest.approx(everything, rel=1e-12)


@settings(max_examples=4, deadline=None, phases=_PHASES)
@given(seed=_SEEDS, objectives=st.sampled_from([2, 3]), limit=st.sampled_from([0, 2]))
def test_front_is_nondominated_and_without_duplicates(
    seed: int, objectives: int, limit: int
) -> None:
    problem = make_problem(
        seed, layers=2, layer_heads=3, rules=3, objectives=objectives, limit=limit
    )
    names = tuple("abc"[:objectives])
    front = pareto.front(problem, names, InProcess(problem), gap=0.0, seconds=60, grid_points=3)
    everything = all_values(problem, feasible_choices(problem))
    for point in front.points:
        assert point.optimal
        better = (everything <= point.values + 1e-9).all(1) & (
            everything < point.values - 1e-6
        ).any(1)
        assert not better.any()
    assert len({tuple(point.choice.tolist()) for point in front.points}) == len(front.points)
    least = np.min([point.values for point in front.points], axis=0)
    # The other objectives' small weight may cost the primary one a little.
    assert np.allclose(least, everything.min(axis=0), rtol=0.02, atol=2e-2)


def test_number_of_solves_is_the_papers() -> None:
    assert [pareto.number_of_solves(k, None) for k in (1, 2, 3, 4)] == [1, 10, 51, 36]
    with pytest.raises(ArgumentError, match="grid points"):
        pareto.intervals(3, 1)


@pytest.mark.parametrize("limit", [0, 2])
def test_child_process_answers_as_the_program_does(limit: int) -> None:
    problem = make_problem(7, layers=2, layer_heads=4, rules=4, objectives=2, limit=limit)
    task = _task(problem, [1.0, 0.01])
    here = mip_model.solve_plain(problem, task, "cbc")
    with Solver(problem, "cbc") as solver:
        there = solver.solve(task)
        factor = solver.least_factor()
    assert here.choice is not None
    assert there.choice is not None
    assert there.status == "optimal"
    assert there.choice.tolist() == here.choice.tolist()
    assert 0 < factor <= 1


def test_least_factor_says_how_far_budgets_are_from_any_plan() -> None:
    use = np.array([[64, 640], [640, 64]], dtype=np.int64)  # each is least at one length
    problem = Problem(np.ones((1, 4, 2)), use, np.array([4 * 128, 4 * 128]), 1, 0)
    assert mip_model.least_factor(problem, "cbc") == pytest.approx(704 / 2 / 128)


def test_E15_solver_killed() -> None:
    problem = make_problem(1, layers=1, layer_heads=3, rules=3, objectives=1)
    with Solver(problem, "cbc") as solver:
        os.kill(solver.pid, signal.SIGKILL)
        with pytest.raises(ResourceError, match=r"died .signal 9"):
            solver.solve(_task(problem, [1.0]))


def test_E15_solver_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mip.py").write_text('raise ImportError("No module named mip")')
    monkeypatch.syspath_prepend(str(tmp_path))
    problem = make_problem(1, layers=1, layer_heads=3, rules=3, objectives=1)
    with pytest.raises(ArgumentError, match=r"solver highs: not available.*pip install"):
        Solver(problem, "highs")


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ([2, 2, 2, 2], "keeps"),
        ([0, 1, 2], "every head one rule"),
        ([0, 0, 0, 3], "every head one rule"),
        ([0, 0, 0, -1], "every head one rule"),
        ([0, 1, 0, 0], "different|rules, the limit is 1"),
    ],
)
def test_E15_answer_that_breaks_a_row(choice: list[int], text: str) -> None:
    use = np.array([[64], [128], [256]], dtype=np.int64)
    problem = Problem(np.ones((1, 4, 3)), use, np.array([4 * 128]), 2, 1)
    with pytest.raises(InternalError, match=text):
        check(problem, np.array(choice, dtype=np.int64), np.array([np.inf]))
    check(problem, np.array([0, 0, 1, 1]), np.array([np.inf]))


def test_E15_answer_beyond_a_cap() -> None:
    problem = make_problem(2, layers=1, layer_heads=2, rules=2, objectives=1)
    choice = feasible_choices(problem)[0]
    value = float(objective_values(problem, choice)[0])
    check(problem, choice, np.array([value]))
    with pytest.raises(InternalError, match="its cap is"):
        check(problem, choice, np.array([value * 0.99]))
