"""Attention mixed over spans against masks written from their definition."""

from __future__ import annotations

import math

import pytest
import torch
from moa_rt import ArgumentError, HeadSpan, visible
from moa_tools.gates.mixture import Bands, mixture_attention

SINK = 4
SPANS = (6, 9, 20, 64)
HEADS, KV_HEADS = 4, 2


def brute(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, probs: torch.Tensor) -> torch.Tensor:
    """The sum over spans of probability times softmax attention under `moa_rt.visible`."""
    length, groups = q.shape[2], HEADS // KV_HEADS
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = (q @ k.transpose(2, 3)) * q.shape[-1] ** -0.5
    total = torch.zeros_like(q)
    for index, span in enumerate(SPANS):
        head = HeadSpan(SINK, span - SINK)
        seen = torch.tensor([[visible(head, i, j) for j in range(length)] for i in range(length)])
        out = torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v
        total = total + probs[:, index].repeat_interleave(groups)[None, :, None, None] * out
    return total


def inputs(length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.set_num_threads(1)
    maker = torch.Generator().manual_seed(length)
    shapes = [(2, HEADS, length, 8), (2, KV_HEADS, length, 8), (2, KV_HEADS, length, 8)]
    q, k, v = ((2 * torch.randn(shape, generator=maker)).requires_grad_() for shape in shapes)
    return q, k, v, torch.randn(KV_HEADS, len(SPANS), generator=maker).requires_grad_()


@pytest.mark.parametrize("length", [1, SINK, 40, 64])
@pytest.mark.parametrize("chunk", [7, 16, 256])
def test_forward_and_gradients_equal_the_masks(length: int, chunk: int) -> None:
    q, k, v, logits = inputs(length)
    target = torch.randn(q.shape, generator=torch.Generator().manual_seed(1))
    got = mixture_attention(q, k, v, logits.softmax(-1), Bands(SPANS, SINK, chunk))
    want = brute(q, k, v, logits.softmax(-1))
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)
    arguments = (q, k, v, logits)
    slopes = torch.autograd.grad((got * target).sum(), arguments)
    expected = torch.autograd.grad((want * target).sum(), arguments)
    for a, b in zip(slopes, expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("index", range(len(SPANS)))
def test_a_certain_span_is_its_hard_mask(index: int) -> None:
    q, k, v, _ = inputs(50)
    certain = torch.zeros(KV_HEADS, len(SPANS))
    certain[:, index] = 1
    got = mixture_attention(q, k, v, certain, Bands(SPANS, SINK, 16))
    torch.testing.assert_close(got, brute(q, k, v, certain), atol=2e-5, rtol=1e-4)


def test_scores_far_apart_stay_finite() -> None:
    """All of the narrow span's scores lie 200 below the far keys'."""
    q = torch.full((1, HEADS, 40, 8), 10.0, requires_grad=True)
    k = torch.full((1, KV_HEADS, 40, 8), -10.0)
    k[:, :, 10:20] = 10.0
    v = torch.randn(1, KV_HEADS, 40, 8, generator=torch.Generator().manual_seed(3))
    probs = torch.full((KV_HEADS, len(SPANS)), 0.25, requires_grad=True)
    out = mixture_attention(q, k, v, probs, Bands(SPANS, SINK, 16))
    for slope in torch.autograd.grad(out.sum(), (q, probs)):
        assert torch.isfinite(slope).all()
    assert torch.isfinite(out).all()


def test_bfloat16_inputs_have_float32_statistics() -> None:
    q, k, v, logits = (tensor.detach() for tensor in inputs(64))
    probs = logits.softmax(-1)
    half = [tensor.bfloat16() for tensor in (q, k, v)]
    out = mixture_attention(half[0], half[1], half[2], probs, Bands(SPANS, SINK))
    assert out.dtype == torch.bfloat16
    want = brute(half[0].float(), half[1].float(), half[2].float(), probs)
    torch.testing.assert_close(out.float(), want, atol=0.02, rtol=0.01)


def test_spans_out_of_order_are_refused() -> None:
    with pytest.raises(ArgumentError, match="spans"):
        Bands((9, 6), SINK)
