"""`moa-tools search`: argument handling only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from moa_rt import ArgumentError, ModelConfig

from moa_tools.search.rules import GRIDS, Grid


def search(
    curves: Annotated[
        list[Path], typer.Argument(help="Cost curves by `profile` or `gates`; several are joined.")
    ],
    model: Annotated[Path, typer.Option(help="Model directory.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory to make.")],
    budget: Annotated[
        float | None, typer.Option(help="Share of the dense KV bytes, at every curve's length.")
    ] = None,
    budget_at: Annotated[
        list[str] | None, typer.Option(help="N=SHARE: the same for one length, profiled or not.")
    ] = None,
    cost_table: Annotated[
        Path | None, typer.Option(help="What a decode step costs, by `moa-tools bench cost`.")
    ] = None,
    budget_ms: Annotated[
        list[str] | None, typer.Option(help="N=MS: milliseconds of a decode step at length N.")
    ] = None,
    solver: Annotated[str, typer.Option(help="cbc or highs.")] = "cbc",
    time_limit: Annotated[float, typer.Option(help="Seconds of one solve.")] = 120.0,
    gap: Annotated[
        float | None, typer.Option(help="Relative gap at which a solve stops (1e-4; large: 1e-3).")
    ] = None,
    rules_per_layer: Annotated[
        int | None, typer.Option(help="Most distinct rules in a layer (the paper: 2).")
    ] = None,
    grid: Annotated[str, typer.Option(help="fine, elastic, relative or absolute.")] = "fine",
    grid_points: Annotated[
        int | None, typer.Option(help="Points of each objective's range for the front.")
    ] = None,
    min_length: Annotated[int | None, typer.Option(help="Shortest N of the plans.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Longest N of the plans.")] = None,
    out_of_range: Annotated[str, typer.Option(help="Beyond these: dense or refuse.")] = "dense",
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier search in OUTPUT.")] = False,
) -> None:
    """Search plans within a budget of KV bytes: a Pareto front over all curves."""
    from moa_tools.search import run
    from moa_tools.search.budgets import Budgets, CostTable
    from moa_tools.search.planner import SearchOptions

    if grid not in GRIDS:
        raise ArgumentError(f"--grid: got {grid[:100]!r}, want one of {', '.join(GRIDS)}")
    chosen: Grid = grid
    options = SearchOptions(
        solver, time_limit, gap, rules_per_layer, chosen, grid_points, min_length, max_length,
        out_of_range,
    )  # fmt: skip
    config = ModelConfig.load(str(model))
    joined = run.load_curves(curves, config)
    density = {c.length: budget for c in joined.curves} if budget is not None else {}
    density.update(_by_length(budget_at, "--budget-at"))
    budgets = Budgets(
        density,
        _by_length(budget_ms, "--budget-ms"),
        CostTable.load(cost_table) if cost_table is not None else None,
    )
    result = run.search_to_directory(joined, config, budgets, options, output, overwrite)
    typer.echo(run.summary(result, output, budgets))


def _by_length(values: list[str] | None, option: str) -> dict[int, float]:
    parsed: dict[int, float] = {}
    for value in values or []:
        length, _, number = value.partition("=")
        try:
            n, amount = int(length), float(number)
        except ValueError as error:
            raise ArgumentError(f"{option}: got {value[:100]!r}, want N=NUMBER") from error
        if n in parsed:
            raise ArgumentError(f"{option}: length {n}: is there twice")
        parsed[n] = amount
    return parsed
