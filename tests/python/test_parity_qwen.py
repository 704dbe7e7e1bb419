"""Qwen2.5-Coder-0.5B-Instruct in float32 against transformers; asked for with --qwen-dir."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from moa_rt import Engine
from support_greedy import check_greedy, check_plan_logits, check_wraps, planned_engine
from support_reference import Reference, load_reference_from_converted


@pytest.fixture(scope="module")
def directory(request: pytest.FixtureRequest) -> Path:
    return Path(request.config.getoption("--qwen-dir"))


@pytest.fixture(scope="module")
def reference(directory: Path) -> Reference:
    return load_reference_from_converted(directory)


@pytest.fixture(scope="module")
def dense(directory: Path) -> Iterator[Engine]:
    with Engine(directory, dtype="float32", max_seq_len=1024) as engine:
        yield engine


@pytest.fixture(scope="module")
def planned(directory: Path, dense: Engine) -> Iterator[Engine]:
    with planned_engine(directory, dense, seed=3) as engine:
        yield engine


def test_greedy_64_tokens_on_20_prompts(dense: Engine, reference: Reference) -> None:
    check_greedy(dense, reference)


def test_plan_logits(planned: Engine, reference: Reference) -> None:
    check_plan_logits(planned, reference, [31, 32, 33, 128, 400], n=640)


def test_512_new_tokens_through_many_wraps(planned: Engine, reference: Reference) -> None:
    check_wraps(planned, reference, 512)
