"""Comparisons of a real model with transformers, shared by the models at hand."""

from __future__ import annotations

import numpy as np
from moa_rt import AttentionPlan, Engine
from support_prompts import TEXTS
from support_reference import Reference, Rule, log_softmax, spans_of, worst

TOLERANCE = 1e-3  # absolute, float32
NEW_TOKENS = 64
SINK, ROUNDING = 16, 16


def check_greedy(engine: Engine, reference: Reference) -> None:
    """Greedy answers are those of transformers.

    One forward pass over prompt and answer gives the reference's choice after each of the answer's
    prefixes; by induction the answers are equal iff every choice is.
    """
    assert len(TEXTS) == 20
    prompts = [engine.tokenizer.encode(text) for text in TEXTS]
    answers = engine.generate(prompts, max_new_tokens=NEW_TOKENS, ignore_eos=True)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.finish_reason == "length"
        logits = reference.logits(prompt + answer.token_ids)
        choices = logits[len(prompt) - 1 : -1].argmax(axis=1)
        assert answer.token_ids == choices.tolist()


def varied_rules(layers: int, kv_heads: int, seed: int) -> list[list[Rule]]:
    """Spans of 32 to about 200 tokens at N = 640; one head in eight is dense."""
    draw = np.random.default_rng(seed)

    def rule() -> Rule:
        if draw.random() < 0.125:
            return (0, 1.0)
        beta = float(draw.integers(0, 16)) / 64
        return (int(draw.integers(-32 if beta >= 0.125 else 1, 128)), beta)

    return [[rule() for _ in range(kv_heads)] for _ in range(layers)]


def check_plan_logits(engine: Engine, reference: Reference, lengths: list[int], n: int) -> None:
    """Logits under the engine's plan at prompts of these lengths, all with budget n."""
    plan = engine.plan
    rules: list[list[Rule]] = [[(r.alpha, r.beta, r.max_span) for r in row] for row in plan.rules]
    spans = spans_of(rules, plan.sink_size, plan.rounding, n)
    ids = np.random.default_rng(5).integers(0, engine.config.vocab_size, max(lengths)).tolist()
    for length in lengths:
        got = engine.logits(ids[:length], budget=n)
        assert worst(got, reference.logits(ids[:length], spans)) < TOLERANCE, length


def check_wraps(engine: Engine, reference: Reference, new_tokens: int) -> None:
    """Log-probabilities of tokens that were generated one by one while windows wrapped."""
    plan = engine.plan
    prompt = engine.tokenizer.encode(TEXTS[17])
    n = len(prompt) + new_tokens
    rules: list[list[Rule]] = [[(r.alpha, r.beta, r.max_span) for r in row] for row in plan.rules]
    spans = spans_of(rules, plan.sink_size, plan.rounding, n)
    assert min(window for row in spans for _, window in row) * 4 < new_tokens
    out = engine.generate(prompt, max_new_tokens=new_tokens, ignore_eos=True, logprobs=2)
    logits = reference.logits(prompt + out.token_ids, spans)
    want = log_softmax(logits)[len(prompt) - 1 : -1]
    for step, entry in enumerate(out.logprobs):
        assert want[step].max() - want[step, entry.token] < TOLERANCE, "greedy"
        for token, value in [(entry.token, entry.logprob), *entry.top]:
            assert abs(value - want[step, token]) < TOLERANCE, step


def planned_engine(directory: object, config_of: Engine, seed: int) -> Engine:
    """A second engine over the same model, under a plan of varied spans."""
    config = config_of.config
    rules = varied_rules(config.num_hidden_layers, config.num_key_value_heads, seed)
    plan = AttentionPlan.from_rules(rules, sink_size=SINK, rounding=ROUNDING, min_length=512)
    return Engine(str(directory), plan, dtype="float32", max_seq_len=1024)
