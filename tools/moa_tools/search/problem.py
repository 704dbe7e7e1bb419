"""The integer program as arrays, and the plain checks of an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from moa_rt import InternalError
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Status = Literal["optimal", "feasible", "infeasible", "none"]

# A cap on an objective is a device of the search, not a promise: solvers meet it to about this.
CAP_TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False)
class Problem:
    """Choose one of R rules for each of H = layers * kv_heads heads.

    Attributes:
        costs: float64 (objectives, H, R), scaled to about 1 as a sum.
        use: int64 (R, lengths), tokens a rule keeps.
        limits: int64 (lengths,), most tokens all heads may keep together.
        layers: number of layers; heads are ordered by layer.
        rules_per_layer: most distinct rules in a layer; 0 for no limit.
    """

    costs: Floats
    use: Ints
    limits: Ints
    layers: int
    rules_per_layer: int

    @property
    def heads(self) -> int:
        """H."""
        return int(self.costs.shape[1])

    @property
    def layer_heads(self) -> int:
        """KV heads of a layer."""
        return self.heads // self.layers


@dataclass(frozen=True, eq=False)
class Task:
    """One solve: minimise the weighted objectives while each stays at or below its cap.

    Attributes:
        weights: float64 (objectives,).
        caps: float64 (objectives,), infinity where there is none.
        gap: relative distance to the bound at which to stop.
        seconds: time limit.
    """

    weights: Floats
    caps: Floats
    gap: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Answer:
    """What a solver says. `choice` (H,) and `bound` (of the weighted objective) if there is one."""

    status: Status
    choice: Ints | None = None
    bound: float = -np.inf


def objective_values(problem: Problem, choice: Ints) -> Floats:
    """Every objective (objectives,) of a choice."""
    picked = np.take_along_axis(problem.costs, choice[None, :, None], axis=2)
    values: Floats = picked[:, :, 0].sum(axis=1)
    return values


def dominated_rules(problem: Problem) -> Bools:
    """(H, R): rules for which another keeps no more anywhere and costs no more in anything.

    With a limit on a layer's rules, one of them must do so for every head of the layer: replacing
    it then never adds a rule. Of equal ones the first stays.
    """
    by_use = np.broadcast_to(problem.use, (problem.heads, *problem.use.shape))
    table = np.concatenate([by_use, problem.costs.transpose(1, 2, 0)], axis=2)
    if problem.rules_per_layer:
        table = table.reshape(problem.layers, problem.layer_heads, *table.shape[1:])
        table = table.transpose(0, 2, 1, 3).reshape(problem.layers, table.shape[2], -1)
    dominated = np.zeros(table.shape[:2], dtype=bool)
    for r in range(table.shape[1]):
        no_worse = (table <= table[:, r : r + 1]).all(axis=2)
        equal = (table == table[:, r : r + 1]).all(axis=2)
        equal[:, :r] = False  # only a later twin is dropped for an earlier one
        dominated[:, r] = (no_worse & ~equal).any(axis=1)
    if problem.rules_per_layer:
        dominated = np.repeat(dominated, problem.layer_heads, axis=0)
    return dominated


def check(problem: Problem, choice: Ints, caps: Floats) -> None:
    """Looks at a solver's answer with integers and loops alone (E15). Raises InternalError."""
    rules = [int(r) for r in choice]
    count = problem.use.shape[0]
    if len(rules) != problem.heads or not all(0 <= r < count for r in rules):
        raise InternalError("solver: the answer does not give every head one rule")
    for k, limit in enumerate(problem.limits.tolist()):
        total = sum(int(problem.use[r, k]) for r in rules)
        if total > limit:
            raise InternalError(f"solver: the answer keeps {total} tokens, the bound is {limit}")
    if problem.rules_per_layer:
        size = problem.layer_heads
        for layer in range(problem.layers):
            different = len(set(rules[layer * size : (layer + 1) * size]))
            if different > problem.rules_per_layer:
                raise InternalError(
                    f"solver: layer {layer} has {different} rules, the limit is "
                    f"{problem.rules_per_layer}"
                )
    values = objective_values(problem, np.array(rules, dtype=np.int64))
    for o, (value, cap) in enumerate(zip(values.tolist(), caps.tolist(), strict=True)):
        if value > cap * (1 + CAP_TOLERANCE) + 1e-12:
            raise InternalError(f"solver: objective {o} is {value}, its cap is {cap}")
