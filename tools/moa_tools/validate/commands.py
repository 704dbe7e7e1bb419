"""`moa-tools validate`: argument handling only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def validate(
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    calibration: Annotated[Path, typer.Argument(help="Calibration set of `moa-tools calibrate`.")],
    plans: Annotated[list[Path], typer.Argument(help="Plan files.")],
    report: Annotated[Path, typer.Option("-o", "--output", help="Report to write.")] = Path(
        "validation.json"
    ),
    length: Annotated[
        int | None, typer.Option(help="Token budget; default: the longest of the split.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:<index>.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="auto, bfloat16 or float32.")] = "auto",
    agreement: Annotated[
        bool, typer.Option(help="Also compare greedy answers with the dense model's.")
    ] = True,
    write: Annotated[bool, typer.Option(help="Write the figures into the plan files.")] = True,
) -> None:
    """Measure plans at a length that they were not made at, and choose the best."""
    from moa_tools.progress import Steps
    from moa_tools.validate.report import as_text
    from moa_tools.validate.run import ValidateOptions
    from moa_tools.validate.run import validate as run

    options = ValidateOptions(length, agreement, device, dtype, write)
    found = run(model, calibration, plans, report, options, Steps("samples"))
    typer.echo(as_text(found))
    typer.echo(f"best: {found.chosen.name}")
