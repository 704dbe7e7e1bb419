"""Streamed sink + window attention against masks written from their definition."""

from __future__ import annotations

import math

import pytest
import torch
from moa_rt import ArgumentError, HeadSpan, visible
from moa_tools.hf.sink_window import span_attention

SINK = 4
SPANS = (6, 9, 20, 64)


def brute(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, span: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax attention over the pairs that `moa_rt.visible` names."""
    length, groups = q.shape[2], q.shape[1] // k.shape[1]
    head = HeadSpan(SINK, span - SINK)
    seen = torch.tensor([[visible(head, i, j) for j in range(length)] for i in range(length)])
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = (q @ k.transpose(2, 3)) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(~seen, -math.inf)
    return torch.softmax(scores, -1) @ v, torch.logsumexp(scores, -1)


def inputs(length: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.set_num_threads(1)
    maker = torch.Generator().manual_seed(length)
    shapes = [(2, 4, length, 8), (2, 2, length, 8), (2, 2, length, 8)]
    q, k, v = (
        (scale * torch.randn(shape, generator=maker, dtype=torch.float32)).requires_grad_()
        for shape in shapes
    )
    return q, k, v


@pytest.mark.parametrize("length", [1, SINK, SINK + 3, 40, 64])
@pytest.mark.parametrize("chunk", [7, 16, 256])
def test_every_span_equals_its_mask(length: int, chunk: int) -> None:
    q, k, v = inputs(length, 2.0)
    out, lse = span_attention(q, k, v, SPANS, sink=SINK, chunk=chunk)
    for index, span in enumerate(SPANS):
        want_out, want_lse = brute(q, k, v, span)
        torch.testing.assert_close(out[index], want_out, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(lse[index], want_lse, atol=2e-5, rtol=1e-5)


def test_gradients_equal_those_of_the_masks() -> None:
    q, k, v = inputs(50)
    weights = torch.randn(len(SPANS), generator=torch.Generator().manual_seed(1))
    out, lse = span_attention(q, k, v, SPANS, sink=SINK, chunk=16)
    target = torch.randn(out.shape[1:], generator=torch.Generator().manual_seed(2))
    loss = torch.stack([(o * target).sum() + s.sum() for o, s in zip(out, lse, strict=True)])
    got = torch.autograd.grad((loss * weights).sum(), (q, k, v))
    again = [brute(q, k, v, span) for span in SPANS]
    loss = torch.stack([(o * target).sum() + s.sum() for o, s in again])
    want = torch.autograd.grad((loss * weights).sum(), (q, k, v))
    for a, b in zip(got, want, strict=True):
        assert torch.isfinite(a).all()
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_a_band_far_below_the_others_stays_exact() -> None:
    """The narrow span's scores lie 200 below the far keys': a shared maximum would lose them."""
    q = torch.ones(1, 1, 40, 8)
    k = torch.full((1, 1, 40, 8), -10.0)
    k[:, :, 10:20] = 10.0
    v = torch.randn(1, 1, 40, 8, generator=torch.Generator().manual_seed(3))
    out, _ = span_attention(10 * q, k, v, (6, 40), sink=SINK)
    torch.testing.assert_close(out[0], brute(10 * q, k, v, 6)[0], atol=1e-4, rtol=1e-4)


def test_bfloat16_inputs_have_float32_statistics() -> None:
    q, k, v = (tensor.detach().bfloat16() for tensor in inputs(64))
    out, lse = span_attention(q, k, v, SPANS, sink=SINK)
    assert out.dtype == lse.dtype == torch.float32
    want, _ = brute(q.float(), k.float(), v.float(), SPANS[2])
    torch.testing.assert_close(out[2], want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spans", [(), (4, 9), (9, 9), (20, 9)])
def test_spans_out_of_order_are_refused(spans: tuple[int, ...]) -> None:
    q, k, v = inputs(8)
    with pytest.raises(ArgumentError, match="spans"):
        span_attention(q, k, v, spans, sink=SINK)
