"""`moa-tools profile`: argument handling only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer


def profile(
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    calibration: Annotated[Path, typer.Argument(help="Calibration set of `moa-tools calibrate`.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="NAME of NAME.json and NAME.safetensors.")
    ],
    lengths: Annotated[
        list[int] | None,
        typer.Option("--lengths", help="Only this bucket; may be repeated. Default: all."),
    ] = None,
    form: Annotated[
        str, typer.Option(help="joint: exact to first order; entry: the paper's, key by key.")
    ] = "joint",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:<index>.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    max_samples: Annotated[
        int | None, typer.Option(help="At most this many of each objective and length.")
    ] = None,
) -> None:
    """Measure what each KV head's span is worth: first-order influence on the answers' loss."""
    from moa_tools.profile.influence import Form
    from moa_tools.profile.options import ProfileOptions
    from moa_tools.profile.run import profile as run
    from moa_tools.progress import Steps

    options = ProfileOptions(tuple(lengths or ()), cast("Form", form), device, dtype, max_samples)
    report = run(model, calibration, output, options, Steps("samples"))
    for length, seconds in report.seconds.items():
        peak = report.peak_bytes.get(length)
        memory = f", peak {peak / 2**30:.2f} GiB" if peak is not None else ""
        typer.echo(f"length {length}: {seconds:.2f} s a sample{memory}", err=True)
    for curve in report.curves.curves:
        typer.echo(f"{output}: {curve.title}, {len(curve.spans)} spans")


def profile_cost(
    shape: Annotated[str, typer.Argument(help="Model shape, such as llama-2-7b.")],
    length: Annotated[int, typer.Option(help="Tokens of a sample.")] = 8192,
    answer: Annotated[int, typer.Option(help="Tokens of its answer.")] = 128,
    method: Annotated[
        str, typer.Option(help="influence: of a sample; gates: of a step of its batch.")
    ] = "influence",
    form: Annotated[str, typer.Option(help="Of influence: joint or entry.")] = "joint",
    batch: Annotated[int | None, typer.Option(help="Of gates: samples a step.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:<index>.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
) -> None:
    """Measure seconds and memory that profiling a model of this shape takes (random weights)."""
    from moa_rt import ArgumentError

    from moa_tools.bench.shapes import find

    if method == "influence":
        from moa_tools.profile import measure
        from moa_tools.profile.influence import Form
        from moa_tools.profile.options import ProfileOptions

        options = ProfileOptions(form=cast("Form", form), device=device, dtype=dtype)
        cost = measure.measure(find(shape), length, answer, options)
        name, unit = form, "a sample"
    elif method == "gates":
        from moa_tools.gates import measure as gates_measure
        from moa_tools.gates.options import GatesOptions

        gates = GatesOptions(batch=batch, device=device, dtype=dtype)
        cost = gates_measure.measure(find(shape), length, answer, gates)
        name, unit = "gates", f"a step of {gates.batch_size} samples"
    else:
        raise ArgumentError(f"method: got {method!r}, want influence or gates")
    peak = "" if cost.peak_bytes is None else f", measured {cost.peak_bytes / 2**30:.2f} GiB"
    typer.echo(
        f"{shape}, {length} tokens, {name}, {cost.dtype} on {device}: "
        f"{cost.seconds:.2f} s {unit}; predicted {cost.predicted_bytes / 2**30:.2f} GiB{peak}"
    )
