"""`moa-tools verify`: what is right passes; faults are found and the faulty head is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from moa_rt import ArgumentError, AttentionPlan, Engine, Trace
from moa_tools.cli import main
from moa_tools.convert import ConvertOptions, convert
from moa_tools.convert.progress import Silent
from moa_tools.hf.load import load_model
from moa_tools.verify.oracle import Oracle
from moa_tools.verify.report import VerifyReport
from moa_tools.verify.run import as_cached, verify
from moa_tools.verify.tolerance import tolerance
from support_models import make_tiny_model

torch.set_num_threads(1)

LAYERS, KV_HEADS, LENGTH, SINK = 3, 2, 150, 4
# Windows of every kind: narrower than a chunk, wider, elastic, dense.
RULES: list[list[tuple[int, float]]] = [
    [(20, 0.0), (0, 0.5)],
    [(33, 0.0), (0, 1.0)],
    [(9, 0.125), (70, 0.0)],
]
FAULTS = [(0, 0), (1, 0), (2, 1)]


def plan_of(rules: list[list[tuple[int, float]]]) -> AttentionPlan:
    """Rounding 1: a window may be off by one token."""
    return AttentionPlan.from_rules(rules, sink_size=SINK, rounding=1)


def off_by_one(layer: int, head: int, by: int) -> AttentionPlan:
    rules = [list(row) for row in RULES]
    alpha, beta = rules[layer][head]
    rules[layer][head] = (alpha + by, beta)
    return plan_of(rules)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("verify")
    shape: dict[str, Any] = {"num_hidden_layers": LAYERS, "num_key_value_heads": KV_HEADS}
    hf = make_tiny_model(place / "hf", "qwen2", seed=5, **shape)
    convert(str(hf), place / "model", ConvertOptions(), Silent())
    return place / "model"


@pytest.fixture(scope="module")
def oracle(model_dir: Path) -> Oracle:
    return Oracle(load_model(model_dir)[0])


def open_engine(model_dir: Path, plan: AttentionPlan, dtype: str = "float32") -> Engine:
    return Engine(
        model_dir, plan, dtype=dtype, max_batch=1, max_seq_len=512, prefill_chunk=32, num_threads=1
    )


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> Iterator[Engine]:
    with open_engine(model_dir, plan_of(RULES)) as opened:
        yield opened


def prompts(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(8)
    return [[int(i) for i in rng.integers(3, 500, n)] for n in lengths]


def test_what_is_right_passes(engine: Engine, oracle: Oracle) -> None:
    report = verify(engine, oracle, plan_of(RULES), prompts(LENGTH, 37, 2))
    assert report.ok
    assert 0.0 < report.logits.value < 1e-3
    assert 0.0 < report.attention.value < 2e-5
    assert (report.wrong_heads, report.first_stray) == ((), None)
    assert report.text().splitlines()[-1].endswith(": ok")


def test_in_bfloat16(model_dir: Path, oracle: Oracle) -> None:
    with open_engine(model_dir, plan_of(RULES), "bfloat16") as engine:
        report = verify(engine, oracle, plan_of(RULES), prompts(LENGTH))
    assert report.ok
    assert report.logits.value > 1e-3, "bfloat16 was not used"


@pytest.mark.parametrize(
    ("dtype", "digits", "tie"),
    [("bfloat16", 8, 9), ("float16", 11, 12), ("float32", 24, 25)],
)
def test_values_are_rounded_as_caches_of_their_type(dtype: str, digits: int, tie: int) -> None:
    values = torch.tensor([1 + 2.0 ** (1 - digits), 1 + 2.0 ** (1 - tie), -3.0, 0.0])
    want = [1 + 2.0 ** (1 - digits), 1.0, -3.0, 0.0]  # ties to even
    assert as_cached(values, dtype).tolist() == want


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_tolerance_holds_attention_with_rounded_probabilities(dtype: str) -> None:
    """And no more than a few times that: one token of the window must show."""
    generator = torch.Generator().manual_seed(3)
    worst = 0.0
    for tokens, spread in ((3, 0.0), (50, 1.0), (1024, 0.3), (4096, 2.0)):
        scores = spread * torch.randn(200, tokens, generator=generator)
        value = torch.rand(tokens, 16, generator=generator) * 2 - 1
        value[:, 0] = 1.0  # nothing cancels
        weights = (scores - scores.amax(dim=1, keepdim=True)).exp()
        sums = weights.sum(dim=1, keepdim=True)
        error = (as_cached(weights, dtype) @ value - weights @ value) / sums
        worst = max(worst, float(error.abs().max() / value.abs().max()))
    assert worst < tolerance(dtype).attention < 20 * worst


def test_float16_is_an_eighth_of_bfloat16() -> None:
    wide, narrow = tolerance("bfloat16"), tolerance("float16")
    assert narrow.logits == wide.logits / 8
    assert narrow.attention == wide.attention / 8
    with pytest.raises(ArgumentError, match="got 'float8', want one of float32, bfloat16, float16"):
        tolerance("float8")


@pytest.mark.parametrize("by", [-1, 1])
@pytest.mark.parametrize(("layer", "head"), FAULTS)
def test_a_window_off_by_one_token_is_found_and_named(
    model_dir: Path, oracle: Oracle, layer: int, head: int, by: int
) -> None:
    with open_engine(model_dir, off_by_one(layer, head, by)) as engine:
        report = verify(engine, oracle, plan_of(RULES), prompts(LENGTH, 120))
    assert not report.ok
    assert {(error.layer, error.kv_head) for error in report.wrong_heads} == {(layer, head)}
    assert [error.prompt for error in report.wrong_heads] == [0, 1]
    right = plan_of(RULES).head_span(layer, head, LENGTH)
    first = right.span + min(by, 0)  # the first position at which the two windows differ
    assert report.wrong_heads[0].positions == (first, LENGTH - 1, LENGTH - first)
    text = report.text()
    assert f"first wrong head: layer {layer}, KV head {head} (of 1 that differ)" in text
    assert f"{LENGTH - first} positions from {first} (prefill) to {LENGTH - 1}" in text
    assert text.splitlines()[-1].endswith(": WRONG")


class Faulty:
    """An engine whose traces went wrong somewhere."""

    def __init__(self, engine: Engine) -> None:
        self.options, self.config = engine.options, engine.config
        self._engine = engine

    def trace(self, token_ids: Any, **how: Any) -> Trace:
        return self.spoil(self._engine.trace(token_ids, **how))

    def spoil(self, trace: Trace) -> Trace:
        raise NotImplementedError


def check(faulty: Faulty, oracle: Oracle) -> VerifyReport:
    return verify(faulty, oracle, plan_of(RULES), prompts(LENGTH))  # type: ignore[arg-type]


def test_one_wrong_decode_step_is_found(engine: Engine, oracle: Oracle) -> None:
    class OneStep(Faulty):
        def spoil(self, trace: Trace) -> Trace:
            trace.attention[1, LENGTH - 3, 2] += 0.5  # query head 2 reads KV head 1
            return trace

    report = check(OneStep(engine), oracle)
    (wrong,) = report.wrong_heads
    assert (wrong.layer, wrong.kv_head, wrong.position) == (1, 1, LENGTH - 3)
    assert "(a decode step)" in report.text()


def test_nan_in_a_head_is_found(engine: Engine, oracle: Oracle) -> None:
    class NotANumber(Faulty):
        def spoil(self, trace: Trace) -> Trace:
            trace.attention[2, 7, 0] = np.nan
            return trace

    report = check(NotANumber(engine), oracle)
    (wrong,) = report.wrong_heads
    assert (wrong.layer, wrong.kv_head, wrong.positions) == (2, 0, (7, 7, 1))


def test_a_wrong_projection_is_told_from_a_wrong_mask(engine: Engine, oracle: Oracle) -> None:
    """Values doubled before the heads of layer 1: each head then obeys its mask."""

    class Projection(Faulty):
        def spoil(self, trace: Trace) -> Trace:
            value, attention = trace.value.copy(), trace.attention.copy()
            value[1] *= 2.0
            attention[1] *= 2.0
            return replace(trace, value=value, attention=attention, logits=trace.logits + 1.0)

    report = check(Projection(engine), oracle)
    assert not report.ok
    assert report.wrong_heads == ()
    assert report.first_stray is not None
    assert report.first_stray.layer == 1
    assert "layer 1, KV head 0" in report.text()


def test_bad_prompts(engine: Engine, oracle: Oracle) -> None:
    with pytest.raises(ArgumentError, match="prompts: got none"):
        verify(engine, oracle, plan_of(RULES), [])
    with pytest.raises(ArgumentError, match=r"prompts\[1\]: got 1 tokens"):
        verify(engine, oracle, plan_of(RULES), [[5, 6], [5]])


def test_the_command(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(RULES)
    plan.save(str(tmp_path / "plan.json"))
    text = tmp_path / "prompts.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 8)
    command = ["verify", str(model_dir), "--plan", str(tmp_path / "plan.json")]
    assert main([*command, "--prompts", str(text), "--length", "100"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("largest logit error ")
    assert last.endswith(": ok")
    plan.fingerprint = "0" * 64
    plan.save(str(tmp_path / "plan.json"))
    assert main([*command, "--prompts", str(text), "--length", "100"]) == 5
    assert "fingerprint" in capsys.readouterr().err
    assert main([*command, "--length", "1"]) == 2
    assert "--length: got 1" in capsys.readouterr().err


# --- Engine.trace itself


def test_trace_gives_what_logits_gives(engine: Engine) -> None:
    (ids,) = prompts(LENGTH)
    whole = engine.trace(ids, logit_positions=range(LENGTH))
    np.testing.assert_array_equal(whole.logits, engine.logits(ids))
    assert whole.query.shape == (LAYERS, LENGTH, 4, 64)
    assert whole.key.shape == whole.value.shape == (LAYERS, LENGTH, KV_HEADS, 64)
    one = engine.trace(ids, layers=(1, 2), logit_positions=[3, 149])
    np.testing.assert_array_equal(one.attention[0], whole.attention[1])
    np.testing.assert_array_equal(one.key[0], whole.key[1])
    np.testing.assert_array_equal(one.logits, whole.logits[[3, 149]])


def test_trace_of_decode_steps(engine: Engine) -> None:
    (ids,) = prompts(LENGTH)
    chunks = engine.trace(ids, logit_positions=[LENGTH - 1])
    steps = engine.trace(ids, logit_positions=[LENGTH - 1], decode_from=40)
    np.testing.assert_array_equal(steps.attention[0, :32], chunks.attention[0, :32])
    np.testing.assert_allclose(steps.attention, chunks.attention, atol=1e-4)
    np.testing.assert_allclose(steps.logits, chunks.logits, atol=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"layers": (0, LAYERS + 1)},
        {"layers": (2, 1)},
        {"layers": (-1, 1)},
        {"logit_positions": [3, 3]},
        {"logit_positions": [LENGTH]},
        {"decode_from": LENGTH + 1},
        {"decode_from": -1},
        {"budget": LENGTH - 1},
    ],
)
def test_bad_trace_arguments(engine: Engine, wrong: dict[str, Any]) -> None:
    (ids,) = prompts(LENGTH)
    with pytest.raises(ArgumentError):
        engine.trace(ids, **wrong)
    assert engine.memory.kv_cache == 0
