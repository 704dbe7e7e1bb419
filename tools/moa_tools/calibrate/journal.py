"""What an interrupted run has found already: one JSON line for every batch that was finished."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from moa_rt import FormatError, StateError

from moa_tools import strict_json
from moa_tools.files import io_errors

JOURNAL = "journal.jsonl"


def key_of(value: Mapping[str, Any]) -> str:
    """A hash of what the answers depend on."""
    return hashlib.sha256(strict_json.dump(dict(value))).hexdigest()


class Journal:
    """Lists of numbers (ids of an answer, losses of a sample) by name, on disk while a run lasts.

    The file begins with the run's key: one of another run is begun anew. A last line that was cut
    off is dropped. Raises StateError if another process has it open, IoError or ResourceError.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._found: dict[str, list[Any]] = {}
        with io_errors(path, "open"):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StateError(f"{path}: locked: another run is writing it") from error
            self._recover(key)
        except BaseException:
            os.close(self._descriptor)
            raise

    def _recover(self, key: str) -> None:
        with io_errors(self._path, "read"):
            data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.splitlines()
        good = 0
        if lines and self._parse(lines[0]).get("key") == key:
            good = len(lines[0]) + 1
            for line in lines[1:]:
                entry = self._parse(line)
                if not entry:
                    break
                self._found.update(entry)
                good += len(line) + 1
        with io_errors(self._path, "write"):
            os.ftruncate(self._descriptor, good)
            os.lseek(self._descriptor, good, os.SEEK_SET)
        if good == 0:
            self._append({"key": key})

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            value = strict_json.parse(line, str(self._path))
        except FormatError:
            return {}
        return value if isinstance(value, dict) else {}

    def _append(self, entry: Mapping[str, Any]) -> None:
        view = memoryview(strict_json.dump(dict(entry), compact=True))
        with io_errors(self._path, f"write {len(view)} bytes"):
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fsync(self._descriptor)

    def __len__(self) -> int:
        return len(self._found)

    def get(self, name: str) -> list[Any] | None:
        """What was found for a name, None if nothing was yet."""
        return self._found.get(name)

    def add(self, names: Sequence[str], values: Sequence[Sequence[float]]) -> None:
        """Keeps what a batch gave; it is on disk when this returns."""
        entry = {name: list(value) for name, value in zip(names, values, strict=True)}
        self._append(entry)
        self._found.update(entry)

    def remove(self) -> None:
        """The run is over and what it made is written."""
        with io_errors(self._path, "remove"):
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)
