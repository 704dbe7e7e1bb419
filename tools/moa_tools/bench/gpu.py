"""A GPU run: sections one after the other, each with its time limit, into one run file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from moa_rt import ArgumentError, DeviceError, FormatError, MismatchError

from moa_tools import strict_json
from moa_tools.bench import ceilings, environment, section
from moa_tools.bench.end_rows import SECTION
from moa_tools.bench.huggingface import DYNAMIC
from moa_tools.bench.options import GpuOptions
from moa_tools.bench.random_model import remove_parts
from moa_tools.bench.record import NOT_ASKED, Missing, Row, Run, load, parse_row

# Seconds after which a section is stopped; what it has measured until then counts.
LIMITS = {
    "ceilings": 60,
    "kernels": 90,
    "attention": 120,
    "attention-flex": 300,
    "attention-flashinfer": 300,
    "decoder": 120,
    "engine": 600,
    "transformers-dynamic": 200,
    "transformers-static": 400,
}
_QUICK = ("ceilings", "kernels", "attention", "attention-flex")
_LEAST_SECONDS = 5.0


def check_device(device: str) -> None:
    """Raises DeviceError if a GPU is asked for and none is there."""
    if device.startswith("cuda") and not environment.gpu():
        raise DeviceError(
            "bench gpu: no GPU: nvidia-smi finds none; `moa-tools bench cpu` measures processors"
        )


def _fits(name: str, want: str) -> bool:
    return name == want or name.startswith(f"{want}-")


def choose(options: GpuOptions, only: Sequence[str]) -> list[str]:
    """The sections to run, in order; `only` has names, or what names start with up to a dash.

    Raises ArgumentError for one that fits no section.
    """
    every = section.names(options.models, options.settings)
    unknown = sorted(want for want in only if not any(_fits(name, want) for name in every))
    if unknown:
        raise ArgumentError(f"bench: got {', '.join(unknown)}, want some of {', '.join(every)}")
    if only:
        return [name for name in every if any(_fits(name, want) for want in only)]
    if options.quick:
        first = f"engine-{options.models[0]}-{options.settings[0]}"
        return [name for name in every if name in _QUICK or name == first]
    return every


def limit_of(name: str) -> float:
    """Seconds that a section may take."""
    kind = max((k for k in LIMITS if name.startswith(k)), key=len)
    return float(LIMITS[kind])


def _stop(process: subprocess.Popen[str]) -> None:
    """Ends the section and whatever it started: they are one process group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _parse_line(line: str, name: str) -> Row | Missing:
    value = strict_json.parse(line, name)
    if isinstance(value, dict) and set(value) == {"row"}:
        return parse_row(value["row"], name)
    if isinstance(value, dict) and set(value) == {"missing"}:
        return Missing(**value["missing"])
    raise FormatError(f"{name}: got {line[:80]!r}, want a row")


def run_section(
    name: str, options: GpuOptions, context: dict[str, Any], limit: float
) -> Iterator[Row | Missing]:
    """Rows of a section as they come, from a process that is stopped after `limit` seconds."""
    request = {"section": name, "options": options.to_json(), "context": context}
    process = subprocess.Popen(
        [sys.executable, "-m", "moa_tools.bench.section"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    late = threading.Event()

    def stop() -> None:
        late.set()
        _stop(process)

    timer = threading.Timer(limit, stop)
    timer.start()
    try:
        process.stdin.write(json.dumps(request))
        process.stdin.close()
        for line in process.stdout:
            yield _parse_line(line, name)
        status = process.wait()
        if late.is_set():
            yield Missing(name, f"stopped after {limit:.0f} s; what it had measured is kept")
        elif status != 0:
            yield Missing(name, f"its process ended with status {status}")
    finally:
        timer.cancel()
        _stop(process)
        process.wait()
        process.stdout.close()
        for directory in filter(None, (options.work_dir, options.weights_dir)):
            remove_parts(Path(directory), process.pid)


def _continue(old: Run, new: Run, sections: Sequence[str]) -> Run:
    """The old run, its sections that run again no longer missing."""
    for name in ("device", "driver", "commit", "moa_rt"):
        if old.environment.get(name) != new.environment.get(name):
            raise MismatchError(
                f"--resume: {name}: got {new.environment.get(name)}, the run file has "
                f"{old.environment.get(name)}"
            )
    old.missing = [m for m in old.missing if m.what not in sections]
    old.sections += [name for name in sections if name not in old.sections]
    old.command += f"; {new.command}"
    return old


def _name_not_asked(run: Run, every: Sequence[str]) -> None:
    """Names each section of `every` that neither this command nor one before it asked for."""
    named = [missing.what for missing in run.missing]
    left = [name for name in every if name not in run.sections and name not in named]
    run.missing += [Missing(name, NOT_ASKED) for name in left]


def _context(run: Run) -> dict[str, Any]:
    """What later sections need of earlier ones."""
    first = run.select(SECTION, DYNAMIC)[:1]
    return {
        "read_bytes_a_second": run.ceilings.get("read_TB_s", 0.0) * 1e12,
        "ladder": {name: first[0].case[name] for name in ("model", "setting", "batch")}
        if first
        else {},
    }


def run_all(
    options: GpuOptions,
    sections: Sequence[str],
    output: Path,
    report: Callable[[str], None],
    *,
    command: str,
    commit: str | None = None,
    seconds: float = float("inf"),
    resume: bool = False,
    limits: Mapping[str, float] | None = None,
) -> Run:
    """Runs the sections, saving the run file at every row. Sections beyond `seconds` are left out.

    Those that were not asked for are named as missing from the start.
    `limits` bounds sections by name (seconds) below what `limit_of` gives them.

    With `resume` the rows go into the run that `output` holds, if there is one. Raises
    MismatchError if that was made on another device or commit.
    """
    check_device(options.device)
    run = Run("gpu", environment.now(), command, environment.describe("gpu", commit))
    if resume and output.exists():
        run = _continue(load(output), run, sections)
    else:
        run.sections = list(sections)
    _name_not_asked(run, section.names(options.models, options.settings))
    end = time.monotonic() + seconds
    parent = options.work_dir or None
    with tempfile.TemporaryDirectory(prefix="moa-bench-", dir=parent) as work:
        inner = replace(options, work_dir=work)
        for name in sections:
            left = end - time.monotonic()
            if left < _LEAST_SECONDS:
                run.missing.append(Missing(name, "no time was left for it"))
                continue
            report(f"{name} ...")
            limit = min(limit_of(name), left, (limits or {}).get(name, left))
            for result in run_section(name, inner, _context(run), limit):
                _keep(run, result)
                run.save(output)
                report(describe(result))
    run.save(output)
    return run


def _keep(run: Run, result: Row | Missing) -> None:
    if isinstance(result, Missing):
        run.missing.append(result)
    else:
        run.rows.append(result)
        run.ceilings = ceilings.best(run.rows)


def describe(result: Row | Missing) -> str:
    """One line for people."""
    if isinstance(result, Missing):
        return f"  missing: {result.what}: {result.reason}"
    case = ", ".join(f"{k} {v}" for k, v in result.case.items())
    figures = ", ".join(f"{k} {v:.4g}" for k, v in result.figures.items())
    return f"  {result.system}: {case}: {figures}"
