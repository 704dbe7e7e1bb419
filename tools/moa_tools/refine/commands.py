"""`moa-tools refine`: argument handling only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def refine(
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    calibration: Annotated[Path, typer.Argument(help="Calibration set of `moa-tools calibrate`.")],
    plans: Annotated[list[Path], typer.Argument(help="Plans to start from: the best one is.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Plan file to write.")],
    density: Annotated[
        float | None,
        typer.Option(help="Share of the dense KV bytes. Default: what the first plan says."),
    ] = None,
    lengths: Annotated[
        list[int] | None,
        typer.Option("--lengths", help="Only this bucket; may be repeated. Default: all."),
    ] = None,
    budget_at: Annotated[
        list[int] | None,
        typer.Option(help="The density holds at this length as well; may be repeated."),
    ] = None,
    max_samples: Annotated[
        int | None, typer.Option(help="At most this many of each task and length.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="How often all heads are tried alone anew.")] = 2,
    rounds: Annotated[int, typer.Option(help="Of moves in an epoch, at most.")] = 10,
    alone: Annotated[int, typer.Option(help="Heads moved alone in an epoch, at most.")] = 256,
    text_weight: Annotated[
        float, typer.Option(help="Weight of a nat of text up to the uniform plan's loss.")
    ] = 0.5,
    beyond_weight: Annotated[float, typer.Option(help="The same beyond it.")] = 2.0,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a batch. Default: 32768, on a CPU 4096.")
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds after which nothing more is measured.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:<index>.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    solver: Annotated[str, typer.Option(help="cbc or highs.")] = "cbc",
) -> None:
    """Make a plan better by its true loss, with the same bytes."""
    from moa_tools.progress import Steps
    from moa_tools.refine.options import RefineOptions
    from moa_tools.refine.run import refine as run

    options = RefineOptions(
        density=density,
        lengths=tuple(lengths or ()),
        budget_lengths=tuple(budget_at or ()),
        max_samples=max_samples,
        device=device,
        dtype=dtype,
        epochs=epochs,
        rounds=rounds,
        alone=alone,
        text_weight=text_weight,
        beyond_weight=beyond_weight,
        batch_tokens=batch_tokens,
        seconds=time_limit,
        solver=solver,
    )
    report = run(model, calibration, plans, output, options, Steps("plans"))
    typer.echo(
        f"{output}: {report.steps} steps from {report.start}: {report.before.value:.4f} to "
        f"{report.after.value:.4f}"
    )
