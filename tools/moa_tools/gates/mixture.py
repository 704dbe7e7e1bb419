"""Attention mixed over spans: the expected output of a head whose span is drawn at random.

With probability p_r a head keeps span s_r, so its output is sum_r p_r o(s_r). Every o(s_r) is a
softmax over a part of the same exponentials, hence one weighted sum over the keys:

    sum_r p_r o(s_r) = sum_k e_k c_band(k) v_k,   c_j = sum_{r >= j} p_r / Z_r,

where band j holds the keys that span j shows and span j - 1 does not, and Z_r sums e over the bands
up to r. That costs one attention, however many spans there are. The backward pass is written out
(d/dp_r = dO . o(s_r), band sums again), computes scores anew and keeps nothing of size N x N.
On a GPU the same is done by the kernels of `fused.py`; what is here is for CPUs, and their oracle.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from moa_tools.hf.spans import check_spans

if TYPE_CHECKING:
    from torch import Tensor

# Keeps 1 / Z finite where every key of a narrow span is below e^-69 of the row's maximum.
_LEAST = 1e-30
# Wider heads have too little room on the chip for the kernels.
_MAX_FUSED_DIM = 128


@dataclass(frozen=True)
class Bands:
    """Ascending `spans`, the last of which shows everything, and how many queries go at a time.

    Raises ArgumentError if a span is not wider than the sink or they are out of order.
    """

    spans: tuple[int, ...]
    sink: int
    chunk: int = 256

    def __post_init__(self) -> None:
        check_spans(self.spans, self.sink)

    def edges(self, keys: int) -> list[tuple[int, int]]:
        """Distances [first, last) between query and key of every band, for `keys` keys."""
        ends = [min(span - self.sink, keys) for span in self.spans[:-1]]
        return list(zip([0, *ends], [*ends, keys], strict=True))


def _reverse_cumsum(x: Tensor) -> Tensor:
    return x.flip(-1).cumsum(-1).flip(-1)


def _by_group(x: Tensor, rows: int) -> Tensor:
    """(B, H, G * C, ...) as (B, H, G, C, ...) with C = rows."""
    return x.reshape(*x.shape[:2], -1, rows, x.shape[-1])


class _Pairs:
    """A number for each pair of C queries and the T keys up to the last of them.

    Stored (B, H, G, C, T + C), newest key first: column j is key T - 1 - j, the last C are nothing.
    Read along diagonals, the same memory has the distance as its column, so a band is a slice of
    columns and needs no mask. Sinks are at no distance: they are kept apart.
    """

    def __init__(self, stored: Tensor, bands: Bands) -> None:
        *outer, count, width = stored.shape
        total = width - count
        self._stored, self._rule = stored, bands
        self._sink_columns = slice(total - min(bands.sink, total), total)
        self._sinks = stored[..., self._sink_columns].clone()
        stored[..., self._sink_columns] = 0
        strides = (*stored.stride()[:-2], width - 1, 1)
        self._by_distance = stored.as_strided((*outer, count, total), strides, count - 1)

    def _bands(self) -> list[Tensor]:
        """A view of the pairs of each band; the sinks belong to the first band as well."""
        edges = self._rule.edges(self._by_distance.shape[-1])
        return [self._by_distance[..., a:b] for a, b in edges]

    def times(self, stored: Tensor) -> _Pairs:
        """The products with other numbers for the same pairs, which are overwritten."""
        product = _Pairs(stored, self._rule)
        product._stored *= self._stored
        product._sinks *= self._sinks
        return product

    def sums_up_to(self) -> Tensor:
        """Sums over the keys that each span shows: (B, H, G, C, K)."""
        sums = torch.stack([part.sum(-1) for part in self._bands()], -1)
        sums[..., 0] += self._sinks.sum(-1)
        return sums.cumsum(-1)

    def scale(self, factors: Tensor) -> None:
        """Multiplies every pair by the factor (B, H, G, C, K) of its band."""
        for j, part in enumerate(self._bands()):
            part *= factors[..., j : j + 1]
        self._sinks *= factors[..., :1]

    def subtract(self, other: _Pairs, factors: Tensor) -> None:
        """Subtracts the other pairs times the factor of their band."""
        for j, (part, theirs) in enumerate(zip(self._bands(), other._bands(), strict=True)):
            part.addcmul_(theirs, factors[..., j : j + 1], value=-1)
        self._sinks.addcmul_(other._sinks, factors[..., :1], value=-1)

    def joined(self) -> Tensor:
        """Everything by key again, the groups of a KV head one after the other: (B, H, G * C, W).

        Nothing else may be asked of this object afterwards.
        """
        self._stored[..., self._sink_columns] = self._sinks
        return self._stored.flatten(2, 3)


class _Operands:
    """Keys and values in float32, newest first, with room for the padding; and the queries."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, bands: Bands, scale: float) -> None:
        self._q, self._rule, self._scale = q, bands, scale
        self._length = q.shape[3]
        padding = (0, 0, 0, min(bands.chunk, self._length))
        self.keys, self.values = (
            torch.nn.functional.pad(x.float().flip(2), padding) for x in (k, v)
        )

    def chunks(self) -> list[tuple[int, int]]:
        """Query ranges."""
        step = self._rule.chunk
        return [(a, min(a + step, self._length)) for a in range(0, self._length, step)]

    def columns(self, start: int, stop: int) -> slice:
        """Where the keys of a query range stand, padding included."""
        return slice(self._length - stop, self._length + stop - start)

    def rows(self, start: int, stop: int) -> Tensor:
        """Scaled queries (B, H, G * C, D)."""
        return (self._q[:, :, :, start:stop].float() * self._scale).flatten(2, 3)

    def times(self, rows: Tensor, other: Tensor, start: int, stop: int) -> Tensor:
        """Rows (B, H, G * C, D) times keys or values: (B, H, G, C, T + C)."""
        flat = rows @ other[:, :, self.columns(start, stop)].transpose(-1, -2)
        return _by_group(flat, stop - start)

    def exponentials(self, rows: Tensor, start: int, stop: int) -> _Pairs:
        """exp(score - maximum of the row); 0 for keys after the query."""
        scores = self.times(rows, self.keys, start, stop)
        count = stop - start
        scores[..., stop:] = -torch.inf
        later = torch.ones(count, count, dtype=torch.bool, device=rows.device).triu(1).flip(-1)
        scores[..., :count].masked_fill_(later, -torch.inf)
        scores -= scores.amax(-1, keepdim=True)
        return _Pairs(scores.exp_(), self._rule)


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, probs: Tensor, bands: Bands, scale: float
    ) -> Tensor:
        ctx.save_for_backward(q, k, v, probs)
        ctx.bands, ctx.scale = bands, scale
        out = torch.empty_like(q)
        operands = _Operands(q, k, v, bands, scale)
        for start, stop in operands.chunks():
            weights = operands.exponentials(operands.rows(start, stop), start, stop)
            share = probs[None, :, None, None] / weights.sums_up_to().clamp(min=_LEAST)
            weights.scale(_reverse_cumsum(share))
            part = weights.joined() @ operands.values[:, :, operands.columns(start, stop)]
            out[:, :, :, start:stop] = _by_group(part, stop - start)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        q, k, v, probs = ctx.saved_tensors
        operands = _Operands(q, k, v, ctx.bands, ctx.scale)
        grad_q = torch.empty_like(q)
        grad_k, grad_v = torch.zeros_like(operands.keys), torch.zeros_like(operands.values)
        grad_p = torch.zeros_like(probs)
        for start, stop in operands.chunks():
            columns = operands.columns(start, stop)
            rows = operands.rows(start, stop)
            above = grad[:, :, :, start:stop].float().flatten(2, 3)
            exps = operands.exponentials(rows, start, stop)
            z = exps.sums_up_to().clamp(min=_LEAST)
            share = probs[None, :, None, None] / z
            # e times the derivative by each key's weight; its sums are dO . o(s_r) Z_r.
            slope = exps.times(operands.times(above, operands.values, start, stop))
            gain = slope.sums_up_to() / z
            grad_p += gain.sum((0, 2, 3))
            slope.scale(_reverse_cumsum(share))
            slope.subtract(exps, _reverse_cumsum(share * gain))
            exps.scale(_reverse_cumsum(share))
            grad_v[:, :, columns] += exps.joined().transpose(-1, -2) @ above
            by_score = slope.joined()
            part = by_score @ operands.keys[:, :, columns] * ctx.scale
            grad_q[:, :, :, start:stop] = _by_group(part, stop - start)
            grad_k[:, :, columns] += by_score.transpose(-1, -2) @ rows
        length = q.shape[3]
        grad_k, grad_v = (x[:, :, :length].flip(2) for x in (grad_k, grad_v))
        return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), grad_p, None, None


