"""Messages between the solver's process and ours: npz archives behind their length."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Message = dict[str, NDArray[Any]]


def send(pipe: IO[bytes], arrays: Mapping[str, Any]) -> None:
    """Writes one message."""
    buffer = io.BytesIO()
    packed: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
    np.savez(buffer, **packed)
    data = buffer.getvalue()
    pipe.write(struct.pack("<Q", len(data)) + data)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Message | None:
    """Reads one message; None when the other side is gone."""
    head = pipe.read(8)
    if len(head) < 8:
        return None
    (size,) = struct.unpack("<Q", head)
    data = pipe.read(size)
    if len(data) < size:
        return None
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
