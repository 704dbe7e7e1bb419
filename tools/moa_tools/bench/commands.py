"""`moa-tools bench ...`: argument handling only."""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from moa_rt import ArgumentError

app = typer.Typer(help="Speed and memory beside the peers at hand.", no_args_is_help=True)

_Output = Annotated[Path, typer.Option("-o", "--output", help="Run file (JSON) to write.")]
_Only = Annotated[
    list[str] | None,
    typer.Option("--only", help="Section, or what its name begins with; may be repeated."),
]
_Commit = Annotated[
    str | None, typer.Option(help="Commit to record where the tools are no checkout.")
]


def _command() -> str:
    """The command line with names for absolute paths: where things lie is nobody's business."""
    words = ["moa-tools"]
    for word in sys.argv[1:]:
        option, equals, path = word.rpartition("=")
        words.append(option + equals + Path(path).name if path.startswith("/") else word)
    return shlex.join(words)


def _report(text: str) -> None:
    typer.echo(text, err=True)


def _pairs(values: list[str] | None) -> tuple[tuple[str, str], ...]:
    pairs = []
    for value in values or []:
        name, equals, path = value.partition("=")
        if not equals or not path:
            raise ArgumentError(f"--plans: got {value!r}, want SHAPE=FILE")
        pairs.append((name, path))
    return tuple(pairs)


def _limits(values: list[str] | None, sections: list[str]) -> dict[str, float]:
    limits = {}
    for value in values or []:
        name, _, text = value.partition("=")
        if name not in sections or not text.isdigit() or int(text) < 1:
            raise ArgumentError(f"--limit: got {value!r}, want SECTION=SECONDS")
        limits[name] = float(text)
    return limits


@app.command()
def gpu(
    output: _Output,
    bench_dir: Annotated[
        Path | None, typer.Option(help="Build directory with the C++ benchmarks, for kernels.")
    ] = None,
    plans: Annotated[
        list[str] | None, typer.Option(help="Published plan as SHAPE=FILE; may be repeated.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Shape of random weights; may be repeated.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option(help="3k+1k, 6k+2k or 12k+4k; may be repeated.")
    ] = None,
    engine_plan: Annotated[
        list[str] | None, typer.Option(help="Plan to run end to end; may be repeated.")
    ] = None,
    only: _Only = None,
    steps: Annotated[int, typer.Option(help="Decode steps; the first 16 are dropped.")] = 128,
    seconds: Annotated[float, typer.Option(help="Time for the whole run.")] = float("inf"),
    limit: Annotated[
        list[str] | None, typer.Option(help="SECTION=SECONDS; may be repeated.")
    ] = None,
    work_dir: Annotated[
        Path | None, typer.Option(help="Where random weights go for the time of the run.")
    ] = None,
    weights_dir: Annotated[
        Path | None, typer.Option(help="Where random weights stay for other runs.")
    ] = None,
    device: Annotated[str, typer.Option(help="cuda or cuda:<index>; cpu is a dry run.")] = "cuda",
    quick: Annotated[bool, typer.Option(help="About a minute: fewer cases.")] = False,
    resume: Annotated[bool, typer.Option(help="Add to the run that the file holds.")] = False,
    commit: _Commit = None,
) -> None:
    """Ceilings, our kernels and engine, and the peers, in one run on one GPU."""
    from moa_tools.bench import gpu as runner
    from moa_tools.bench.options import PLANS, GpuOptions
    from moa_tools.bench.table import render

    default = GpuOptions()
    options = GpuOptions(
        device=device,
        models=tuple(model or default.models),
        settings=tuple(setting or default.settings[: 1 if quick else None]),
        engine_plans=tuple(engine_plan or PLANS),
        plans=_pairs(plans),
        bench_dir=str(bench_dir.absolute()) if bench_dir else "",
        work_dir=str(work_dir.absolute()) if work_dir else tempfile.gettempdir(),
        weights_dir=str(weights_dir.absolute()) if weights_dir else "",
        steps=min(steps, 48) if quick else steps,
        quick=quick,
    )
    options.published()  # a bad file is told before anything runs
    sections = runner.choose(options, only or ())
    runner.check_device(device)
    run = runner.run_all(
        options,
        sections,
        output,
        _report,
        command=_command(),
        commit=commit,
        seconds=seconds,
        resume=resume,
        limits=_limits(limit, runner.choose(options, ())),
    )
    typer.echo(render(run))


@app.command()
def cpu(
    model: Annotated[Path, typer.Argument(help="Model directory of `moa-tools convert`.")],
    output: _Output,
    tokens: Annotated[
        list[int] | None, typer.Option(help="Prompt length; may be repeated: 512 and 4096.")
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option(help="Peer to run; may be repeated. All by default.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of every contender; 0: all cores.")] = 0,
    steps: Annotated[int, typer.Option(help="Tokens after the prompt.")] = 64,
    repeats: Annotated[int, typer.Option(help="Repetitions of every contender.")] = 7,
    quick: Annotated[bool, typer.Option(help="About a minute: 512 tokens, 3 repeats.")] = False,
) -> None:
    """Our engine beside transformers and llama.cpp on this machine's processors."""
    from moa_tools.bench import cpu as runner
    from moa_tools.bench.table import render

    default = (512,) if quick else (512, 4096)
    options = runner.CpuOptions(
        model_dir=model,
        tokens=tuple(tokens or default),
        densities=(1.0, 0.5) if quick else (1.0, 0.5, 0.25),
        steps=min(steps, 16) if quick else steps,
        repeats=min(repeats, 3) if quick else repeats,
        threads=threads,
        peers=tuple(peer) if peer else None,
    )
    typer.echo(render(runner.run_all(options, output, _report, _command())))


@app.command()
def cost(
    model: Annotated[Path, typer.Argument(help="Model directory of `moa-tools convert`.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Cost file (JSON) to write.")],
    length: Annotated[
        list[int] | None, typer.Option(help="Tokens of a sequence; may be repeated.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:<index>.")] = "cpu",
    batch: Annotated[int, typer.Option(help="Sequences at the same time.")] = 1,
    steps: Annotated[int, typer.Option(help="Decode steps of each measurement.")] = 64,
    threads: Annotated[int | None, typer.Option(help="Threads; all cores by default.")] = None,
) -> None:
    """Milliseconds of a decode step by kept tokens, for `moa-tools search`."""
    from moa_tools.bench import cost as costs
    from moa_tools.files import write_atomic

    points = []
    for point in costs.measure(model, length or [1024, 4096], device, batch, steps, threads):
        _report(f"  {point.length} tokens, density {point.density:g}: {point.ms:.3f} ms")
        points.append(point)
    made = costs.build(model, points, device, batch)
    write_atomic(output, made.to_bytes())
    typer.echo(
        f"{output}: {made.base:.3f} ms and {made.per_kept_token_per_head * 1e6:.3f} ms for a "
        f"million kept tokens, off by at most {made.worst_error:.1%}"
    )


@app.command()
def table(
    run: Annotated[Path, typer.Argument(help="Run file of bench gpu or bench cpu.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Markdown file, instead of the screen.")
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Also draw this plot.")] = None,
) -> None:
    """Make the Markdown tables, and a plot, of a run."""
    from moa_tools.bench.record import load
    from moa_tools.bench.table import render
    from moa_tools.files import write_atomic

    loaded = load(run)
    text = render(loaded)
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_atomic(output, text.encode("utf-8"))
    if png is not None:
        from moa_tools.bench.plot import draw

        draw(loaded, png)
