"""`moa-tools verify`: argument handling only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def verify(
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    plan: Annotated[Path | None, typer.Option(help="Plan file. Default: dense.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Text or JSONL file. Default: text that ships with Python.")
    ] = None,
    length: Annotated[
        int, typer.Option(help="Tokens of each prompt, at most what the model takes.")
    ] = 1024,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:<index>, for both sides.")] = "cpu",
    dtype: Annotated[
        str,
        typer.Option(
            help="auto: float32 on a CPU, else as stored; bfloat16, float32 (CPU) or float16 (GPU)."
        ),
    ] = "auto",
) -> None:
    """Replay prompts and name the head, if any, that does not compute what the plan says."""
    from moa_rt import ArgumentError, AttentionPlan, Engine, ModelConfig

    from moa_tools.hf.load import load_model
    from moa_tools.progress import Steps
    from moa_tools.verify.oracle import Oracle
    from moa_tools.verify.prompts import builtin_prompts, file_prompts
    from moa_tools.verify.run import verify as run

    config = ModelConfig.load(str(model))
    if not 2 <= length <= config.max_position_embeddings:
        raise ArgumentError(
            f"--length: got {length}, want 2..{config.max_position_embeddings} for this model"
        )
    loaded = AttentionPlan.load(str(plan)) if plan is not None else AttentionPlan.dense(config)
    if dtype == "auto" and device == "cpu":
        dtype = "float32"
    with Engine(model, loaded, device, dtype, max_batch=1, max_seq_len=length) as engine:
        tokenizer = engine.tokenizer
        texts = (
            builtin_prompts(tokenizer, length)
            if prompts is None
            else file_prompts(tokenizer, prompts, length)
        )
        oracle = Oracle(load_model(model, dtype="float32", device=device)[0])
        report = run(engine, oracle, loaded, texts, Steps("prompts"))
    sizes = ", ".join(str(len(text)) for text in texts)
    typer.echo(f"{len(texts)} prompts of {sizes} tokens on {device} in {engine.options.dtype}")
    typer.echo(report.text())
    if not report.ok:
        raise typer.Exit(1)
