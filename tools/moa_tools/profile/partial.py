"""What an interrupted profile has done: one file of curves for each finished sample."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from moa_rt import ArgumentError, FormatError
from numpy.typing import NDArray

from moa_tools import strict_json
from moa_tools.files import io_errors, read_bounded, write_atomic

_SETTINGS = "settings.json"
_MAX_BYTES = 1 << 28


class PartialCurves:
    """The directory NAME.partial: settings, and float64 arrays by sample id.

    Raises ArgumentError if it was begun with other settings.
    """

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        self.directory = directory
        path = directory / _SETTINGS
        if path.exists():
            begun = strict_json.load_object(path, _MAX_BYTES)
            for name in sorted(set(begun) | set(settings)):
                if begun.get(name) != settings.get(name):
                    raise ArgumentError(
                        f"{directory}: begun with {name} {begun.get(name)!r}, got "
                        f"{settings.get(name)!r}; remove it to start again"
                    )
            return
        with io_errors(directory, "create"):
            directory.mkdir(exist_ok=True)
        write_atomic(path, strict_json.dump(dict(settings)))

    def get(self, sample_id: str, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
        """The curves of a sample, or None. Raises FormatError for a file that is not whole."""
        path = self._path(sample_id)
        if not path.exists():
            return None
        raw = read_bounded(path, _MAX_BYTES)
        values = np.frombuffer(raw[32:], dtype="<f8")
        if hashlib.sha256(raw[32:]).digest() != raw[:32] or values.size != int(np.prod(shape)):
            raise FormatError(f"{path}: got {len(raw)} bytes, want {shape} float64 and their hash")
        return values.reshape(shape)

    def put(self, sample_id: str, curves: NDArray[np.float64]) -> None:
        """Keeps the curves of a sample."""
        raw = np.ascontiguousarray(curves, dtype="<f8").tobytes()
        write_atomic(self._path(sample_id), hashlib.sha256(raw).digest() + raw)

    def remove(self) -> None:
        """Once the result is written."""
        with io_errors(self.directory, "remove"):
            shutil.rmtree(self.directory)

    def _path(self, sample_id: str) -> Path:
        return self.directory / (hashlib.sha256(sample_id.encode("utf-8")).hexdigest() + ".curves")
