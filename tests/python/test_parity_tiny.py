"""Every family, GQA ratio, rope type and head size against transformers, dense and under plans."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moa_rt import AttentionPlan, Engine
from moa_tools.convert import ConvertOptions, convert
from moa_tools.convert.progress import Silent
from support_models import make_tiny_model
from support_reference import (
    Reference,
    Rule,
    load_reference,
    log_softmax,
    spans_of,
    worst,
)
from support_target import Target

TOLERANCE = 1e-3  # absolute, float32
SINK, ROUNDING = 4, 8
VOCAB = 512


def shape(heads: int, kv_heads: int, head_dim: int, **more: Any) -> dict[str, Any]:
    return {
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        **more,
    }


# GQA 1, 2, 4, 8; head_dim 64, 80, 96, 128; rope default, llama3, linear; tied and untied.
MODELS = {
    "llama-gqa1-hd64": ("llama", shape(4, 4, 64)),
    "llama3-gqa2-hd64-tied": ("llama3", shape(4, 2, 64, tie_word_embeddings=True)),
    "llama_linear-gqa4-hd80": ("llama_linear", shape(4, 1, 80)),
    "mistral-gqa8-hd96": ("mistral", shape(8, 1, 96)),
    "qwen2-gqa2-hd128-tied": ("qwen2", shape(4, 2, 128, tie_word_embeddings=True)),
    "qwen3-gqa4-hd80": ("qwen3", shape(8, 2, 80)),
}


@dataclass(frozen=True)
class Pair:
    """One model twice: converted, and as transformers runs it."""

    directory: Path
    reference: Reference
    layers: int
    kv_heads: int


@pytest.fixture(scope="module", params=list(MODELS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    family, fields = MODELS[request.param]
    place = tmp_path_factory.mktemp(request.param)
    hf = make_tiny_model(place / "hf", family, seed=7, tokenizer=False, **fields)
    convert(str(hf), place / "converted", ConvertOptions(), Silent())
    return Pair(place / "converted", load_reference(hf), 2, fields["num_key_value_heads"])


@pytest.fixture(scope="module")
def dense(pair: Pair, target: Target) -> Iterator[Engine]:
    with Engine(pair.directory, num_threads=2, **target.options) as engine:
        yield engine


def tokens(count: int, seed: int = 1) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(0, VOCAB, count)]


def random_rules(pair: Pair, seed: int) -> list[list[Rule]]:
    """Spans of about 12 to 80 tokens at N = 256, no two heads alike."""
    draw = random.Random(seed)

    def rule() -> Rule:
        beta = draw.randrange(0, 32) / 128
        alpha = draw.randrange(-16 if beta >= 0.125 else 1, 48)
        return (alpha, beta) if draw.random() < 0.7 else (alpha, beta, 8 * draw.randrange(2, 8))

    return [[rule() for _ in range(pair.kv_heads)] for _ in range(pair.layers)]


def planned(pair: Pair, rules: list[list[Rule]], target: Target, **options: Any) -> Engine:
    plan = AttentionPlan.from_rules(rules, sink_size=SINK, rounding=ROUNDING, min_length=256)
    return Engine(pair.directory, plan, num_threads=2, **target.options, **options)


@pytest.mark.parametrize("length", [1, 2, 63, 300])
def test_dense_logits(pair: Pair, dense: Engine, length: int, target: Target) -> None:
    ids = tokens(length)
    assert target.close(dense.logits(ids), pair.reference.logits(ids))


def test_score_is_the_log_probability_of_the_next_token(
    pair: Pair, dense: Engine, target: Target
) -> None:
    ids = tokens(90, seed=2)
    want = log_softmax(pair.reference.logits(ids))[np.arange(89), ids[1:]]
    got = dense.score(ids)
    assert got.dtype == np.float32
    assert target.close(got, want)


@pytest.mark.parametrize("seed", [11, 12])
def test_plan_logits_around_a_span(pair: Pair, seed: int, target: Target) -> None:
    rules = random_rules(pair, seed)
    n = 320
    spans = spans_of(rules, SINK, ROUNDING, n)
    span = min(sum(head) for row in spans for head in row)
    lengths = {1, SINK, SINK + 1, span - 1, span, span + 1, 4 * span, n}
    with planned(pair, rules, target, prefill_chunk=64) as engine:
        for length in sorted(lengths):
            ids = tokens(length, seed=length)
            got = engine.logits(ids, budget=n)
            assert target.close(got, pair.reference.logits(ids, spans)), length


def test_512_new_tokens_through_many_wraps(pair: Pair, target: Target) -> None:
    rules = random_rules(pair, 13)
    prompt = tokens(40, seed=3)
    spans = spans_of(rules, SINK, ROUNDING, 552)
    assert min(window for row in spans for _, window in row) * 5 < 512, "wants several wraps"
    with planned(pair, rules, target) as engine:
        out = engine.generate(prompt, max_new_tokens=512, ignore_eos=True, logprobs=4)
        whole = engine.logits(prompt + out.token_ids, budget=552)
    want = pair.reference.logits(prompt + out.token_ids, spans)
    assert target.close(whole, want)
    log_probs = log_softmax(want)[39:-1]
    allowed = target.allowed(want)
    assert len(out.logprobs) == 512
    for step, entry in enumerate(out.logprobs):
        assert entry.token == out.token_ids[step]
        assert abs(entry.logprob - log_probs[step, entry.token]) <= allowed
        assert log_probs[step].max() - log_probs[step, entry.token] <= 2 * allowed, "greedy"
        for token, value in entry.top:
            assert abs(value - log_probs[step, token]) <= allowed


@pytest.mark.parametrize("stored", ["bfloat16", "float16"])
def test_half_precision_checkpoint_computed_in_float32(tmp_path: Path, stored: str) -> None:
    hf = make_tiny_model(tmp_path / "hf", "qwen2", seed=9, dtype=stored, tokenizer=False)
    convert(str(hf), tmp_path / "out", ConvertOptions(), Silent())
    ids = tokens(70)
    with Engine(tmp_path / "out", dtype="float32", num_threads=2) as engine:
        got = engine.logits(ids)
    assert worst(got, load_reference(hf).logits(ids)) < TOLERANCE


def test_bfloat16_stays_near_float32(tmp_path: Path) -> None:
    hf = make_tiny_model(tmp_path / "hf", "llama", seed=9, dtype="bfloat16", tokenizer=False)
    convert(str(hf), tmp_path / "out", ConvertOptions(), Silent())
    ids = tokens(200)
    want = load_reference(hf).logits(ids)
    with Engine(tmp_path / "out", num_threads=2) as engine:
        assert engine.options.dtype == "bfloat16"
        got = engine.logits(ids)
    # bfloat16 has 8 bits: about 2^-8 of the logits' own size, through two layers.
    assert worst(got, want) < 0.03 * float(np.abs(want).max())
