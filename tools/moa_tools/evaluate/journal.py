"""What has been measured so far, on disk: a run that is cut off goes on where it was.

One JSON object a line, synced: first what the results depend on, then the records of each task.
A line that a crash cut short is dropped. Numbers come back as they were written, so a resumed run
ends in the same bytes. A journal without records binds nobody: its first line is written with the
first record, and without one nothing stays on disk.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from moa_rt import FormatError, MismatchError, StateError

from moa_tools.evaluate.suite import Record
from moa_tools.files import io_errors

NAME = "journal.jsonl"


def _line(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, allow_nan=False).encode("ascii") + b"\n"


def _first_difference(got: Any, want: Any, path: str = "") -> str:
    """Where two JSON values differ, as a path with both values."""
    if isinstance(got, dict) and isinstance(want, dict):
        for key in sorted(got.keys() | want.keys()):
            if got.get(key) != want.get(key):
                return _first_difference(got.get(key), want.get(key), f"{path}.{key}".lstrip("."))
    return f"{path}: got {str(got)[:200]}, want {str(want)[:200]}"


class Journal:
    """Records by scope (a plan and a suite with its settings) and task.

    So plans and suites may be added to a directory, and only what is new is run. Raises
    MismatchError if the file is another model's or device's.
    """

    def __init__(self, directory: Path, identity: dict[str, Any]) -> None:
        self.path = directory / NAME
        self._identity = identity
        self._records: dict[tuple[str, str], list[Record]] = {}
        with io_errors(self.path, "open"):
            # Innermost first: what `close` removes again if nothing came of it.
            self._made = [d for d in (directory, *directory.parents) if not d.exists()]
            directory.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._lock()
            self._load()
        except BaseException:
            os.close(self._file)
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StateError(f"{self.path}: locked: another evaluation writes there") from error
        if os.fstat(self._file).st_nlink == 0:  # removed by the one that had the lock
            raise StateError(f"{self.path}: locked: another evaluation was just leaving")

    def _load(self) -> None:
        with io_errors(self.path, "read"), os.fdopen(os.dup(self._file), "rb") as file:
            data = file.read()
        whole = data.rfind(b"\n") + 1
        lines = data[:whole].split(b"\n")[:-1]
        values = [self._parse(line, number) for number, line in enumerate(lines, 1)]
        if len(values) < 2:  # no record
            whole, values = 0, []
        with io_errors(self.path, "repair"):
            os.ftruncate(self._file, whole)
            os.lseek(self._file, whole, os.SEEK_SET)
        if not values:
            return
        found = values[0].get("identity")
        want = json.loads(_line(self._identity))
        if found != want:
            raise MismatchError(
                f"{self.path}: made by another evaluation: {_first_difference(found, want)}; "
                "choose another --out or remove this one"
            )
        for value in values[1:]:
            self._records[value["scope"], value["task"]] = value["records"]

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            value = json.loads(line)
        except ValueError as error:
            raise FormatError(f"{self.path}: line {number}: {error}") from error
        wanted = {"identity"} if number == 1 else {"scope", "task", "records"}
        if not isinstance(value, dict) or value.keys() != wanted:
            raise FormatError(f"{self.path}: line {number}: want an object of {sorted(wanted)}")
        return value

    def _append(self, line: bytes) -> None:
        with io_errors(self.path, "write"):
            view = memoryview(line)
            while view:
                view = view[os.write(self._file, view) :]
            os.fsync(self._file)

    def get(self, scope: str, task: str) -> list[Record] | None:
        """The records of a task, None if it has not been done."""
        return self._records.get((scope, task))

    def add(self, scope: str, task: str, records: list[Record]) -> list[Record]:
        """Writes a task's records and returns them as they will be read again."""
        line = _line({"records": records, "scope": scope, "task": task})
        self._append(line if self._records else _line({"identity": self._identity}) + line)
        kept: list[Record] = json.loads(_line(records))
        self._records[scope, task] = kept
        return kept

    def close(self) -> None:
        """Releases the file and its lock; an empty journal and directories made for it go."""
        try:
            if os.fstat(self._file).st_size == 0:
                with suppress(OSError):  # of a directory: results were written to it
                    self.path.unlink()
                    for directory in self._made:
                        directory.rmdir()
        finally:
            os.close(self._file)
