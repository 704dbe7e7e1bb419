"""A CPU run on a tiny model, end to end, and the cost file for search."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from moa_rt import ArgumentError, AttentionPlan, FormatError, ModelConfig, NumericError
from moa_rt._core import SafetensorsFile
from moa_tools.bench import cost, cpu_systems, decode_run
from moa_tools.bench.cost import CostModel, Point
from moa_tools.bench.cpu_rows import Timing, row
from moa_tools.bench.cpu_systems import Contender, Task
from moa_tools.bench.decode_run import Decode, Setting
from moa_tools.bench.gguf_export import Array, export
from moa_tools.bench.record import load
from moa_tools.cli import main
from moa_tools.convert import ConvertOptions, convert
from moa_tools.convert.gguf_source import unpermute
from moa_tools.convert.progress import Silent
from support_models import make_tiny_model


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama in bfloat16."""
    place = tmp_path_factory.mktemp("bench")
    make_tiny_model(place / "hf", "llama")
    convert(str(place / "hf"), place / "m", ConvertOptions(dtype="bfloat16"), Silent())
    return place / "m"


def test_rates_are_those_of_medians_and_bests() -> None:
    made = row(
        "s", {"tokens": 10}, 10, [Timing(2.0, 0.5), Timing(1.0, 0.25), Timing(4.0, 1.0)], 500
    )
    assert made.figures["prefill_tok_s"] == 5.0
    assert made.figures["prefill_best_tok_s"] == 10.0
    assert made.figures["decode_tok_s"] == 2.0
    assert made.figures["decode_best_tok_s"] == 4.0
    assert made.figures["decode_GB_s"] == pytest.approx(1e-6)
    with pytest.raises(ArgumentError, match="repetition"):
        row("s", {}, 1, [])


