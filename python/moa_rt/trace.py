"""What the layers of an engine computed, for finding where a run leaves its definition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, eq=False)
class Trace:
    """One pass over T tokens, float32; L kept layers, the first being `first_layer`.

    Attributes:
        query: after RoPE, (L, T, Hq, D).
        key: after RoPE, (L, T, Hkv, D).
        value: (L, T, Hkv, D).
        attention: what the heads gave, before the output matrix, (L, T, Hq, D).
        logits: of the positions asked for, (positions, vocab_size).
    """

    first_layer: int
    query: Floats
    key: Floats
    value: Floats
    attention: Floats
    logits: Floats


def make_trace(
    first_layer: int, qkv: Floats, attention: Floats, logits: Floats, kv_heads: int
) -> Trace:
    """Cuts `qkv` (L, T, Hq + 2 Hkv, D) apart; nothing is copied."""
    heads = attention.shape[2]
    return Trace(
        first_layer,
        qkv[:, :, :heads],
        qkv[:, :, heads : heads + kv_heads],
        qkv[:, :, heads + kv_heads :],
        attention,
        logits,
    )
