"""Running the command moa-rt, and the model it is tested with."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "smollm2-135m-instruct"
BINARY = Path(sys.executable).parent / "moa-rt"
TIMEOUT = 300.0


def moa_rt(*arguments: str | Path, text: str | bytes = "") -> subprocess.CompletedProcess[str]:
    """Runs moa-rt to its end; `text` is its standard input."""
    done = subprocess.run(
        [BINARY, *arguments],
        input=text.encode() if isinstance(text, str) else text,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def generate(*arguments: str | Path, text: str | bytes = "") -> subprocess.CompletedProcess[str]:
    """`moa-rt generate` with short sequences, so that it starts fast."""
    common = ("--model", MODEL, "--max-seq-len", "512")
    return moa_rt("generate", *common, *arguments, text=text)


def json_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON object a successful command printed."""
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


def fails(done: subprocess.CompletedProcess[str], status: int, name: str, *words: str) -> bool:
    """Whether the command failed as it should: status, class, words, one line, no text out."""
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    first = done.stderr.splitlines()[0]
    assert first.startswith(f"moa_rt: error[{name}]: "), done.stderr
    assert done.stdout == ""
    for word in words:
        assert word in first, f"{word!r} is not in {first!r}"
    return True


def copy_model(target: Path) -> Path:
    """A copy of the model to spoil; the weights are linked until a test replaces them."""
    target.mkdir()
    for path in MODEL.iterdir():
        if path.suffix == ".safetensors":
            (target / path.name).symlink_to(path)
        else:
            shutil.copyfile(path, target / path.name)
    return target


class Running:
    """A moa-rt that is still at work, to be watched and interrupted."""

    def __init__(self, *arguments: str | Path) -> None:
        self.process = subprocess.Popen(
            [BINARY, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def wait_for_output(self, count: int = 1) -> str:
        """Waits until `count` bytes or more of standard output have come."""
        assert self.process.stdout is not None
        out = b""
        while len(out) < count:
            block = os.read(self.process.stdout.fileno(), 4096)
            assert block, "the command ended without output"
            out += block
        return out.decode(errors="replace")

    def wait_for_note(self, text: str) -> str:
        """Waits for a line of standard error that holds `text`."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if text in line.decode():
                return line.decode()
        raise AssertionError(f"the command ended without saying {text!r}")

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def end(self) -> tuple[int, str, str, float]:
        """Status, the rest of both outputs, and the seconds that it took to end."""
        start = time.monotonic()
        out, err = self.process.communicate(timeout=TIMEOUT)
        seconds = time.monotonic() - start
        return self.process.returncode, out.decode(errors="replace"), err.decode(), seconds
