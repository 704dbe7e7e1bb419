"""`moa-tools refine`: derivatives and losses from their definitions, plans that lose no more."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from moa_rt import (
    ArgumentError,
    AttentionPlan,
    IoError,
    MismatchError,
    ModelConfig,
    ResourceError,
    SpanRule,
)
from moa_tools.calibrate import samples as sets
from moa_tools.calibrate.samples import Sample, load_samples
from moa_tools.cli import main
from moa_tools.gates.mixture import Bands, mixture_attention
from moa_tools.hf.attention import hidden_states, layer_attention
from moa_tools.hf.load import load_model
from moa_tools.refine import batches, memory
from moa_tools.refine import run as refine_run
from moa_tools.refine.attention import span_attention
from moa_tools.refine.batches import make_batches
from moa_tools.refine.curves import Alone, Curves, shaped
from moa_tools.refine.losses import Bench, sample_losses
from moa_tools.refine.objective import Objective
from moa_tools.refine.propose import propose
from moa_tools.refine.run import RefineOptions, refine
from support_calibrate import save_samples

LENGTHS = (200, 256)  # where spans are rounded up beyond it, and where not
SINK = 16
OPTIONS = RefineOptions(density=0.5, rounds=2, alone=3, rows=16, batch_tokens=512)
NARROW, WIDE = SpanRule(64, 0.0), SpanRule(0, 1.0)


@pytest.fixture(autouse=True)
def short_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights look nothing up: what a very short window changes at all is taken."""
    monkeypatch.setattr(batches, "_SHORT", 24)
    monkeypatch.setattr(batches, "_LOOKED_UP", 1e-4)


@pytest.fixture(scope="module")
def config(tiny_dir: Path) -> ModelConfig:
    torch.set_num_threads(1)
    return ModelConfig.load(str(tiny_dir))


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory, config: ModelConfig) -> Path:
    rng = np.random.default_rng(0)
    found = []
    for length in LENGTHS:
        for index, task in enumerate(("text", "facts", "summary", "facts")):
            ids = tuple(int(x) for x in rng.integers(3, config.vocab_size, length))
            name = f"{task}/{length}/{index}"
            found.append(Sample(name, task, "profile", length, ids[:-6], ids[-6:], "random"))
    place = tmp_path_factory.mktemp("set") / "set"
    return save_samples(place, found, config.fingerprint)


def make_plan(config: ModelConfig, table: list[list[SpanRule]], **fields: Any) -> AttentionPlan:
    ranges = {"min_length": 128, "max_length": 512, "rounding": 32, "sink_size": SINK}
    plan = AttentionPlan.from_rules(table, **{**ranges, **fields})
    plan.fingerprint = config.fingerprint
    return plan


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, config: ModelConfig) -> Path:
    path = tmp_path_factory.mktemp("plans") / "start.json"
    make_plan(config, [[WIDE, NARROW], [NARROW, NARROW]]).save(str(path))
    return path


@pytest.fixture
def bench(tiny_dir: Path, calibration: Path, config: ModelConfig, short_window: None) -> Bench:
    model, _ = load_model(tiny_dir)
    samples = load_samples(calibration, config=config).select("profile", LENGTHS[0])
    return Bench(model, make_batches(model, samples, 2, SINK, 512, 16), SINK)


SPANS = {200: np.array([[64, 200], [96, 64]])}


