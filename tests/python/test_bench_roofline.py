"""Bytes and operations against cases counted by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moa_rt import ArgumentError, AttentionPlan, HeadSpan
from moa_tools.bench import roofline, shapes


def test_step_weights_of_llama_2_7b_are_what_its_matrices_hold() -> None:
    layer = 4096 * (3 * 4096) + 4096 * 4096 + 3 * 4096 * 11008
    want = 2 * (32 * layer + 32000 * 4096) + 4 * (32 * 2 * 4096 + 4096)
    assert roofline.step_weight_bytes(shapes.find("llama-2-7b").config(), "bfloat16") == want
    assert want == pytest.approx(13.2e9, rel=0.01)


def test_cache_bytes_of_a_token_are_those_of_the_design() -> None:
    for name, kibibytes in (("llama-2-7b", 512), ("llama-3-8b", 128)):
        config = shapes.find(name).config()
        plan = AttentionPlan.dense(config)
        got = roofline.step_cache_bytes(plan, config, "bfloat16", 4096, [1000, 24])
        assert got == 1024 * kibibytes * 1024


def test_a_plan_reads_no_more_than_its_spans() -> None:
    config = shapes.find("tiny-gqa").config()
    plan = AttentionPlan.from_rules([[(128, 0.0), (256, 0.0)]] * 2)
    assert roofline.kept_slots(plan, 1024, 100) == 2 * 200
    assert roofline.kept_slots(plan, 1024, 200) == 2 * (128 + 200)
    assert roofline.kept_slots(plan, 1024, 1000) == 2 * (128 + 256)
    two = roofline.step_cache_bytes(plan, config, "float32", 1024, [1000, 100])
    assert two == (768 + 400) * 2 * 64 * 4


def test_share_and_least_time() -> None:
    assert roofline.seconds_at(6e12, 3e12) == 2.0
    assert roofline.share(6e12, 4.0, 3e12) == 0.5
    with pytest.raises(ArgumentError, match="ceiling"):
        roofline.share(1.0, 1.0, 0.0)


def test_largest_batch() -> None:
    assert roofline.largest_batch(100, 30, 20) == 3
    assert roofline.largest_batch(100, 101, 20) == 0
    with pytest.raises(ArgumentError, match="sequence_bytes"):
        roofline.largest_batch(1, 0, 0)


@settings(max_examples=30)
@given(st.integers(1, 64), st.integers(1, 200), st.integers(1, 300), st.integers(1, 4))
def test_visible_pairs_are_those_of_the_mask(
    sink: int, window: int, tokens: int, group: int
) -> None:
    brute = sum(k < sink or q - k < window for q in range(tokens) for k in range(q + 1))
    spans = [HeadSpan(sink, window)] * 2
    assert roofline.visible_pairs(spans, tokens, group) == 2 * group * brute
    assert roofline.attention_flops(brute, 64) == 4 * 64 * brute


def test_unknown_names_are_told() -> None:
    with pytest.raises(ArgumentError, match="int3"):
        roofline.element_bytes("int3")
    with pytest.raises(ArgumentError, match="llama-2-7b"):
        shapes.find("llama-9")
