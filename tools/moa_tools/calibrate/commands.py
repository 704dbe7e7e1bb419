"""`moa-tools calibrate`: argument handling only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from moa_rt import ArgumentError


def calibrate(
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    out: Annotated[Path, typer.Argument(help="Directory of the calibration set to make.")],
    more: Annotated[
        list[int] | None, typer.Argument(help="More lengths: --lengths 1024 2048.", hidden=True)
    ] = None,
    lengths: Annotated[
        list[int] | None, typer.Option(help="Token budgets to profile at; default 1024 2048 4096.")
    ] = None,
    validate_lengths: Annotated[
        list[int] | None, typer.Option(help="Token budget to validate at: twice the longest.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Samples of each length and task: 4, on a GPU 12.")
    ] = None,
    source: Annotated[
        list[Path] | None,
        typer.Option(help="Text, JSONL, directory or dataset on disk, in place of Python's text."),
    ] = None,
    field: Annotated[
        str | None, typer.Option(help="Field of the text in JSONL or dataset.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be repeated.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:<index>.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="auto, bfloat16 or float32.")] = "auto",
    seed: Annotated[int, typer.Option(help="Another seed, another set.")] = 0,
    keep_wrong: Annotated[bool, typer.Option(help="Keep answers that miss the truth.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace a set made otherwise.")] = False,
) -> None:
    """Make a calibration set: long prompts and the dense model's own answers."""
    from moa_tools.calibrate.build import calibrate as run
    from moa_tools.calibrate.describe import describe
    from moa_tools.calibrate.exercises import TASKS
    from moa_tools.calibrate.options import DEFAULT_LENGTHS, CalibrateOptions
    from moa_tools.progress import Steps

    if more and not lengths:
        raise ArgumentError(f"got {more} after OUT, want --lengths before them")
    options = CalibrateOptions(
        lengths=tuple(lengths + (more or [])) if lengths else DEFAULT_LENGTHS,
        validate_lengths=tuple(validate_lengths) if validate_lengths else None,
        samples=samples,
        tasks=tuple(task) if task else TASKS,
        sources=tuple(source or ()),
        field=field,
        device=device,
        dtype=dtype,
        seed=seed,
        keep_wrong=keep_wrong,
    )
    made = run(model, out, options, Steps("answers"), overwrite)
    typer.echo(describe(made))
    typer.echo(f"{out}: {len(made.samples)} samples")
