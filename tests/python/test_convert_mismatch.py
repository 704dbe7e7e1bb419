"""Checkpoints and configs that disagree: each row with its class and its words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from moa_rt import (
    FormatError,
    MismatchError,
    ModelConfig,
    NumericError,
    UnsupportedError,
)
from support_convert import SINGLE, Weights, edit_json, edit_weights, refused, run
from support_models import make_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "hf", "llama")


@pytest.fixture
def source(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "source"))


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
