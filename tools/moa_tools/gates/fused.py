"""Attention mixed over spans on a GPU: tiles that never leave the chip, in place of buffers.

The same function as the one in `mixture.py`, which is its oracle. Scores are made five times in a
step (twice forward, three times backward) and stored never; memory beyond inputs and outputs is a
few float32 numbers a row and span.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from moa_tools.gates import fused_kernels

if TYPE_CHECKING:
    from torch import Tensor

    from moa_tools.gates.mixture import Bands

_LOG2_E = 1.4426950408889634
_FAR = 2**31 - 1


@dataclass(frozen=True)
class _Tiles:
    """Queries and keys of a tile, and how a program is laid out on the chip."""

    rows: int
    keys: int
    warps: int
    stages: int


# By the bytes of a head's row, at most: the fastest of those tried on an H100 (`README.md`), and
# for wide heads in float32 what there is room for.
_SMALL = _Tiles(32, 32, 4, 1)
_FORWARD = {128: _Tiles(64, 64, 4, 3), 256: _Tiles(64, 64, 4, 3), 512: _SMALL}
_QUERIES = {128: _Tiles(64, 64, 4, 3), 256: _Tiles(64, 32, 4, 2), 512: _SMALL}
_KEYS = {128: _Tiles(64, 64, 4, 1), 256: _Tiles(64, 64, 8, 1), 512: _SMALL}


@lru_cache(maxsize=64)
def _tables(
    spans: tuple[int, ...], sink: int, length: int, tiles: _Tiles, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Where bands begin, the first and last band of a tile by its offset, most bands of a tile.

    Index t stands for a tile whose first row comes t * step - rows after its first key.
    """
    step = min(tiles.rows, tiles.keys)
    edges = torch.tensor([0, *(span - sink for span in spans[:-1]), _FAR], dtype=torch.int64)
    offsets = torch.arange(0, length + tiles.rows + step, step) - tiles.rows
    least = (offsets - tiles.keys + 1).clamp(min=0)
    most = (offsets + tiles.rows - 1).clamp(min=0)
    first, last = (torch.searchsorted(edges, x, right=True) - 1 for x in (least, most))
    found = [x.to(device=device, dtype=torch.int32) for x in (edges, first, last)]
    return found[0], found[1], found[2], int((last - first).max()) + 1


def _launch(kernel: Any, tiles: _Tiles, blocks: int, heads: int, *args: Any, **sizes: Any) -> None:
    kernel[(blocks, heads)](
        *args,
        **sizes,
        rows_of=tiles.rows,
        keys_of=tiles.keys,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )


def _row_bytes(q: Tensor) -> int:
    return max(128, _power(q.shape[-1]) * q.element_size())


def _blocks(length: int, size: int) -> int:
    return -(-length // size)


def _power(value: int) -> int:
    return max(16, 1 << (value - 1).bit_length())


def fused_mixture(
    q: Tensor, k: Tensor, v: Tensor, probs: Tensor, bands: Bands, scale: float
) -> Tensor:
    """As `mixture_attention`: q (B, Hq, N, D), k and v (B, Hkv, N, D), probs float32 (Hkv, K)."""
    apply: Any = _FusedMixture.apply
    out: Tensor = apply(q, k, v, probs, bands, scale)
    return out


class _FusedMixture(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, probs: Tensor, bands: Bands, scale: float
    ) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        probs = probs.float().contiguous()
        batch, heads, length, dim = q.shape
        count = probs.shape[1]
        out = torch.empty_like(q)
        top = torch.empty(batch * heads, length, dtype=torch.float32, device=q.device)
        sums = torch.empty(batch * heads, count, length, dtype=torch.float32, device=q.device)
        tiles = _FORWARD[_row_bytes(q)]
        edges, first, last, most = _tables(bands.spans, bands.sink, length, tiles, q.device)
        with torch.cuda.device(q.device):
            _launch(
                fused_kernels.forward, tiles, _blocks(length, tiles.rows), batch * heads,
                q, k, v, probs, edges, first, last, out, top, sums,
                length, heads // k.shape[1], k.shape[1], bands.sink, scale * _LOG2_E,
                count=count, dim=dim, padded=_power(count), wide=_power(dim), bands=most,
                precision=_precision(q),
            )  # fmt: skip
        ctx.save_for_backward(q, k, v, probs, top, sums)
        ctx.bands, ctx.scale = bands, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        q, k, v, probs, top, sums = ctx.saved_tensors
        bands, scale, grad = ctx.bands, ctx.scale, grad.contiguous()
        batch, heads, length, dim = q.shape
        kv_heads, count = probs.shape
        common = {
            "count": count,
            "dim": dim,
            "wide": _power(dim),
            "precision": _precision(q),
        }
        weights, shares = torch.empty_like(sums), torch.empty_like(sums)
        grad_q = torch.empty_like(q)
        tiles = _QUERIES[_row_bytes(q)]
        blocks = _blocks(length, tiles.rows)
        parts = torch.empty(batch, kv_heads, heads // kv_heads * blocks, count, device=q.device)
        edges, first, last, most = _tables(bands.spans, bands.sink, length, tiles, q.device)
        with torch.cuda.device(q.device):
            _launch(
                fused_kernels.backward_queries, tiles, blocks, batch * heads,
                q, k, v, probs, edges, first, last, grad, top, sums, grad_q, parts, weights,
                shares, length, heads // kv_heads, kv_heads, bands.sink, scale * _LOG2_E, scale,
                padded=_power(count), bands=most, **common,
            )  # fmt: skip
            tiles = _KEYS[_row_bytes(q)]
            edges, first, last, most = _tables(bands.spans, bands.sink, length, tiles, q.device)
            grad_k, grad_v = torch.empty_like(q), torch.empty_like(q)
            _launch(
                fused_kernels.backward_keys, tiles, _blocks(length, tiles.keys), batch * heads,
                q, k, v, edges, first, last, grad, top, weights, shares, grad_k, grad_v,
                length, heads // kv_heads, bands.sink, scale * _LOG2_E, scale,
                bands=most, **common,
            )  # fmt: skip
        grouped = (batch, kv_heads, heads // kv_heads, length, dim)
        grad_k, grad_v = (x.view(grouped).sum(2, dtype=x.dtype) for x in (grad_k, grad_v))
        return grad_q, grad_k, grad_v, parts.sum((0, 2)), None, None


def _precision(q: Tensor) -> str:
    """Three products of TF32 are float32's; of bfloat16 every product is exact anyway."""
    return "tf32x3" if q.dtype == torch.float32 else "tf32"
