"""Running conversions, fast or slowed down, and looking at what they leave."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from moa_tools.convert.pipeline import ConvertOptions, convert
from moa_tools.convert.progress import Silent

# The converter, slowed down so that a signal meets it at work.
SLOW = """
import sys, time
from moa_tools import cli
from moa_tools.convert import numeric
add = numeric.Scan.add
def slow(self, rows):
    time.sleep(0.03)
    add(self, rows)
numeric.Scan.add = slow
sys.exit(cli.main(["convert", *sys.argv[1:]]))
"""


def run(source: Path, out: Path, **options: Any) -> Path:
    return convert(str(source), out, ConvertOptions(**options), Silent()).path


def slow(source: Path, out: Path, *arguments: str) -> subprocess.Popen[str]:
    """Starts a slow conversion and waits until it is writing weights."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(source), str(out), *arguments],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(out.parent.glob(f".{out.name}.moa-convert-*/model.safetensors")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return process


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())
