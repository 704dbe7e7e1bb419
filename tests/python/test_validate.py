"""`moa-tools validate`: losses as the definition has them, the choice, what is written and when."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moa_rt import ArgumentError, AttentionPlan, Engine, MismatchError, ModelConfig, ResourceError
from moa_tools.calibrate.samples import load_samples
from moa_tools.cli import main
from moa_tools.progress import Silent
from moa_tools.validate.run import ValidateOptions, validate
from support_calibrate import small_set
from support_models import make_tiny_model

_LENGTH = 768


@pytest.fixture(scope="module")
def calibration(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("validate") / "set"
    small_set(tiny_dir, place, tasks=("facts", "code", "text"))
    return place


def _plan(model: Path, rules: list[list[tuple[int, float]]], **lengths: int) -> AttentionPlan:
    config = ModelConfig.load(str(model))
    plan = AttentionPlan.from_rules(rules, **{"min_length": 256, "max_length": 2048, **lengths})
    plan.fingerprint = config.fingerprint
    return plan


@pytest.fixture
def plans(tiny_dir: Path, tmp_path: Path) -> list[Path]:
    """Nearly dense, narrow, and narrow in one layer only."""
    rules = [
        [[(0, 0.9), (0, 0.9)], [(0, 0.9), (0, 0.9)]],
        [[(128, 0.0), (128, 0.0)], [(128, 0.0), (128, 0.0)]],
        [[(128, 0.0), (0, 1.0)], [(0, 1.0), (128, 0.0)]],
    ]
    paths = [tmp_path / f"{name}.json" for name in ("wide", "narrow", "mixed")]
    for path, rule in zip(paths, rules, strict=True):
        plan = _plan(tiny_dir, rule)
        plan.quality = {"passkey@4096": 0.5}
        plan.save(str(path))
    return paths


def _run(model: Path, calibration: Path, plans: list[Path], report: Path, **options: Any) -> Any:
    return validate(model, calibration, plans, report, ValidateOptions(**options), Silent())


def _oracle(model: Path, calibration: Path, plan: Path | None) -> dict[str, float]:
    """Mean loss of each objective from the logits of every position."""
    losses: dict[str, list[float]] = {}
    with Engine(model, plan=plan, num_threads=1, max_seq_len=2048) as engine:
        for sample in load_samples(calibration, config=None).select("validate", _LENGTH):
            ids = [*sample.prompt_ids, *sample.answer_ids]
            logits = engine.logits(ids, budget=sample.length).astype(np.float64)
            top = logits.max(axis=1)
            normal = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
            begin = len(sample.prompt_ids)
            loss = [normal[i - 1] - logits[i - 1, ids[i]] for i in range(begin, len(ids))]
            losses.setdefault(sample.objective, []).append(float(np.mean(loss)))
    return {name: float(np.mean(values)) for name, values in losses.items()}


def test_losses_and_choice_by_the_definition(
    tiny_dir: Path, calibration: Path, plans: list[Path], tmp_path: Path
) -> None:
    report = _run(tiny_dir, calibration, plans, tmp_path / "report.json")
    dense = _oracle(tiny_dir, calibration, None)
    want = {path.name: _oracle(tiny_dir, calibration, path) for path in plans}
    assert report.dense.objectives == pytest.approx(dense, abs=1e-4)
    for result in report.plans:
        assert result.objectives == pytest.approx(want[result.name], abs=1e-4)
        excess = np.mean([want[result.name][name] - dense[name] for name in dense])
        assert result.excess == pytest.approx(excess, abs=1e-4)
    best = min(want, key=lambda name: sum(want[name][o] - dense[o] for o in dense))
    assert report.chosen.name == best
    assert [r.excess for r in report.plans] == sorted(r.excess for r in report.plans)
    assert json.loads((tmp_path / "report.json").read_text())["chosen"] == best


def test_plans_and_samples_matter(
    tiny_dir: Path, calibration: Path, plans: list[Path], tmp_path: Path
) -> None:
    report = _run(tiny_dir, calibration, plans, tmp_path / "report.json")
    by_name = {result.name: result for result in report.plans}
    assert by_name["narrow.json"].density == pytest.approx(128 / _LENGTH)
    assert by_name["narrow.json"].cache_bytes * 6 == report.dense.cache_bytes
    assert by_name["narrow.json"].loss != pytest.approx(by_name["wide.json"].loss, abs=1e-5)


def test_quality_is_written_into_the_files(
    tiny_dir: Path, calibration: Path, plans: list[Path], tmp_path: Path
) -> None:
    before = [AttentionPlan.load(str(path)) for path in plans]
    report = _run(tiny_dir, calibration, plans, tmp_path / "report.json")
    for path, old in zip(plans, before, strict=True):
        plan = AttentionPlan.load(str(path))
        result = next(r for r in report.plans if r.name == path.name)
        assert plan.rules == old.rules
        assert plan.quality["passkey@4096"] == 0.5
        assert plan.quality[f"loss@{_LENGTH}"] == result.loss
        assert plan.quality[f"retrieval_loss@{_LENGTH}"] == result.objectives["retrieval"]
        assert plan.quality[f"dense_loss@{_LENGTH}"] == report.dense.loss
        assert plan.quality[f"agreement@{_LENGTH}"] == result.agreement
        assert "2 samples" not in plan.provenance[f"validation@{_LENGTH}"]


def test_agreement_with_the_dense_model(tiny_dir: Path, calibration: Path, tmp_path: Path) -> None:
    plan = _plan(tiny_dir, [[(0, 1.0)] * 2] * 2)
    plan.save(str(tmp_path / "dense.json"))
    report = _run(tiny_dir, calibration, [tmp_path / "dense.json"], tmp_path / "r.json")
    assert report.chosen.agreement == 1.0
    assert report.chosen.excess == pytest.approx(0.0, abs=1e-6)
    again = _run(
        tiny_dir, calibration, [tmp_path / "dense.json"], tmp_path / "r.json", agreement=False
    )
    assert again.chosen.agreement is None


def test_same_inputs_same_bytes(
    tiny_dir: Path, calibration: Path, plans: list[Path], tmp_path: Path
) -> None:
    files = [*plans, tmp_path / "report.json"]
    _run(tiny_dir, calibration, plans, tmp_path / "report.json")
    first = [path.read_bytes() for path in files]
    _run(tiny_dir, calibration, plans, tmp_path / "report.json")
    assert [path.read_bytes() for path in files] == first


class _Interrupting(Silent):
    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def advance(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise KeyboardInterrupt


def test_interrupted_run_goes_on_and_no_plan_had_changed(
    tiny_dir: Path, calibration: Path, plans: list[Path], tmp_path: Path
) -> None:
    before = [path.read_bytes() for path in plans]
    report = tmp_path / "report.json"
    with pytest.raises(KeyboardInterrupt):
        validate(tiny_dir, calibration, plans, report, ValidateOptions(), _Interrupting(7))
    assert [path.read_bytes() for path in plans] == before
    assert not report.exists()
    rest = _Interrupting(10**6)
    resumed = validate(tiny_dir, calibration, plans, report, ValidateOptions(), rest)
    # Dense and three plans, three samples each; eight were done, the last of them not announced.
    assert 10**6 - rest.left == 4 * 3 - 8
    assert resumed == _run(tiny_dir, calibration, plans, tmp_path / "other.json")
    assert not list(tmp_path.glob(".*"))


def test_E4_plan_of_another_model(
    tiny_dir: Path, calibration: Path, plans: list[Path], tmp_path: Path
) -> None:
    other = AttentionPlan.load(str(plans[1]))
    other.fingerprint = "0" * len(other.fingerprint)
    other.save(str(plans[1]))
    before = [path.read_bytes() for path in plans]
    with pytest.raises(MismatchError, match=r"narrow\.json: .*fingerprint"):
        _run(tiny_dir, calibration, plans, tmp_path / "report.json")
    assert [path.read_bytes() for path in plans] == before


def test_E2_plan_of_another_shape(
    tiny_dir: Path, calibration: Path, plans: list[Path], tmp_path: Path
) -> None:
    _plan(tiny_dir, [[(128, 0.0)] * 2] * 3).save(str(plans[0]))
    with pytest.raises(MismatchError, match=r"wide\.json: .*3"):
        _run(tiny_dir, calibration, plans, tmp_path / "report.json")


def test_E8_length_outside_the_plans_range(
    tiny_dir: Path, calibration: Path, tmp_path: Path
) -> None:
    path = tmp_path / "short.json"
    _plan(tiny_dir, [[(0, 0.5)] * 2] * 2, max_length=700).save(str(path))
    before = path.read_bytes()
    with pytest.raises(ArgumentError, match=r"short\.json: length 768 is outside .* 256\.\.700"):
        _run(tiny_dir, calibration, [path], tmp_path / "report.json")
    assert path.read_bytes() == before


def test_calibration_set_of_another_model(
    tiny_dir: Path, calibration: Path, plans: list[Path], tmp_path: Path
) -> None:
    from moa_tools.convert import ConvertOptions, convert

    make_tiny_model(tmp_path / "hf", "llama", seed=1)
    convert(str(tmp_path / "hf"), tmp_path / "other", ConvertOptions(), Silent())
    with pytest.raises(MismatchError, match="another model's"):
        _run(tmp_path / "other", calibration, plans, tmp_path / "report.json")


def test_length_without_samples(
    tiny_dir: Path, calibration: Path, plans: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match="no sample of split 'validate', length 999"):
        _run(tiny_dir, calibration, plans, tmp_path / "report.json", length=999)
    with pytest.raises(ArgumentError, match="plans: got none"):
        _run(tiny_dir, calibration, [], tmp_path / "report.json")


def test_disk_full_changes_no_plan(
    tiny_dir: Path,
    calibration: Path,
    plans: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = [path.read_bytes() for path in plans]
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left on device"):
        _run(tiny_dir, calibration, plans, tmp_path / "report.json")
    assert [path.read_bytes() for path in plans] == before
    assert not (tmp_path / "report.json").exists()


def test_command(
    tiny_dir: Path,
    calibration: Path,
    plans: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = tmp_path / "report.json"
    files = [str(path) for path in plans]
    arguments = ["validate", str(tiny_dir), str(calibration), *files, "-o", str(report)]
    assert main([*arguments, "--no-agreement", "--no-write"]) == 0
    text = capsys.readouterr().out
    assert "narrow.json" in text
    assert text.splitlines()[-1].startswith("best: ")
    assert f"loss@{_LENGTH}" not in AttentionPlan.load(files[0]).quality
    assert main([*arguments, "--length", "9"]) == 2
