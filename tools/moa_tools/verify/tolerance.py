"""How far a run may lie from its definition: one table, by the type of matrices and caches."""

from __future__ import annotations

from dataclasses import dataclass

from moa_rt import ArgumentError


@dataclass(frozen=True)
class Tolerance:
    """Largest errors allowed.

    Attributes:
        logits: absolute, against the float32 model under the plan's masks.
        attention: of a head's output, in units of the largest value it can be a mean of, against
            the mask applied to the runtime's own queries, keys and values. What float32 sums in
            another order, or probabilities rounded to the type, can make of it: each is off by at
            most half an ulp of itself, 2^-9 in bfloat16 (8 significant bits) and 2^-12 in float16
            (11), and so is their mean of values; half of that again for everything else.
    """

    logits: float
    attention: float


_TABLE = {
    "float32": Tolerance(logits=1e-3, attention=2e-5),
    "bfloat16": Tolerance(logits=1.0, attention=3e-3),
    # Three bits more than bfloat16: an eighth of its errors.
    "float16": Tolerance(logits=0.125, attention=3.75e-4),
}


def tolerance(dtype: str) -> Tolerance:
    """Raises ArgumentError for a type without an entry."""
    if dtype not in _TABLE:
        raise ArgumentError(f"dtype: got {dtype!r}, want one of {', '.join(_TABLE)}")
    return _TABLE[dtype]
