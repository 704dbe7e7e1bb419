"""plan="auto": the plan that ships for a model, in Python and on the command line."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from moa_rt import ArgumentError, AttentionPlan, Engine, FormatError, ModelConfig, plans
from moa_rt.engine import predict_memory
from support_cli import BINARY, fails, json_of


@pytest.fixture(scope="module")
def config(tiny_dir: Path) -> ModelConfig:
    return ModelConfig.load(tiny_dir)


def _ship(place: Path, config: ModelConfig, share: float, **changed: str) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    plan = AttentionPlan.uniform(config, share)
    plan.fingerprint = changed.pop("fingerprint", config.fingerprint)
    plan.model_name = changed.pop("model_name", "Tiny")
    plan.provenance = {"method": "test", "density": str(share), **changed}
    path = place / f"{plan.model_name}-{100 * share:g}-{plan.fingerprint[:4]}.json"
    plan.save(path)
    return path


@pytest.fixture
def shelf(config: ModelConfig, tmp_path: Path) -> Path:
    """Two plans of the small model and one of another."""
    place = tmp_path / "plans"
    _ship(place, config, 0.25)
    _ship(place, config, 0.5)
    _ship(place, config, 0.5, fingerprint="ab" * 32, model_name="Other")
    return place


def test_a_plan_is_found_by_fingerprint_and_density(config: ModelConfig, shelf: Path) -> None:
    assert [(p.model_name, p.density) for p in plans.shipped(shelf)] == [
        ("Other", 0.5), ("Tiny", 0.25), ("Tiny", 0.5),
    ]  # fmt: skip
    assert plans.find(config, 0.25, shelf).density(2048) == 0.25
    assert plans.find(config, 0.252, shelf).density(2048) == 0.25
    assert plans.find(config, None, shelf).density(2048) == 0.5


@pytest.mark.parametrize("density", [0.0, -0.5, 1.5, float("nan")])
def test_density_out_of_bounds(config: ModelConfig, shelf: Path, density: float) -> None:
    with pytest.raises(ArgumentError, match="density"):
        plans.find(config, density, shelf)


def test_what_there_is_is_listed(config: ModelConfig, shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"got 0.3, the shipped plans of Tiny have 0.25, 0.5"):
        plans.find(config, 0.3, shelf)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArgumentError, match=r"no plan ships.*there are plans for: no model"):
        plans.find(config, 0.5, tmp_path / "empty")
    for path in shelf.glob("Tiny*"):
        path.unlink()
    with pytest.raises(ArgumentError, match="there are plans for: Other"):
        plans.find(config, 0.5, shelf)


@pytest.mark.parametrize("changed", [{"density": "half"}, {"density": "2"}, {"fingerprint": ""}])
def test_a_broken_shipped_plan_is_named(
    config: ModelConfig, tmp_path: Path, changed: dict[str, str]
) -> None:
    path = _ship(tmp_path / "plans", config, 0.5, **changed)
    with pytest.raises(FormatError, match=path.name):
        plans.find(config, 0.5, tmp_path / "plans")


def test_engine_takes_the_shipped_plan(
    tiny_dir: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans.find, "__defaults__", (None, shelf))
    with Engine(tiny_dir, plan="auto", density=0.25, max_seq_len=512, num_threads=1) as engine:
        assert engine.plan.provenance["density"] == "0.25"
    with Engine(tiny_dir, plan="auto", max_seq_len=512, num_threads=1) as engine:
        assert engine.plan.provenance["density"] == "0.5"
    quarter = predict_memory(tiny_dir, "auto", density=0.25).kv_per_sequence
    assert quarter == predict_memory(tiny_dir).kv_per_sequence // 4


def test_density_belongs_to_auto(tiny_dir: Path, shelf: Path) -> None:
    for plan in (None, shelf / "Tiny-50.json"):
        with pytest.raises(ArgumentError, match='density: is for plan "auto"'):
            Engine(tiny_dir, plan=plan, density=0.5)


def test_files_of_the_package_are_plans_of_their_density() -> None:
    for shipped in plans.shipped():
        plan = AttentionPlan.load(shipped.path)
        plan.validate()
        assert plan.quality, shipped.path
        for budget in plan.provenance["budgets"].split(","):
            length, _, share = budget.partition("=")
            assert plan.density(int(length)) <= float(share) == shipped.density


def _installed(tmp_path: Path, shelf: Path) -> Path:
    """The command as an installation has it: bin/moa-rt and share/moa_rt/plans."""
    (tmp_path / "bin").mkdir()
    shutil.copy(BINARY, tmp_path / "bin" / "moa-rt")
    shutil.copytree(shelf, tmp_path / "share" / "moa_rt" / "plans")
    return tmp_path / "bin" / "moa-rt"


def _inspect(program: Path, model: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, "inspect", "--model", model, "--length", "2048", *flags],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_command_takes_the_shipped_plan(tiny_dir: Path, tmp_path: Path, shelf: Path) -> None:
    program = _installed(tmp_path, shelf)
    for flags, density in (((), 0.5), (("--density", "0.25"), 0.25)):
        report = json_of(_inspect(program, tiny_dir, "--plan", "auto", *flags, "--json"))
        assert report["plan"]["density"] == density
        assert report["plan"]["fingerprint"] == ModelConfig.load(tiny_dir).fingerprint


def test_command_says_what_there_is(tiny_dir: Path, tmp_path: Path, shelf: Path) -> None:
    program = _installed(tmp_path, shelf)
    auto = ("--plan", "auto", "--density")
    assert fails(_inspect(program, tiny_dir, *auto, "0.3"), 2, "E_ARG", "of Tiny have 0.25, 0.5")
    assert fails(_inspect(program, tiny_dir, *auto, "0"), 2, "E_ARG", "want in (0, 1]")
    both = _inspect(program, tiny_dir, "--plan", "x.json", "--density", "0.5")
    assert fails(both, 2, "E_ARG", "--density")
    for path in (tmp_path / "share" / "moa_rt" / "plans").glob("Tiny*"):
        path.unlink()
    assert fails(_inspect(program, tiny_dir, *auto, "0.5"), 2, "E_ARG", "plans for: Other")
    shutil.rmtree(tmp_path / "share")
    assert fails(_inspect(program, tiny_dir, *auto, "0.5"), 2, "E_ARG", "plans for: no model")
