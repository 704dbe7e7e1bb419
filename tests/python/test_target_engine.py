"""The engine in the target's type and on its device: chunks, batches, sessions.

Run with --device=cuda, or on the CPU with --dtype bfloat16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moa_rt import AttentionPlan, Engine
from numpy.typing import NDArray
from support_reference import Rule
from support_target import Target

MIXED: list[list[Rule]] = [[(8, 0.0), (24, 0.0)], [(64, 0.0), (0, 1.0)]]


def tokens(count: int, seed: int = 1) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(3, 512, count)]


def open_engine(directory: Path, target: Target, **options: Any) -> Engine:
    plan = AttentionPlan.from_rules(MIXED, sink_size=4, rounding=4)
    return Engine(directory, plan, max_seq_len=2048, **target.options, **options)


def logprobs(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    out: NDArray[np.float64] = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return out


@pytest.mark.parametrize("chunk", [1, 3, 64, 127, 600])
def test_any_prefill_chunk(tiny_dir: Path, target: Target, chunk: int) -> None:
    ids = tokens(600)
    with open_engine(tiny_dir, target, prefill_chunk=1024) as whole:
        want = whole.logits(ids)
    with open_engine(tiny_dir, target, prefill_chunk=chunk) as chunked:
        assert target.close(chunked.logits(ids), want)


def test_ragged_batch_is_each_alone(tiny_dir: Path, target: Target) -> None:
    """What decode says in a batch is what one pass over the same text alone says."""
    prompts = [tokens(n, seed=n) for n in (1, 7, 30, 64, 200, 511)]
    with open_engine(tiny_dir, target, max_batch=6) as engine:
        answers = engine.generate(prompts, max_new_tokens=70, ignore_eos=True, logprobs=4)
        for prompt, answer in zip(prompts, answers, strict=True):
            logits = engine.logits(prompt + answer.token_ids, budget=len(prompt) + 70)
            want = logprobs(logits)[len(prompt) - 1 : -1]
            got = np.array([entry.logprob for entry in answer.logprobs])
            alone = want[np.arange(70), answer.token_ids]
            assert np.abs(got - alone).max() <= target.allowed(logits), len(prompt)


def test_sessions_continue_their_own_text(tiny_dir: Path, target: Target) -> None:
    turns = [tokens(n, seed=n) for n in (40, 3, 200, 1)]
    with open_engine(tiny_dir, target) as engine, engine.open_session(800) as session:
        text: list[int] = []
        for turn in turns:
            answer = session.generate(turn, max_new_tokens=20, ignore_eos=True, logprobs=0)
            logits = engine.logits(text + turn + answer.token_ids, budget=800)
            text += turn
            want = logprobs(logits)[len(text) - 1 : -1]
            got = np.array([entry.logprob for entry in answer.logprobs])
            text += answer.token_ids
            assert np.abs(got - want[np.arange(20), answer.token_ids]).max() <= target.allowed(
                logits
            )
