"""`moa-tools profile` from the calibration set to the files, and what it does with bad input."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from moa_rt import (
    ArgumentError,
    FormatError,
    IoError,
    MismatchError,
    ModelConfig,
    NumericError,
    ResourceError,
)
from moa_tools.calibrate.samples import Sample
from moa_tools.cli import main
from moa_tools.profile import layers, memory, run
from moa_tools.profile.cost_curves import CostCurves
from moa_tools.profile.options import ProfileOptions
from moa_tools.profile.run import profile
from moa_tools.profile.spans import profile_spans
from moa_tools.progress import Silent
from support_calibrate import save_samples

torch.set_num_threads(1)

LENGTHS = (192, 256)


def sample(name: str, task: str, length: int, split: str = "profile") -> Sample:
    rng = np.random.default_rng(sum(name.encode()))
    ids = tuple(int(i) for i in rng.integers(3, 500, length - 3))
    return Sample(name, task, split, length, ids[:-16], ids[-16:], "random")


def write_set(directory: Path, fingerprint: str, samples: Sequence[Sample] | None = None) -> Path:
    if samples is None:
        samples = [
            sample(f"{task}-{length}-{i}", task, length)
            for length in LENGTHS
            for task in ("needles", "text")
            for i in range(2)
        ] + [sample("other", "needles", 192, "validate")]
    return save_samples(directory, samples, fingerprint)


@pytest.fixture(scope="module")
def config(tiny_dir: Path) -> ModelConfig:
    return ModelConfig.load(str(tiny_dir))


@pytest.fixture
def calibration(tmp_path: Path, config: ModelConfig) -> Path:
    return write_set(tmp_path / "calibration", config.fingerprint)


def files(out: Path) -> tuple[bytes, bytes]:
    return out.with_suffix(".json").read_bytes(), out.with_suffix(".safetensors").read_bytes()


@pytest.mark.parametrize("form", ["joint", "entry"])
def test_a_curve_for_each_objective_and_length(
    form: Any, tiny_dir: Path, calibration: Path, tmp_path: Path, config: ModelConfig
) -> None:
    report = profile(tiny_dir, calibration, tmp_path / "out", ProfileOptions(form=form))
    loaded = CostCurves.load(tmp_path / "out", config)
    assert loaded.sha256() == report.curves.sha256()
    assert loaded.method == f"influence-{form}"
    titles = [(curve.objective, curve.length) for curve in loaded.curves]
    assert titles == [(o, n) for o in ("language", "retrieval") for n in LENGTHS]
    for curve in loaded.curves:
        assert tuple(curve.spans) == profile_spans(curve.length, 64)
        assert curve.costs.shape == (2, 2, len(curve.spans))
        assert (curve.costs[:, :, -1] == 0.0).all()
        assert (curve.costs[:, :, 0] > 0.0).all()
    assert report.samples == 8
    assert set(report.seconds) == set(LENGTHS)
    assert not (tmp_path / "out.partial").exists()


def test_a_curve_is_the_mean_of_its_samples(
    tiny_dir: Path, calibration: Path, tmp_path: Path
) -> None:
    from moa_tools.hf.load import load_model

    options = ProfileOptions(lengths=(192,))
    report = profile(tiny_dir, calibration, tmp_path / "out", options)
    model, _ = load_model(tiny_dir)
    parts = [
        run.sample_curves(model, sample(f"needles-192-{i}", "needles", 192), options)
        for i in range(2)
    ]
    curve = next(c for c in report.curves.curves if c.objective == "retrieval")
    np.testing.assert_allclose(curve.costs, (parts[0] + parts[1]) / 2, rtol=1e-12)


def test_lengths_and_max_samples_choose(tiny_dir: Path, calibration: Path, tmp_path: Path) -> None:
    options = ProfileOptions(lengths=(256,), max_samples=1)
    report = profile(tiny_dir, calibration, tmp_path / "out", options)
    assert report.samples == 2
    assert {curve.length for curve in report.curves.curves} == {256}


def test_E18_and_resume_give_the_same_bytes(
    tiny_dir: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile(tiny_dir, calibration, tmp_path / "whole")
    real, calls = run.sample_curves, []

    def interrupted(model: Any, one: Sample, options: ProfileOptions) -> Any:
        calls.append(one.id)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(model, one, options)

    monkeypatch.setattr(run, "sample_curves", interrupted)
    out = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        profile(tiny_dir, calibration, out)
    assert not out.with_suffix(".json").exists()
    reporter = Silent()
    report = profile(tiny_dir, calibration, out, reporter=reporter)
    assert report.samples == 5
    assert "3 of 8 samples are done already" in reporter.infos[0]
    assert len(calls) == len(set(calls)) + 1  # only the interrupted one was begun twice
    assert files(out) == files(tmp_path / "whole")


def begin(tiny_dir: Path, calibration: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that stops after its first sample; its directory of finished samples."""
    real, calls = run.sample_curves, []

    def stop(model: Any, one: Sample, options: ProfileOptions) -> Any:
        calls.append(one.id)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(model, one, options)

    with monkeypatch.context() as patch:
        patch.setattr(run, "sample_curves", stop)
        with pytest.raises(KeyboardInterrupt):
            profile(tiny_dir, calibration, out)
    return out.with_suffix(".partial")


