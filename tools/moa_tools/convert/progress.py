"""What a conversion tells the user: a bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
from typing import Any, Protocol, TextIO


class Reporter(Protocol):
    """Receives messages and progress in bytes."""

    def info(self, text: str) -> None:
        """A fact."""

    def warning(self, text: str) -> None:
        """Something the user should look at."""

    def start(self, what: str, total: int) -> None:
        """A stage of `total` bytes begins."""

    def advance(self, count: int) -> None:
        """`count` more bytes are done."""

    def stop(self) -> None:
        """The stage is over, well or not."""


class Silent:
    """Keeps the warnings and says nothing."""

    def __init__(self) -> None:
        self.infos: list[str] = []
        self.warnings: list[str] = []

    def info(self, text: str) -> None:
        """A fact."""
        self.infos.append(text)

    def warning(self, text: str) -> None:
        """Something to look at."""
        self.warnings.append(text)

    def start(self, what: str, total: int) -> None:
        """A stage begins."""

    def advance(self, count: int) -> None:
        """More bytes are done."""

    def stop(self) -> None:
        """The stage is over."""


class Console:
    """Writes to stderr: a rich bar on a terminal, else a line for every quarter."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bar: Any = None
        self._task: Any = None
        self._what, self._total, self._done, self._quarter = "", 0, 0, 0

    def _line(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def info(self, text: str) -> None:
        """A fact."""
        self._line(text)

    def warning(self, text: str) -> None:
        """Something to look at."""
        self._line(f"warning: {text}")

    def start(self, what: str, total: int) -> None:
        """A stage begins."""
        self._what, self._total, self._done, self._quarter = what, total, 0, 0
        if not self._stream.isatty():
            self._line(f"{what}: {total / 1e6:.0f} MB")
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        console = RichConsole(file=self._stream)
        self._bar = Progress(*columns, TimeElapsedColumn(), console=console)
        self._bar.start()
        self._task = self._bar.add_task(what, total=total)

    def advance(self, count: int) -> None:
        """More bytes are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)
            return
        quarter = 4 * self._done // max(self._total, 1)
        if quarter > self._quarter:
            self._quarter = quarter
            self._line(f"{self._what}: {25 * quarter} %")

    def stop(self) -> None:
        """The stage is over."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
