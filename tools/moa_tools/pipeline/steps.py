"""Steps that are not repeated while their inputs and what they made stay the same."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from moa_rt import FormatError, StateError

from moa_tools import strict_json
from moa_tools.files import io_errors, write_atomic
from moa_tools.progress import Reporter

STATE = "steps.json"
_LOCK = ".lock"
_MAX_BYTES = 1 << 24
_CHUNK = 1 << 20
_MAX_SECONDS = 1e9


def file_hash(path: Path) -> str:
    """SHA-256 of a file, or of the names and hashes of all files in a directory."""
    digest = hashlib.sha256()
    if path.is_dir():
        for inner in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{inner.relative_to(path).as_posix()}\0{file_hash(inner)}\n".encode())
        return digest.hexdigest()
    with io_errors(path, "read"), path.open("rb") as file:
        while part := file.read(_CHUNK):
            digest.update(part)
    return digest.hexdigest()


def _is_entry(entry: Any) -> bool:
    """Whether it is what `Steps.run` keeps of a step."""
    if not isinstance(entry, dict) or set(entry) != {"inputs", "outputs", "seconds"}:
        return False
    seconds = entry["seconds"]
    return (
        isinstance(entry["inputs"], str)
        and isinstance(entry["outputs"], str)
        and type(seconds) in (int, float)
        and 0 <= seconds <= _MAX_SECONDS
    )


class Steps:
    """The steps of one output directory; only one process may run them at a time.

    Raises StateError if another does, IoError or ResourceError if the directory cannot be written.
    """

    def __init__(self, place: Path, reporter: Reporter) -> None:
        self._place, self._reporter = place, reporter
        with io_errors(place, "create"):
            place.mkdir(parents=True, exist_ok=True)
        with io_errors(place / _LOCK, "lock"):
            self._lock = os.open(place / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise StateError(f"{place}: locked: another pipeline is writing it") from error
        self._state = self._load()

    def _load(self) -> dict[str, Any]:
        path = self._place / STATE
        if not path.exists():
            return {}
        try:
            state = strict_json.load_object(path, _MAX_BYTES)
        except FormatError:
            state = None
        if state is None or not all(map(_is_entry, state.values())):
            self._reporter.warning(f"{path}: not readable; every step is run again")
            return {}
        return state

    def run(
        self,
        name: str,
        inputs: Mapping[str, Any],
        outputs: Sequence[Path],
        work: Callable[[], None],
    ) -> str:
        """Runs `work`, unless it made these outputs from these inputs before.

        Returns a hash of the outputs, to be an input of later steps.
        """
        key = hashlib.sha256(strict_json.dump(dict(inputs))).hexdigest()
        known = self._state.get(name)
        if known is not None and known["inputs"] == key:
            made = self._hash(outputs)
            if made is not None and made == known["outputs"]:
                self._reporter.info(f"{name}: nothing has changed")
                return made
        self._reporter.info(f"{name}: begins")
        start = time.monotonic()
        work()
        made = self._hash(outputs)
        if made is None:
            raise FormatError(f"{name}: made no {[str(path) for path in outputs]}")
        seconds = round(time.monotonic() - start, 1)
        self._state[name] = {"inputs": key, "outputs": made, "seconds": seconds}
        write_atomic(self._place / STATE, strict_json.dump(self._state))
        self._reporter.info(f"{name}: {seconds:.1f} s")
        return made

    def _hash(self, outputs: Sequence[Path]) -> str | None:
        if not all(path.exists() for path in outputs):
            return None
        return hashlib.sha256("\n".join(map(file_hash, outputs)).encode()).hexdigest()

    def seconds(self) -> dict[str, float]:
        """How long each step took when it last ran."""
        return {name: float(entry["seconds"]) for name, entry in self._state.items()}

    def __enter__(self) -> Steps:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._lock)