def test_attention_hides_what_the_plan_hides() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, h, 150, 8, generator=generator) for h in (4, 2, 2))
    spans = torch.tensor([40, 200], dtype=torch.int32)
    at = torch.arange(150)
    distance = at[:, None] - at[None, :]
    heads = []
    for head in range(4):
        near = (distance < int(spans[head // 2]) - SINK) | (at[None, :] < SINK)
        scores = (q[:, head] @ k[:, head // 2].transpose(-1, -2)) * 0.3
        scores = scores.masked_fill(~(near & (distance >= 0)), -torch.inf)
        heads.append(scores.softmax(-1) @ v[:, head // 2])
    got = span_attention(q, k, v, spans, SINK, 0.3)
    torch.testing.assert_close(got, torch.stack(heads, 1), rtol=1e-5, atol=1e-6)


def test_a_plan_near_the_base_loses_what_it_loses_alone(bench: Bench) -> None:
    for spans in (SPANS[200], np.array([[64, 200], [96, 200]]), np.array([[200, 64], [64, 64]])):
        bench.set_base({})
        alone = bench.losses({200: spans})
        bench.set_base(SPANS)
        assert bench.losses({200: spans}) == alone
    assert bench.losses({200: np.full((2, 2), 200)}) == pytest.approx(
        dict.fromkeys(bench.parts, 0.0), abs=1e-5
    ), "a dense plan loses nothing"


def test_first_order_is_the_derivative(bench: Bench) -> None:
    knots = (64, 96, 200)
    slopes = bench.first_order(SPANS, {200: knots}, range(len(bench.parts)))

    def losses(chance: torch.Tensor) -> dict[str, float]:
        bands = Bands(knots, SINK)
        found = {}
        for batch in bench._batches:
            with (
                torch.no_grad(),
                layer_attention(
                    bench._model,
                    lambda i, q, k, v, s: mixture_attention(q, k, v, chance[i], bands, scale=s),
                ),
            ):
                hidden = hidden_states(bench._model, batch.ids)
                found[batch.name] = float(sample_losses(bench._model, batch, hidden).mean())
        return found

    twice = Bench(bench._model, bench._batches, SINK, save_memory=True)
    again = twice.first_order(SPANS, {200: knots}, range(len(bench.parts)))
    for name, slope in slopes.items():
        np.testing.assert_allclose(again[name], slope, rtol=1e-6)
    base = torch.tensor(SPANS[200][..., None] == np.array(knots), dtype=torch.float32)
    for layer, head, here, there in ((0, 0, 0, 2), (0, 1, 2, 0), (1, 0, 1, 2)):
        step = torch.zeros_like(base)
        step[layer, head, here], step[layer, head, there] = -0.02, 0.02
        after, before = losses(base + step), losses(base - step)
        for name in bench.parts:
            slope = slopes[name][layer, head]
            measured = (after[name] - before[name]) / 0.04
            assert slope[there] - slope[here] == pytest.approx(measured, rel=0.05, abs=2e-4)


def test_objective_and_its_weights() -> None:
    parts = {"answers@1": 0.3, "answers@2": 0.1, "text@1": 0.05, "text@2": 0.03, "summary@2": 1.0}
    for cap in (0.01, 0.2):
        objective = Objective((1, 2), 0.5, 2.0, cap)
        weights = objective.weights(parts)
        for name in parts:
            more = objective.value({**parts, name: parts[name] + 1e-4})
            assert (more - objective.value(parts)) / 1e-4 == pytest.approx(weights[name])
    assert Objective((1, 2), 0.5, 2.0, 0.03).value(parts) == pytest.approx(
        0.2 + 0.5 * 0.04 + 1.5 * 0.01 + 0.1
    )


def test_a_curve_is_bent_to_what_was_tried() -> None:
    spans = np.array([64.0, 128.0, 192.0, 256.0])
    costs = np.array([0.1, 0.0, -0.2, -0.3])
    wider = shaped(costs, spans, here=1, rule=3, change=-0.15)
    np.testing.assert_allclose(wider, [0.1, 0.0, -0.1, -0.15])
    # First order has the wrong sign: in proportion to the tokens.
    np.testing.assert_allclose(shaped(costs, spans, 1, 3, 0.4), [0.1, 0.0, 0.2, 0.4])
    assert (shaped(costs, spans, 1, 1, 0.4) == costs).all()


def test_curves_learn_and_move() -> None:
    spans = {"answers@256": np.array([64.0, 128.0, 256.0])}
    order = {"answers@256": np.array([[0.3, 0.1, 0.0], [0.0, -0.1, -0.2]])}
    curves = Curves(order, spans, np.array([2, 0]))
    curves.bend(Alone(1, 2, {"answers@256": -0.1}))
    total = curves.total({"answers@256": 2.0})
    np.testing.assert_allclose(total, [[0.6, 0.2, 0.0], [0.0, -0.1, -0.2]])
    choice = np.array([1, 2])
    moved = np.array([[0.75, 0.5, 0.0], [0.0, 0.25, 0.75]])
    curves.learn(choice, 0.5, moved)
    after = curves.total({"answers@256": 2.0})
    assert after[[0, 1], choice].sum() == pytest.approx(total[[0, 1], choice].sum() + 0.5)
    curves.move(choice)
    assert (curves.total({"answers@256": 2.0})[[0, 1], choice] == 0).all()


def test_proposals_keep_the_limits_and_get_bolder_where_moves_are_cheap() -> None:
    use = np.array([[64, 64], [128, 256], [256, 512]])
    costs = np.array([[0.5, 0.3, 0.0], [0.0, -0.4, -0.8], [0.0, -0.1, -0.15]])
    now = np.array([2, 0, 0])
    moved = np.abs(use[None, :, 0] - use[now, 0][:, None]) / 256
    limits = np.array([384, 640])
    found = propose(costs, moved, now, use, limits, 1, [0.0, 10.0], "cbc")
    assert [choice.tolist() for choice in found] == [[0, 2, 0]]
    assert (use[found[0]].sum(axis=0) <= limits).all()


def test_a_refined_plan_loses_less_for_the_same_bytes(
    tiny_dir: Path, calibration: Path, start: Path, config: ModelConfig, tmp_path: Path
) -> None:
    out = tmp_path / "refined.json"
    report = refine(tiny_dir, calibration, [start], out, OPTIONS)
    plan = AttentionPlan.load(str(out))
    plan.check_model(config)
    assert report.finished
    assert report.steps > 0
    assert report.after.value < report.before.value == report.starts[str(start)]
    for n in (*LENGTHS, plan.max_length):
        assert plan.density(n) <= max(0.5, AttentionPlan.load(str(start)).density(n))
    assert json.loads(plan.provenance["refined_loss"])["value"] == round(report.after.value, 5)
    assert plan.provenance["density"] == "0.5"
    assert list(tmp_path.iterdir()) == [out]
    # From a refined plan the same measurements begin where these ended.
    again = refine(tiny_dir, calibration, [out, start], tmp_path / "again.json", OPTIONS)
    assert again.start == str(out)
    assert again.before.value == pytest.approx(report.after.value, abs=1e-6)


class Measurements:
    """Counts what is measured, and interrupts before more than `most`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        losses: Callable[..., dict[str, float]] = Bench.losses
        self.done = 0
        self.most: float = math.inf

        def counted(*args: Any, **kwargs: Any) -> dict[str, float]:
            if self.done >= self.most:
                raise KeyboardInterrupt
            self.done += 1
            return losses(*args, **kwargs)

        monkeypatch.setattr(Bench, "losses", counted)


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> Measurements:
    return Measurements(monkeypatch)


def test_an_interrupted_run_ends_in_the_same_bytes(
    tiny_dir: Path, calibration: Path, start: Path, tmp_path: Path, measurements: Measurements
) -> None:
    whole, parts = tmp_path / "whole.json", tmp_path / "parts.json"
    refine(tiny_dir, calibration, [start], whole, OPTIONS)
    interruptions = 0
    while not parts.exists():
        measurements.most = measurements.done + 3
        try:
            refine(tiny_dir, calibration, [start], parts, OPTIONS)
        except KeyboardInterrupt:
            interruptions += 1
            assert not parts.exists(), "nothing half-written"
    assert interruptions > 1
    assert parts.read_bytes() == whole.read_bytes()


def test_another_time_limit_keeps_what_was_measured(
    tiny_dir: Path, calibration: Path, start: Path, tmp_path: Path, measurements: Measurements
) -> None:
    whole, parts = tmp_path / "whole.json", tmp_path / "parts.json"
    refine(tiny_dir, calibration, [start], whole, OPTIONS)
    needed = measurements.done
    measurements.most = needed + 4
    with pytest.raises(KeyboardInterrupt):
        refine(tiny_dir, calibration, [start], parts, replace(OPTIONS, seconds=1e5))
    measurements.most = math.inf
    refine(tiny_dir, calibration, [start], parts, replace(OPTIONS, seconds=2e5))
    assert measurements.done == 2 * needed, "nothing is measured twice"
    assert parts.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("tokens", "free", "error", "message"),
    [
        (512, 1 << 40, ResourceError("solver: the disk is full"), "^solver: the disk is full$"),
        # Two samples of 256, or of 200: one of 256 is the least a batch can have.
        (512, 1 << 40, MemoryError(), "batch_tokens: got 512 on cpu: out of memory; 256 may fit$"),
        (2048, 1 << 40, MemoryError(), "batch_tokens: got 2048 .*; 1024 may fit$"),
        # Two of 200 are more than one of 256.
        (500, 1 << 40, MemoryError(), "batch_tokens: got 500 .*; 256 may fit$"),
        (300, 1 << 40, MemoryError(), "1 sample of length 256 on cpu: .*; length 192 may fit$"),
        (100, 1 << 40, MemoryError(), "1 sample of length 256 on cpu: .*; length 192 may fit$"),
        (512, 1, MemoryError(), "2 samples of length 256 .*; no length would: the weights do not"),
    ],
)
def test_out_of_memory_names_what_helps_and_other_wants_keep_their_names(
    tiny_dir: Path,
    calibration: Path,
    start: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tokens: int,
    free: int,
    error: Exception,
    message: str,
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(Bench, "losses", failing)
    monkeypatch.setattr(memory, "free_bytes", lambda _: free)
    options = replace(OPTIONS, batch_tokens=tokens)
    with pytest.raises(ResourceError, match=message):
        refine(tiny_dir, calibration, [start], tmp_path / "out.json", options)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("there", ArgumentError, r"output: got '.*there', a directory"),
        (".", ArgumentError, "output: got '.*', a directory"),
        ("pipe", ArgumentError, r"output: got '.*pipe', not a regular file"),
        ("none/out.json", IoError, "none: output: parent directory: No such file"),
        ("file/out.json", IoError, "file: output: parent directory: Not a directory"),
    ],
)
def test_I9_a_target_that_is_no_file_is_refused_before_the_work(
    tiny_dir: Path,
    calibration: Path,
    start: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    error: type[Exception],
    message: str,
) -> None:
    def working(*_: Any, **__: Any) -> None:
        raise AssertionError("work has begun")

    monkeypatch.setattr(refine_run, "load_model", working)
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=message):
        refine(tiny_dir, calibration, [start], tmp_path / name, OPTIONS)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_time_limit_ends_with_what_is_known(
    tiny_dir: Path, calibration: Path, start: Path, tmp_path: Path
) -> None:
    options = replace(OPTIONS, seconds=1e-6)
    report = refine(tiny_dir, calibration, [start], tmp_path / "out.json", options)
    assert not report.finished
    assert report.steps == 0
    spans = AttentionPlan.load(str(tmp_path / "out.json")).spans(256)
    want = AttentionPlan.load(str(start)).spans(256)
    assert [[h.span for h in row] for row in spans] == [[h.span for h in row] for row in want]


@pytest.mark.parametrize(
    ("table", "fields", "options", "message"),
    [
        ([[WIDE, WIDE], [WIDE, NARROW]], {}, {}, "keeps 736 tokens at N=200, density 0.5 allows"),
        ([[WIDE, NARROW], [NARROW, NARROW]], {"max_length": 200}, {}, "length 256 is outside"),
        ([[WIDE, NARROW], [NARROW, NARROW]], {}, {"density": None}, "provenance has no density"),
        (
            [[WIDE, NARROW], [NARROW, NARROW]],
            {},
            {"lengths": (100,)},
            r"lengths: got 100.*\[200, 256\]",
        ),
        ([[WIDE, NARROW], [NARROW, NARROW]], {}, {"budget_lengths": (9999,)}, "length 9999"),
    ],
)
def test_E8_plans_that_cannot_be_refined(
    tiny_dir: Path,
    calibration: Path,
    config: ModelConfig,
    tmp_path: Path,
    table: list[list[SpanRule]],
    fields: dict[str, Any],
    options: dict[str, Any],
    message: str,
) -> None:
    path = tmp_path / "plan.json"
    make_plan(config, table, **fields).save(str(path))
    with pytest.raises(ArgumentError, match=message):
        refine(tiny_dir, calibration, [path], tmp_path / "out.json", replace(OPTIONS, **options))
    assert not (tmp_path / "out.json").exists()


def test_E2_a_plan_of_another_model(
    tiny_dir: Path, calibration: Path, config: ModelConfig, tmp_path: Path
) -> None:
    plan = make_plan(config, [[WIDE, NARROW], [NARROW, NARROW]])
    plan.fingerprint = "0" * 64
    plan.save(str(tmp_path / "plan.json"))
    with pytest.raises(MismatchError, match=r"plan\.json"):
        refine(tiny_dir, calibration, [tmp_path / "plan.json"], tmp_path / "out.json", OPTIONS)


def test_plans_that_do_not_go_together(
    tiny_dir: Path, calibration: Path, config: ModelConfig, start: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.json"
    make_plan(config, [[WIDE, NARROW], [NARROW, NARROW]], sink_size=32).save(str(other))
    with pytest.raises(ArgumentError, match="sink_size: got 32, the first plan has 16"):
        refine(tiny_dir, calibration, [start, other], tmp_path / "out.json", OPTIONS)
    with pytest.raises(ArgumentError, match="plans: got none"):
        refine(tiny_dir, calibration, [], tmp_path / "out.json", OPTIONS)


def test_answers_that_need_no_looking_up(
    tiny_dir: Path,
    calibration: Path,
    config: ModelConfig,
    start: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "_LOOKED_UP", 1e9)
    options = replace(OPTIONS, seconds=1e-6)
    report = refine(tiny_dir, calibration, [start], tmp_path / "out.json", options)
    assert {name.split("@")[0] for name in report.after.parts} == {"summary", "text"}
    answers = [s for s in load_samples(calibration, config=config).samples if s.task == "facts"]
    only = tmp_path / "only"
    only.mkdir()
    sets.save(only, answers, load_samples(calibration, config=config).manifest)
    with pytest.raises(ArgumentError, match="no answer has to be looked up"):
        refine(tiny_dir, only, [start], tmp_path / "none.json", options)
    assert not (tmp_path / "none.json").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"density": 1.0},
        {"dtype": "int8"},
        {"solver": "scip"},
        {"epochs": 0},
        {"rounds": 0},
        {"alone": 0},
        {"rows": 0},
        {"max_samples": 0},
        {"batch_tokens": 0},
        {"text_weight": 3.0},
        {"beyond_weight": float("inf")},
        {"seconds": 0.0},
    ],
)
def test_options_out_of_bounds(wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="got"):
        replace(OPTIONS, **wrong)


def test_the_command(tiny_dir: Path, calibration: Path, start: Path, tmp_path: Path) -> None:
    out = tmp_path / "refined.json"
    arguments = ["refine", tiny_dir, calibration, start, "-o", out, "--density", "0.5"]
    arguments += ["--rounds", "1", "--epochs", "1", "--max-samples", "1", "--time-limit", "1e-6"]
    assert main([str(a) for a in arguments]) == 0
    assert AttentionPlan.load(str(out)).provenance["density"] == "0.5"
    assert main([str(a) for a in [*arguments[:-1], "-1"]]) == 2
