"""`moa-tools eval`: argument handling only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from moa_rt import ArgumentError, ModelConfig, Tokenizer

from moa_tools.evaluate import build
from moa_tools.evaluate.effective import Rules
from moa_tools.evaluate.engines import engine_factory
from moa_tools.evaluate.items import Grid
from moa_tools.evaluate.longbench.suites import Settings
from moa_tools.evaluate.plans import parse_plans
from moa_tools.evaluate.runner import Run, evaluate
from moa_tools.progress import Steps


def _numbers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ArgumentError(f"{option}: got {text!r}, want whole numbers, as 2048,4096") from None


def _given(context: typer.Context) -> frozenset[str]:
    """The options that the command line has."""
    return frozenset(
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) is not None
        and source.name == "COMMANDLINE"
    )


def eval_(
    command: typer.Context,
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    more_plans: Annotated[
        list[str] | None, typer.Argument(metavar="[PLAN...]", help="More plans.")
    ] = None,
    plans: Annotated[
        list[str] | None,
        typer.Option(
            help="FILE, LABEL=FILE, auto:DENSITY (the plan that ships for this model), "
            "uniform:DENSITY or dense; more may follow it."
        ),
    ] = None,
    suite: Annotated[
        str, typer.Option(help=f"Of {', '.join(build.NAMES)}; lines:4 sets the number of facts.")
    ] = "passkey,lines,kv,perplexity",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Directory of the results.")
    ] = None,
    lengths: Annotated[str, typer.Option(help="Token budgets of the retrieval suites.")] = (
        "2048,4096"
    ),
    samples: Annotated[int, typer.Option(help="Questions for each suite and length.")] = 100,
    depths: Annotated[int, typer.Option(help="Slices of the text they are spread over.")] = 10,
    facts: Annotated[int, typer.Option(help="Lines, pairs, needles; 0: as many as fit.")] = 4,
    seed: Annotated[int, typer.Option(help="Of all questions.")] = 0,
    teacher_forced: Annotated[
        bool, typer.Option(help="Retrieval: every gold token must be the likeliest one.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:INDEX.")] = "cpu",
    dtype: Annotated[
        str, typer.Option(help="auto (as stored), bfloat16, float32 (CPU) or float16 (GPU).")
    ] = "auto",
    batch: Annotated[int | None, typer.Option(help="Most sequences at a time.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds; then report what is done and stop.")
    ] = None,
    text: Annotated[
        list[Path] | None, typer.Option(help="perplexity: your text files; may be repeated.")
    ] = None,
    text_length: Annotated[int, typer.Option(help="perplexity: tokens of a text.")] = 4096,
    texts: Annotated[int, typer.Option(help="perplexity: number of texts.")] = 8,
    prompts: Annotated[
        list[Path] | None, typer.Option(help="divergence: your prompts; may be repeated.")
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(help="divergence: prompt and answer.")] = 2048,
    answer_tokens: Annotated[int, typer.Option(help="divergence: of the dense answer.")] = 64,
    mean_span: Annotated[
        int | None, typer.Option(help="effective-context: cache of this many tokens a head.")
    ] = None,
    ladder: Annotated[
        str,
        typer.Option(
            help="effective-context: lengths to try; by default up to the longest of --lengths."
        ),
    ] = "",
    retrieval: Annotated[str, typer.Option(help="effective-context: by which suite.")] = "passkey",
    threshold: Annotated[float, typer.Option(help="effective-context: share of dense.")] = 0.9,
    longbench: Annotated[Path | None, typer.Option(help="longbench: its JSONL files.")] = None,
    lveval: Annotated[Path | None, typer.Option(help="lveval: its JSONL files.")] = None,
    benchmark_prompts: Annotated[
        Path | None, typer.Option(help="longbench, lveval: a dataset2prompt.json.")
    ] = None,
    benchmark_lengths: Annotated[
        Path | None, typer.Option(help="longbench, lveval: a dataset2maxlen.json.")
    ] = None,
    context: Annotated[int, typer.Option(help="longbench, lveval: prompt tokens kept.")] = 3500,
    limit: Annotated[
        int | None, typer.Option(help="longbench, lveval: first items of each file only.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="transformers: check the dense engine against it.")
    ] = None,
    force_plan: Annotated[bool, typer.Option(help="Accept another model's plan.")] = False,
) -> None:
    """Measure what plans keep of the dense model's quality.

    As in `moa-tools eval MODEL --plans a.json auto:0.5 uniform:0.5 --suite passkey,perplexity`. The
    dense plan is always measured too. A run that was cut off goes on where it was.
    """
    config = ModelConfig.load(str(model))
    chosen = parse_plans([*(plans or []), *(more_plans or [])], config, force_plan)
    gpu = device.startswith("cuda")
    names = tuple(part.strip() for part in suite.split(",") if part.strip())
    request = build.Request(
        suites=names,
        lengths=_numbers(lengths, "--lengths"),
        grid=Grid(samples, depths, seed, facts, teacher_forced),
        texts=tuple(text or ()),
        text_length=text_length,
        text_count=texts,
        prompts=tuple(prompts or ()),
        prompt_tokens=prompt_tokens,
        answer_tokens=answer_tokens,
        rules=Rules(retrieval, threshold, mean_span, _numbers(ladder, "--ladder")),
        benchmark=Settings(longbench, lveval, benchmark_prompts, benchmark_lengths, context, limit),
        task_tokens=524288 if gpu else 16384,
    )
    build.check_readers(_given(command), names)
    suites = build.build_suites(request, config, Tokenizer.load(str(model)), chosen)
    name = model.resolve().name
    run = Run(
        model_name=name,
        config=config,
        plans=tuple(chosen),
        suites=suites,
        out=out or Path(f"eval-{name}"),
        device=device,
        dtype=dtype,
        time_limit=time_limit,
    )
    factory = engine_factory(model, device=device, dtype=dtype, batch=batch, threads=threads)
    if reference is not None:
        from moa_tools.evaluate.reference import check_reference

        typer.echo(check_reference(reference, model, run, factory))
    outcome = evaluate(run, factory, Steps("prompts"))
    for missing in outcome.missing:
        typer.echo(f"not done yet: {missing}; run the same command again", err=True)
    typer.echo(str(run.out / "results.md"))
