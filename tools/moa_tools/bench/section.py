"""One section of a GPU run in a process of its own.

A peer that hangs, crashes or leaks memory then costs its own section and nothing else. The request
comes on standard input as one JSON object; rows and names of what is missing go to standard output,
one JSON line each, as they come.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
from moa_tools.bench.random_model import ready_model
from moa_tools.bench.record import Missing, Row

Results = Iterator[Row | Missing]


@dataclass(frozen=True)
class Where:
    """The shape and setting that a section is about, both empty for those about neither."""

    model: str = ""
    setting: str = ""

    @property
    def suffix(self) -> str:
        """What the section's name ends in."""
        return f"-{self.model}-{self.setting}" if self.model else ""


Section = Callable[[GpuOptions, dict[str, Any], Where], Results]


def _ceilings(options: GpuOptions, _context: dict[str, Any], _where: Where) -> Results:
    yield from ceilings.measure(options.device, options.quick)


def _kernels(bench: str, turn: int) -> Section:
    def measure(options: GpuOptions, _context: dict[str, Any], _where: Where) -> Results:
        if not options.bench_dir:
            yield Missing(f"kernels: {bench} bench", "no --bench-dir was given")
            return
        yield from kernels.measure(bench, Path(options.bench_dir), turn)

    return measure


def _attention(group: str) -> Section:
    def measure(options: GpuOptions, _context: dict[str, Any], _where: Where) -> Results:
        yield from attention.measure(group, options.device, options.published(), options.quick)

    return measure


def _engine(options: GpuOptions, context: dict[str, Any], where: Where) -> Results:
    cuda = options.device.startswith("cuda")
    # Room for what a driver's context takes before the first allocation.
    free = environment.gpu_memory_free() - (1 << 30) if cuda else 1 << 30
    published = options.published(where.model)
    ladder = context.get("ladder", {})
    here = (ladder.get("model"), ladder.get("setting")) == (where.model, where.setting)
    jobs = end_to_end.make_jobs(
        where.setting,
        options.budgets()[where.setting],
        options.engine_plans,
        tuple(published),
        int(ladder["batch"]) if here else 0,
        options.quick,
    )
    parent = Path(options.weights_dir or options.work_dir)
    around = end_to_end.Surroundings(
        model=where.model,
        directory=ready_model(parent, shapes.find(where.model)),
        device=options.device,
        steps=options.steps,
        read_bytes_a_second=float(context.get("read_bytes_a_second", 0.0)),
    )
    yield from end_to_end.measure(around, jobs, published, options.memory_bytes or free)


def _transformers(system: str) -> Section:
    def measure(options: GpuOptions, context: dict[str, Any], where: Where) -> Results:
        budget = options.budgets()[where.setting]
        prompt = budget * 7 // 8
        batch = 2 if options.device == "cpu" else 0
        setting = Setting(batch, prompt, budget - prompt, options.steps)
        read = float(context.get("read_bytes_a_second", 0.0))
        shape = shapes.find(where.model)
        yield from huggingface.measure(shape, system, setting, options.device, where.setting, read)

    return measure


# Those that run once, in order: early ones give others what they need.
_ONCE: dict[str, Section] = {
    "ceilings": _ceilings,
    "attention": _attention("attention"),
    "attention-flashinfer": _attention("attention-flashinfer"),
    "attention-flex": _attention("attention-flex"),
    "kernels": _kernels("attention", 0),
}
# Those that run for each model in each setting. The first gives the others the ladder's batch.
_EACH: dict[str, Section] = {
    "transformers-dynamic": _transformers(huggingface.DYNAMIC),
    "engine": _engine,
    "transformers-static": _transformers(huggingface.STATIC),
}
# The same kernels a second time tell how much a figure moves within a run.
_LAST: dict[str, Section] = {
    "kernels-again": _kernels("attention", 1),
    "decoder": _kernels("decoder", 0),
}


def _all(models: Sequence[str], settings: Sequence[str]) -> dict[str, tuple[Section, Where]]:
    """Every section by name, in order of a run: what is late is lost first.

    The first setting is done for all models before the others begin.
    """
    out = {name: (section, Where()) for name, section in _ONCE.items()}
    for setting in settings:
        for where in (Where(model, setting) for model in models):
            out |= {f"{name}{where.suffix}": (each, where) for name, each in _EACH.items()}
    return out | {name: (section, Where()) for name, section in _LAST.items()}


def names(models: Sequence[str], settings: Sequence[str]) -> list[str]:
    """Every section of a run over these models and settings, in order."""
    return list(_all(models, settings))


def measure(name: str, options: GpuOptions, context: dict[str, Any]) -> Results:
    """The rows of one section. Raises ArgumentError for a name that is none."""
    every = _all(options.models, options.settings)
    if name not in every:
        raise ArgumentError(f"bench: got {name!r}, want one of {', '.join(every)}")
    section, where = every[name]
    yield from section(options, context, where)


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
