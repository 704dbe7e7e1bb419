"""What the converter needs to know of a checkpoint, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# How a block of values arrives: numpy has no bfloat16, so it travels as uint16 with this label.
F32, F16, BF16 = "F32", "F16", "BF16"
DTYPE_NAMES = {F32: "float32", F16: "float16", BF16: "bfloat16"}
DTYPE_LABELS = {name: label for label, name in DTYPE_NAMES.items()}
STORAGE: dict[str, np.dtype[Any]] = {
    F32: np.dtype("<f4"),
    F16: np.dtype("<f2"),
    BF16: np.dtype("<u2"),
}


@dataclass(frozen=True)
class Rows:
    """Some rows of a tensor: float32, float16 or, for BF16, the upper halves as uint16."""

    label: str
    values: Array


@dataclass(frozen=True)
class SourceTensor:
    """A tensor under its Hugging Face name. `dtype` is as stored: "F32", "BF16", "Q4_1", ..."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[int, int], Rows]  # rows [begin, end) of the first axis
    row_multiple: int = 1  # `begin` and `end` must be multiples of it


@dataclass(frozen=True)
class TokenizerFiles:
    """tokenizer.json (bytes, copied as they are) and tokenizer_config.json."""

    tokenizer: bytes | None
    config: dict[str, Any] = field(default_factory=dict)


class Source(Protocol):
    """An opened checkpoint whose headers have been checked; no weight has been read."""

    @property
    def description(self) -> dict[str, str]:
        """What the manifest records: kind, name, SHA-256 of the headers."""

    @property
    def config(self) -> dict[str, Any]:
        """The model's config in Hugging Face field names."""

    @property
    def tensors(self) -> Mapping[str, SourceTensor]:
        """Every tensor by its Hugging Face name."""

    @property
    def tokenizer(self) -> TokenizerFiles:
        """The tokenizer's files."""

    @property
    def generation_config(self) -> dict[str, Any] | None:
        """generation_config.json, if there is one."""

    @property
    def notes(self) -> list[str]:
        """Things worth a line for the user."""

    def check_unchanged(self) -> None:
        """Raises IoError if a file changed since it was opened."""