def test_a_resume_with_other_settings_is_refused(
    tiny_dir: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    begin(tiny_dir, calibration, out, monkeypatch)
    with pytest.raises(ArgumentError, match="begun with form 'joint', got 'entry'"):
        profile(tiny_dir, calibration, out, ProfileOptions(form="entry"))


def test_a_damaged_partial_file_is_refused(
    tiny_dir: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    place = begin(tiny_dir, calibration, out, monkeypatch)
    kept = next(place.glob("*.curves"))
    raw = bytearray(kept.read_bytes())
    raw[-1] ^= 1
    kept.write_bytes(raw)
    with pytest.raises(FormatError, match=r"\.curves"):
        profile(tiny_dir, calibration, out)


def test_E17_a_loss_of_nan_names_the_sample(
    tiny_dir: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = layers.attention_gradients

    def broken(model: Any, prompt: Any, answer: Any) -> Any:
        return float("nan"), real(model, prompt, answer)[1]

    monkeypatch.setattr(run, "attention_gradients", broken)
    with pytest.raises(NumericError, match="sample 'needles-192-0': loss: got nan"):
        profile(tiny_dir, calibration, tmp_path / "out")
    assert not (tmp_path / "out.json").exists()


def test_E17_an_influence_of_nan_names_sample_and_layer(
    tiny_dir: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = layers.attention_gradients

    def broken(model: Any, prompt: Any, answer: Any) -> Any:
        loss, parts = real(model, prompt, answer)
        return loss, ((i, replace(a, grad_output=a.grad_output * np.nan)) for i, a in parts)

    monkeypatch.setattr(run, "attention_gradients", broken)
    with pytest.raises(NumericError, match="sample 'needles-192-0': layer 1: influence"):
        profile(tiny_dir, calibration, tmp_path / "out")


def test_E17_a_set_of_another_model(tiny_dir: Path, tmp_path: Path) -> None:
    other = write_set(tmp_path / "other", "0" * 64)
    with pytest.raises(MismatchError, match="fingerprint"):
        profile(tiny_dir, other, tmp_path / "out")


def test_E17_a_length_that_is_not_there(tiny_dir: Path, calibration: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"lengths: got 512, .* \[192, 256\]"):
        profile(tiny_dir, calibration, tmp_path / "out", ProfileOptions(lengths=(512,)))


def test_a_sample_beyond_the_model(tiny_dir: Path, tmp_path: Path, config: ModelConfig) -> None:
    far = [replace(sample("far", "text", 192), length=1 << 20)]
    calibration = write_set(tmp_path / "far", config.fingerprint, far)
    with pytest.raises(ArgumentError, match="sample 'far': length 1048576: the model ends at"):
        profile(tiny_dir, calibration, tmp_path / "out")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"form": "both"}, "form: got 'both'"),
        ({"dtype": "float8"}, "dtype: got 'float8'"),
        ({"max_samples": 0}, "max_samples: got 0"),
        ({"sink": -1}, "sink: got -1"),
    ],
)
def test_bad_options(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        ProfileOptions(**wrong)


def test_out_of_memory_is_foreseen(
    tiny_dir: Path,
    calibration: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: ModelConfig,
) -> None:
    needed = memory.predict_memory(config, 192, 16, 4, "cpu").total
    monkeypatch.setattr(memory, "free_bytes", lambda _device: needed)
    with pytest.raises(ResourceError, match=r"sample 'needles-256-0': length 256 .* 192 would fit"):
        profile(tiny_dir, calibration, tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: x")]
)
def test_out_of_memory_names_the_length_that_fits(
    error: Exception, tiny_dir: Path, calibration: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    real = run.sample_curves

    def full(model: Any, one: Sample, options: ProfileOptions) -> Any:
        if one.length == 256:
            raise error
        return real(model, one, options)

    monkeypatch.setattr(run, "sample_curves", full)
    with pytest.raises(ResourceError, match=r"length 256 on cpu: out of memory; length 192 would"):
        profile(tiny_dir, calibration, tmp_path / "out")
    monkeypatch.undo()
    reporter = Silent()
    profile(tiny_dir, calibration, tmp_path / "out", reporter=reporter)  # goes on with the rest
    assert "4 of 8 samples are done already" in reporter.infos[0]


def test_spans() -> None:
    assert profile_spans(200, 64) == (128, 192, 200)
    for length in (129, 192, 1000, 4096, 32768):
        spans = profile_spans(length, 64)
        assert (spans[0], spans[-1]) == (128, length)
        assert all(a < b <= max(a + 64, a * 1.125) for a, b in itertools.pairwise(spans))
    assert len(profile_spans(32768, 64)) < 64
    with pytest.raises(ArgumentError, match="length: got 128"):
        profile_spans(128, 64)


PEAK = """
import ctypes, resource, sys
from pathlib import Path
import torch
from moa_rt import ModelConfig
from moa_tools.hf.load import load_model
from moa_tools.profile.options import ProfileOptions
from moa_tools.profile.run import sample_curves
from moa_tools.calibrate.samples import Sample

torch.set_num_threads(1)
directory, length = Path(sys.argv[1]), int(sys.argv[2])
model, config = load_model(directory)
ids = tuple(range(3, 300)) * 40
def one(n):
    sample = Sample("x", "text", "profile", n, ids[: n - 64], ids[:64], "")
    sample_curves(model, sample, ProfileOptions())
one(256)  # whatever is made once
ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free already would hide as much of the growth
def peak():
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) * 1024
before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
one(length)
print(peak() - before)
"""


def test_the_predicted_peak_is_near_the_measured_one(tmp_path: Path) -> None:
    """A wide model, so that what is predicted is hundreds of megabytes."""
    from moa_tools.convert import ConvertOptions, convert
    from support_models import make_tiny_model

    shape: dict[str, Any] = {
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 4096,
    }
    hf = make_tiny_model(tmp_path / "hf", "llama", tokenizer=False, **shape)
    convert(str(hf), tmp_path / "model", ConvertOptions(), Silent())
    shutil.rmtree(hf)
    config = ModelConfig.load(str(tmp_path / "model"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PEAK, str(tmp_path / "model"), "2048"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    want = memory.predict_memory(config, 2048, 64, 4, "cpu")
    assert int(done.stdout) == pytest.approx(want.total - want.weights, rel=0.25)


def test_the_command(
    tiny_dir: Path, calibration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "curves"
    arguments = ["profile", str(tiny_dir), str(calibration), "-o", str(out), "--lengths", "192"]
    assert main([*arguments, "--max-samples", "1", "--form", "entry"]) == 0
    shown = capsys.readouterr()
    assert "retrieval at N=192" in shown.out
    assert "s a sample" in shown.err
    assert json.loads(out.with_suffix(".json").read_text())["method"] == "influence-entry"
    assert main([*arguments, "--form", "both"]) == 2
    assert "form: got 'both'" in capsys.readouterr().err


def test_profile_cost(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["profile-cost", "tiny-gqa", "--length", "200", "--answer", "8"]
    assert main(arguments) == 0
    assert "200 tokens, joint, float32 on cpu: " in capsys.readouterr().out
    assert main(["profile-cost", "tiny-gqa", "--length", "8", "--answer", "8"]) == 2
    assert "length and answer: got 8 and 8" in capsys.readouterr().err
    assert main([*arguments, "--method", "gates", "--batch", "2"]) == 0
    assert "200 tokens, gates, float32 on cpu: " in capsys.readouterr().out
    assert main([*arguments, "--method", "ablation"]) == 2
    assert "method: got 'ablation', want influence or gates" in capsys.readouterr().err
    assert main(["profile-cost", "tiny", "--length", "200"]) == 2
    assert "model shape: got 'tiny'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("gone/c", errno.ENOENT),
        ("file/c", errno.ENOTDIR),
        ("n" * 300, errno.ENAMETOOLONG),
        ("locked/c", errno.EACCES),
    ],
)
def test_I15_an_output_that_cannot_be_written(
    tiny_dir: Path,
    calibration: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    code: int,
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "locked").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda p, m: Path(p).name != "locked" and access(p, m))
    monkeypatch.setattr(run, "choose_samples", lambda *_: pytest.fail("the work has begun"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(IoError, match=r"output(: parent directory)?: [A-Z]\w+") as error:
        profile(tiny_dir, calibration, tmp_path / name)
    assert error.value.errno == code
    assert sorted(tmp_path.rglob("*")) == before


def test_I15_an_output_without_a_name(tiny_dir: Path, calibration: Path) -> None:
    with pytest.raises(ArgumentError, match=r"output: got '\.', want the NAME"):
        profile(tiny_dir, calibration, Path())


def test_I15_an_output_that_is_taken(
    tiny_dir: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "choose_samples", lambda *_: pytest.fail("the work has begun"))
    (tmp_path / "taken.safetensors").mkdir()
    with pytest.raises(ArgumentError, match=r"output: got '.*taken.safetensors', a directory"):
        profile(tiny_dir, calibration, tmp_path / "taken")
