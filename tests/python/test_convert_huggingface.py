"""Hugging Face directories: what comes out of a good one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from moa_rt import (
    ModelConfig,
)
from moa_tools.convert.pipeline import ConvertOptions, convert
from moa_tools.convert.progress import Silent
from support_convert import SINGLE, edit_json, run
from support_models import FAMILIES, make_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "hf", "llama")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sharded") / "hf"
    return make_tiny_model(place, "llama", max_shard_size="300KB")


@pytest.fixture
def source(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "source"))


@pytest.fixture
def shards(sharded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sharded, tmp_path / "source"))


def expected_tensors(source: Path) -> dict[str, Any]:
    """The runtime's tensors of a checkpoint, stacked by their definition."""
    import torch
    from safetensors.torch import load_file

    weights: dict[str, Any] = {}
    for path in sorted(source.glob("*.safetensors")):
        weights.update(load_file(path))
    groups = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
    for fused, parts in groups.items():
        for name in [n for n in weights if f".{parts[0]}." in n]:
            rows = [weights.pop(name.replace(parts[0], part)) for part in parts]
            weights[name.replace(parts[0], fused)] = torch.cat(rows)
    return weights


@pytest.mark.parametrize(
    ("family", "dtype", "shape"),
    [
        *[(family, "float32", {}) for family in FAMILIES],
        *[(family, "bfloat16", {"tie_word_embeddings": True}) for family in FAMILIES],
        ("llama", "float16", {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 80}),
        ("qwen3", "bfloat16", {"num_key_value_heads": 4, "head_dim": 128}),
    ],
)
def test_every_family(tmp_path: Path, family: str, dtype: str, shape: dict[str, Any]) -> None:
    import torch
    from safetensors import safe_open

    source = make_tiny_model(tmp_path / "source", family, dtype=dtype, **shape)
    report, log = run(source)
    assert report.dtype == dtype
    assert log.warnings == []
    want = expected_tensors(source)
    with safe_open(report.path / SINGLE, "pt") as file:
        assert set(file.keys()) == set(want)
        for name, tensor in want.items():
            got = file.get_tensor(name)
            stored = tensor if tensor.dim() > 1 else tensor.float()
            assert got.dtype == stored.dtype
            assert torch.equal(got, stored), name
    before = ModelConfig.load(str(source))
    after = ModelConfig.load(str(report.path))
    assert after.fingerprint == report.fingerprint
    for field in (
        *("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim"),
        *("num_attention_heads", "num_key_value_heads", "vocab_size", "max_position_embeddings"),
        *("rms_norm_eps", "tie_word_embeddings", "bos_token_id", "eos_token_ids", "qk_norm"),
    ):
        assert getattr(after, field) == getattr(before, field), field
    for field in ("type", "theta", "factor", "low_freq_factor", "high_freq_factor"):
        assert getattr(after.rope, field) == getattr(before.rope, field), field


def test_transformers_reads_the_written_config(tmp_path: Path) -> None:
    import transformers

    source = make_tiny_model(tmp_path / "source", "llama3")
    report, _ = run(source)
    before = transformers.AutoConfig.from_pretrained(source)
    after = transformers.AutoConfig.from_pretrained(report.path)
    assert type(after) is type(before)
    assert after.rope_parameters == before.rope_parameters


def test_shards_equal_single(shards: Path, tmp_path: Path) -> None:
    assert len(list(shards.glob("*.safetensors"))) > 2
    report, _ = run(shards)
    single = make_tiny_model(tmp_path / "single", "llama")
    other = convert(str(single), tmp_path / "other", ConvertOptions(), Silent())
    assert report.fingerprint == other.fingerprint
    assert (report.path / SINGLE).read_bytes() == (other.path / SINGLE).read_bytes()


def test_file_starts_aligned_and_in_manifest_order(source: Path) -> None:
    from moa_rt import _core

    report, _ = run(source)
    data = (report.path / SINGLE).read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert data[8:9] == b"{"
    assert (8 + length) % 64 == 0
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__")
    names = sorted(header, key=lambda name: header[name]["data_offsets"][0])
    config = ModelConfig.load(str(report.path))
    assert names == [spec.name for spec in _core.weight_manifest(config)]


def test_small_files(source: Path) -> None:
    edit_json(source / "tokenizer_config.json", auto_map={"x": "y.py"})
    (source / "chat_template.jinja").write_text("{{ messages }}")
    report, log = run(source)
    assert (report.path / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    settings = json.loads((report.path / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == "{{ messages }}"
    assert "auto_map" not in settings
    assert (report.path / "generation_config.json").exists()
    assert log.warnings == []


@pytest.mark.parametrize(
    ("name", "family"),
    [("vicuna-7b-v1.5", "vicuna"), ("Llama-2-7b-chat-hf", "llama2"), ("plain", None)],
)
def test_chat_family_by_name(tiny: Path, tmp_path: Path, name: str, family: str | None) -> None:
    report, _ = run(Path(shutil.copytree(tiny, tmp_path / name)))
    settings = json.loads((report.path / "tokenizer_config.json").read_text())
    assert settings.get("moa_rt_chat_family") == family


def test_chat_family_by_marker_tokens(tmp_path: Path) -> None:
    report, _ = run(make_tiny_model(tmp_path / "source", "qwen2"))
    settings = json.loads((report.path / "tokenizer_config.json").read_text())
    assert settings["moa_rt_chat_family"] == "chatml"
