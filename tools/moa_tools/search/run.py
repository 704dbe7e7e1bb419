"""A search with files around it: curves in, a directory of plans out."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from moa_rt import ArgumentError, MismatchError, ModelConfig

from moa_tools import strict_json
from moa_tools.convert.transaction import MANIFEST, OutputDirectory, check_target
from moa_tools.plan.describe import table
from moa_tools.profile.cost_curves import CostCurves
from moa_tools.search import pareto
from moa_tools.search.budgets import Budgets
from moa_tools.search.planner import SearchOptions, SearchResult, search

FORMAT = "moa_rt.search"


def load_curves(files: Sequence[Path], config: ModelConfig) -> CostCurves:
    """The curves of all files as one set. Raises MismatchError if they do not go together."""
    loaded = [CostCurves.load(file, config) for file in files]
    first = loaded[0]
    for file, other in zip(files[1:], loaded[1:], strict=True):
        if other.sink_size != first.sink_size:
            raise MismatchError(
                f"{file}: sink_size: got {other.sink_size}, {files[0]} has {first.sink_size}"
            )
    methods = list(dict.fromkeys(curves.method for curves in loaded))
    try:
        return dataclasses.replace(
            first,
            method="+".join(methods),
            curves=tuple(curve for curves in loaded for curve in curves.curves),
        )
    except ArgumentError as error:
        raise MismatchError(f"{', '.join(str(f) for f in files)}: {error}") from error


@contextmanager
def progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar over solves on stderr; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("search", total=total)
        yield lambda: bar.advance(task)


def plan_name(index: int) -> str:
    """File name of a plan of the front."""
    return f"plan-{index:02d}.json"


def search_to_directory(
    curves: CostCurves,
    config: ModelConfig,
    budgets: Budgets,
    options: SearchOptions,
    output: Path,
    overwrite: bool = False,
) -> SearchResult:
    """Searches and writes plan-00.json, ... and manifest.json: the directory whole or not at all.

    Equal inputs give equal bytes. Raises what `search` does, and ArgumentError if `output` exists.
    """
    check_target(output, [])
    count = len(curves.curves)
    with OutputDirectory(output, overwrite) as directory:
        total = pareto.number_of_solves(count, options.grid_points) + (count > 1)
        with progress(total) as step:
            result = search(curves, config, budgets, options, step=step)
        for index, plan in enumerate(result.plans):
            directory.write(plan_name(index), plan.to_json().encode("utf-8"))
        directory.write(MANIFEST, _manifest(result, curves, budgets))
        directory.commit()
    return result


def _manifest(result: SearchResult, curves: CostCurves, budgets: Budgets) -> bytes:
    plans = [
        {
            "file": plan_name(index),
            "objectives": dict(objectives),
            "optimal": result.optimal[index],
            "gap": result.gaps[index],
            "density": {str(n): plan.density(n) for n in budgets.lengths},
        }
        for index, (plan, objectives) in enumerate(
            zip(result.plans, result.objectives, strict=True)
        )
    ]
    return strict_json.dump(
        {
            "format": FORMAT,
            "version": 1,
            "fingerprint": curves.fingerprint,
            "curves_sha256": curves.sha256(),
            "budgets": budgets.describe(),
            "balanced": plan_name(result.balanced),
            "solves": result.solves,
            "timed_out": result.timed_out,
            "plans": plans,
        }
    )


def summary(result: SearchResult, output: Path, budgets: Budgets) -> str:
    """The front as a table; a warning for each plan that is not proven (E16)."""
    names = list(result.objectives[0])
    rows = []
    for index, (plan, values) in enumerate(zip(result.plans, result.objectives, strict=True)):
        mark = "*" if index == result.balanced else ""
        densities = [f"{plan.density(n):.4f}" for n in budgets.lengths]
        objectives = [f"{values[name]:.4g}" for name in names]
        gap = f"{100 * result.gaps[index]:.2f} %"
        rows.append([plan_name(index) + mark, *objectives, *densities, gap])
    header = ["plan", *names, *(f"density@{n}" for n in budgets.lengths), "gap"]
    lines = [table(header, rows)]
    lines.append(f"{output}: {len(result.plans)} plans by {result.solves} solves; * balanced")
    unproven = [plan_name(i) for i, optimal in enumerate(result.optimal) if not optimal]
    if unproven:
        lines.append(f"warning: not proven within the gap asked for: {', '.join(unproven)}")
    return "\n".join(lines)
