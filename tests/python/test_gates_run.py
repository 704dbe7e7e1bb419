"""`moa-tools gates` end to end on a small model: curves, repeatability, resuming, refusals."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from moa_rt import (
    ArgumentError,
    IoError,
    MismatchError,
    ModelConfig,
    NumericError,
    ResourceError,
)
from moa_tools.calibrate.samples import Sample
from moa_tools.gates import memory, partial, run
from moa_tools.gates.options import GatesOptions
from moa_tools.gates.run import gates
from moa_tools.gates.training import Trainer
from moa_tools.profile.cost_curves import CostCurve, CostCurves
from moa_tools.progress import Silent
from moa_tools.search.budgets import Budgets
from moa_tools.search.planner import search
from safetensors.torch import load_file
from support_calibrate import save_samples

OPTIONS = GatesOptions(steps=6, batch=2, sparsest=0.15, targets=(0.5,))
LENGTHS = (512, 640)


def make_set(place: Path, config: ModelConfig, fingerprint: str | None = None) -> Path:
    rng = np.random.default_rng(0)
    found = []
    for length in LENGTHS:
        for index in range(3):
            ids = [int(x) for x in rng.integers(3, config.vocab_size, length)]
            task = "text" if index == 0 else "facts"
            found.append(
                Sample(
                    f"{task}/{length}/{index}",
                    task,
                    "profile",
                    length,
                    tuple(ids[:-8]),
                    tuple(ids[-8:]),
                    "random",
                )
            )
    return save_samples(place, found, fingerprint or config.fingerprint)


@pytest.fixture(scope="module")
def config(tiny_dir: Path) -> ModelConfig:
    torch.set_num_threads(1)
    return ModelConfig.load(str(tiny_dir))


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory, config: ModelConfig) -> Path:
    return make_set(tmp_path_factory.mktemp("set") / "set", config)


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path, calibration: Path
) -> tuple[Path, run.GatesReport]:
    out = tmp_path_factory.mktemp("made") / "curves"
    return out, gates(tiny_dir, calibration, out, OPTIONS)


def test_curves_never_rise_with_the_span(
    made: tuple[Path, run.GatesReport], config: ModelConfig
) -> None:
    curves = CostCurves.load(made[0], config)
    assert curves.method == "gates"
    assert [curve.length for curve in curves.curves] == list(LENGTHS)
    for curve in curves.curves:
        assert curve.spans[0] == 64
        assert (np.diff(curve.costs, axis=-1) <= 0).all()
        assert (curve.costs[..., -1] == 0).all()
        assert np.ptp(curve.costs[..., 0]) > 0, "heads differ"
    assert len(made[1].losses) == OPTIONS.steps
    assert not list(made[0].parent.glob("*partial*"))


def test_plans_reach_down_to_where_the_curves_begin(
    made: tuple[Path, run.GatesReport], config: ModelConfig
) -> None:
    curves = CostCurves.load(made[0], config)
    assert curves.rounding == 32
    plan = search(curves, config, Budgets(dict.fromkeys(LENGTHS, 0.13))).plans[0]
    assert (plan.sink_size, plan.rounding) == (OPTIONS.sink, 32)
    spans = [head.span for row in plan.spans(LENGTHS[0]) for head in row]
    assert spans == [64] * len(spans)


@pytest.mark.parametrize(("sink", "first", "rounding"), [(64, 128, 64), (4, 68, 64), (4, 64, 32)])
def test_curves_that_begin_elsewhere(
    made: tuple[Path, run.GatesReport], sink: int, first: int, rounding: int
) -> None:
    spans = np.array([first, 256, 512])
    curve = CostCurve("joint", 512, spans, np.broadcast_to([2.0, 1.0, 0.0], (2, 2, 3)))
    assert replace(made[1].curves, sink_size=sink, curves=(curve,)).rounding == rounding


def test_the_same_run_gives_the_same_bytes(
    made: tuple[Path, run.GatesReport], tiny_dir: Path, calibration: Path, tmp_path: Path
) -> None:
    gates(tiny_dir, calibration, tmp_path / "curves", OPTIONS)
    for suffix in (".json", ".safetensors"):
        again = (tmp_path / "curves").with_suffix(suffix).read_bytes()
        assert again == made[0].with_suffix(suffix).read_bytes()


def stop_at(
    monkeypatch: pytest.MonkeyPatch, method: str, error: BaseException, calls: int = 4
) -> None:
    """Makes a method of the trainer fail once it was called so often."""
    real = getattr(Trainer, method)
    done: list[int] = []

    def failing(self: Trainer) -> None:
        if len(done) == calls:
            raise error
        done.append(self.state.step)
        real(self)

    monkeypatch.setattr(Trainer, method, failing)


@pytest.mark.parametrize("method", ["step", "_earn"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), NumericError("no number")])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    made: tuple[Path, run.GatesReport],
    tiny_dir: Path,
    calibration: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    error: BaseException,
) -> None:
    """Between two steps and within one (its prices moved, the rest not): whole steps are saved."""
    reporter = Silent()
    with monkeypatch.context() as patch:
        stop_at(patch, method, error)
        with pytest.raises(type(error)):
            gates(tiny_dir, calibration, tmp_path / "curves", OPTIONS, reporter)
    assert any("what is done is saved" in text for text in reporter.infos)
    assert [path.name for path in tmp_path.iterdir()] == ["curves.partial.safetensors"]
    report = gates(tiny_dir, calibration, tmp_path / "curves", OPTIONS, reporter)
    assert "gates: going on after step 4" in reporter.infos
    assert report.losses == made[1].losses
    for suffix in (".json", ".safetensors"):
        again = (tmp_path / "curves").with_suffix(suffix).read_bytes()
        assert again == made[0].with_suffix(suffix).read_bytes()


@pytest.mark.parametrize(
    ("every", "seconds", "saved"), [(2, 1e9, [0, 0, 2, 2, 4, 4]), (20, 0.0, [0, 1, 2, 3, 4, 5])]
)
def test_what_a_killed_run_has_on_disk(
    tiny_dir: Path,
    calibration: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    every: int,
    seconds: float,
    saved: list[int],
) -> None:
    """It is saved by steps and by time: at each step's start, the step that is on disk."""
    place = tmp_path / "curves.partial.safetensors"
    real, found = Trainer.step, []

    def looking(self: Trainer) -> None:
        found.append(int(load_file(place)["state.step"]) if place.exists() else 0)
        real(self)

    monkeypatch.setattr(run, "_SAVE_EVERY", every)
    monkeypatch.setattr(run, "_SAVE_SECONDS", seconds)
    monkeypatch.setattr(Trainer, "step", looking)
    gates(tiny_dir, calibration, tmp_path / "curves", OPTIONS)
    assert found == saved


