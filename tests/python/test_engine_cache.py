"""Group H of the bad inputs: heterogeneous caches, seen from outside through logits.

The smallest spans the rules allow are used so that windows wrap after a few tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moa_rt import ArgumentError, AttentionPlan, Engine, StateError
from numpy.typing import NDArray
from support_reference import Reference, Rule, load_reference, spans_of, worst
from support_target import Target

TOLERANCE = 1e-3
SINK, ROUNDING = 4, 4
MIXED: list[list[Rule]] = [[(8, 0.0), (24, 0.0)], [(64, 0.0), (12, 0.0)]]


def tokens(count: int, seed: int = 1) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(3, 512, count)]


def open_engine(directory: Path, rules: list[list[Rule]] | None, **options: Any) -> Engine:
    plan = None
    if rules is not None:
        plan = AttentionPlan.from_rules(rules, sink_size=SINK, rounding=ROUNDING)
    settings = {"max_seq_len": 1024, "num_threads": 2, **options}
    return Engine(directory, plan, **settings)


def decoded(engine: Engine, prompt: list[int], count: int, **options: Any) -> NDArray[np.float32]:
    """Log-probabilities along a greedy answer: what decode steps computed."""
    out = engine.generate(prompt, max_new_tokens=count, ignore_eos=True, logprobs=8, **options)
    rows = [[value for _, value in entry.top] for entry in out.logprobs]
    return np.array(rows, dtype=np.float32)


@pytest.fixture(scope="module")
def reference(tiny_hf: Path) -> Reference:
    return load_reference(tiny_hf)


@pytest.mark.parametrize("length", [1, 3, 4, 5, 7, 8, 9, 11, 12, 13, 23, 24, 25, 100])
def test_H1_prompts_around_sink_and_span(
    tiny_dir: Path, reference: Reference, length: int, target: Target
) -> None:
    ids = tokens(length)
    spans = spans_of(MIXED, SINK, ROUNDING, 256)
    with open_engine(tiny_dir, MIXED, **target.options) as engine:
        assert target.close(engine.logits(ids, budget=256), reference.logits(ids, spans))


@pytest.mark.parametrize("count", [2, 5, 9, 60, 300])
def test_H2_decode_wraps_none_once_and_often(
    tiny_dir: Path, reference: Reference, count: int, target: Target
) -> None:
    prompt = tokens(3)
    with open_engine(tiny_dir, MIXED, **target.options) as engine:
        out = engine.generate(prompt, max_new_tokens=count, ignore_eos=True, logprobs=1)
    spans = spans_of(MIXED, SINK, ROUNDING, 3 + count)
    logits = reference.logits(prompt + out.token_ids, spans)[2:-1].astype(np.float64)
    want = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    got = np.array([entry.logprob for entry in out.logprobs])
    assert worst(got, want[np.arange(count), out.token_ids]) <= target.allowed(logits)


def test_H3_only_the_resolved_span_matters(tiny_dir: Path) -> None:
    """Plans that give every head the same resolved span by other rules agree to the bit."""
    n = 64
    same: list[list[Rule]] = [
        [(0, 8 / n), (8, 16 / n)],
        [(0, 1.0), (200, 0.5, 12)],
    ]
    assert spans_of(same, SINK, ROUNDING, n) == spans_of(MIXED, SINK, ROUNDING, n)
    prompt = tokens(20)
    with open_engine(tiny_dir, MIXED) as one, open_engine(tiny_dir, same) as other:
        assert np.array_equal(decoded(one, prompt, 44), decoded(other, prompt, 44))
        ids = tokens(n)
        assert np.array_equal(one.logits(ids, budget=n), other.logits(ids, budget=n))


def test_H3_span_of_one_block_and_of_everything(
    tiny_dir: Path, reference: Reference, target: Target
) -> None:
    rules: list[list[Rule]] = [[(1, 0.0), (0, 1.0)], [(0, 1.0), (1, 0.0)]]
    ids = tokens(90)
    with open_engine(tiny_dir, rules, **target.options) as engine:
        got = engine.logits(ids, budget=90)
    assert target.close(got, reference.logits(ids, spans_of(rules, SINK, ROUNDING, 90)))


@pytest.mark.parametrize("rules", [None, MIXED], ids=["dense", "mixed"])
def test_H4_ragged_batch_equals_each_alone(tiny_dir: Path, rules: list[list[Rule]] | None) -> None:
    prompts = [tokens(n, seed=n) for n in (1, 7, 30, 64, 200)]
    with open_engine(tiny_dir, rules, prefill_chunk=64) as engine:
        together = engine.generate(prompts, max_new_tokens=40, ignore_eos=True, logprobs=8)
        for prompt, batched in zip(prompts, together, strict=True):
            alone = engine.generate(prompt, max_new_tokens=40, ignore_eos=True, logprobs=8)
            assert batched.token_ids == alone.token_ids
            for a, b in zip(batched.logprobs, alone.logprobs, strict=True):
                assert (a.logprob, a.top) == (b.logprob, b.top), "equal to the bit"


def test_H5_slots_and_memory_are_used_again(tiny_dir: Path) -> None:
    prompt = tokens(9)
    with open_engine(tiny_dir, MIXED, max_batch=2) as engine:
        fresh = decoded(engine, prompt, 30)
        for seed in range(3):
            engine.generate([tokens(90, seed=seed)] * 2, max_new_tokens=20, ignore_eos=True)
            assert np.array_equal(decoded(engine, prompt, 30), fresh)


def test_H6_any_prefill_chunk(tiny_dir: Path, reference: Reference, target: Target) -> None:
    """Within rounding whatever the chunk; the mask is the same for every chunk."""
    ids = tokens(70)
    want = reference.logits(ids, spans_of(MIXED, SINK, ROUNDING, 128))
    for chunk in (1, 2, 5, 7, 8, 9, 31, 64, 70, 256):
        with open_engine(tiny_dir, MIXED, prefill_chunk=chunk, **target.options) as engine:
            assert target.close(engine.logits(ids, budget=128), want), chunk


def test_H7_rollback_is_refused_after_a_wrap(tiny_dir: Path, target: Target) -> None:
    with (
        open_engine(tiny_dir, MIXED, **target.options) as engine,
        engine.open_session(128) as session,
    ):
        session.generate(tokens(7), max_new_tokens=0)
        session.rollback(3)
        assert session.length == 4
        session.generate(tokens(30), max_new_tokens=0)
        before = session.length
        with pytest.raises(StateError):
            session.rollback(10)
        assert session.length == before
        with pytest.raises(ArgumentError, match="count"):
            session.rollback(before + 1)
        with pytest.raises(ArgumentError, match="count"):
            session.rollback(-1)
        answer = session.generate(tokens(2), max_new_tokens=4, ignore_eos=True)
        assert answer.completion_tokens == 4


def test_H7_rollback_and_again_is_as_if_nothing_was(tiny_dir: Path) -> None:
    prompt, wrong = tokens(20, seed=2), tokens(10, seed=3)
    settings: dict[str, Any] = {"max_new_tokens": 6, "ignore_eos": True, "logprobs": 4}
    with open_engine(tiny_dir, None) as engine:
        with engine.open_session(100) as session:
            session.generate(prompt, max_new_tokens=0)
            session.generate(wrong, max_new_tokens=0)
            session.rollback(10)
            again = session.generate([7], **settings)
        with engine.open_session(100) as session:
            session.generate(prompt, max_new_tokens=0)
            want = session.generate([7], **settings)
    assert [(e.token, e.top) for e in again.logprobs] == [(e.token, e.top) for e in want.logprobs]


def test_H8_beyond_the_capacity_is_refused_at_once(tiny_dir: Path, target: Target) -> None:
    with open_engine(tiny_dir, MIXED, max_seq_len=64, **target.options) as engine:
        with pytest.raises(ArgumentError, match="at most 64"):
            engine.submit(tokens(60), max_new_tokens=5)
        full = engine.generate(tokens(60), max_new_tokens=4, ignore_eos=True)
        assert full.completion_tokens == 4
        with engine.open_session(32) as session:
            session.generate(tokens(20), max_new_tokens=4, ignore_eos=True)
            with pytest.raises(ArgumentError, match="at most 32"):
                session.generate(tokens(4), max_new_tokens=5)


def test_H9_cancelled_neighbour_leaves_no_trace(tiny_dir: Path) -> None:
    prompt = tokens(9)
    with open_engine(tiny_dir, MIXED, max_batch=3) as engine:
        want = decoded(engine, prompt, 30)
        other = engine.submit(tokens(300), max_new_tokens=50, ignore_eos=True)
        engine.step()
        engine.cancel(other)
        assert np.array_equal(decoded(engine, prompt, 30), want)
        assert engine.memory.kv_cache == 0


def test_H10_spans_of_everything_equal_dense(tiny_dir: Path) -> None:
    """To the bit with the dense plan's own sink; another sink only moves where sums are split."""
    wide: list[list[Rule]] = [[(0, 1.0), (4096, 0.0)], [(2048, 0.5), (1, 1.0)]]
    plan = AttentionPlan.from_rules(wide)
    prompt = tokens(150)
    with Engine(tiny_dir, max_seq_len=1024, num_threads=2) as dense:
        logits, answer = dense.logits(prompt), decoded(dense, prompt, 60)
    with Engine(tiny_dir, plan, max_seq_len=1024, num_threads=2) as engine:
        assert np.array_equal(engine.logits(prompt), logits)
        assert np.array_equal(decoded(engine, prompt, 60), answer)
    with open_engine(tiny_dir, wide) as engine:
        assert worst(engine.logits(prompt), logits) < TOLERANCE / 100
        assert worst(decoded(engine, prompt, 60), answer) < TOLERANCE / 100


def test_E9_budget_is_prompt_and_new_tokens(tiny_dir: Path, reference: Reference) -> None:
    """N = prompt + max_new_tokens: both other readings give other logits."""
    rules: list[list[Rule]] = [[(0, 0.25)] * 2] * 2
    prompt = tokens(64)
    with open_engine(tiny_dir, rules) as engine:
        first = engine.generate(prompt, max_new_tokens=64, ignore_eos=True, logprobs=0)
    rows = {}
    for n in (64, 128):
        logits = reference.logits(prompt, spans_of(rules, SINK, ROUNDING, n))[-1]
        rows[n] = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum())
    got = first.logprobs[0]
    assert abs(got.logprob - rows[128][got.token]) < TOLERANCE
    assert abs(got.logprob - rows[64][got.token]) > 10 * TOLERANCE
