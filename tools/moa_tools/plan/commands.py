"""`moa-tools plan ...`: argument handling only."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Annotated

import typer
from moa_rt import ArgumentError, AttentionPlan, MismatchError, ModelConfig

from moa_tools.plan import describe
from moa_tools.plan import reference_import as reference

app = typer.Typer(help="Import, show and compare plans.", no_args_is_help=True)

_Lengths = Annotated[
    list[int] | None, typer.Option("--length", help="Token budget N; may be repeated.")
]


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A plan of thu-nics/MoA: alphas and betas.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Plan file to write.")],
    model: Annotated[
        Path | None, typer.Option(help="Model directory: KV heads and fingerprint.")
    ] = None,
    kv_heads: Annotated[
        int | None, typer.Option(help="KV heads of a layer, without a model at hand.")
    ] = None,
    min_len: Annotated[
        int, typer.Option(help="Shortest token budget the plan is for.")
    ] = reference.DEFAULT_MIN_LENGTH,
    max_len: Annotated[
        int, typer.Option(help="Longest token budget the plan is for.")
    ] = reference.DEFAULT_MAX_LENGTH,
    length: _Lengths = None,
) -> None:
    """Turn a published plan (a rule per query head) into one of ours (a rule per KV head)."""
    if (model is None) == (kv_heads is None):
        raise ArgumentError("plan import: want either --model or --kv-heads")
    config = ModelConfig.load(str(model)) if model is not None else None
    published = reference.load_reference(file)
    if config is not None:
        _check_shape(published, config, file)
        kv_heads = config.num_key_value_heads
    plan = reference.import_plan(published, kv_heads or 0, min_len, max_len)
    if config is not None and model is not None:
        plan.fingerprint = config.fingerprint
        plan.model_name = model.resolve().name
    plan.provenance = {
        "method": "imported by the maximum over each group of query heads",
        "source": f"thu-nics/MoA plan file {file.name}",
        "source_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    plan.save(str(output))
    typer.echo(_cost(published, plan, config, length or describe.default_lengths(plan)))
    typer.echo(f"{output}: {plan.num_layers} layers, {plan.num_kv_heads} KV heads")


def _check_shape(plan: reference.ReferencePlan, config: ModelConfig, file: Path) -> None:
    got = (plan.num_layers, plan.num_heads)
    want = (config.num_hidden_layers, config.num_attention_heads)
    if got != want:
        raise MismatchError(
            f"{file}: plan {got[0]}x{got[1]} vs model {want[0]}x{want[1]} (layers x query heads)"
        )


def _cost(
    published: reference.ReferencePlan,
    plan: AttentionPlan,
    config: ModelConfig | None,
    lengths: list[int],
) -> str:
    """KV memory of one sequence three ways: as published, as imported, dense."""
    expanded = reference.expanded_plan(published, plan.min_length, plan.max_length)
    dense = AttentionPlan.from_rules(
        [[(0, 1.0)] * plan.num_kv_heads] * plan.num_layers,
        min_length=plan.min_length,
        max_length=plan.max_length,
    )

    def size(which: AttentionPlan, n: int) -> int:
        if config is not None:
            return which.cache_bytes(n, "bfloat16", config)
        return sum(head.span for row in which.spans(n) for head in row)

    rows = []
    for n in lengths:
        parts = [size(which, n) for which in (expanded, plan, dense)]
        shares = [f"{part / parts[2]:.3f}" for part in parts[:2]]
        rows.append([n, *parts, *shares])
    unit = "bfloat16 bytes" if config is not None else "slots (tokens x heads)"
    header = ["N", "per query head", "per KV head", "dense", "query/dense", "KV/dense"]
    return f"KV memory of one sequence, {unit}\n" + describe.table(header, rows)


@app.command()
def show(
    plan: Annotated[Path, typer.Argument(help="Plan file.")],
    model: Annotated[Path | None, typer.Option(help="Model directory, for bytes.")] = None,
    length: _Lengths = None,
    heads: Annotated[bool, typer.Option(help="Every head's span, as a heat map.")] = False,
    png: Annotated[Path | None, typer.Option(help="Write the heat map to this file.")] = None,
) -> None:
    """Print a plan's spans, densities, origin and measured quality."""
    loaded = AttentionPlan.load(str(plan))
    config = ModelConfig.load(str(model)) if model is not None else None
    if config is not None:
        loaded.check_model(config)
    lengths = length or describe.default_lengths(loaded)
    if png is not None:
        from moa_tools.plan import plots

        plots.spans_heat_map(loaded, lengths, png)
    typer.echo(describe.show(loaded, config, lengths))
    if heads:
        from moa_tools.plan import terminal

        typer.echo("\n" + terminal.render(loaded, lengths, colour=sys.stdout.isatty()))


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(help="Plan file.")],
    b: Annotated[Path, typer.Argument(help="Plan file.")],
    length: _Lengths = None,
) -> None:
    """Compare two plans; exit status 1 if they differ."""
    left, right = AttentionPlan.load(str(a)), AttentionPlan.load(str(b))
    text = describe.diff(left, right, length or describe.default_lengths(left))
    if text:
        typer.echo(text)
        raise typer.Exit(1)
    typer.echo("the plans are equal")
