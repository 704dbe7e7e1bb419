"""moa-rt inspect: bytes predicted from the configuration alone, and hashes checked on demand."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import time
from pathlib import Path

import pytest
from moa_rt import AttentionPlan, ModelConfig
from support_cli import BINARY, MODEL, copy_model, fails, json_of, moa_rt

ROUNDING = 64
SINK = 64


def span_of(density: float, length: int) -> int:
    """The span of a uniform plan, from its definition."""
    wanted = min(max(density * length, SINK + ROUNDING), length)
    return int(-(-wanted // ROUNDING) * ROUNDING)


@pytest.mark.parametrize("density", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("length", [100, 2048, 8192])
def test_bytes_are_the_sum_of_spans(density: float, length: int) -> None:
    flags = ("--length", str(length), "--density", str(density))
    report = json_of(moa_rt("inspect", "--model", MODEL, *flags, "--json"))
    config = json.loads((MODEL / "config.json").read_text())
    heads, layers = config["num_key_value_heads"], config["num_hidden_layers"]
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    span = span_of(density, length)
    per_layer = heads * span * 2 * head_dim * 2  # key and value, two bytes each
    assert [layer["spans"] for layer in report["layers"]] == [[span] * heads] * layers
    assert [layer["kv_cache_bytes"] for layer in report["layers"]] == [per_layer] * layers
    sizes = report["bytes"]
    assert sizes["kv_cache_per_sequence"] == per_layer * layers
    parts = ("weights", "kv_cache_per_sequence", "scratch", "runtime")
    assert sizes["total"] == sum(sizes[part] for part in parts)


def test_text_and_json_agree() -> None:
    flags = ("--model", MODEL, "--length", "2048", "--density", "0.5", "--sequences", "3")
    sizes = json_of(moa_rt("inspect", *flags, "--json"))["bytes"]
    text = moa_rt("inspect", *flags).stdout
    assert f"total {sizes['total']:>35}".split() in [line.split() for line in text.splitlines()]
    assert "3 sequence(s) of 2048 tokens" in text


def test_what_density_means_at_each_length() -> None:
    flags = ("--model", MODEL, "--length", "3000", "--density", "0.25")
    report = json_of(moa_rt("inspect", *flags, "--json"))
    config = json.loads((MODEL / "config.json").read_text())
    heads = config["num_key_value_heads"] * config["num_hidden_layers"]
    slot = 2 * config["head_dim"] * 2  # key and value, two bytes each
    costs = report["lengths"]
    assert [cost["length"] for cost in costs] == [512, 1024, 2048, 3000, 4096, 8192]
    for cost in costs:
        span = span_of(0.25, cost["length"])
        dense = span_of(1.0, cost["length"])
        assert cost["kv_cache_bytes"] == heads * slot * span
        assert cost["dense_kv_cache_bytes"] == heads * slot * dense
        assert cost["density"] == pytest.approx(span / dense)
    text = moa_rt("inspect", *flags).stdout
    for cost in costs:
        row = f"{cost['length']:6d} {cost['density']:9.4f} {cost['kv_cache_bytes'] / 1e6:9.1f}"
        assert row in text


def write_plan(path: Path, alphas: list[int]) -> Path:
    """A plan file whose KV heads keep fixed spans, the same in every layer."""
    config = ModelConfig.load(str(MODEL))
    rules: list[list[tuple[int, float]]] = [[(alpha, 0.0) for alpha in alphas]]
    plan = AttentionPlan.from_rules(rules * config.num_hidden_layers)
    plan.fingerprint = config.fingerprint
    plan.save(str(path))
    return path


def test_the_heat_map(tmp_path: Path) -> None:
    for alphas, blocks in (
        ([128, 256, 257], "▁▂▃"),  # 257 is rounded up to 320
        ([512, 960, 1024], "▄▇█"),
        ([640, 768, 896], "▅▆▇"),
    ):
        plan = write_plan(tmp_path / "plan.json", alphas)
        done = moa_rt("inspect", "--model", MODEL, "--plan", plan, "--length", "1024")
        assert done.returncode == 0, done.stderr
        rows = [line for line in done.stdout.splitlines() if "/3" in line]
        assert len(rows) == 30
        assert {line.split()[-1] for line in rows} == {blocks}
        assert "\x1b" not in done.stdout, "colours are for terminals"


def test_the_heat_map_has_colours_on_a_terminal(tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "plan.json", [128, 512, 1024])
    controller, terminal = pty.openpty()
    command: list[str | Path] = [
        BINARY,
        "inspect",
        "--model",
        MODEL,
        "--plan",
        plan,
        "--length",
        "1024",
    ]
    process = subprocess.Popen(command, stdout=terminal)
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal ends whose program has gone
        while part := os.read(controller, 4096):
            shown += part
    os.close(controller)
    assert process.wait() == 0
    cells = re.findall("\x1b\\[38;5;(\\d+)m([▁▂▃▄▅▆▇█])\x1b\\[0m", shown.decode())
    colours: dict[str, str] = {}
    for colour, block in cells:
        assert colours.setdefault(block, colour) == colour
    assert len(cells) == 8 + 30 * 3  # the legend and the map
    assert len(set(colours.values())) == 8


def peak_bytes(*command: str | Path) -> int:
    """Most memory a command had in use, from the kernel's own account of its address space."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        peak = int(found[1]) * 1024 if found else peak
        time.sleep(0.01)
    assert process.returncode == 0
    return peak


