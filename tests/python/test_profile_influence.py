"""Influence curves against their definition: masks written out, keys hidden one by one."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moa_rt import ArgumentError
from moa_tools.profile.influence import AttentionGradient, Form, influence_curves

torch.set_num_threads(1)


def random_attention(
    heads: int, kv_heads: int, length: int, seed: int, sharp: float = 1.0
) -> AttentionGradient:
    """Random tensors of head_dim 8; `sharp` scales the queries."""
    generator = torch.Generator().manual_seed(seed)

    def normal(count: int) -> torch.Tensor:
        return torch.randn(count, length, 8, generator=generator)

    query = normal(heads) * sharp
    return AttentionGradient(query, normal(kv_heads), normal(kv_heads), normal(heads), 8**-0.5)


def visible(span: int, sink: int, length: int) -> torch.Tensor:
    q, k = torch.arange(length)[:, None], torch.arange(length)[None, :]
    return (k <= q) & ((k < sink) | (q - k < span - sink))


def outputs(part: AttentionGradient, mask: torch.Tensor) -> torch.Tensor:
    """Attention under a mask (N, N), float64 (Hq, N, D)."""
    groups = part.query.shape[0] // part.key.shape[0]
    keys = part.key.double().repeat_interleave(groups, 0)
    values = part.value.double().repeat_interleave(groups, 0)
    scores = part.query.double() @ keys.transpose(1, 2) * part.scale
    return torch.softmax(scores.masked_fill(~mask, -math.inf), -1) @ values


def joint_oracle(part: AttentionGradient, spans: list[int], sink: int) -> torch.Tensor:
    """Sum over rows of |dO.(o_masked - o)|, summed over each group of query heads."""
    length = part.query.shape[1]
    dense = outputs(part, visible(length + sink, sink, length))
    columns = []
    for span in spans:
        change = outputs(part, visible(span, sink, length)) - dense
        columns.append((part.grad_output.double() * change).sum(-1).abs().sum(-1))
    return torch.stack(columns, -1).reshape(part.key.shape[0], -1, len(spans)).sum(1)


def entry_oracle(part: AttentionGradient, spans: list[int], sink: int) -> torch.Tensor:
    """The same, every hidden key alone: the row is computed again without it."""
    length = part.query.shape[1]
    causal = visible(length + sink, sink, length)
    dense = outputs(part, causal)
    total = torch.zeros(part.query.shape[0], len(spans), dtype=torch.float64)
    for key in range(sink, length - 1):
        without = causal.clone()
        without[:, key] = False
        without[key, key] = True  # nothing is left of that row; no span hides a row's own key
        change = outputs(part, without) - dense
        effect = (part.grad_output.double() * change).sum(-1).abs()
        for i, span in enumerate(spans):
            total[:, i] += effect[:, key + span - sink :].sum(-1)
    return total.reshape(part.key.shape[0], -1, len(spans)).sum(1)


ORACLES = {"joint": joint_oracle, "entry": entry_oracle}


@pytest.mark.parametrize("form", ["joint", "entry"])
@settings(max_examples=25, deadline=None)
@given(
    kv_heads=st.integers(1, 3),
    group=st.sampled_from([1, 2, 4]),
    length=st.integers(6, 40),
    sink=st.integers(0, 5),
    slab=st.sampled_from([1, 64, 300, 1 << 20]),
    seed=st.integers(0, 10**6),
    sharp=st.sampled_from([0.1, 1.0, 12.0]),
)
def test_curves_equal_the_definition(
    form: Form,
    kv_heads: int,
    group: int,
    length: int,
    sink: int,
    slab: int,
    seed: int,
    sharp: float,
) -> None:
    part = random_attention(kv_heads * group, kv_heads, length, seed, sharp)
    spans = sorted({sink + 1, sink + 2, sink + 7, max(sink + 1, length - 1), length + sink})
    got = influence_curves(part, spans, sink, form, slab)
    want = ORACLES[form](part, spans, sink)
    assert got.shape == (kv_heads, len(spans))
    torch.testing.assert_close(got, want, rtol=2e-4, atol=5e-4)
    assert (got[:, -1] == 0.0).all()


@pytest.mark.parametrize("form", ["joint", "entry"])
def test_a_row_that_loses_all_its_weight(form: Form) -> None:
    """One far key takes 1 - e^-40 of every later row, then exactly 1 in float32."""
    for margin in (5.0, 40.0, 90.0):
        part = random_attention(1, 1, 24, seed=3)
        part.query[:] = 0.0
        part.query[0, :, 0] = 1.0
        part.key[0, :, 0] *= 0.1
        part.key[0, 4, 0] = margin / part.scale
        got = influence_curves(part, [3, 8, 24], 1, form)
        want = ORACLES[form](part, [3, 8, 24], 1)
        assert torch.isfinite(got).all()
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-3)


def test_what_float32_cannot_tell_from_nothing_stays_finite() -> None:
    part = random_attention(1, 1, 24, seed=3)
    part.query[:] = 0.0
    part.query[0, :, 0] = 1.0
    part.key[0, 4, 0] = 1e4
    for form in ("joint", "entry"):
        assert torch.isfinite(influence_curves(part, [3, 8, 24], 1, form)).all()


def test_slabs_do_not_change_the_sum() -> None:
    part = random_attention(4, 2, 50, seed=5)
    whole = influence_curves(part, [4, 12, 50], 2, "joint")
    for slab in (1, 350, 1000):
        cut = influence_curves(part, [4, 12, 50], 2, "joint", slab)
        torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-5)


def test_bad_arguments() -> None:
    part = random_attention(1, 1, 8, seed=0)
    with pytest.raises(ArgumentError, match="form: got 'both'"):
        influence_curves(part, [4, 8], 2, "both")  # type: ignore[arg-type]
    for spans in ([], [2, 8], [8, 4], [4, 4]):
        with pytest.raises(ArgumentError, match="spans"):
            influence_curves(part, spans, 2)
