"""What tests of the engine share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from moa_rt import Engine

IDS = [5, 6, 7, 8, 9, 10]


def greedy(engine: Engine, prompt: Any = IDS, count: int = 8) -> list[int]:
    """A greedy answer of exactly `count` tokens."""
    ids: list[int] = engine.generate(prompt, max_new_tokens=count, ignore_eos=True).token_ids
    return ids


def run(code: str, *arguments: str | Path, timeout: float = 60.0) -> str:
    """Runs a Python program that must end well and say nothing on stderr; what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), (done.returncode, done.stdout, done.stderr)
    return done.stdout
