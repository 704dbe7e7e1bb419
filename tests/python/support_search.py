"""Small problems for the search, and all of their plans by enumeration."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from moa_rt import ModelConfig
from moa_tools.profile.cost_curves import CostCurve, CostCurves
from moa_tools.search import mip_model
from moa_tools.search.problem import Answer, Problem, Task
from numpy.typing import NDArray


def make_problem(
    seed: int, *, layers: int, layer_heads: int, rules: int, objectives: int, limit: int = 0
) -> Problem:
    """Random costs that mostly fall with what is kept; two budgets, often tight."""
    rng = np.random.default_rng(seed)
    use = np.sort(rng.integers(1, 9, (rules, 2)), axis=0) * 64
    heads = layers * layer_heads
    scale = rng.exponential(1.0, (objectives, heads, 1))
    costs = scale * np.exp(-use[:, 0] / 200) + 0.2 * rng.random((objectives, heads, rules))
    costs /= costs.max(axis=2).sum(axis=1)[:, None, None]
    share = rng.uniform(0.3, 0.8, 2)
    low, high = use.min(axis=0) * heads, use.max(axis=0) * heads
    limits = (low + share * (high - low)).astype(np.int64)
    return Problem(costs, use.astype(np.int64), limits, layers, limit)


def feasible_choices(problem: Problem) -> NDArray[np.int64]:
    """(choices, heads): all that keep the budgets and the limit, in plain loops."""
    size = problem.layer_heads
    found = []
    for choice in itertools.product(range(problem.use.shape[0]), repeat=problem.heads):
        totals = [sum(int(problem.use[r, k]) for r in choice) for k in range(2)]
        if any(t > b for t, b in zip(totals, problem.limits.tolist(), strict=True)):
            continue
        layers = [set(choice[i : i + size]) for i in range(0, problem.heads, size)]
        if problem.rules_per_layer and any(len(x) > problem.rules_per_layer for x in layers):
            continue
        found.append(choice)
    return np.array(found, dtype=np.int64).reshape(len(found), problem.heads)


def all_values(problem: Problem, choices: NDArray[np.int64]) -> NDArray[np.float64]:
    """(choices, objectives)."""
    values = np.zeros((len(choices), problem.costs.shape[0]))
    for head in range(problem.heads):
        values += problem.costs[:, head, choices[:, head]].T
    return values


class InProcess:
    """The plain program without a child process."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def solve(self, task: Task) -> Answer:
        """One solve."""
        return mip_model.solve_plain(self.problem, task, "cbc")


def make_curves(
    config: ModelConfig,
    *,
    objectives: tuple[str, ...] = ("retrieval", "language"),
    lengths: tuple[int, ...] = (1024, 2048),
    seed: int = 0,
) -> CostCurves:
    """Falling curves of very different heads."""
    rng = np.random.default_rng(seed)
    shape = (config.num_hidden_layers, config.num_key_value_heads, 1)
    curves = []
    for objective in objectives:
        scale, decay = rng.exponential(1.0, shape), rng.uniform(0.05, 0.8, shape)
        for length in lengths:
            spans = np.array([128, 192, 256, 512, length * 3 // 4, length], dtype=np.int64)
            costs = scale * (np.exp(-spans / length / decay) - np.exp(-1 / decay))
            curves.append(CostCurve(objective, length, spans, np.maximum(costs, 0.0)))
    return CostCurves(config.fingerprint, "tiny", "test", 64, tuple(curves), {"seed": str(seed)})


def read_tree(directory: Path) -> dict[str, bytes]:
    """All files by name."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def fields_of(plan: Any) -> dict[str, str]:
    """Provenance as a plain dict."""
    return dict(plan.provenance)