def _has_kernels(q: Tensor) -> bool:
    return q.is_cuda and q.shape[-1] <= _MAX_FUSED_DIM and find_spec("triton") is not None


def mixture_attention(
    q: Tensor, k: Tensor, v: Tensor, probs: Tensor, bands: Bands, *, scale: float | None = None
) -> Tensor:
    """Expected attention output (B, Hq, N, D) of heads that keep span r with probability probs[r].

    q (B, Hq, N, D), k and v (B, Hkv, N, D), probs float32 (Hkv, K) over `bands.spans`, rows summing
    to 1. One-hot rows give the hard mask of their span. Statistics are float32; memory beyond the
    inputs is O(N) on a GPU that has Triton, else O(chunk * N), in both passes. A span none of whose
    scores comes within 69 of the row's maximum gives an output near 0.
    """
    if _has_kernels(q):
        from moa_tools.gates.fused import fused_mixture

        return fused_mixture(q, k, v, probs, bands, q.shape[-1] ** -0.5 if scale is None else scale)
    return eager_mixture(q, k, v, probs, bands, scale=scale)


def eager_mixture(
    q: Tensor, k: Tensor, v: Tensor, probs: Tensor, bands: Bands, *, scale: float | None = None
) -> Tensor:
    """`mixture_attention` by PyTorch's own operations, on any device."""
    batch, kv_heads, length, dim = k.shape
    grouped = q.reshape(batch, kv_heads, -1, length, dim)
    scale = dim**-0.5 if scale is None else scale
    apply: Any = _Mixture.apply
    out: Tensor = apply(grouped, k, v, probs, bands, scale)
    return out.reshape(q.shape)
