"""`moa-tools gates`: argument handling only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def gates(
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    calibration: Annotated[Path, typer.Argument(help="Calibration set of `moa-tools calibrate`.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="NAME of NAME.json and NAME.safetensors.")
    ],
    lengths: Annotated[
        list[int] | None,
        typer.Option("--lengths", help="Only this bucket; may be repeated. Default: all."),
    ] = None,
    target: Annotated[
        list[float] | None,
        typer.Option(
            help="Density at which the sweep rests; may be repeated. Default: 0.5 0.25 0.125."
        ),
    ] = None,
    sparsest: Annotated[float, typer.Option(help="Density at which the sweep ends.")] = 0.125,
    steps: Annotated[
        int | None, typer.Option(help="Steps of Adam. Default: 300, on a CPU 60.")
    ] = None,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 0.15,
    batch: Annotated[
        int | None, typer.Option(help="Samples a step. Default: 4, on a CPU 2.")
    ] = None,
    language_weight: Annotated[
        float, typer.Option(help="Weight of text and summaries against answers.")
    ] = 0.2,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:<index>.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    max_samples: Annotated[
        int | None, typer.Option(help="At most this many of each objective and length.")
    ] = None,
    sink: Annotated[
        int, typer.Option(help="Tokens at the start of the text that every head keeps.")
    ] = 16,
    seed: Annotated[int, typer.Option(help="Of the order of the samples.")] = 0,
) -> None:
    """Learn which KV heads need which spans: all compete for a shrinking budget."""
    from moa_tools.gates.options import DEFAULT_TARGETS, GatesOptions
    from moa_tools.gates.run import gates as run
    from moa_tools.progress import Steps

    options = GatesOptions(
        lengths=tuple(lengths or ()),
        device=device,
        dtype=dtype,
        steps=steps,
        batch=batch,
        learning_rate=lr,
        sparsest=sparsest,
        language_weight=language_weight,
        max_samples=max_samples,
        sink=sink,
        seed=seed,
        targets=DEFAULT_TARGETS if target is None else tuple(target),
    )
    report = run(model, calibration, output, options, Steps())
    memory = f", peak {report.peak_bytes / 2**30:.2f} GiB" if report.peak_bytes else ""
    typer.echo(f"{report.seconds_per_step:.2f} s a step{memory}", err=True)
    for curve in report.curves.curves:
        typer.echo(f"{output}: {curve.title}, {len(curve.spans)} spans")
