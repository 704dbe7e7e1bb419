"""Attention under sink + window masks, for many spans at once, in O(N * D) memory.

A query q sees a key k under span s iff k <= q and (k < sink or q - k < s - sink): the runtime's
mask (`moa_rt.visible`). Widening the span only adds keys, so the keys of a row fall into bands:
what the first span shows, what the second adds, and so on. Each band is read once.
Scores and softmax statistics are float32 whatever the inputs are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from moa_rt import ArgumentError

if TYPE_CHECKING:
    import torch


def check_spans(spans: Sequence[int], sink: int) -> None:
    """Raises ArgumentError unless `spans` ascend strictly and the first is wider than the sink."""
    if sink < 0 or not spans or spans[0] <= sink:
        raise ArgumentError(
            f"spans: got {list(spans)} with sink {sink}, want spans beyond the sink"
        )
    if any(a >= b for a, b in itertools.pairwise(spans)):
        raise ArgumentError(f"spans: got {list(spans)}, want them strictly ascending")


def merge(
    a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Joins attention over two disjoint key sets: each (output (..., D), log-sum-exp (...)).

    A set may be empty in a row: its log-sum-exp is then -inf and its output 0. At least one of the
    two must not be.
    """
    import torch

    lse = torch.logaddexp(a[1], b[1])
    left, right = torch.exp(a[1] - lse), torch.exp(b[1] - lse)
    return a[0] * left[..., None] + b[0] * right[..., None], lse


def _band_ranges(
    inner: int, outer: int, sink: int, start: int, stop: int
) -> Iterator[tuple[int, int]]:
    """Key ranges that hold every key of band (inner, outer] of the queries [start, stop).

    `inner` = 0 stands for "no inner span": the band is then all that `outer` shows.
    """
    low = max(start - (outer - sink) + 1, 0)
    high = stop if inner == 0 else stop - (inner - sink)
    if inner == 0 and low > sink:
        yield 0, min(sink, stop)
    elif inner == 0:
        low = 0
    else:
        low = max(low, sink)
    if high > low:
        yield low, high


def _visible(
    inner: int, outer: int, sink: int, queries: torch.Tensor, keys: torch.Tensor
) -> torch.Tensor:
    """Whether query (row) sees key (column) under `outer` but not yet under `inner`."""
    distance = queries[:, None] - keys[None, :]
    sinks = keys[None, :] < sink
    seen = (distance >= 0) & (sinks | (distance < outer - sink))
    return seen if inner == 0 else seen & ~sinks & (distance >= inner - sink)


def _band(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    edges: tuple[int, int],
    sink: int,
    start: int,
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Attention of queries (B, Hkv, G, C, D) at `start` over one band, or None if it is empty.

    A row without keys in a band that others have gets log-sum-exp -inf and output 0.
    """
    import torch

    stop = start + q.shape[3]
    queries = torch.arange(start, stop, device=q.device)
    out: tuple[torch.Tensor, torch.Tensor] | None = None
    for low, high in _band_ranges(*edges, sink, start, stop):
        keys = torch.arange(low, high, device=q.device)
        seen = _visible(*edges, sink, queries, keys)
        scores = (q.float() * scale) @ k[:, :, None, low:high].float().transpose(-1, -2)
        scores = scores.masked_fill(~seen, -torch.inf)
        lse = torch.logsumexp(scores, dim=-1)
        # A row of -inf alone would give NaN: shift it by 0 instead.
        shift = torch.where(torch.isinf(lse), torch.zeros_like(lse), lse)
        part = torch.exp(scores - shift[..., None]) @ v[:, :, None, low:high].float(), lse
        out = part if out is None else merge(out, part)
    return out


def span_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    spans: Sequence[int],
    *,
    sink: int,
    scale: float | None = None,
    chunk: int = 256,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and log-sum-exps of every head under every span.

    q (B, Hq, N, D), k and v (B, Hkv, N, D), Hq a multiple of Hkv, positions from 0. Returns
    float32 outputs (K, B, Hq, N, D) and log-sum-exps (K, B, Hq, N). Work is about that of one
    dense attention plus K * chunk keys a row; memory beyond the result is O(chunk * N), and the
    backward pass computes each chunk again. Raises ArgumentError for spans out of order.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    check_spans(spans, sink)
    batch, kv_heads, length, dim = k.shape
    groups = q.shape[1] // kv_heads
    scale = dim**-0.5 if scale is None else scale
    grouped = q.reshape(batch, kv_heads, groups, length, dim)
    edges = list(zip([0, *spans[:-1]], spans, strict=True))

    def one(
        rows: torch.Tensor, k: torch.Tensor, v: torch.Tensor, start: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        state: tuple[torch.Tensor, torch.Tensor] | None = None
        outs, lses = [], []
        for edge in edges:
            part = _band(rows, k, v, scale, edge, sink, start)
            if part is not None:
                state = part if state is None else merge(state, part)
            assert state is not None  # the first band holds every row's own key
            outs.append(state[0])
            lses.append(state[1])
        return torch.stack(outs), torch.stack(lses)

    parts = [
        checkpoint(one, grouped[:, :, :, a : a + chunk], k, v, a, use_reentrant=False)
        for a in range(0, length, chunk)
    ]
    out = torch.cat([part[0] for part in parts], dim=4)
    lse = torch.cat([part[1] for part in parts], dim=4)
    shape = (len(spans), batch, q.shape[1], length)
    return out.reshape(*shape, dim), lse.reshape(shape)