@pytest.mark.parametrize("density", ["1", "0.25"])
def test_the_prediction_is_within_two_percent(density: str) -> None:
    flags = ("--model", str(MODEL), "--max-seq-len", "4096", "--density", density)
    predicted = json_of(moa_rt("inspect", *flags, "--json"))["bytes"]["total"]
    shape = ("--prompt-tokens", "4032", "--new-tokens", "64", "--repeat", "1", "--warmup", "0")
    assert peak_bytes(BINARY, "bench", *flags, *shape) == pytest.approx(predicted, rel=0.02)


def test_no_weight_is_read(tmp_path: Path) -> None:
    model = copy_model(tmp_path / "model")
    for path in MODEL.glob("*.safetensors"):
        # The header as it is; in place of the weights a hole of the same size.
        target = model / path.name
        target.unlink()
        with path.open("rb") as source, target.open("wb") as copy:
            size = source.read(8)
            copy.write(size + source.read(int.from_bytes(size, "little")))
            copy.truncate(path.stat().st_size)
    wanted = json_of(moa_rt("inspect", "--model", MODEL, "--json"))
    report = json_of(moa_rt("inspect", "--model", model, "--json"))
    assert report["layers"] == wanted["layers"]
    assert report["bytes"]["weights"] == wanted["bytes"]["weights"]
    assert fails(moa_rt("inspect", "--model", model, "--verify"), 3, "E_FORMAT", "safetensors")


def test_verify_accepts_a_whole_model() -> None:
    done = moa_rt("inspect", "--model", MODEL, "--verify")
    assert done.returncode == 0, done.stderr
    assert "every file agrees" in done.stdout
    assert json_of(moa_rt("inspect", "--model", MODEL, "--verify", "--json"))["verified"] is True


def test_I12_bit_flip(tmp_path: Path) -> None:
    model = copy_model(tmp_path / "model")
    weights = next(model.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.unlink()
    weights.write_bytes(data)
    assert moa_rt("inspect", "--model", model).returncode == 0
    done = moa_rt("inspect", "--model", model, "--verify")
    assert fails(done, 3, "E_FORMAT", weights.name, "tensor")


def test_bad_counts() -> None:
    inspect = ("inspect", "--model", MODEL)
    assert fails(moa_rt(*inspect, "--sequences", "0"), 2, "E_ARG", "--sequences")
    assert fails(moa_rt(*inspect, "--length", "-5"), 2, "E_ARG", "-5")
    assert fails(moa_rt(*inspect, "--length", "9000000"), 2, "E_ARG", "9000000")
