"""Progress of long loops in steps: a bar on a terminal, a line for every quarter anywhere else."""

from __future__ import annotations

from moa_tools.convert.progress import Console, Reporter, Silent

__all__ = ["Reporter", "Silent", "Steps"]


class Steps(Console):
    """Writes to stderr; counts what `unit` says instead of bytes."""

    def __init__(self, unit: str = "steps") -> None:
        super().__init__()
        self._unit = unit

    def start(self, what: str, total: int) -> None:
        """A stage of `total` steps begins."""
        self._what, self._total, self._done, self._quarter = what, total, 0, 0
        if not self._stream.isatty():
            self._line(f"{what}: {total} {self._unit}")
            return
        from rich.console import Console as RichConsole
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        console = RichConsole(file=self._stream)
        self._bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
        self._bar.start()
        self._task = self._bar.add_task(what, total=total)
