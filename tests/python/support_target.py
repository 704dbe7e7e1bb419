"""The device and number type that tests of the engine run on, and how near they must then come.

`pytest tests/python --device=cuda` runs the tests that take the fixture `target` on the GPU, and
those of test_cuda_*.py; `--dtype` picks another type than the device's usual one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Largest difference of a logit from transformers in float32, absolute and as a share of the largest
# logit: bfloat16 has 8 bits, so a rounding costs up to 2^-9, and weights and every operand of a
# product are rounded.
_ABSOLUTE = {"float32": 1e-3, "bfloat16": 0.0, "float16": 0.0}
_RELATIVE = {"float32": 0.0, "bfloat16": 0.04, "float16": 0.01}
DTYPE_OF = {"cpu": "float32", "cuda": "bfloat16"}


@dataclass(frozen=True)
class Target:
    """Where an engine runs."""

    device: str
    dtype: str

    @property
    def options(self) -> dict[str, Any]:
        """For `moa_rt.Engine`."""
        return {"device": self.device, "dtype": self.dtype}

    def allowed(self, want: NDArray[Any]) -> float:
        """How far a logit, or a log-probability of such logits, may lie from its reference."""
        return _ABSOLUTE[self.dtype] + _RELATIVE[self.dtype] * float(np.abs(want).max())

    def close(self, got: NDArray[Any], want: NDArray[Any]) -> bool:
        """Whether logits are as near their reference as this type allows; finite at any rate."""
        assert got.shape == want.shape, (got.shape, want.shape)
        return bool(np.abs(got.astype(np.float64) - want).max() <= self.allowed(want))