def test_I4_a_disk_that_is_full_does_not_hide_the_error(
    tiny_dir: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise ResourceError("no space left")

    reporter = Silent()
    stop_at(monkeypatch, "step", NumericError("no number"), 2)
    monkeypatch.setattr(partial, "write_atomic", full)
    with pytest.raises(NumericError):
        gates(tiny_dir, calibration, tmp_path / "curves", OPTIONS, reporter)
    assert reporter.warnings == ["gates: the last steps are not saved: no space left"]


def test_I15_an_output_that_cannot_be_written(
    tiny_dir: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "load_model", lambda *_, **__: pytest.fail("the work has begun"))
    with pytest.raises(IoError, match=r"gone: output: parent directory: No such file") as error:
        gates(tiny_dir, calibration, tmp_path / "gone" / "g", OPTIONS)
    assert error.value.errno == errno.ENOENT


def test_E17_a_set_of_another_model(tiny_dir: Path, config: ModelConfig, tmp_path: Path) -> None:
    other = make_set(tmp_path / "other", config, fingerprint="0" * 64)
    with pytest.raises(MismatchError, match="fingerprint"):
        gates(tiny_dir, other, tmp_path / "curves", OPTIONS)
    assert not list(tmp_path.glob("curves*"))


def test_E17_a_loss_that_is_not_finite(
    tiny_dir: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(float("nan")), torch.tensor(0.0)

    monkeypatch.setattr(Trainer, "loss", broken)
    with pytest.raises(NumericError, match=r"step 0: .*facts/512"):
        gates(tiny_dir, calibration, tmp_path / "curves", OPTIONS)
    assert not list(tmp_path.glob("curves*"))


def test_too_little_memory_names_the_length_that_fits(
    tiny_dir: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = memory.predict_memory(ModelConfig.load(str(tiny_dir)), 320, 2, 4, "cpu")
    monkeypatch.setattr(run, "free_bytes", lambda _: free)
    with pytest.raises(ResourceError, match=r"length 640 .*; length 320 would fit"):
        gates(tiny_dir, calibration, tmp_path / "curves", OPTIONS)


def test_an_allocation_that_fails_names_a_length(
    tiny_dir: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Trainer) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trainer, "step", full)
    with pytest.raises(ResourceError, match=r"out of memory; length \d+ would fit"):
        gates(tiny_dir, calibration, tmp_path / "curves", OPTIONS)


def test_the_loss_moves_the_gates(made: tuple[Path, run.GatesReport], config: ModelConfig) -> None:
    """Another seed draws other samples, so the curves are no mere schedule."""
    losses = [loss[1] for loss in made[1].losses]
    assert all(loss > 0 for loss in losses)
    assert losses[-1] > losses[0], "narrower plans are further from the dense model"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 1),
        ("batch", 1),
        ("dtype", "float16"),
        ("sparsest", 0.9),
        ("targets", (0.05,)),
        ("learning_rate", float("nan")),
        ("language_weight", -1.0),
        ("sink", -1),
        ("max_samples", 0),
    ],
)
def test_options_out_of_bounds(field: str, value: object) -> None:
    with pytest.raises(ArgumentError, match=field if field != "sparsest" else "densities"):
        replace(OPTIONS, **{field: value})  # type: ignore[arg-type]


def test_a_length_the_set_does_not_have(tiny_dir: Path, calibration: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="lengths: got 1024"):
        gates(tiny_dir, calibration, tmp_path / "c", replace(OPTIONS, lengths=(1024,)))
