"""The GPU's kernels for attention mixed over spans against PyTorch's own operations."""

from __future__ import annotations

import pytest
import torch
from moa_tools.gates.fused import fused_mixture
from moa_tools.gates.mixture import Bands, eager_mixture, mixture_attention

SINK = 16
SPANS = (64, 80, 128, 192, 256, 512, 1024)


def inputs(
    shape: tuple[int, int, int, int, int], spans: int, dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    """Queries, keys, values, logits of the spans and a gradient for (B, Hq, Hkv, N, D)."""
    batch, heads, kv_heads, length, dim = shape
    maker = torch.Generator().manual_seed(length + dim)
    sizes = [(batch, h, length, dim) for h in (heads, kv_heads, kv_heads, heads)]
    q, k, v, grad = (1.5 * torch.randn(size, generator=maker) for size in sizes)
    logits = torch.randn(kv_heads, spans, generator=maker).cuda().requires_grad_()
    leaves = [x.to("cuda", dtype).requires_grad_() for x in (q, k, v)]
    return *leaves, logits, grad.to("cuda", dtype)


def worst(got: tuple[torch.Tensor, ...], want: tuple[torch.Tensor, ...]) -> float:
    """The largest relative distance."""
    pairs = [(a.double(), b.double()) for a, b in zip(got, want, strict=True)]
    distances = [float((a - b).norm() / b.norm()) for a, b in pairs]
    assert all(d == d for d in distances), distances
    return max(distances)


SHAPES = [
    (2, 4, 2, 1100, 64),
    (1, 14, 2, 1024, 64),
    (1, 3, 3, 1300, 80),
    (1, 4, 1, 700, 96),
    (2, 8, 2, 1025, 128),
    (1, 2, 2, 97, 64),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 2e-5), (torch.bfloat16, 1e-2)], ids=["float32", "bfloat16"]
)
def test_forward_and_gradients_equal_the_eager_ones(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype, bound: float
) -> None:
    bands = Bands((*SPANS, 2048), SINK)
    q, k, v, logits, grad = inputs(shape, len(SPANS) + 1, dtype)
    scale = shape[-1] ** -0.5
    got = fused_mixture(q, k, v, logits.softmax(-1), bands, scale)
    slopes = torch.autograd.grad((got * grad).sum(), (q, k, v, logits))
    # The oracle computes in float32 from the same (possibly rounded) inputs.
    wide = [x.detach().float().requires_grad_() for x in (q, k, v, logits)]
    want = eager_mixture(wide[0], wide[1], wide[2], wide[3].softmax(-1), bands)
    expected = torch.autograd.grad((want * grad.float()).sum(), wide)
    assert worst((got, *slopes), (want, *expected)) < bound


@pytest.mark.parametrize("index", range(len(SPANS)))
def test_a_certain_span_is_its_hard_mask(index: int) -> None:
    q, k, v, _, _ = inputs((1, 4, 2, 1100, 64), len(SPANS), torch.bfloat16)
    certain = torch.zeros(2, len(SPANS), device="cuda")
    certain[:, index] = 1
    got = mixture_attention(q, k, v, certain, Bands(SPANS, SINK))
    places = torch.arange(1100, device="cuda")
    distance = places[:, None] - places[None, :]
    window = SPANS[index] - SINK if index < len(SPANS) - 1 else 1100
    seen = (distance >= 0) & ((places[None, :] < SINK) | (distance < window))
    keys, values = (x.repeat_interleave(2, 1) for x in (k, v))
    want = torch.nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=seen)
    assert worst((got,), (want,)) < 1e-2


def test_the_same_call_gives_the_same_bits() -> None:
    bands = Bands(SPANS, SINK)
    q, k, v, logits, grad = inputs((2, 4, 2, 900, 64), len(SPANS), torch.bfloat16)
    runs = []
    for _ in range(2):
        out = mixture_attention(q, k, v, logits.softmax(-1), bands)
        runs.append((out, *torch.autograd.grad((out * grad).sum(), (q, k, v, logits))))
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


def test_scores_far_apart_stay_finite() -> None:
    """All of the narrow spans' scores lie 200 below the far keys'."""
    q = torch.full((1, 2, 700, 64), 5.0, device="cuda", requires_grad=True)
    k = torch.full((1, 2, 700, 64), -5.0, device="cuda")
    k[:, :, 100:200] = 5.0
    v = torch.randn(1, 2, 700, 64, device="cuda")
    probs = torch.full((2, len(SPANS)), 1 / len(SPANS), device="cuda", requires_grad=True)
    out = mixture_attention(q, k, v, probs, Bands(SPANS, SINK))
    assert torch.isfinite(out).all()
    for slope in torch.autograd.grad(out.sum(), (q, probs)):
        assert torch.isfinite(slope).all()
