"""Opening an engine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from moa_rt import (
    ArgumentError,
    AttentionPlan,
    Engine,
    MismatchError,
    ModelConfig,
    ResourceError,
    UnsupportedError,
)
from support_engine import IDS, greedy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_batch", 0),
        ("max_batch", -1),
        ("max_batch", 2**40),
        ("max_seq_len", -1),
        ("max_seq_len", 0),
        ("max_seq_len", 65537),
        ("num_threads", -1),
        ("num_threads", 0),
        ("num_threads", 10**6),
        ("prefill_chunk", 0),
        ("prefill_chunk", 2**40),
        ("kv_cache_bytes", 0),
        ("max_queue", -1),
        ("dtype", "int8"),
        ("dtype", 3),
        ("isa", "mmx"),
        ("max_batch", 2.0),
        ("max_batch", True),
        ("max_batch", 2**70),
    ],
    ids=repr,
)
def test_bad_engine_options(tiny_dir: Path, name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=name):
        Engine(tiny_dir, **{name.replace("isa", "cpu_isa"): value})


def test_plans_that_do_not_fit(tiny_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="3"):
        Engine(tiny_dir, AttentionPlan.from_rules([[(0, 0.5)] * 2] * 3))
    config = ModelConfig.load(tiny_dir)
    other = AttentionPlan.uniform(config, 0.5)
    other.fingerprint = "0" * 64
    with pytest.raises(MismatchError, match="fingerprint"):
        Engine(tiny_dir, other)
    with Engine(tiny_dir, other, force_plan=True, num_threads=1) as engine:
        assert engine.plan == other
    path = tmp_path / "plan.json"
    plan = AttentionPlan.uniform(config, 0.5)
    plan.save(path)
    for given in (path, str(path)):
        with Engine(tiny_dir, given, num_threads=1) as engine:
            assert engine.plan == plan
    with pytest.raises(ArgumentError, match="plan"):
        Engine(tiny_dir, 3)  # type: ignore[arg-type]


def test_unfit_for_memory_says_the_missing_bytes(tiny_dir: Path) -> None:
    with Engine(tiny_dir, kv_cache_bytes=1 << 20, num_threads=1, max_seq_len=4096) as engine:
        with pytest.raises(ResourceError, match="missing"):
            engine.submit(IDS, max_new_tokens=4000)
        assert len(greedy(engine, IDS)) == 8


def test_E8_refusing_plan(tiny_dir: Path) -> None:
    plan = AttentionPlan.from_rules([[(0, 0.5)] * 2] * 2, min_length=256, max_length=1024)
    plan.out_of_range = "refuse"
    with Engine(tiny_dir, plan, max_seq_len=1024, num_threads=1) as engine:
        with pytest.raises(ArgumentError, match="256"):
            engine.generate(IDS, max_new_tokens=10)
        assert engine.generate(IDS, max_new_tokens=250, ignore_eos=True).completion_tokens == 250


def test_forced_instruction_set(tiny_dir: Path) -> None:
    with Engine(tiny_dir, cpu_isa="portable", num_threads=1) as engine:
        assert engine.options.cpu_isa == "portable"
        assert len(greedy(engine, IDS)) == 8
    flags = Path("/proc/cpuinfo").read_text()
    if "avx512_bf16" not in flags:
        with pytest.raises(UnsupportedError, match="avx512_bf16"):
            Engine(tiny_dir, cpu_isa="avx512_bf16")


def test_options_come_back_resolved(cpu_engine: Engine) -> None:
    options = cpu_engine.options
    assert options.dtype == "float32"
    assert options.num_threads == 1
    assert options.max_seq_len == 4096
    assert options.plan == cpu_engine.plan
    assert cpu_engine.plan.density(1024) == 1.0
    assert os.cpu_count()
