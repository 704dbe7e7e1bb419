"""Hugging Face directories: what comes out, and what is refused in which words."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moa_rt import (
    FormatError,
    MismatchError,
    ModelConfig,
    NumericError,
    UnsupportedError,
)
from moa_tools.convert.pipeline import ConvertOptions, ConvertReport, convert
from moa_tools.convert.progress import Silent
from numpy.typing import NDArray
from support_models import FAMILIES, make_tiny_model

Weights = dict[str, NDArray[Any]]
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


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


def run(source: Path, **options: Any) -> tuple[ConvertReport, Silent]:
    log = Silent()
    out = source.parent / "out"
    return convert(str(source), out, ConvertOptions(**options), log), log


def refused(source: Path, error: type[Exception], words: str, **options: Any) -> str:
    with pytest.raises(error, match=words) as caught:
        run(source, **options)
    assert sorted(p.name for p in source.parent.iterdir()) == [source.name]
    return str(caught.value)


def edit_weights(source: Path, edit: Callable[[Weights], None]) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(source / SINGLE)
    edit(weights)
    save_file(weights, source / SINGLE)


def edit_json(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


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


def test_B1_missing_tensors_are_all_named(source: Path) -> None:
    gone = ["model.layers.0.mlp.up_proj.weight", "model.norm.weight"]

    def edit(weights: Weights) -> None:
        for name in gone:
            del weights[name]

    edit_weights(source, edit)
    text = refused(source, MismatchError, "2 tensors are missing")
    assert all(name in text for name in gone)


def test_B1_more_than_twenty_are_counted(tmp_path: Path) -> None:
    source = make_tiny_model(tmp_path / "source", "llama")
    edit_json(source / "config.json", num_hidden_layers=6)
    refused(source, MismatchError, "36 tensors are missing: .* and 16 more")


def test_B2_extra_tensors(source: Path) -> None:
    rotary = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_weights(source, lambda w: w.update({rotary: np.ones(32, np.float32)}))
    _, log = run(source)
    assert any("1 tensors the model does not need" in text for text in log.infos)
    assert log.warnings == []
    edit_weights(source, lambda w: w.update({"spare.weight": np.ones(3, np.float32)}))
    _, log = run(source, overwrite=True)
    assert log.warnings == ["1 extra tensors are left out: spare.weight"]
    shutil.rmtree(source.parent / "out")
    refused(source, MismatchError, "1 extra tensors: spare.weight", strict=True)


def test_B2_extra_bias_is_never_dropped(source: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.bias"
    edit_weights(source, lambda w: w.update({name: np.ones(256, np.float32)}))
    refused(source, MismatchError, "1 extra tensors would change the result: .*q_proj.bias")


@pytest.mark.parametrize("equal", [True, False])
def test_B3_tied_head(tmp_path: Path, equal: bool) -> None:
    source = make_tiny_model(tmp_path / "source", "llama", tie_word_embeddings=True)

    def edit(weights: Weights) -> None:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].copy()
        if not equal:
            weights["lm_head.weight"][-1, -1] += 1

    edit_weights(source, edit)
    if equal:
        report, log = run(source)
        assert any("one copy is kept" in text for text in log.infos)
        assert "lm_head" not in (report.path / "manifest.json").read_text()
    else:
        refused(source, MismatchError, "tied but different")


def test_B4_untied_without_a_head(source: Path) -> None:
    def edit(weights: Weights) -> None:
        del weights["lm_head.weight"]

    edit_weights(source, edit)
    refused(source, MismatchError, "lm_head.weight; is tie_word_embeddings missing")


def test_B5_transposed(source: Path) -> None:
    name = "model.layers.1.self_attn.q_proj.weight"
    edit_weights(source, lambda w: w.update({name: np.ascontiguousarray(w[name].T)}))
    refused(source, MismatchError, rf'"{name}": got \[128, 256\], want \[256, 128\]')


def test_B5_fused(source: Path) -> None:
    def edit(weights: Weights) -> None:
        parts = [weights.pop(f"model.layers.0.self_attn.{p}_proj.weight") for p in "qkv"]
        weights["model.layers.0.self_attn.qkv_proj.weight"] = np.concatenate(parts)

    edit_weights(source, edit)
    refused(source, MismatchError, "3 tensors are missing.*fused weights are not split")


def test_B6_mixed_types(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    source = make_tiny_model(tmp_path / "source", "llama", dtype="bfloat16")
    weights = load_file(source / SINGLE)
    weights["model.norm.weight"] = weights["model.norm.weight"].float()
    save_file(weights, source / SINGLE)
    report, log = run(source, verbose=True)
    assert report.dtype == "bfloat16"
    casts = [text for text in log.infos if text.startswith("cast ")]
    assert "cast model.layers.0.input_layernorm.weight: BF16 to F32" in casts
    assert not any("model.norm.weight" in text for text in casts)
    weights["model.layers.0.mlp.up_proj.weight"] = weights[
        "model.layers.0.mlp.up_proj.weight"
    ].float()
    save_file(weights, source / SINGLE)
    report, _ = run(source, overwrite=True)
    assert report.dtype == "float32"
    weights["model.norm.weight"] = weights["model.norm.weight"].to(torch.float64)
    save_file(weights, source / SINGLE)
    shutil.rmtree(report.path)
    refused(source, UnsupportedError, "F64")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_B7_not_finite(source: Path, value: float) -> None:
    name = "model.layers.1.mlp.down_proj.weight"

    def edit(weights: Weights) -> None:
        weights[name][2, 5] = value
        weights[name][3, 0] = value

    edit_weights(source, edit)
    refused(source, NumericError, f'"{name}": element {2 * 192 + 5}: got {value}')
    _, log = run(source, allow_nonfinite=True)
    assert log.warnings == [f'tensor "{name}": 2 elements are not finite']


def test_B7_all_zero_and_subnormal(source: Path) -> None:
    zero, tiny = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"

    def edit(weights: Weights) -> None:
        weights[zero][:] = 0
        weights[tiny][:] = 1e-40

    edit_weights(source, edit)
    _, log = run(source)
    assert log.warnings == [
        f'tensor "{zero}": every element is zero',
        f'tensor "{tiny}": {192 * 128} of {192 * 128} elements are subnormal',
    ]


def test_B8_overflow_in_a_cast(source: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"

    def edit(weights: Weights) -> None:
        weights[name][0, 0] = 71000.0

    edit_weights(source, edit)
    refused(source, NumericError, r"got max 7\.1e\+04 > 65504; use --dtype bf", dtype="float16")
    run(source, dtype="bfloat16")


def test_B9_index_against_shards(shards: Path) -> None:
    index = json.loads((shards / INDEX).read_text())
    held = list(index["weight_map"].values())
    names = sorted(set(held), key=held.count, reverse=True)
    victim = next(k for k, v in index["weight_map"].items() if v == names[0])

    def check(change: Callable[[dict[str, str]], None], words: str) -> None:
        changed = json.loads(json.dumps(index))
        change(changed["weight_map"])
        (shards / INDEX).write_text(json.dumps(changed))
        refused(shards, MismatchError, words)

    check(lambda m: m.update({victim: names[1]}), f'"{victim}" is in .* index says')
    check(lambda m: m.update({"ghost": names[0]}), f'"ghost" is not in {names[0]!r}')
    check(lambda m: m.__delitem__(victim), f'holds the unlisted tensor "{victim}"')
    check(lambda m: m.update({"ghost": "no.safetensors"}), "shard 'no.safetensors' is missing")
    shutil.copy(shards / names[0], shards / "spare.safetensors")
    check(lambda m: None, "file 'spare.safetensors' is not in the index")
    check(lambda m: m.update({"x": "spare.safetensors"}), f'"{victim}" is in .* and in')


def test_B9_total_size_only_warns(shards: Path) -> None:
    edit_json(shards / INDEX, metadata={"total_size": 1})
    _, log = run(shards)
    assert len(log.warnings) == 1
    assert "total_size: got 1, want" in log.warnings[0]


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/passwd", "a/b", "C:\\x", "", ".", "..", "a\0b", 3, None, ["x"]],
)
def test_B10_shard_name(shards: Path, name: Any) -> None:
    index = json.loads((shards / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = name
    (shards / INDEX).write_text(json.dumps(index))
    refused(shards, FormatError, "shard name must be a plain file name")


def test_B10_twin_in_another_case(shards: Path) -> None:
    index = json.loads((shards / INDEX).read_text())
    first = index["weight_map"]["model.norm.weight"]
    index["weight_map"]["model.norm.weight"] = first.replace("model", "Model")
    (shards / INDEX).write_text(json.dumps(index))
    refused(shards, FormatError, "differs in more than case")


def test_B10_link_out_of_the_directory(shards: Path, tmp_path: Path) -> None:
    name = json.loads((shards / INDEX).read_text())["weight_map"]["model.norm.weight"]
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    shutil.move(shards / name, outside / "secret")
    (shards / name).symlink_to(outside / "secret")
    with pytest.raises(FormatError, match="not a link out of the model directory"):
        run(shards)


def test_B10_links_of_a_hub_cache_are_followed(shards: Path, tmp_path: Path) -> None:
    home = tmp_path / "models--x" / "snapshots" / "0"
    home.parent.mkdir(parents=True)
    shutil.move(shards, home)
    blobs = tmp_path / "models--x" / "blobs"
    blobs.mkdir()
    for path in sorted(home.glob("*.safetensors")):
        shutil.move(path, blobs / path.name)
        path.symlink_to(Path("../../blobs") / path.name)
    report = convert(str(home), tmp_path / "out", ConvertOptions(), Silent())
    assert report.tensors > 0


@pytest.mark.parametrize("missing", [1, 100_000])
def test_B11_cut_download(source: Path, missing: int) -> None:
    path = source / SINGLE
    os.truncate(path, path.stat().st_size - missing)
    refused(source, FormatError, SINGLE)


def test_B12_pointer_and_page(source: Path) -> None:
    (source / SINGLE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    refused(source, FormatError, "this is a Git LFS pointer")
    (source / SINGLE).write_text("<!DOCTYPE html>\n<html><body>404</body></html>")
    refused(source, FormatError, "this looks like HTML")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_B13_pickle_is_refused_unread(source: Path, name: str) -> None:
    (source / SINGLE).unlink()
    os.mkfifo(source / name)  # opening it would hang
    refused(source, UnsupportedError, "pickle is not read")
    with pytest.raises(UnsupportedError, match="pickle is not read"):
        convert(str(source / name), source.parent / "out", ConvertOptions(), Silent())


def test_B13_pickle_in_an_index(shards: Path) -> None:
    index = json.loads((shards / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = "pytorch_model.bin"
    (shards / INDEX).write_text(json.dumps(index))
    refused(shards, UnsupportedError, "pickle is not read")


def test_B14_single_file_and_index(shards: Path, tiny: Path) -> None:
    shutil.copy(tiny / SINGLE, shards / SINGLE)
    refused(shards, MismatchError, "disagree; remove the one that is not the model")
    index = json.loads((shards / INDEX).read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], SINGLE)
    (shards / INDEX).write_text(json.dumps(index))
    report, _ = run(shards)
    assert report.tensors > 0


def test_no_weights_at_all(source: Path) -> None:
    (source / SINGLE).unlink()
    refused(source, FormatError, "weights: got none, want model.safetensors or")


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"a": NaN}', '{"a": 1, "a": 2}', "{", "\ud800".encode("utf-8", "surrogatepass")],
)
def test_C1_config(source: Path, text: str | bytes) -> None:
    data = text.encode() if isinstance(text, str) else text
    (source / "config.json").write_bytes(data)
    refused(source, FormatError, "config.json")


def test_C1_deep_nesting(source: Path) -> None:
    (source / "config.json").write_text("[" * 100_000)
    refused(source, FormatError, "config.json")


def test_C10_rows_of_the_embedding_decide(source: Path) -> None:
    edit_json(source / "config.json", vocab_size=500)
    report, log = run(source)
    assert ModelConfig.load(str(report.path)).vocab_size == 512
    assert "embedding has 512 rows, which decide" in log.warnings[0]


def test_C10_token_without_a_row(source: Path) -> None:
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["zzz"] = 512
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused(source, MismatchError, "token id: got 512, want below vocab_size 512")


def test_C13_remote_code_is_ignored(source: Path) -> None:
    edit_json(source / "config.json", auto_map={"AutoModel": "evil.py"})
    _, log = run(source)
    assert any("auto_map (remote code) is ignored" in text for text in log.infos)


def test_C14_declared_type_is_not_the_stored_one(source: Path) -> None:
    edit_json(source / "config.json", torch_dtype="float16")
    report, log = run(source)
    assert report.dtype == "float32"
    assert log.warnings == ["torch_dtype: got float16, but the tensors are F32; they win"]
