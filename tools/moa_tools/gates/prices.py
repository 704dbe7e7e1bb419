"""What every KV head pays for its tokens, at any length: the trained numbers.

The price of a token at distance s of N is a number that depends on s plus one that depends on s / N
(both in steps). Samples of all lengths train the same numbers, so a head that looks back a fixed
distance and one that looks back a fixed share of the text are told apart, which is what an elastic
rule alpha + beta * N has to express.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from moa_rt import ArgumentError, SpanRule, resolve_span

from moa_tools.gates.knapsack import band_sizes, non_increasing

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = 32
# Spans and shares of N where the price may change: dense at the narrow end, where plans live.
ABSOLUTE = (96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)
RELATIVE = (0.125, 0.25, 0.5)


@dataclass(frozen=True)
class Grid:
    """Spans at one length and, for each band between them, which step of both kinds it is in."""

    length: int
    spans: tuple[int, ...]
    absolute: tuple[int, ...]
    relative: tuple[int, ...]


def grid(length: int, sink: int) -> Grid:
    """The gate's spans at `length`, from the narrowest a plan can have to `length` itself.

    Raises ArgumentError if the narrowest plan is dense already, or nearly.
    """
    least = resolve_span(SpanRule(0, 0.0), sink, ROUNDING, length).span
    if length < 2 * least:
        raise ArgumentError(
            f"length: got {length}, want at least {2 * least}: the narrowest span is {least}"
        )
    inner = {s for s in ABSOLUTE if least < s < length}
    for share in RELATIVE:
        span = resolve_span(SpanRule(0, share), sink, ROUNDING, length).span
        if least < span < length:
            inner.add(span)
    spans = (least, *sorted(inner), length)
    absolute = tuple(sum(edge < span for edge in ABSOLUTE) for span in spans[1:])
    relative = tuple(sum(edge * length < span for edge in RELATIVE) for span in spans[1:])
    return Grid(length, spans, absolute, relative)


def fresh(layers: int, kv_heads: int) -> Tensor:
    """Prices to begin with, all 0: (layers, KV heads, steps of both kinds)."""
    steps = len(ABSOLUTE) + 1 + len(RELATIVE) + 1
    return torch.zeros(layers, kv_heads, steps)


def prices_at(parameters: Tensor, at: Grid) -> Tensor:
    """Price per token of every band, never rising with the span: (layers, KV heads, K - 1)."""
    first = len(ABSOLUTE) + 1
    raw = parameters[..., list(at.absolute)] + parameters[..., [first + i for i in at.relative]]
    return non_increasing(raw, band_sizes(at.spans, raw))
