"""A CPU run: our engine under several plans beside transformers and llama.cpp, at batch 1."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from moa_rt import ArgumentError, AttentionPlan, ModelConfig

from moa_tools.bench import cpu_systems, decode_run, environment
from moa_tools.bench.cpu_rows import Timing, row
from moa_tools.bench.cpu_systems import Contender, Task
from moa_tools.bench.record import NOT_ASKED, Missing, Row, Run
from moa_tools.bench.roofline import step_cache_bytes, step_weight_bytes
from moa_tools.bench.statistics import rotation

REPEATS = 7
OURS = "moa_rt"
_READ_BYTES = 512 << 20
# Above this something else is running, and the figures say little.
_QUIET = 0.5


@dataclass(frozen=True)
class CpuOptions:
    """`peers` None means all; `threads` 0 one for each core at hand."""

    model_dir: Path
    tokens: tuple[int, ...] = (512, 4096)
    densities: tuple[float, ...] = (1.0, 0.5, 0.25)
    steps: int = 64
    repeats: int = REPEATS
    threads: int = 0
    peers: tuple[str, ...] | None = None
    read_bytes: int = _READ_BYTES

    def __post_init__(self) -> None:
        unknown = sorted(set(self.peers or ()) - set(cpu_systems.PEERS))
        if unknown:
            raise ArgumentError(
                f"peer: got {', '.join(unknown)}, want some of {', '.join(cpu_systems.PEERS)}"
            )
        if not 4 <= self.steps <= 4096 or not 1 <= self.repeats <= 100:
            raise ArgumentError(
                f"steps, repeats: got {self.steps}, {self.repeats}, want 4..4096 and 1..100"
            )
        if not self.tokens or min(self.tokens) < 2:
            raise ArgumentError("tokens: want lengths of at least 2")
        if not 0 <= self.threads <= 1024:
            raise ArgumentError(f"threads: got {self.threads}, want 0..1024")

    @property
    def thread_count(self) -> int:
        """Threads of every contender."""
        return self.threads or len(os.sched_getaffinity(0))


def read_bandwidth(threads: int, size: int) -> float:
    """Bytes a second that `threads` threads read from memory together, the best of ten."""
    from concurrent.futures import ThreadPoolExecutor

    # Two streams a thread: one alone does not keep a core's loads in flight. NumPy lets go of the
    # lock.
    count = size // 8 // threads
    parts = [(np.ones(count, np.float32), np.ones(count, np.float32)) for _ in range(threads)]
    best = float("inf")
    with ThreadPoolExecutor(threads) as workers:
        for _ in range(10):
            begin = time.perf_counter()
            list(workers.map(lambda pair: np.dot(*pair), parts))
            best = min(best, time.perf_counter() - begin)
    return 8 * count * threads / best


def _plans(config: ModelConfig, densities: Sequence[float]) -> dict[str, AttentionPlan]:
    out = {}
    for density in densities:
        if density == 1.0:
            out["dense"] = AttentionPlan.dense(config)
        else:
            out[f"uniform {density:.0%}"] = AttentionPlan.uniform(config, density)
    return out


def _contenders(
    task: Task, options: CpuOptions, config: ModelConfig, stack: ExitStack
) -> Iterator[tuple[str, str, Contender, int] | Missing]:
    """(system, plan, what it does, bytes of a decode step or 0), or why a peer is missing."""
    for name, plan in _plans(config, options.densities).items():
        run, engine = cpu_systems.open_ours(task, plan, stack)
        dtype = engine.options.dtype
        length = [task.prompt + task.steps // 2]
        size = step_weight_bytes(config, dtype)
        yield OURS, name, run, size + step_cache_bytes(plan, config, dtype, task.budget, length)
    for name, prepare in cpu_systems.PEERS.items():
        if options.peers is not None and name not in options.peers:
            yield Missing(name, NOT_ASKED)
            continue
        try:
            run = prepare(task, stack)
            yield name, "dense", run, 0
        except Exception as error:  # a peer's failure is a finding
            reason = f"{type(error).__name__}: {error}".split("\n")[0][:200]
            yield Missing(name, reason)


def measure(options: CpuOptions, tokens: int) -> Iterator[Row | Missing]:
    """Every contender at one prompt length; they take turns, and the order rotates."""
    config = ModelConfig.load(str(options.model_dir))
    task = Task(options.model_dir, tokens, options.steps, options.thread_count)
    ids = decode_run.random_prompts(config.vocab_size, 1, tokens)[0]
    with ExitStack() as stack:
        runs: dict[tuple[str, str], Contender] = {}
        sizes: dict[tuple[str, str], int] = {}
        for entry in _contenders(task, options, config, stack):
            if isinstance(entry, Missing):
                yield entry
                continue
            system, plan, run, size = entry
            try:
                run(ids)  # warms up, and shows whether it runs at all
            except Exception as error:
                yield Missing(f"{system} at {tokens}", f"{type(error).__name__}: {error}"[:200])
                continue
            runs[system, plan], sizes[system, plan] = run, size
        times: dict[tuple[str, str], list[Timing]] = {key: [] for key in runs}
        names = [f"{system}\n{plan}" for system, plan in runs]
        for turn in range(options.repeats):
            for name in rotation(names, turn):
                system, plan = name.split("\n")
                times[system, plan].append(runs[system, plan](ids))
        for (system, plan), found in times.items():
            case: dict[str, str | int | float] = {
                "model": options.model_dir.resolve().name,
                "tokens": tokens,
                "plan": plan,
            }
            yield row(system, case, tokens, found, sizes[system, plan])


def _measure_ceiling(run: Run, options: CpuOptions, when: str) -> None:
    """The read bandwidth, `when` is "before" or "after"; the better of the two is the ceiling.

    What others do on the machine may hide some of it, so both are kept.
    """
    found = read_bandwidth(options.thread_count, options.read_bytes) * 1e-9
    run.ceilings[f"read_{when}_GB_s"] = found
    run.ceilings["read_GB_s"] = max(found, run.ceilings.get("read_GB_s", 0.0))


def run_all(options: CpuOptions, output: Path, report: Callable[[str], None], command: str) -> Run:
    """The read bandwidth before and after all lengths; the run file is saved after each.

    Raises what opening the model raises, before anything is measured.
    """
    from moa_tools.bench.gpu import describe

    config = ModelConfig.load(str(options.model_dir))
    longest = max(options.tokens) + options.steps + 8
    if longest > config.max_position_embeddings:
        raise ArgumentError(
            f"tokens: got {max(options.tokens)} and {options.steps} steps, want at most "
            f"{config.max_position_embeddings} together with 8 to spare"
        )
    run = Run("cpu", environment.now(), command, environment.describe("cpu"))
    run.environment["threads"] = str(options.thread_count)
    if environment.load_average() > _QUIET:
        report(f"warning: load average {environment.load_average():.2f}, want below {_QUIET}")
    _measure_ceiling(run, options, "before")
    for tokens in options.tokens:
        report(f"{tokens} tokens ...")
        for result in measure(options, tokens):
            if isinstance(result, Missing):
                if result not in run.missing:
                    run.missing.append(result)
            else:
                run.rows.append(result)
            report(describe(result))
        run.save(output)
    _measure_ceiling(run, options, "after")
    run.environment["load_average_after"] = f"{environment.load_average():.2f}"
    run.save(output)
    return run
