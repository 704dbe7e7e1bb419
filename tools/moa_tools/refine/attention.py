"""Attention under a plan: every KV head sees the sink and its own window."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from moa_tools.gates.mixture import Bands, eager_mixture

if TYPE_CHECKING:
    from torch import Tensor

_LOG2_E = 1.4426950408889634
_MAX_DIM = 128  # wider heads have too little room on the chip
_CHUNK = 256


def span_attention(
    q: Tensor, k: Tensor, v: Tensor, spans: Tensor, sink: int, scale: float
) -> Tensor:
    """Outputs (B, Hq, N, D); q (B, Hq, N, D), k and v (B, Hkv, N, D), spans int32 (Hkv,).

    On a GPU that has Triton, tiles that no row sees are skipped.
    """
    if q.is_cuda and q.shape[-1] <= _MAX_DIM and find_spec("triton") is not None:
        return _on_gpu(q, k, v, spans, sink, scale)
    most = max(q.shape[2], sink + 1)
    clipped = spans.clamp(max=most)
    kinds = sorted({most, *clipped.tolist()})
    grid = torch.tensor(kinds, device=spans.device)
    chance = (clipped[:, None] == grid[None, :]).float()
    return eager_mixture(q, k, v, chance, Bands(tuple(kinds), sink, _CHUNK), scale=scale)


def _on_gpu(q: Tensor, k: Tensor, v: Tensor, spans: Tensor, sink: int, scale: float) -> Tensor:
    from moa_tools.refine import kernel

    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    batch, heads, length, dim = q.shape
    out = torch.empty_like(q)
    wide = max(16, 1 << (dim - 1).bit_length())
    side = 64 if wide * q.element_size() <= 256 else 32
    with torch.cuda.device(q.device):
        kernel.forward[(-(-length // side), batch * heads)](
            q, k, v, spans, out, length, heads // k.shape[1], k.shape[1], sink, scale * _LOG2_E,
            dim=dim, wide=wide, rows_of=side, keys_of=side,
            precision="tf32x3" if q.dtype == torch.float32 else "tf32", num_warps=4, num_stages=3,
        )  # fmt: skip
    return out
