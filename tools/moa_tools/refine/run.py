"""`moa-tools refine`: a searched plan made better by its true loss on a calibration set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from moa_rt import ArgumentError, AttentionPlan, ModelConfig, __version__

from moa_tools.calibrate.choose import choose_samples
from moa_tools.calibrate.journal import Journal, key_of
from moa_tools.calibrate.samples import SAMPLES, Sample
from moa_tools.files import check_file_target, read_bounded, write_atomic
from moa_tools.gates.memory import is_scarce
from moa_tools.hf.load import load_model, torch_device
from moa_tools.hf.numeric_type import ITEM_BYTES
from moa_tools.profile.memory import free_bytes
from moa_tools.progress import Reporter, Silent
from moa_tools.refine.batches import ANSWERS, TEXT, Batch, batch_size, make_batches
from moa_tools.refine.climb import Climb, Step
from moa_tools.refine.losses import Bench
from moa_tools.refine.measured import Measured
from moa_tools.refine.memory import out_of_memory_named
from moa_tools.refine.objective import Objective
from moa_tools.refine.options import RefineOptions
from moa_tools.refine.rules import choice_of, rules_for
from moa_tools.search.budgets import Budgets
from moa_tools.search.extend import extend
from moa_tools.search.planner import check_plan
from moa_tools.search.problem import Ints
from moa_tools.search.rules import Candidates

_MAX_SAMPLES_FILE = 1 << 30
# Inputs of layers are kept if they take no more than this share of what is free.
_PLENTY = 0.3

__all__ = ["RefineOptions", "RefineReport", "refine"]


@dataclass(frozen=True)
class RefineReport:
    """What a refinement made of which plan: losses by part and length, and the objective.

    `starts`: the objective of every plan given. `finished`: False if the time limit ended it.
    """

    plan: AttentionPlan
    start: str
    starts: Mapping[str, float]
    uniform: Mapping[str, float]
    before: Step
    after: Step
    steps: int
    finished: bool


@dataclass(frozen=True)
class _Task:
    config: ModelConfig
    plans: Mapping[str, AttentionPlan]
    samples: tuple[Sample, ...]
    rules: Candidates
    limits: Mapping[int, int]
    lengths: tuple[int, ...]
    density: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.config.num_hidden_layers, self.config.num_key_value_heads


def refine(
    model_dir: str | Path,
    calibration: str | Path,
    plans: Sequence[str | Path],
    out: str | Path,
    options: RefineOptions | None = None,
    reporter: Reporter | None = None,
) -> RefineReport:
    """Starts from the best of `plans` by true loss and writes a plan that loses no more to `out`.

    The budget is a share of the dense KV bytes at every length of the calibration set and of
    `budget_lengths`; at the plans' last one, it is what they keep if that is more. Interrupted, it
    goes on from what was measured; on a CPU, to the same bytes.

    Raises ArgumentError (options; `out` is no name for a file; a plan over the budget or not for
    these lengths), MismatchError (a plan or set of another model), IoError, ResourceError (memory,
    solver), NumericError.
    """
    options, reporter = options or RefineOptions(), reporter or Silent()
    torch_device(options.device)
    model_path, target = Path(model_dir), Path(out)
    check_file_target(target)
    task = _task(model_path, Path(calibration), plans, options)
    origin = _origin(Path(calibration), task, options)
    with Journal(target.with_name(f".{target.name}.journal"), key_of(origin)) as journal:
        with out_of_memory_named(task.config, task.lengths, options):
            report = _refined(model_path, task, options, journal, reporter, origin)
        write_atomic(target, report.plan.to_json().encode("utf-8"))
        journal.remove()
    return report


def _task(
    model: Path, calibration: Path, paths: Sequence[str | Path], options: RefineOptions
) -> _Task:
    config = ModelConfig.load(str(model))
    if not paths:
        raise ArgumentError("plans: got none, want at least one plan file")
    plans = {str(path): AttentionPlan.load(str(path)) for path in paths}
    samples = choose_samples(
        calibration, config, options.lengths, options.max_samples, by=lambda sample: sample.task
    )
    lengths = tuple(sorted({sample.length for sample in samples}))
    first = next(iter(plans.values()))
    density = options.density or _stated_density(next(iter(plans)), first)
    bounded = {*lengths, *options.budget_lengths}
    every = tuple(sorted({*bounded, first.max_length}))
    for path, plan in plans.items():
        _check(path, plan, first, config, bounded)
    heads = config.num_hidden_layers * config.num_key_value_heads
    limits = Budgets(dict.fromkeys(every, density)).kept_limits(
        heads, first.sink_size, first.rounding
    )
    for path, plan in plans.items():
        for n in every:
            kept = int(_table(plan, n).sum())
            if kept > limits[n] and n in bounded:
                raise ArgumentError(
                    f"{path}: keeps {kept} tokens at N={n}, density {density:g} allows {limits[n]}"
                )
            limits[n] = max(limits[n], kept)
    rules = rules_for(list(plans.values()), every)
    return _Task(config, plans, samples, rules, limits, lengths, density)


def _stated_density(path: str, plan: AttentionPlan) -> float:
    stated = plan.provenance.get("density")
    try:
        density = float(stated or "")
    except ValueError as error:
        raise ArgumentError(f"{path}: provenance has no density; give one") from error
    if not 0 < density < 1:
        raise ArgumentError(f"{path}: provenance: density: got {density}, want a share in (0, 1)")
    return density


def _check(
    path: str,
    plan: AttentionPlan,
    first: AttentionPlan,
    config: ModelConfig,
    lengths: Iterable[int],
) -> None:
    try:
        plan.check_model(config)
    except ValueError as error:
        raise type(error)(f"{path}: {error}") from error
    for name in ("sink_size", "rounding", "min_length", "max_length"):
        got, want = getattr(plan, name), getattr(first, name)
        if got != want:
            raise ArgumentError(f"{path}: {name}: got {got}, the first plan has {want}")
    for n in sorted(lengths):
        if not plan.min_length <= n <= plan.max_length:
            raise ArgumentError(
                f"{path}: length {n} is outside the plan's range {plan.min_length}.."
                f"{plan.max_length}"
            )


def _origin(calibration: Path, task: _Task, options: RefineOptions) -> dict[str, str]:
    """All that the result depends on, but the time limit: what was measured holds for any."""
    raw = read_bounded(calibration / SAMPLES, _MAX_SAMPLES_FILE)
    starts = [plan.to_json() for plan in task.plans.values()]
    return {
        **{key: str(value) for key, value in asdict(options).items() if key != "seconds"},
        "batch_tokens": str(options.tokens),
        "calibration_sha256": hashlib.sha256(raw).hexdigest(),
        "density": repr(task.density),
        "device": options.device.partition(":")[0],
        "dtype": options.torch_dtype,
        "model_fingerprint": task.config.fingerprint,
        "starts_sha256": hashlib.sha256("\0".join(starts).encode("utf-8")).hexdigest(),
    }


def _refined(
    model_dir: Path,
    task: _Task,
    options: RefineOptions,
    journal: Journal,
    reporter: Reporter,
    origin: Mapping[str, str],
) -> RefineReport:
    first = next(iter(task.plans.values()))
    model, _ = load_model(model_dir, dtype=options.torch_dtype, device=options.device)
    batches = make_batches(
        model, task.samples, task.shape[1], first.sink_size, options.tokens, options.rows
    )
    if not batches:
        raise ArgumentError(
            "calibration set: no text, and no answer has to be looked up: a window of some hundred "
            "tokens gets all of them right"
        )
    if not any(batch.part == ANSWERS for batch in batches):
        reporter.warning("refine: no answer has to be looked up: refined for text alone")
    remember = _can_remember(task.config, batches, options)
    bench = Bench(model, batches, first.sink_size, remember, _is_scarce(task, options))
    measured = Measured(bench, task.rules, task.lengths, task.shape, journal, options.seconds)
    uniform = AttentionPlan.uniform(task.config, task.density)
    spans = {n: _table(uniform, n) for n in task.lengths}
    even = measured.other_losses("uniform", spans, uniform.sink_size)
    plain = Objective(task.lengths, options.text_weight, options.beyond_weight, 0.0)
    objective = Objective(
        task.lengths, options.text_weight, options.beyond_weight, plain.mean(even, TEXT)
    )
    reporter.info(f"refine: uniform: {_told(even)}")
    limits = np.array([task.limits[n] for n in task.rules.lengths], dtype=np.int64)
    climb = Climb(measured, objective, task.rules, limits, task.shape[0], options, reporter)
    starts: dict[str, float] = {}
    for name, plan in task.plans.items():
        choice = choice_of(plan, task.rules)
        parts = measured.losses(choice)
        starts[name] = objective.value(parts)
        reporter.info(f"refine: {name}: {starts[name]:.4f}: {_told(parts)}")
        if starts[name] == min(starts.values()):
            start = name
            climb.begin(choice, parts)
    finished = climb.run()
    reporter.info(f"refine: {climb.best.value:.4f}: {_told(climb.best.parts)}")
    plan = _plan(task, start, climb, origin)
    return RefineReport(
        plan, start, starts, even, climb.steps[0], climb.best, len(climb.steps) - 1, finished
    )


def _table(plan: AttentionPlan, length: int) -> Ints:
    return np.array([[head.span for head in row] for row in plan.spans(length)], dtype=np.int64)


def _told(parts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in sorted(parts.items()))


def _can_remember(config: ModelConfig, batches: Sequence[Batch], options: RefineOptions) -> bool:
    item = ITEM_BYTES[options.torch_dtype]
    tokens = sum(batch.ids.numel() for batch in batches)
    needed = tokens * config.hidden_size * item * config.num_hidden_layers
    return needed <= _PLENTY * free_bytes(options.device)


def _is_scarce(task: _Task, options: RefineOptions) -> bool:
    """Whether layers are to be computed again in the backward pass."""
    longest, item = max(task.lengths), ITEM_BYTES[options.torch_dtype]
    count = batch_size(longest, options.tokens)
    return is_scarce(task.config, longest, count, item, options.device)


def _plan(task: _Task, start: str, climb: Climb, origin: Mapping[str, str]) -> AttentionPlan:
    """The best choice as a plan, its leftover bytes at other lengths spent; checked once more."""
    first, rules = task.plans[start], task.rules
    choice = extend(climb.best.choice.tolist(), rules, task.limits, task.lengths)
    plan = AttentionPlan.from_rules(
        rules.table(choice, task.shape[1]),
        sink_size=first.sink_size,
        rounding=first.rounding,
        min_length=first.min_length,
        max_length=first.max_length,
    )
    plan.out_of_range = first.out_of_range
    plan.fingerprint, plan.model_name = first.fingerprint, first.model_name
    before: dict[str, Any] = {"value": climb.steps[0].value, **climb.steps[0].parts}
    after: dict[str, Any] = {"value": climb.best.value, **climb.best.parts}
    plan.provenance = {
        **first.provenance,
        "density": repr(task.density),
        "refined": f"{len(climb.steps) - 1} steps by true loss, moa_rt {__version__}",
        "refined_from_sha256": hashlib.sha256(first.to_json().encode("utf-8")).hexdigest(),
        "refined_calibration_sha256": origin["calibration_sha256"],
        "refined_loss_before": json.dumps({k: round(v, 5) for k, v in before.items()}),
        "refined_loss": json.dumps({k: round(v, 5) for k, v in after.items()}),
    }
    check_plan(plan, task.config, task.limits)
    return plan
