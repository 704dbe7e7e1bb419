"""The whole engine on random weights of a published shape: batch 1, full memory, every plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from moa_rt import AttentionPlan, Engine, ModelConfig, ResourceError, predict_memory

from moa_tools.bench import decode_run, environment
from moa_tools.bench.decode_run import Setting
from moa_tools.bench.end_rows import SECTION
from moa_tools.bench.record import Missing, Row

# The paper's settings: prompt + answer. Measured where 7/8 of the budget is filled. "tiny" is for
# dry runs.
SETTINGS = {"3k+1k": 4096, "6k+2k": 8192, "12k+4k": 16384, "tiny": 256}
_RETRIES = 4
_MAX_BATCH = 4096  # of an engine


@dataclass(frozen=True)
class Job:
    """A plan at a budget; `batch` 0 is the largest that memory takes."""

    plan: str
    setting: str
    budget: int
    batch: int


@dataclass(frozen=True)
class Surroundings:
    """What all jobs of a model share. `read_bytes_a_second` 0: the roofline is left out."""

    model: str
    directory: Path
    device: str
    steps: int
    read_bytes_a_second: float
    prefill_chunk: int = 2048
    dtype: str = "auto"
    num_threads: int | None = None


def make_plans(
    config: ModelConfig, published: dict[str, AttentionPlan], budget: int
) -> dict[str, AttentionPlan]:
    """Dense, uniform 50 % and 25 %, mixed, and the published ones of this shape.

    Beside each published plan stands the uniform plan of equal bytes at `budget`.
    """
    plans = {
        "dense": AttentionPlan.dense(config),
        "uniform 50%": AttentionPlan.uniform(config, 0.5),
        "uniform 25%": AttentionPlan.uniform(config, 0.25),
        "mixed 50%": mixed_plan(config),
    }
    for name, plan in published.items():
        if (plan.num_layers, plan.num_kv_heads) == (
            config.num_hidden_layers,
            config.num_key_value_heads,
        ):
            plans[name] = plan
            plans[f"uniform as {name}"] = AttentionPlan.uniform(config, plan.density(budget))
    return plans


def mixed_plan(config: ModelConfig) -> AttentionPlan:
    """Narrow and wide heads with a mean of half, by the same pattern as the kernel benchmark."""
    from moa_tools.bench.attention_cases import MIXED_EIGHTHS

    eighths = MIXED_EIGHTHS[0.5]
    row = [(0, eighths[h % 8] / 8) for h in range(config.num_key_value_heads)]
    return AttentionPlan.from_rules([row] * config.num_hidden_layers)


def make_jobs(
    setting: str,
    budget: int,
    plans: Sequence[str],
    published: Sequence[str],
    ladder_batch: int,
    quick: bool,
) -> list[Job]:
    """Dense at batch 1 and at full memory, the ladder's steps, then plans at full memory.

    The published plans follow the first of the others; the uniform ones of equal bytes come last.
    `ladder_batch` is the batch of a peer (0: none ran): dense at the same batch shows kernels and
    graph alone, half the bytes at that batch shows the plan alone.
    """
    jobs = [Job("dense", setting, budget, batch) for batch in (1, 0)]
    if quick:
        return jobs
    if ladder_batch:
        ladder = [plan for plan in plans if plan in ("dense", "uniform 50%")]
        jobs += [Job(plan, setting, budget, ladder_batch) for plan in ladder]
    first, *others = [plan for plan in plans if plan != "dense"] or [""]
    order = (first, *published, *others, *(f"uniform as {name}" for name in published))
    return jobs + [Job(plan, setting, budget, 0) for plan in order if plan]


def _open(around: Surroundings, plan: AttentionPlan, budget: int, batch: int) -> Engine:
    return Engine(
        around.directory,
        plan,
        around.device,
        around.dtype,
        max_batch=batch,
        max_seq_len=budget,
        num_threads=around.num_threads,
        prefill_chunk=min(around.prefill_chunk, budget),
        force_plan=True,
    )


def full_batch(around: Surroundings, plan: AttentionPlan, budget: int, free_bytes: int) -> int:
    """The largest batch by prediction; scratch grows with the batch, so it is asked for twice."""
    batch = 1
    for _ in range(3):
        need = predict_memory(
            around.directory,
            plan,
            device=around.device,
            dtype=around.dtype,
            max_batch=batch,
            max_seq_len=budget,
            prefill_chunk=min(around.prefill_chunk, budget),
            force_plan=True,
        )
        fits = (free_bytes - need.total(0)) // need.kv_per_sequence
        batch = min(max(1, fits), _MAX_BATCH)
    return batch


def _row(around: Surroundings, job: Job, plan: AttentionPlan, engine: Engine, batch: int) -> Row:
    # What the prompt leaves of the budget is room for the answers.
    prompt = job.budget * 7 // 8
    setting = Setting(batch, prompt, job.budget - prompt, around.steps)
    decode = decode_run.run(engine, setting)
    figures = decode_run.figures(engine, decode, around.read_bytes_a_second)
    figures["first_token_ms"] = decode_run.first_token_seconds(engine, setting) * 1e3
    # A device engine takes the memory of its whole batch at once: told where the batch is whole.
    if around.device.startswith("cuda") and batch == engine.options.max_batch:
        used = environment.gpu_memory_used()
        memory = engine.memory
        figures["device_used_GiB"] = used / 2**30
        rest = used - memory.weights - memory.kv_cache_peak
        figures["beyond_weights_and_cache_GiB"] = rest / 2**30
    case: dict[str, str | int | float] = {
        "model": around.model,
        "setting": job.setting,
        "plan": job.plan,
        "density": round(plan.density(job.budget), 4),
        "batch": batch,
        "full": int(job.batch == 0),
    }
    return Row(SECTION, "moa_rt", case, figures, decode.rounds.seconds)


def measure_plan(
    around: Surroundings, jobs: Sequence[Job], plan: AttentionPlan, free_bytes: int
) -> Iterator[Row | Missing]:
    """The jobs of one plan and budget, small batches first, on one engine for the largest of them.

    A largest batch that turns out not to fit is made smaller. A job that fails is named, and those
    that need more with it.
    """
    budget = jobs[0].budget
    # The largest by memory (0) comes last.
    left = sorted(jobs, key=lambda job: job.batch or _MAX_BATCH + 1)
    batch = max(job.batch for job in jobs)
    try:
        if left[-1].batch == 0:
            batch = max(batch, full_batch(around, plan, budget, free_bytes))
        for attempt in range(_RETRIES):
            try:
                with _open(around, plan, budget, batch) as engine:
                    while left:
                        yield _row(around, left[0], plan, engine, left[0].batch or batch)
                        left.pop(0)
                return
            except ResourceError:
                least = max((job.batch for job in left), default=0)
                if left[-1].batch or attempt + 1 == _RETRIES or batch <= max(1, least):
                    raise
                batch = max(1, least, batch * 95 // 100 if batch > 20 else batch - 1)
    except Exception as error:  # one plan's failure leaves the others
        for job in left:
            what = f"moa_rt {around.model} {job.setting} {job.plan} batch {job.batch or 'full'}"
            yield Missing(what, f"{type(error).__name__}: {error}"[:300])


def measure(
    around: Surroundings,
    jobs: list[Job],
    published: dict[str, AttentionPlan],
    free_bytes: int,
) -> Iterator[Row | Missing]:
    """Every plan in turn, in order of its first job.

    `free_bytes` is what the device has for weights, caches and scratch.
    """
    config = ModelConfig.load(str(around.directory))
    groups: dict[tuple[str, int], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.plan, job.budget), []).append(job)
    for (name, budget), group in groups.items():
        plans = make_plans(config, published, budget)
        if name in plans:
            yield from measure_plan(around, group, plans[name], free_bytes)
        else:
            yield Missing(f"moa_rt {around.model} {name}", "no plan of this shape was given")
