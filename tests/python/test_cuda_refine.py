"""The GPU's kernel for attention under a plan against PyTorch's own operations."""

from __future__ import annotations

import pytest
import torch
from moa_tools.refine.attention import span_attention


@pytest.mark.parametrize("sink", [0, 16, 70])
@pytest.mark.parametrize(
    "shape", [(2, 4, 2, 1100, 64), (1, 14, 2, 1024, 64), (1, 3, 3, 300, 80), (1, 4, 1, 700, 128)]
)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 2e-5), (torch.bfloat16, 1e-2)], ids=["float32", "bfloat16"]
)
def test_attention_under_a_plan_equals_the_eager_one(
    sink: int, shape: tuple[int, int, int, int, int], dtype: torch.dtype, bound: float
) -> None:
    batch, heads, kv_heads, length, dim = shape
    maker = torch.Generator().manual_seed(length + dim)
    sizes = [(batch, h, length, dim) for h in (heads, kv_heads, kv_heads)]
    q, k, v = (1.5 * torch.randn(size, generator=maker).to(dtype) for size in sizes)
    spans = torch.tensor([96 + 200 * head for head in range(kv_heads)], dtype=torch.int32)
    want = span_attention(q.float(), k.float(), v.float(), spans, sink, dim**-0.5)
    got = span_attention(q.cuda(), k.cuda(), v.cuda(), spans.cuda(), sink, dim**-0.5).cpu()
    assert got.dtype == dtype
    assert float((got.double() - want.double()).norm() / want.double().norm()) < bound
