"""One section of a GPU run in a process of its own.

A peer that hangs, crashes or leaks memory then costs its own section and nothing else. The request
comes on standard input as one JSON object; rows and names of what is missing go to standard output,
one JSON line each, as they come.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from moa_rt import ArgumentError, ResourceError

from moa_tools.bench import (
    attention,
    ceilings,
    end_to_end,
    environment,
    huggingface,
    kernels,
    shapes,
)
from moa_tools.bench.decode_run import Setting
from moa_tools.bench.options import GpuOptions
from moa_tools.bench.random_model import temporary_model
from moa_tools.bench.record import Missing, Row

Results = Iterator[Row | Missing]


def _ceilings(options: GpuOptions, _context: dict[str, Any], _model: str) -> Results:
    yield from ceilings.measure(options.device, options.quick)


def _kernels(options: GpuOptions, context: dict[str, Any], bench: str) -> Results:
    if not options.bench_dir:
        yield Missing(f"kernels: {bench} bench", "no --bench-dir was given")
        return
    yield from kernels.measure(bench, Path(options.bench_dir), int(context.get("turn", 0)))


def _attention(options: GpuOptions, _context: dict[str, Any], _model: str) -> Results:
    yield from attention.measure(options.device, options.published(), options.quick)


def _engine(options: GpuOptions, context: dict[str, Any], model: str) -> Results:
    cuda = options.device.startswith("cuda")
    # Room for what a driver's context takes before the first allocation.
    free = environment.gpu_memory_free() - (1 << 30) if cuda else 1 << 30
    published = options.published(model)
    jobs = end_to_end.make_jobs(
        options.budgets(),
        options.engine_plans,
        tuple(name for plan in published for name in (plan, f"uniform as {plan}")),
        int(context.get("ladder_batch", 0)),
        options.quick,
    )
    with temporary_model(Path(options.work_dir), shapes.find(model)) as directory:
        around = end_to_end.Surroundings(
            model=model,
            directory=directory,
            device=options.device,
            steps=options.steps,
            read_bytes_a_second=float(context.get("read_bytes_a_second", 0.0)),
        )
        yield from end_to_end.measure(around, jobs, published, options.memory_bytes or free)


def _transformers(system: str) -> Callable[[GpuOptions, dict[str, Any], str], Results]:
    def measure(options: GpuOptions, context: dict[str, Any], model: str) -> Results:
        for name, budget in options.budgets().items():
            prompt = budget * 7 // 8
            batch = 2 if options.device == "cpu" else 0
            setting = Setting(batch, prompt, budget - prompt, options.steps)
            read = float(context.get("read_bytes_a_second", 0.0))
            shape = shapes.find(model)
            yield from huggingface.measure(shape, system, setting, options.device, name, read)

    return measure


_SECTIONS: dict[str, Callable[[GpuOptions, dict[str, Any], str], Results]] = {
    "ceilings": _ceilings,
    "kernels": lambda options, context, _model: _kernels(options, context, "attention"),
    "kernels-again": lambda options, context, _model: _kernels(
        options, {**context, "turn": 1}, "attention"
    ),
    "decoder": lambda options, context, _model: _kernels(options, context, "decoder"),
    "attention": _attention,
    "engine": _engine,
    "transformers-dynamic": _transformers(huggingface.DYNAMIC),
    "transformers-static": _transformers(huggingface.STATIC),
}
# Those that run once for each model.
PER_MODEL = ("engine", "transformers-dynamic", "transformers-static")
# In order of a run: early ones give others what they need, late ones are lost first.
ORDER = (
    "ceilings",
    "kernels",
    "transformers-dynamic",
    "engine",
    "attention",
    "kernels-again",
    "transformers-static",
    "decoder",
)


def names(models: tuple[str, ...]) -> list[str]:
    """Every section of a run over these models, in order."""
    first, *others = [*models, ""]
    out = []
    for name in ORDER:
        out.append(f"{name}-{first}" if name in PER_MODEL else name)
    for model in filter(None, others):
        out.extend(f"{name}-{model}" for name in ORDER if name in PER_MODEL)
    return out


def measure(name: str, options: GpuOptions, context: dict[str, Any]) -> Results:
    """The rows of one section. Raises ArgumentError for a name that is none."""
    for model in options.models:
        kind = name.removesuffix(f"-{model}")
        if kind != name and kind in PER_MODEL:
            yield from _SECTIONS[kind](options, context, model)
            return
    if name not in _SECTIONS or name in PER_MODEL:
        raise ArgumentError(f"bench: got {name!r}, want one of {', '.join(names(options.models))}")
    yield from _SECTIONS[name](options, context, "")


def to_line(result: Row | Missing) -> str:
    """One JSON line."""
    if isinstance(result, Row):
        return json.dumps({"row": result.to_json()}, allow_nan=False)
    return json.dumps({"missing": {"what": result.what, "reason": result.reason}})


def serve(request: dict[str, Any], out: TextIO) -> None:
    """Runs the section that `request` names and writes its lines."""
    name, options = request["section"], GpuOptions.from_json(request["options"])
    try:
        for result in measure(name, options, request["context"]):
            print(to_line(result), file=out, flush=True)
    except Exception as error:  # told, not raised: the run goes on with the next section
        reason = f"{type(error).__name__}: {error}".strip().split("\n")[0][:300]
        if isinstance(error, MemoryError) and not isinstance(error, ResourceError):
            reason = "out of memory"
        print(to_line(Missing(name, reason)), file=out, flush=True)


def main() -> None:
    """Keeps standard output for the lines: libraries that print are sent to standard error."""
    request = json.load(sys.stdin)
    with os.fdopen(os.dup(1), "w") as lines:
        os.dup2(2, 1)
        serve(request, lines)


if __name__ == "__main__":
    main()
