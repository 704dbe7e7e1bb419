"""`moa-tools pipeline`: all steps, nothing twice, nothing half."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from moa_rt import ArgumentError, AttentionPlan, DeviceError, ModelConfig, StateError
from moa_tools.cli import main
from moa_tools.gates.options import GatesOptions
from moa_tools.gates.prices import grid
from moa_tools.pipeline import run as pipeline_run
from moa_tools.pipeline import step_options
from moa_tools.pipeline.checks import warnings
from moa_tools.pipeline.curves import without_costs
from moa_tools.pipeline.options import PipelineOptions, complete, sort_numbers
from moa_tools.pipeline.pick import pick_plans
from moa_tools.pipeline.run import pipeline
from moa_tools.pipeline.steps import Steps
from moa_tools.profile.cost_curves import CostCurves
from moa_tools.progress import Silent
from moa_tools.refine import batches, climb
from moa_tools.refine.options import RefineOptions

_OPTIONS: dict[str, Any] = {
    "budgets": (0.5, 0.3),
    "lengths": (640,),
    "validate_length": 768,
    "max_length": 1024,
    "method": "influence",
    "samples": 1,
    "plans": 2,
}
_PLOTS = ["spans-0.5.png", "spans-0.3.png", "curves.png", "front.png", "quality.png"]


@pytest.fixture(scope="module")
def out(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pipeline") / "out"
    pipeline(tiny_dir, place, PipelineOptions(**_OPTIONS), Silent())
    return place


def _began(reporter: Silent) -> list[str]:
    return [line.removesuffix(": begins") for line in reporter.infos if line.endswith(": begins")]


def test_plans_report_and_plots(tiny_dir: Path, out: Path) -> None:
    config = ModelConfig.load(str(tiny_dir))
    report = json.loads((out / "report.json").read_text())
    for budget in ("0.5", "0.3"):
        plan = AttentionPlan.load(str(out / f"plan-{budget}.json"))
        plan.check_model(config)
        assert plan.max_length == 1024
        for length in (640, 768):
            assert plan.density(length) <= float(budget)
            assert report["plans"][budget]["density"][str(length)] == plan.density(length)
        measured = report["plans"][budget]["measured"]
        assert plan.quality["loss@768"] == measured["loss"]
        # The best of this budget's searched plans.
        rivals = [
            p["excess"]
            for p in json.loads((out / "validation.json").read_text())["plans"]
            if p["name"].startswith(f"{budget}-plan")
        ]
        assert 1 <= len(rivals) <= 2
        assert measured["excess"] == min(rivals)
        assert report["plans"][budget]["uniform"]["density"] == pytest.approx(
            float(budget), abs=0.1
        )
    for name in _PLOTS:
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert set(report["seconds"]) >= {"calibrate", "validate", "search 0.5"}


def test_nothing_is_done_twice(tiny_dir: Path, out: Path) -> None:
    files = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    reporter = Silent()
    pipeline(tiny_dir, out, PipelineOptions(**_OPTIONS), reporter)
    assert _began(reporter) == []
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()} == files


def test_only_what_changed_is_done_again(tiny_dir: Path, out: Path, tmp_path: Path) -> None:
    place = tmp_path / "out"
    shutil.copytree(out, place)
    (place / "front.png").unlink()
    reporter = Silent()
    pipeline(tiny_dir, place, PipelineOptions(**_OPTIONS), reporter)
    assert _began(reporter) == ["report"]
    # A plan that somebody edited is not taken for ours.
    (place / "search" / "0.5" / "manifest.json").write_text("{}")
    reporter = Silent()
    pipeline(tiny_dir, place, PipelineOptions(**_OPTIONS), reporter)
    assert _began(reporter) == ["search 0.5"]
    assert (place / "plan-0.5.json").read_bytes() == (out / "plan-0.5.json").read_bytes()
    # One more budget: the others' searches stand.
    reporter = Silent()
    more = PipelineOptions(**{**_OPTIONS, "budgets": (0.5, 0.3, 0.75)})
    pipeline(tiny_dir, place, more, reporter)
    assert _began(reporter) == ["search 0.75", "validate", "report"]
    assert (place / "plan-0.75.json").exists()


def test_interrupted_pipeline_goes_on_to_the_same_plans(
    tiny_dir: Path, out: Path, tmp_path: Path
) -> None:
    class Interrupting(Silent):
        left = 0

        def advance(self, count: int) -> None:
            self.left -= count
            if self.left < 0:
                raise KeyboardInterrupt

    place = tmp_path / "out"
    stops = 0
    for left in (7, 25, 40, 60, 10**6):
        reporter = Interrupting()
        reporter.left = left
        try:
            pipeline(tiny_dir, place, PipelineOptions(**_OPTIONS), reporter)
            break
        except KeyboardInterrupt:
            stops += 1
            assert not (place / "report.json").exists()
    assert stops >= 1
    for name in ("plan-0.5.json", "plan-0.3.json", *_PLOTS):
        assert (place / name).read_bytes() == (out / name).read_bytes(), name


def test_two_pipelines_in_one_directory(tiny_dir: Path, tmp_path: Path) -> None:
    with Steps(tmp_path, Silent()), pytest.raises(StateError, match="another pipeline"):
        pipeline(tiny_dir, tmp_path, PipelineOptions(**_OPTIONS), Silent())


def test_a_step_without_its_outputs_has_failed(tmp_path: Path) -> None:
    with Steps(tmp_path, Silent()) as steps, pytest.raises(ValueError, match="made no"):
        steps.run("idle", {}, [tmp_path / "nothing"], lambda: None)


def test_state_that_cannot_be_read_runs_all_again(tmp_path: Path) -> None:
    made = tmp_path / "made"
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        made.write_text("x")

    for damage in (None, b"{broken", None):
        if damage is not None:
            (tmp_path / "steps.json").write_bytes(damage)
        with Steps(tmp_path, Silent()) as steps:
            steps.run("a", {"n": 1}, [made], work)
    assert len(runs) == 2


@pytest.mark.parametrize(
    "damage",
    [
        {"x": 1},
        {"a": {}},
        {"a": {"inputs": "k", "outputs": "k", "seconds": "long"}},
        {"a": {"inputs": "k", "outputs": "k", "seconds": True}},
        {"a": {"inputs": "k", "outputs": "k", "seconds": -1}},
        {"a": {"inputs": "k", "outputs": "k", "seconds": 10**400}},
        {"a": {"inputs": 1, "outputs": "k", "seconds": 1}},
        {"a": {"inputs": "k", "outputs": None, "seconds": 1}},
    ],
)
def test_state_that_is_none_of_ours_runs_all_again(tmp_path: Path, damage: dict[str, Any]) -> None:
    (tmp_path / "steps.json").write_text(json.dumps(damage))
    reporter = Silent()
    with Steps(tmp_path, reporter) as steps:
        assert len(reporter.warnings) == 1
        assert "every step is run again" in reporter.warnings[0]
        steps.run("b", {}, [tmp_path / "made"], lambda: (tmp_path / "made").touch())
        assert set(steps.seconds()) == {"b"}


@pytest.mark.parametrize(
    ("method", "budget", "message"),
    [
        ("influence", 0.1, r"density 0\.1 at N=640 cannot be met, least is 0\.2;"),
        # Gates keep a smaller sink, and so a narrower span.
        ("gates", 0.05, r"density 0\.05 at N=640 cannot be met, least is 0\.1; .* at N=768"),
    ],
)
def test_E15_budget_that_cannot_be_met(
    tiny_dir: Path, tmp_path: Path, method: str, budget: float, message: str
) -> None:
    place = tmp_path / "out"
    options = {**_OPTIONS, "method": method, "budgets": (0.5, budget)}
    with pytest.raises(ArgumentError, match=message):
        pipeline(tiny_dir, place, PipelineOptions(**options), Silent())
    assert not place.exists()


@pytest.mark.parametrize("method", ["influence", "gates"])
def test_the_curves_to_come_have_the_sink_and_spans_of_those_that_are_made(
    tiny_dir: Path, out: Path, method: str
) -> None:
    config = ModelConfig.load(str(tiny_dir))
    options = complete(PipelineOptions(**{**_OPTIONS, "method": method}), config)
    expected = without_costs(options, config)
    expected.check_model(config)
    assert [curve.length for curve in expected.curves] == [640]
    if method == "influence":
        made = CostCurves.load(out / "curves-influence.json", config)
        assert expected.sink_size == made.sink_size
        for curve in made.curves:
            assert (curve.spans == expected.curves[0].spans).all()
    else:
        assert expected.sink_size == GatesOptions().sink
        assert tuple(expected.curves[0].spans) == grid(640, GatesOptions().sink).spans


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({"budgets": (0.0,)}, "budget: got 0.0"),
        ({"budgets": (1.5,)}, "budget: got 1.5"),
        ({"budgets": (float("nan"),)}, "budget: got nan"),
        ({"budgets": ()}, "budget: got none"),
        ({"lengths": (10,)}, "lengths: got 10, want 256"),
        ({"lengths": ()}, "lengths: got none"),
        ({"validate_length": 1 << 30}, "validate_length: got 1073741824"),
        ({"validate_length": 0}, "validate_length: got 0"),
        ({"max_length": 1 << 30}, "max_length: got 1073741824, want 768, .* to 65536"),
        ({"max_length": 0}, "max_length: got 0, want 768"),
        ({"max_length": 767}, "max_length: got 767, want 768"),
        ({"lengths": (640, 1280)}, "max_length: got 1024, want 1280"),
        ({"method": "magic"}, "method: got 'magic'"),
        ({"device": "tpu"}, "device: got 'tpu'"),
        ({"plans": 0}, "plans: got 0"),
        ({"solver": "scip"}, "solver: got 'scip'"),
        ({"method": "gates", "steps": 0}, "steps: got 0"),
        ({"method": "gates", "steps": -5}, "steps: got -5"),
        ({"steps": 10}, "steps: got 10, want none"),
        ({"samples": 0}, "samples: got 0"),
        ({"field": "text"}, "field: got 'text'"),
        ({"device": "cuda:x"}, "device: got 'cuda:x'"),
        ({"device": "cpu:1"}, "device: got 'cpu:1'"),
    ],
)
def test_bad_options(tiny_dir: Path, tmp_path: Path, changes: dict[str, Any], want: str) -> None:
    with pytest.raises(ArgumentError, match=want):
        pipeline(tiny_dir, tmp_path / "o", PipelineOptions(**{**_OPTIONS, **changes}), Silent())
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(("gpus", "device"), [(0, "cuda"), (0, "cuda:0"), (2, "cuda:2")])
def test_a_gpu_that_is_not_there(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    options = {**_OPTIONS, "device": device}
    with pytest.raises(DeviceError, match=f"device: got '{device}'"):
        pipeline(tiny_dir, tmp_path / "o", PipelineOptions(**options), Silent())
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["--steps", "0"], "steps: got 0"),
        (["--validate-length", "0"], "validate_length: got 0"),
        (["--plans", "0"], "plans: got 0"),
        (["--solver", "scip"], "solver: got 'scip'"),
        (["--budget", "0.01"], r"density 0.01 at N=1024 cannot be met"),
    ],
)
def test_bad_options_of_the_command(
    tiny_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    message: str,
) -> None:
    assert main(["pipeline", str(tiny_dir), str(tmp_path / "o"), *command]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_validation_at_a_profiled_length_is_warned_about(tiny_dir: Path) -> None:
    config = ModelConfig.load(str(tiny_dir))
    seen = complete(PipelineOptions(lengths=(640, 1280), validate_length=640), config)
    (warning,) = warnings(seen)
    assert warning.startswith("validate_length: got 640, a length that is profiled")
    limit = config.max_position_embeddings
    ends = complete(PipelineOptions(lengths=(limit,)), config)
    assert ends.validate_length == limit
    assert len(warnings(ends)) == 1
    assert warnings(complete(PipelineOptions(lengths=(640, 1280)), config)) == []


def test_the_pipeline_tells_its_warnings(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline_run, "calibrate", ends)
    reporter = Silent()
    options = PipelineOptions(**{**_OPTIONS, "validate_length": 640})
    with pytest.raises(KeyboardInterrupt):
        pipeline(tiny_dir, tmp_path, options, reporter)
    assert ["validate_length: got 640" in text for text in reporter.warnings] == [True]


def test_defaults(tiny_dir: Path) -> None:
    config = ModelConfig.load(str(tiny_dir))
    cpu, gpu = (complete(PipelineOptions(device=d), config) for d in ("cpu", "cuda:1"))
    assert (cpu.lengths, cpu.validate_length, cpu.plans) == ((1024, 2048), 4096, 2)
    assert (gpu.lengths, gpu.validate_length, gpu.plans) == ((2048, 4096), 8192, 4)
    assert (cpu.refine, gpu.refine) == (False, False)
    assert (cpu.steps, gpu.steps) == (40, 300)


def test_numbers_behind_an_option() -> None:
    assert sort_numbers(["0.25", "2048"], [0.5], [1024]) == ((0.5, 0.25), (1024, 2048))
    for numbers, budgets in ((["0.25"], []), (["2048"], [0.5]), (["x"], [0.5]), (["1.5"], [0.5])):
        with pytest.raises(ArgumentError, match="behind"):
            sort_numbers(numbers, budgets, [])


@pytest.mark.parametrize(("count", "want"), [(9, [0, 1, 2, 3, 4, 5]), (3, [1, 3, 4]), (1, [3])])
def test_picks_the_balanced_plan_and_others_along_the_front(
    tmp_path: Path, count: int, want: list[int]
) -> None:
    names = [f"plan-{i:02d}.json" for i in range(6)]
    manifest = {"plans": [{"file": name} for name in names], "balanced": names[3]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert [p.name for p in pick_plans(tmp_path, count)] == [names[i] for i in want]


def test_command_with_budgets_behind_one_option(
    tiny_dir: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "out"
    shutil.copytree(out, place)
    arguments = ["--budget", "0.5", "0.3", "--lengths", "640", "--validate-length", "768"]
    more = ["--max-length", "1024", "--method", "influence", "--samples", "1", "--plans", "2"]
    assert main(["pipeline", str(tiny_dir), str(place), *arguments, *more]) == 0
    text = capsys.readouterr().out
    assert "plan-0.5.json" in text
    assert "uniform" in text


def test_a_refined_plan_is_one_more_candidate(
    tiny_dir: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Random weights look nothing up: what a short window changes at all is taken.
    monkeypatch.setattr(batches, "_SHORT", 128)
    monkeypatch.setattr(batches, "_LOOKED_UP", 1e-4)
    monkeypatch.setattr(climb, "_PRICES", (0.0, 1.0))
    monkeypatch.setattr(
        step_options,
        "RefineOptions",
        lambda **given: RefineOptions(**given, epochs=1, rounds=1, alone=1),
    )
    place = tmp_path / "out"
    shutil.copytree(out, place)
    options = {**_OPTIONS, "refine": True, "budgets": (0.5,)}
    reporter = Silent()
    report = pipeline(tiny_dir, place, PipelineOptions(**options), reporter)
    assert _began(reporter) == ["refine 0.5", "validate", "report"]
    refined = AttentionPlan.load(str(place / "refined" / "0.5.json"))
    for length in (640, 768):
        assert refined.density(length) <= 0.5
    ranked = json.loads((place / "validation.json").read_text())["plans"]
    names = [plan["name"] for plan in ranked]
    assert "0.5-refined.json" in names
    assert report["plans"]["0.5"]["measured"]["name"] == next(
        n for n in names if "uniform" not in n
    )
    reporter = Silent()
    pipeline(tiny_dir, place, PipelineOptions(**options), reporter)
    assert _began(reporter) == []


def test_gates_are_trained_once_for_their_own_densities(tiny_dir: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    options = {**_OPTIONS, "method": "gates", "steps": 2, "budgets": (0.5,)}
    report = pipeline(tiny_dir, tmp_path, PipelineOptions(**options), Silent())
    assert report["curves"]["method"] == "gates"
    assert AttentionPlan.load(str(tmp_path / "plan-0.5.json")).density(768) <= 0.5
    reporter = Silent()
    pipeline(tiny_dir, tmp_path, PipelineOptions(**{**options, "budgets": (0.5, 0.25)}), reporter)
    assert _began(reporter) == ["search 0.25", "validate", "report"]
