"""`moa-tools pipeline`: argument handling only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pipeline(
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    out: Annotated[Path, typer.Argument(help="Directory for plans, report and plots.")],
    more: Annotated[
        list[str] | None, typer.Argument(help="More of --budget or --lengths.", hidden=True)
    ] = None,
    budget: Annotated[
        list[float] | None,
        typer.Option(help="Shares of the dense KV bytes: --budget 0.5 0.25 (the default)."),
    ] = None,
    lengths: Annotated[
        list[int] | None,
        typer.Option(help="Token budgets to profile at; 1024 2048, on a GPU 2048 4096."),
    ] = None,
    validate_length: Annotated[
        int | None,
        typer.Option(help="Token budget to validate at, not of --lengths: twice the longest."),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            help="Longest token budget that the plans are for, from the validated one on."
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="gates or influence (the paper's).")] = "gates",
    steps: Annotated[
        int | None, typer.Option(help="Steps of the gates' training, from 2: 40, on a GPU 300.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Samples of each length and task: 4, on a GPU 12.")
    ] = None,
    source: Annotated[
        list[Path] | None, typer.Option(help="Your own text, in place of Python's.")
    ] = None,
    field: Annotated[
        str | None, typer.Option(help="Field of the text in --source: JSONL or dataset.")
    ] = None,
    plans: Annotated[
        int | None, typer.Option(help="Plans of each budget to validate: 2, on a GPU 4.")
    ] = None,
    refine: Annotated[
        bool, typer.Option(help="Also refine searched plans by their true loss; for GPUs.")
    ] = False,
    agreement: Annotated[
        bool, typer.Option(help="Also compare greedy answers with the dense model's.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:<index>.")] = "cpu",
    solver: Annotated[str, typer.Option(help="cbc or highs.")] = "cbc",
    seed: Annotated[int, typer.Option(help="Of the calibration set.")] = 0,
) -> None:
    """Make plans for a model: calibrate, measure, search, validate. Goes on where it was."""
    from moa_tools.pipeline.options import (
        DEFAULT_BUDGETS,
        PipelineOptions,
        as_method,
        sort_numbers,
    )
    from moa_tools.pipeline.report import as_text
    from moa_tools.pipeline.run import pipeline as run
    from moa_tools.progress import Steps

    budgets, more_lengths = sort_numbers(more or [], budget or [], lengths or [])
    options = PipelineOptions(
        budgets=budgets or DEFAULT_BUDGETS,
        lengths=more_lengths or None,
        validate_length=validate_length,
        max_length=max_length,
        method=as_method(method),
        steps=steps,
        samples=samples,
        sources=tuple(source or ()),
        field=field,
        device=device,
        seed=seed,
        solver=solver,
        plans=plans,
        refine=refine,
        agreement=agreement,
    )
    typer.echo(as_text(run(model, out, options, Steps("samples"))))
    typer.echo(f"{out}: report.json, plans and plots")
