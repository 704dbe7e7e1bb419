"""What is physically there: bytes, operations, and the time they need at a measured ceiling.

A decode step reads every weight once for the whole batch, and of each sequence the keys and values
that its heads keep. Nothing that computes the same can be faster than those bytes at the device's
read bandwidth; the *share of the roofline* is that time over the measured one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

from moa_rt import ArgumentError, AttentionPlan, HeadSpan, ModelConfig, _core, filled_slots

ELEMENT_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_EMBEDDING = "model.embed_tokens.weight"


def element_bytes(dtype: str) -> int:
    """Bytes of one element of `dtype`."""
    if dtype not in ELEMENT_BYTES:
        raise ArgumentError(f"dtype: got {dtype!r}, want one of {sorted(ELEMENT_BYTES)}")
    return ELEMENT_BYTES[dtype]


def _count(shape: Iterable[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def step_weight_bytes(config: ModelConfig, dtype: str) -> int:
    """Bytes of weights that one decode step reads: all of them but a separate embedding table.

    Of an embedding only one row for each sequence is read; where it is tied to the output it is
    read as the output's matrix. Vectors (norms, biases) are float32 in the runtime.
    """
    total = 0
    for spec in _core.weight_manifest(config):
        if spec.name == _EMBEDDING and not config.tie_word_embeddings:
            continue
        size = element_bytes(dtype) if len(spec.shape) > 1 else 4
        total += _count(spec.shape) * size
    return total


def kept_slots(plan: AttentionPlan, budget: int, length: int) -> int:
    """Filled slots of one sequence of `length` tokens, over all layers and KV heads."""
    return sum(filled_slots(head, length) for layer in plan.spans(budget) for head in layer)


def step_cache_bytes(
    plan: AttentionPlan, config: ModelConfig, dtype: str, budget: int, lengths: Sequence[int]
) -> int:
    """Bytes of keys and values that one decode step reads; `lengths` has one entry a sequence."""
    slots = sum(n * kept_slots(plan, budget, length) for length, n in Counter(lengths).items())
    return slots * 2 * config.head_dim * element_bytes(dtype)


def seconds_at(amount: float, rate: float) -> float:
    """The least time for `amount` (bytes, operations) at `rate` of them a second."""
    if not rate > 0.0:
        raise ArgumentError(f"ceiling: got {rate}, want above 0")
    return amount / rate


def share(amount: float, seconds: float, rate: float) -> float:
    """Share of the roofline: the least time over the measured one; 1 is the limit."""
    return seconds_at(amount, rate) / seconds


def largest_batch(free_bytes: int, fixed_bytes: int, sequence_bytes: int) -> int:
    """Sequences that fit beside what is fixed; 0 if not even one."""
    if sequence_bytes <= 0:
        raise ArgumentError(f"sequence_bytes: got {sequence_bytes}, want above 0")
    return max(0, (free_bytes - fixed_bytes) // sequence_bytes)


@lru_cache(maxsize=4096)
def _pairs(sink: int, window: int, tokens: int) -> int:
    head = HeadSpan(sink, window)
    span = head.span
    if tokens <= span:
        return tokens * (tokens + 1) // 2
    # A query sees as many keys as slots are filled once it is there; that stops at the span.
    return span * (span + 1) // 2 + (tokens - span) * filled_slots(head, tokens)


def visible_pairs(spans: Iterable[HeadSpan], tokens: int, group: int = 1) -> int:
    """(query, key) pairs of a prompt of `tokens` that some query head may see.

    `group` query heads share each KV head.
    """
    return group * sum(_pairs(head.sink, head.window, tokens) for head in spans)


def attention_flops(pairs: int, head_dim: int) -> int:
    """Operations of two products over the visible pairs, a multiply and an add each."""
    return 4 * head_dim * pairs