def test_our_time_of_a_repetition_is_a_mean_as_the_peers_are(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One slow step of four counts as it does in time over steps."""
    made = Decode(Setting(1, 8, 12, 4), (0.1, 0.1, 0.1, 0.5), 10, 1.0)
    monkeypatch.setattr(decode_run, "run", lambda *_, **__: made)
    with ExitStack() as stack:
        plan = AttentionPlan.dense(ModelConfig.load(str(model_dir)))
        run, _ = cpu_systems.open_ours(Task(model_dir, 8, 4, 1), plan, stack)
        assert run([]).step_seconds == pytest.approx(0.2)


def test_a_run_from_the_command_line(
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def not_installed(_task: Task, _stack: ExitStack) -> Contender:
        raise ModuleNotFoundError("No module named 'fast_runtime'")

    monkeypatch.setitem(cpu_systems.PEERS, "fast runtime", not_installed)
    output = tmp_path / "run.json"
    arguments = ["--tokens", "24", "--steps", "4", "--repeats", "2", "--threads", "1"]
    peers = ["--peer", "transformers fp32 eager", "--peer", "fast runtime"]
    assert main(["bench", "cpu", str(model_dir), "-o", str(output), *arguments, *peers]) == 0
    run = load(output)
    assert [(r.system, r.case["plan"]) for r in run.rows] == [
        ("moa_rt", "dense"),
        ("moa_rt", "uniform 50%"),
        ("moa_rt", "uniform 25%"),
        ("transformers fp32 eager", "dense"),
    ]
    assert all(len(r.seconds[0]) == 2 for r in run.rows)
    assert all("decode_GB_s" in r.figures for r in run.rows[:3])
    both = [run.ceilings[f"read_{when}_GB_s"] for when in ("before", "after")]
    assert run.ceilings["read_GB_s"] == max(both)
    assert min(both) > 0
    assert run.environment["threads"] == "1"
    assert "load_average_after" in run.environment
    reasons = {m.what: m.reason for m in run.missing}
    assert reasons["fast runtime"] == "ModuleNotFoundError: No module named 'fast_runtime'"
    assert reasons["llama.cpp"] == "was not asked for"
    out = capsys.readouterr().out
    assert "| C1 |" in out
    assert "read before" in out
    assert "fast_runtime" in out


def test_a_model_that_is_not_there_and_a_prompt_too_long(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["-o", str(tmp_path / "run.json")]
    assert main(["bench", "cpu", str(tmp_path / "none"), *output]) == 7
    assert "config.json" in capsys.readouterr().err
    assert main(["bench", "cpu", str(model_dir), *output, "--tokens", "4096"]) == 2
    assert "4096" in capsys.readouterr().err
    assert main(["bench", "cpu", str(model_dir), *output, "--peer", "vllm"]) == 2
    assert "llama.cpp flash attention" in capsys.readouterr().err
    assert main(["bench", "cpu", str(model_dir), *output, "--threads", "-1"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_the_gguf_file_holds_the_same_bits(model_dir: Path, tmp_path: Path) -> None:
    reader = GGUFReader(export(model_dir, tmp_path / "model.gguf"))
    tensors = {t.name: np.asarray(t.data).view(np.uint16) for t in reader.tensors}
    file = SafetensorsFile(str(model_dir / "model.safetensors"))

    def stored(name: str, columns: int) -> Array:
        return np.frombuffer(file.read(name), np.uint16).reshape(-1, columns)

    qkv = stored("model.layers.1.self_attn.qkv_proj.weight", 128)
    gate_up = stored("model.layers.1.mlp.gate_up_proj.weight", 128)
    assert np.array_equal(tensors["token_embd.weight"], stored("model.embed_tokens.weight", 128))
    assert np.array_equal(tensors["output.weight"], stored("lm_head.weight", 128))
    assert np.array_equal(tensors["blk.1.attn_v.weight"], qkv[384:])
    assert np.array_equal(unpermute(tensors["blk.1.attn_q.weight"], 64), qkv[:256])
    assert np.array_equal(unpermute(tensors["blk.1.attn_k.weight"], 64), qkv[256:384])
    assert not np.array_equal(tensors["blk.1.attn_k.weight"], qkv[256:384])
    assert np.array_equal(tensors["blk.1.ffn_gate.weight"], gate_up[:192])
    assert np.array_equal(tensors["blk.1.ffn_up.weight"], gate_up[192:])
    assert len(tensors) == 2 * 9 + 3


def line(base: float, slope: float, kept: tuple[int, ...]) -> list[Point]:
    return [Point(1024, 0.5, k, base + slope * k) for k in kept]


def model_of(points: list[Point]) -> CostModel:
    base, slope = cost.fit(points)
    return CostModel("d", "m", "f", "bfloat16", 1, "t", base, slope, tuple(points))


def test_a_fit_finds_the_line_and_says_how_far_off_it_is() -> None:
    exact = model_of(line(5.0, 2e-6, (1000, 5000, 90000)))
    assert exact.base == pytest.approx(5.0)
    assert exact.per_kept_token_per_head == pytest.approx(2e-6)
    assert exact.worst_error < 1e-9
    assert exact.ms(500_000) == pytest.approx(6.0)
    bent = model_of([Point(1, 1.0, 0, 1.0), Point(1, 1.0, 10, 2.0), Point(1, 1.0, 20, 4.0)])
    assert bent.worst_error > 0.05


def test_a_fit_refuses_one_point_and_a_machine_that_was_not_quiet() -> None:
    with pytest.raises(ArgumentError, match="two different"):
        cost.fit([Point(1, 1.0, 5, 1.0), Point(2, 1.0, 5, 2.0)])
    with pytest.raises(NumericError, match="quiet"):
        cost.fit(line(5.0, -1e-6, (1000, 90000)))


def test_a_plans_cost_counts_what_its_heads_keep() -> None:
    made = model_of(line(1.0, 1e-3, (10, 20)))
    plan = AttentionPlan.from_rules([[(128, 0.0), (0, 1.0)]])
    assert made.plan_ms(plan, 1024) == pytest.approx(1.0 + 1e-3 * (128 + 1024))


def test_a_cost_file_is_read_as_it_was_written_and_checked(tmp_path: Path) -> None:
    made = model_of(line(5.0, 2e-6, (1000, 5000)))
    path = tmp_path / "cost.json"
    path.write_bytes(made.to_bytes())
    assert cost.load(path) == made
    text = path.read_text()
    for old, new, field in (
        ('"base": ', '"base": "x", "was": ', "base"),
        ('"moa_rt-cost"', '"other"', "kind"),
        ('"batch": 1', '"batch": true', "batch"),
        ('"kept": 5000', '"kept": null', "kept"),
    ):
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(FormatError, match=field):
            cost.load(path)


def test_the_cost_command(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What the machine measures is not what is tested: noise could even make the fit refuse.
    found = line(0.5, 1e-6, (512, 1024))
    seen: list[object] = []

    def measure(*arguments: object) -> list[Point]:
        seen.extend(arguments)
        return found

    monkeypatch.setattr(cost, "measure", measure)
    path = tmp_path / "cost.json"
    assert main(["bench", "cost", str(model_dir), "-o", str(path), "--length", "512"]) == 0
    assert seen[:4] == [model_dir, [512], "cpu", 1]
    loaded = cost.load(path)
    assert loaded.points == tuple(found)
    assert loaded.fingerprint == ModelConfig.load(str(model_dir)).fingerprint


def test_measured_points_have_the_kept_tokens_of_their_plans(model_dir: Path) -> None:
    points = list(cost.measure(model_dir, [512], "cpu", 1, 4, 1))
    assert [p.density for p in points] == list(cost.DENSITIES)
    assert points[0].kept == 2 * 2 * 512
    assert points[2].kept == 2 * 2 * 320  # half of 522 tokens, rounded up to 64
    assert all(p.ms > 0 for p in points)
