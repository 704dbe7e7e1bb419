"""Writes a safetensors file whose header is known before the first weight is."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from moa_rt import InternalError

from moa_tools.convert.source import STORAGE, Array
from moa_tools.files import io_errors

# The data section starts at a multiple of this, so that a reader may map it.
ALIGNMENT = 64


@dataclass(frozen=True)
class TensorPlan:
    """A tensor of the file to be: name, label ("BF16", ...) and shape."""

    name: str
    label: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Size of its data."""
        count = 1
        for size in self.shape:
            count *= size
        return count * STORAGE[self.label].itemsize


def make_header(tensors: Sequence[TensorPlan]) -> bytes:
    """The 8-byte length and the JSON header, padded with spaces to ALIGNMENT."""
    entries: dict[str, Any] = {"__metadata__": {"format": "moa_rt"}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.bytes
        entries[tensor.name] = {
            "dtype": tensor.label,
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


class SafetensorsWriter:
    """Takes the tensors' bytes in order and hashes file, header and every tensor on the way."""

    def __init__(self, path: Path, tensors: Sequence[TensorPlan]) -> None:
        self._path = path
        self._tensors = list(tensors)
        self._next = 0
        self._left = self._tensors[0].bytes if self._tensors else 0
        self._tensor_hash = hashlib.sha256()
        self.tensor_sha256: dict[str, str] = {}
        header = make_header(self._tensors)
        self.header_sha256 = hashlib.sha256(header).hexdigest()
        self._file_hash = hashlib.sha256(header)
        self.bytes = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with io_errors(path, "create"):
            self._descriptor = os.open(path, flags, 0o644)
        self._write(header)

    def _write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        with io_errors(self._path, f"write at offset {self.bytes}"):
            while view:
                written = os.write(self._descriptor, view)
                self.bytes += written
                view = view[written:]

    def append(self, values: Array) -> None:
        """The next bytes of the current tensor; a whole tensor makes the next one current."""
        data = values.reshape(-1).view(np.uint8).data
        if self._next >= len(self._tensors) or data.nbytes > self._left:
            raise InternalError(f"{self._path}: more bytes than the header declares")
        self._write(data)
        self._file_hash.update(data)
        self._tensor_hash.update(data)
        self._left -= data.nbytes
        if self._left == 0:
            self.tensor_sha256[self._tensors[self._next].name] = self._tensor_hash.hexdigest()
            self._tensor_hash = hashlib.sha256()
            self._next += 1
            if self._next < len(self._tensors):
                self._left = self._tensors[self._next].bytes

    def finish(self) -> str:
        """Syncs and closes the file; returns its SHA-256."""
        if self._next != len(self._tensors):
            raise InternalError(f"{self._path}: fewer tensors than the header declares")
        with io_errors(self._path, "sync"):
            os.fsync(self._descriptor)
        self.close()
        return self._file_hash.hexdigest()

    def close(self) -> None:
        """Closes the file as it is; safe to call twice."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            with io_errors(self._path, "close"):
                os.close(descriptor)
