"""SmolLM2-135M-Instruct in float32 against transformers on the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from moa_rt import Engine
from support_greedy import (
    ROUNDING,
    SINK,
    TOLERANCE,
    check_greedy,
    check_plan_logits,
    check_wraps,
    planned_engine,
    varied_rules,
)
from support_reference import Reference, load_reference_from_converted, spans_of, worst


@pytest.fixture(scope="module")
def reference(smollm2_dir: Path) -> Reference:
    return load_reference_from_converted(smollm2_dir)


@pytest.fixture(scope="module")
def dense(smollm2_dir: Path) -> Iterator[Engine]:
    with Engine(smollm2_dir, dtype="float32", max_seq_len=1024) as engine:
        yield engine


@pytest.fixture(scope="module")
def planned(smollm2_dir: Path, dense: Engine) -> Iterator[Engine]:
    with planned_engine(smollm2_dir, dense, seed=3) as engine:
        yield engine


def test_greedy_64_tokens_on_20_prompts(dense: Engine, reference: Reference) -> None:
    check_greedy(dense, reference)


def test_dense_logits(dense: Engine, reference: Reference) -> None:
    ids = np.random.default_rng(4).integers(0, 49152, 300).tolist()
    assert worst(dense.logits(ids), reference.logits(ids)) < TOLERANCE


def test_plan_logits_around_a_span(planned: Engine, reference: Reference) -> None:
    spans = spans_of(varied_rules(30, 3, seed=3), SINK, ROUNDING, 640)
    span = min(sum(head) for row in spans for head in row)
    assert 32 <= span <= 160
    check_plan_logits(planned, reference, [span - 1, span, span + 1, 4 * span], n=640)


def test_512_new_tokens_through_many_wraps(planned: Engine, reference: Reference) -> None:
    check_wraps(planned, reference, 512)
