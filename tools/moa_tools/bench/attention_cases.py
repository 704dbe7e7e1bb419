"""Cases of one attention layer: shapes and spans, the same for our kernels and for every peer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moa_rt import AttentionPlan, HeadSpan

from moa_tools.bench.roofline import attention_flops, visible_pairs
from moa_tools.plan.reference_import import (
    DEFAULT_MAX_LENGTH,
    DEFAULT_MIN_LENGTH,
    import_plan,
    load_reference,
)

SINK = 64
HEAD_DIM = 128
# Eighths of the tokens that a head keeps, repeated over the heads; as in cuda/bench. Two thirds of
# a published plan's heads are near the ends of the range.
MIXED_EIGHTHS = {0.5: (1, 7, 1, 6, 7, 1, 7, 2), 0.25: (1, 1, 1, 1, 1, 5, 1, 5)}


@dataclass(frozen=True)
class AttentionCase:
    """A layer with `tokens` in every sequence; spans[kv_head]."""

    model: str
    plan: str
    query_heads: int
    kv_heads: int
    tokens: int
    batch: int
    spans: tuple[HeadSpan, ...]
    head_dim: int = HEAD_DIM

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.query_heads // self.kv_heads

    @property
    def dense(self) -> bool:
        """Whether every head sees all tokens."""
        return all(head.span >= self.tokens for head in self.spans)

    @property
    def kept_bytes(self) -> int:
        """Bfloat16 keys and values that a decode step reads of this layer."""
        slots = sum(min(head.span, self.tokens) for head in self.spans)
        return self.batch * slots * 2 * self.head_dim * 2

    @property
    def flops(self) -> int:
        """Operations of prefill over the visible pairs."""
        pairs = visible_pairs(self.spans, self.tokens, self.group)
        return self.batch * attention_flops(pairs, self.head_dim)

    @property
    def label(self) -> dict[str, str | int | float]:
        """What identifies the case in a row."""
        return {
            "model": self.model,
            "plan": self.plan,
            "batch": self.batch,
            "tokens": self.tokens,
        }


_HEADS = {"7B: 32 heads": (32, 32), "8B: 32 heads, 8 KV heads": (32, 8), "tiny": (4, 2)}
MHA, GQA, TINY = _HEADS


def _case(model: str, plan: str, tokens: int, batch: int, spans: list[int]) -> AttentionCase:
    query_heads, kv_heads = _HEADS[model]
    heads = tuple(HeadSpan(SINK, span - SINK) for span in spans)
    return AttentionCase(model, plan, query_heads, kv_heads, tokens, batch, heads)


def dense(model: str, tokens: int, batch: int) -> AttentionCase:
    """Every head keeps everything."""
    return _case(model, "dense", tokens, batch, [tokens] * _HEADS[model][1])


def mixed(model: str, tokens: int, batch: int, density: float) -> AttentionCase:
    """Heads of very different spans with a mean of `density`, as cuda/bench has them."""
    eighths = MIXED_EIGHTHS[density]
    spans = [eighths[h % 8] * tokens // 8 for h in range(_HEADS[model][1])]
    return _case(model, f"mixed {density:.0%}", tokens, batch, spans)


def load_plan(path: Path, kv_heads: int) -> AttentionPlan:
    """A published plan of thu-nics/MoA, or one of ours, by what the file holds."""
    from moa_rt import FormatError

    try:
        published = load_reference(path)
    except FormatError:
        return AttentionPlan.load(str(path))
    return import_plan(published, kv_heads, DEFAULT_MIN_LENGTH, DEFAULT_MAX_LENGTH)


def published(model: str, plan: AttentionPlan, name: str, tokens: int, batch: int) -> AttentionCase:
    """The layer of a plan whose density is nearest to the plan's own."""
    query_heads, kv_heads = _HEADS[model]
    layers = plan.spans(tokens)
    want = plan.density(tokens)

    def distance(row: Sequence[HeadSpan]) -> float:
        return abs(sum(head.span for head in row) / (len(row) * tokens) - want)

    nearest = min(layers, key=distance)
    return AttentionCase(model, name, query_heads, kv_heads, tokens, batch, tuple(nearest))
