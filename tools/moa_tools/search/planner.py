"""From cost curves and budgets to the plans of a Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from moa_rt import ArgumentError, AttentionPlan, InternalError, ModelConfig, __version__

from moa_tools.profile.cost_curves import CostCurves, at
from moa_tools.search import pareto
from moa_tools.search.budgets import Budgets, check_feasible
from moa_tools.search.client import Solver
from moa_tools.search.extend import extend
from moa_tools.search.problem import Problem
from moa_tools.search.rules import Candidates, Grid, candidates

SOLVERS = ("cbc", "highs")
# Relative gaps of a solve: the smaller one where it costs no more.
SMALL_GAP, LARGE_GAP = 1e-4, 1e-3
SMALL_PROBLEM = 20_000  # heads * rules
DEFAULT_SECONDS = 120.0


@dataclass(frozen=True)
class SearchOptions:
    """How to search.

    Attributes:
        solver: "cbc" or "highs".
        seconds: time limit of one solve.
        gap: relative gap at which a solve stops; None: 1e-4, or 1e-3 for large models.
        rules_per_layer: most distinct rules in a layer (2 in the paper), None for no limit.
        grid: which rules: "fine", "elastic" (the paper's alpha x beta), "relative" (alpha = 0) or
            "absolute" (beta = 0).
        grid_points: of each objective for the front, None for the default.
        min_length, max_length: token budgets the plans are for; None: half the least length of
            curves and budgets (inputs of a length are a little shorter) and the largest.
        out_of_range: beyond these, "dense" or "refuse".
    """

    solver: str = "cbc"
    seconds: float = DEFAULT_SECONDS
    gap: float | None = None
    rules_per_layer: int | None = None
    grid: Grid = "fine"
    grid_points: int | None = None
    min_length: int | None = None
    max_length: int | None = None
    out_of_range: str = "dense"

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise ArgumentError(f"solver: got {self.solver[:100]!r}, want one of {SOLVERS}")
        if not 0 < self.seconds <= 1e6:
            raise ArgumentError(f"time limit: got {self.seconds}, want seconds in (0, 1e6]")
        if self.gap is not None and not 0 <= self.gap < 1:
            raise ArgumentError(f"gap: got {self.gap}, want in [0, 1)")
        if self.rules_per_layer is not None and self.rules_per_layer < 1:
            raise ArgumentError(f"rules per layer: got {self.rules_per_layer}, want >= 1")
        if self.out_of_range not in ("dense", "refuse"):
            raise ArgumentError(f"out of range: got {self.out_of_range!r}, want dense or refuse")


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The front, best in the first objective first.

    Attributes:
        plans: with provenance: budgets, hash of the curves, objective values, gap.
        objectives: for each plan the value of each curve's objective, by "name@N".
        optimal: for each plan whether its solve reached the gap.
        gaps: for each plan the gap that its solve proved.
        balanced: index of the plan that comes nearest to all objectives' best at once.
        solves, timed_out: solves made, and those that ran into the time limit.
    """

    plans: tuple[AttentionPlan, ...]
    objectives: tuple[Mapping[str, float], ...]
    optimal: tuple[bool, ...]
    gaps: tuple[float, ...]
    balanced: int
    solves: int
    timed_out: int
    warnings: tuple[str, ...] = field(default=())


def search(
    curves: CostCurves,
    config: ModelConfig,
    budgets: Budgets,
    options: SearchOptions | None = None,
    *,
    step: Callable[[], None] = lambda: None,
) -> SearchResult:
    """Chooses a rule for every KV head: least costs within the budgets (MoA, section 4).

    Args:
        curves: costs by objective, length, head and span.
        config: the model they belong to.
        budgets: bounds by length; other lengths than the curves' are allowed.
        options: see SearchOptions.
        step: called after each solve; there are at most `pareto.number_of_solves` and one.

    Returns:
        Plans that each have been checked once more with integers.

    Raises:
        MismatchError: the curves are another model's.
        ArgumentError: a budget cannot be met; the message has the least that can.
        ResourceError: the solver died, or found nothing in its time.
    """
    options = options or SearchOptions()
    curves.check_model(config)
    low, high = _length_range(curves, budgets, options)
    lengths = sorted({*(c.length for c in curves.curves), *budgets.lengths})
    sink, rounding = curves.sink_size, curves.rounding
    rules = candidates(lengths, low, high, sink, options.grid, rounding)
    heads = curves.shape[0] * curves.shape[1]
    limits = budgets.kept_limits(heads, sink, rounding)
    check_feasible(budgets, limits, rules, sink, heads, rounding)
    problem, scale = make_problem(curves, rules, limits, options.rules_per_layer)
    names = tuple(f"{c.objective}@{c.length}" for c in curves.curves)
    gap = options.gap
    if gap is None:
        gap = SMALL_GAP if heads * len(rules.rules) <= SMALL_PROBLEM else LARGE_GAP
    with Solver(problem, options.solver) as solver:
        factor = solver.least_factor() if rules_disagree(rules, limits) else 0.0
        if factor > 1 + 1e-9:
            raise ArgumentError(
                f"budgets: {budgets.describe()} cannot be met together with grid {options.grid}, "
                f"only if all of them are {factor:.4g} times as large"
            )
        front = pareto.front(
            problem, names, solver, gap=gap, seconds=options.seconds,
            grid_points=options.grid_points, step=step,
        )  # fmt: skip
    plans, objectives = [], []
    for point in front.points:
        values = {n: float(v) for n, v in zip(names, point.values * scale, strict=True)}
        choice = point.choice.tolist()
        if options.rules_per_layer is None:  # wider twins are other rules
            choice = extend(choice, rules, limits, [c.length for c in curves.curves])
        plan = _plan(curves, rules, choice, (low, high), options)
        plan.provenance = _provenance(curves, budgets, options, gap, point, values)
        check_plan(plan, config, limits)
        plans.append(plan)
        objectives.append(values)
    return SearchResult(
        tuple(plans), tuple(objectives), tuple(p.optimal for p in front.points),
        tuple(p.gap for p in front.points), _balanced(front), front.solves, front.timed_out,
    )  # fmt: skip


def _length_range(curves: CostCurves, budgets: Budgets, options: SearchOptions) -> tuple[int, int]:
    lengths = [*(c.length for c in curves.curves), *budgets.lengths]
    low = max(1, min(lengths) // 2) if options.min_length is None else options.min_length
    high = max(lengths) if options.max_length is None else options.max_length
    if not 1 <= low <= high:
        raise ArgumentError(f"length range: got {low}..{high}, want 1 <= min <= max")
    return low, high


def rules_disagree(rules: Candidates, limits: Mapping[int, int]) -> bool:
    """Whether no rule is the least at all bounded lengths, so that budgets may conflict."""
    columns = np.stack([rules.column(n) for n in limits])
    return not bool((columns == columns.min(axis=1, keepdims=True)).all(axis=0).any())


def make_problem(
    curves: CostCurves,
    rules: Candidates,
    limits: Mapping[int, int],
    rules_per_layer: int | None,
) -> tuple[Problem, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """The program, and what its scaled objectives are to be multiplied with."""
    layers, kv_heads = curves.shape
    costs = []
    for curve in curves.curves:
        by_span = {int(s): at(curve, int(s)) for s in np.unique(rules.column(curve.length))}
        columns = [by_span[int(s)] for s in rules.column(curve.length)]
        costs.append(np.stack(columns, axis=2).reshape(layers * kv_heads, len(columns)))
    table = np.stack(costs)
    scale = table.max(axis=2).sum(axis=1)  # the dearest plan: 1 in every objective
    scale[scale == 0] = 1.0
    different = rules_per_layer or 0
    if different >= min(kv_heads, len(rules.rules)):
        different = 0  # it cannot bind
    problem = Problem(
        table / scale[:, None, None],
        np.stack([rules.column(n) for n in limits], axis=1),
        np.array(list(limits.values()), dtype=np.int64),
        layers,
        different,
    )
    return problem, scale


def _plan(
    curves: CostCurves,
    rules: Candidates,
    choice: list[int],
    lengths: tuple[int, int],
    options: SearchOptions,
) -> AttentionPlan:
    plan = AttentionPlan.from_rules(
        rules.table(choice, curves.shape[1]),
        sink_size=curves.sink_size,
        rounding=curves.rounding,
        min_length=lengths[0],
        max_length=lengths[1],
    )
    plan.out_of_range = options.out_of_range
    plan.fingerprint, plan.model_name = curves.fingerprint, curves.model_name
    return plan


def _provenance(
    curves: CostCurves,
    budgets: Budgets,
    options: SearchOptions,
    gap: float,
    point: pareto.Point,
    values: Mapping[str, float],
) -> dict[str, str]:
    fields = {
        "method": f"search over {curves.method} curves",
        "curves_sha256": curves.sha256(),
        "budgets": budgets.describe(),
        "solver": options.solver,
        "solve": point.how,
        "optimal": "true" if point.optimal else "false",
        "gap": f"{point.gap:.3g}",
        "gap_wanted": f"{gap:.3g}",
        "grid": options.grid,
        "rules_per_layer": str(options.rules_per_layer or "any"),
        "moa_rt": __version__,
    }
    if len(shares := set(budgets.density.values())) == 1:
        fields["density"] = repr(shares.pop())  # what moa_rt.plans finds a plan by
    fields.update({f"objective {name}": f"{value:.6g}" for name, value in values.items()})
    return fields


def check_plan(plan: AttentionPlan, config: ModelConfig, limits: Mapping[int, int]) -> None:
    """The plan as a user will load it, against the budgets in bytes (E15). Raises InternalError."""
    plan.validate()
    plan.check_model(config)
    token_bytes = 2 * config.head_dim * 2  # key and value, bfloat16
    for n, limit in limits.items():
        kept = 0
        for row in plan.spans(n):
            for head in row:
                kept += head.span
        size = plan.cache_bytes(n, "bfloat16", config)
        if size != kept * token_bytes or size > limit * token_bytes:
            raise InternalError(
                f"plan: {size} KV bytes at N={n}, the budget is {limit * token_bytes}"
            )


def _balanced(front: pareto.Front) -> int:
    values = np.stack([point.values for point in front.points])
    spread = values.max(axis=0) - values.min(axis=0)
    spread[spread == 0] = 1.0
    distance = ((values - values.min(axis=0)) / spread).max(axis=1)
    return int(distance.argmin())
