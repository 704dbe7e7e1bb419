"""Bad prompts and options: rows G1 to G7 of the bad inputs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moa_rt import (
    ArgumentError,
    BusyError,
    Engine,
)
from support_engine import IDS, greedy


def test_G1_empty_prompt_and_empty_batch(engine: Engine, smollm2_dir: Path) -> None:
    none: list[str] = []
    assert engine.generate(none) == []
    empty: Any
    for empty in ([[]], [IDS, []], [()], [np.array([], dtype=np.int64)]):
        with pytest.raises(ArgumentError, match=r"prompts\[\d\]: got 0 tokens, want at least 1"):
            engine.generate(empty)
    with Engine(smollm2_dir, max_seq_len=64) as no_bos:
        for empty in ("", [""]):
            with pytest.raises(ArgumentError, match=r"prompts\[0\]: got 0 tokens"):
                no_bos.generate(empty)


@pytest.mark.parametrize("bad", [-1, 512, 2**31, 2**63, 2**70])
def test_G2_token_ids_out_of_range(engine: Engine, bad: int) -> None:
    with pytest.raises(ArgumentError, match=rf"prompts\[1\]\[2\]: got {bad}"):
        engine.generate([IDS, [1, 2, bad]])
    with pytest.raises(ArgumentError, match=rf"token_ids\[0\]: got {bad}"):
        engine.score([bad])
    assert len(greedy(engine, IDS)) == 8


@pytest.mark.parametrize(
    "bad",
    [
        np.array([1.0, 2.0]),
        np.array([True, False]),
        np.array([1, 2], dtype=object),
        np.array([[1, 2]]),
        np.array(3),
        [True, 1],
        [1.0, 2],
        ["1"],
        [None],
        {1, 2},
        b"ab",
        bytearray(b"ab"),
        3,
        None,
    ],
    ids=repr,
)
def test_G2_no_token_ids(engine: Engine, bad: Any) -> None:
    with pytest.raises(ArgumentError, match=r"prompts\[1\]"):
        engine.generate([IDS, bad])
    with pytest.raises(ArgumentError, match="token_ids"):
        engine.score(bad)


def test_G3_too_long_says_the_three_numbers(engine: Engine) -> None:
    with pytest.raises(ArgumentError, match=r"prompt 4000 .* 97 = 4097 tokens.*at most 4096"):
        engine.generate([1] * 4000, max_new_tokens=97)
    with pytest.raises(ArgumentError, match="prompt 5000"):
        engine.generate([1] * 5000, max_new_tokens=1)
    cut = engine.generate([1] * 5000, max_new_tokens=1, truncate_left=True)
    assert cut.prompt_tokens == 4095


def test_G4_new_tokens(engine: Engine, tiny_dir: Path) -> None:
    none = engine.generate(IDS, max_new_tokens=0)
    assert (none.token_ids, none.text, none.finish_reason) == ([], "", "length")
    with pytest.raises(ArgumentError, match="max_new_tokens: got -1"):
        engine.generate(IDS, max_new_tokens=-1)
    for huge in (2**31, 2**62):
        with pytest.raises(ArgumentError, match=f"max_new_tokens {huge}"):
            engine.generate(IDS, max_new_tokens=huge)
    with Engine(tiny_dir, max_seq_len=32, num_threads=1) as short:
        assert len(short.generate(IDS, max_new_tokens=None, ignore_eos=True).token_ids) == 26


def test_G5_queue_full_and_ragged(tiny_dir: Path) -> None:
    with Engine(tiny_dir, max_batch=1, max_queue=2, max_seq_len=256, num_threads=1) as engine:
        for _ in range(2):
            engine.submit(IDS, max_new_tokens=2)
        with pytest.raises(BusyError, match="queue is full"):
            engine.submit(IDS, max_new_tokens=2)
        while engine.has_work:
            engine.step()
        ragged = [[3] * n for n in (1, 40, 7, 100)]
        out = engine.generate(ragged, max_new_tokens=3, ignore_eos=True)
        assert [c.prompt_tokens for c in out] == [1, 40, 7, 100]


G6 = [
    ("temperature", math.nan),
    ("temperature", math.inf),
    ("temperature", -1.0),
    ("temperature", "0.7"),
    ("temperature", True),
    ("top_p", 0.0),
    ("top_p", math.nan),
    ("top_p", 1.0001),
    ("top_k", -1),
    ("top_k", 513),
    ("top_k", 2.0),
    ("min_p", -0.1),
    ("min_p", math.nan),
    ("seed", -1),
    ("seed", 2**64),
    ("seed", 1.0),
    ("repetition_penalty", 0.0),
    ("repetition_penalty", math.nan),
    ("presence_penalty", 2.1),
    ("frequency_penalty", -math.inf),
    ("logprobs", 65),
    ("logprobs", -1),
    ("deadline_seconds", -1.0),
    ("deadline_seconds", math.nan),
]


@pytest.mark.parametrize(("name", "value"), G6, ids=lambda v: repr(v))
def test_G6_options_out_of_bounds(engine: Engine, name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=name):
        engine.generate(IDS, max_new_tokens=1, **{name: value})
    assert not engine.has_work


def test_G6_tiny_temperature_is_greedy(engine: Engine) -> None:
    out = engine.generate(IDS, max_new_tokens=8, ignore_eos=True, temperature=1e-30, seed=3)
    assert out.token_ids == greedy(engine, IDS)


G7: list[tuple[str, dict[str, Any]]] = [
    ("min_new_tokens", {"min_new_tokens": 3, "max_new_tokens": 2}),
    ("stop", {"stop": ""}),
    ("stop", {"stop": ["a", ""]}),
    ("stop", {"stop": ["x"] * 10_000}),
    ("stop", {"stop": 5}),
    ("stop", {"stop": ["\ud800"]}),
    ("stop_token_ids", {"stop_token_ids": [512]}),
    ("stop_token_ids", {"stop_token_ids": [-1]}),
    ("logit_bias", {"logit_bias": {512: 1.0}}),
    ("logit_bias", {"logit_bias": {1: math.nan}}),
    ("logit_bias", {"logit_bias": {1: math.inf}}),
    ("logit_bias", {"logit_bias": {"1": 1.0}}),
    ("logit_bias", {"logit_bias": [1.0]}),
    ("logit_bias", {"logit_bias": dict.fromkeys(range(1_000_000), 0.0)}),
]


@pytest.mark.parametrize(("name", "options"), G7, ids=lambda v: str(v)[:40])
def test_G7_bad_lists(engine: Engine, name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=name):
        engine.generate(IDS, **options)
    with pytest.raises(ArgumentError, match=name):
        engine.submit(IDS, **options)


def test_unknown_option_is_a_type_error(engine: Engine) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_tokens'"):
        engine.generate(IDS, max_tokens=3)
