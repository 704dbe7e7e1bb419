"""Configs, spans and plans as Python sees them. Their arithmetic is tested in C++."""

from __future__ import annotations

import copy
import json
import math
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moa_rt import (
    ArgumentError,
    AttentionPlan,
    FormatError,
    HeadSpan,
    IoError,
    MismatchError,
    ModelConfig,
    SpanRule,
    filled_slots,
    resolve_span,
    slot_of,
    verify_model,
    visible,
    window_start,
)
from moa_rt._core import (
    SafetensorsFile,
    is_ignorable_source,
    model_fingerprint,
    sha256_file,
    weight_manifest,
)
from support_reference import span_of

FIELDS: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 512,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
}


@pytest.fixture
def config() -> ModelConfig:
    return ModelConfig.parse(json.dumps(FIELDS))


def test_config_fields(config: ModelConfig) -> None:
    for name in FIELDS.keys() - {"architectures", "rope_theta", "hidden_act", "eos_token_id"}:
        assert getattr(config, name) == FIELDS[name], name
    assert config.eos_token_ids == [2, 3]
    assert (config.query_size, config.kv_size, config.qkv_size) == (256, 128, 512)
    assert (config.rope.type, config.rope.theta, config.fingerprint) == ("default", 10000.0, "")
    assert not config.attention_bias
    assert not config.qk_norm
    assert "num_hidden_layers=2" in repr(config)
    with pytest.raises(FormatError, match=r"here\.json.*hidden_size"):
        ModelConfig.parse(json.dumps({**FIELDS, "hidden_size": 32.0}), "here.json")
    with pytest.raises(AttributeError):
        config.hidden_size = 3  # type: ignore[misc]


def test_weight_manifest_is_the_fused_layout(config: ModelConfig) -> None:
    specs = {spec.name: spec for spec in weight_manifest(config)}
    qkv = specs["model.layers.1.self_attn.qkv_proj.weight"]
    assert qkv.shape == (512, 128)
    assert [source.shape for source in qkv.sources] == [(256, 128), (128, 128), (128, 128)]
    assert specs["lm_head.weight"].sources[0].name == "lm_head.weight"
    assert is_ignorable_source("model.layers.0.self_attn.rotary_emb.inv_freq")
    assert not is_ignorable_source("model.norm.weight")


def test_fingerprint_follows_every_digest(config: ModelConfig) -> None:
    digests: dict[str, Any] = {
        spec.name: ("BF16", spec.shape, f"{i:064x}")
        for i, spec in enumerate(weight_manifest(config))
    }
    first = model_fingerprint(config, digests)
    assert len(first) == 64
    assert model_fingerprint(config, dict(reversed(digests.items()))) == first
    digests["lm_head.weight"] = ("BF16", [512, 128], "f" * 64)
    assert model_fingerprint(config, digests) != first
    del digests["lm_head.weight"]
    with pytest.raises(MismatchError, match="got 14 tensors, want 15"):
        model_fingerprint(config, digests)
    with pytest.raises(ArgumentError, match="digests"):
        model_fingerprint(config, {"a": 3})  # type: ignore[dict-item]


def test_safetensors_and_hashes(tiny_dir: Path) -> None:
    path = tiny_dir / "model.safetensors"
    file = SafetensorsFile(path)
    raw = path.read_bytes()
    info = file.find("model.norm.weight")
    assert info is not None
    assert (info.dtype, info.shape, info.bytes) == ("F32", (128,), 512)
    want = raw[info.file_offset : info.file_offset + 512]
    assert file.read("model.norm.weight") == want
    assert file.read("model.norm.weight", 8, 12) == want[8:20]
    assert file.find("none") is None
    with pytest.raises(ArgumentError, match="none"):
        file.read("none")
    with pytest.raises(ArgumentError, match="size"):
        file.read("model.norm.weight", 8, 505)
    manifest = json.loads((tiny_dir / "manifest.json").read_text())
    assert sha256_file(path) == manifest["files"]["model.safetensors"]["sha256"]
    digest = sha256_file(path, info.file_offset, info.bytes)
    assert digest == manifest["tensors"]["model.norm.weight"]
    assert ModelConfig.load(tiny_dir).fingerprint == manifest["fingerprint"]


def test_I12_verify_finds_a_flipped_bit(tiny_dir: Path, tmp_path: Path) -> None:
    verify_model(tiny_dir)
    for path in tiny_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    info = SafetensorsFile(tmp_path / "model.safetensors").find("model.norm.weight")
    assert info is not None
    raw = bytearray((tmp_path / "model.safetensors").read_bytes())
    raw[info.file_offset + 3] ^= 1
    (tmp_path / "model.safetensors").write_bytes(raw)
    with pytest.raises(FormatError, match=r"model\.safetensors.*model\.norm\.weight"):
        verify_model(tmp_path)
    with pytest.raises(IoError):
        verify_model(tmp_path / "none")


# --- spans


def test_E12_spans_equal_exact_arithmetic() -> None:
    draw = random.Random(3)
    for _ in range(20_000):
        sink, rounding = draw.choice([(64, 64), (4, 8), (0, 1), (64, 32)])
        alpha = draw.randrange(-4096, 4096)
        beta = draw.randrange(2**32 + 1) / 2**32
        bound = draw.choice([0, rounding * draw.randrange(1, 64)])
        n = draw.randrange(1, 2**21)
        got = resolve_span(SpanRule(alpha, beta, bound), sink, rounding, n)
        assert (got.sink, got.window) == span_of((alpha, beta, bound), sink, rounding, n)


@given(sink=st.integers(0, 6), window=st.integers(1, 9), q=st.integers(0, 60))
def test_mask_slots_and_windows(sink: int, window: int, q: int) -> None:
    head = HeadSpan(sink, window)
    seen = [k for k in range(q + 5) if visible(head, q, k)]
    assert seen == [k for k in range(q + 1) if k < sink or q - k < window]
    slots = {slot_of(head, k) for k in seen}
    assert len(slots) == len(seen), "no two visible positions share a slot"
    assert slots <= set(range(filled_slots(head, q + 1)))
    assert [k for k in seen if k >= sink] == list(range(max(sink, window_start(head, q)), q + 1))


@pytest.mark.parametrize("bad", [-1, 2**21 + 1, 2**70, True, 1.0, "1", None])
def test_positions_out_of_bounds(bad: Any) -> None:
    head = HeadSpan(1, 2)
    for call in (
        lambda: slot_of(head, bad),
        lambda: visible(head, bad, 0),
        lambda: window_start(head, bad),
        lambda: HeadSpan(bad, 1),
        lambda: resolve_span(SpanRule(0, 1.0), 64, 64, bad),
    ):
        with pytest.raises(ArgumentError, match="got"):
            call()


def test_rules_and_spans_are_values() -> None:
    assert SpanRule(1, 0.5) == SpanRule(np.int32(1), np.float32(0.5), None)
    assert hash(SpanRule(1, 0.5)) == hash(SpanRule(1, 0.5))
    assert SpanRule(1, 0.5) != SpanRule(1, 0.5, 64)
    assert repr(SpanRule(-5, 0.25, 128)) == "SpanRule(alpha=-5, beta=0.25, max_span=128)"
    assert {HeadSpan(1, 2), HeadSpan(1, 2)} == {HeadSpan(1, 2)}
    assert HeadSpan(1, 2).span == 3
    assert HeadSpan(1, 2) != 3


# --- plans


def test_dense_and_uniform(config: ModelConfig) -> None:
    dense = AttentionPlan.dense(config)
    assert (dense.num_layers, dense.num_kv_heads, dense.density(4096)) == (2, 2, 1.0)
    assert dense.cache_bytes(4096, "float32") == 4096 * 2 * 2 * 2 * 64 * 4
    half = AttentionPlan.uniform(config, 0.5)
    assert half.density(4096) == 0.5
    assert half.cache_bytes(4096) * 4 == dense.cache_bytes(4096, "float32")
    assert half.spans(4096) == [[HeadSpan(64, 1984)] * 2] * 2
    assert half.head_span(1, 1, 4096) == HeadSpan(64, 1984)
    for bad in (0.0, -0.1, 1.01, math.nan, "0.5", True):
        with pytest.raises(ArgumentError, match="density"):
            AttentionPlan.uniform(config, bad)  # type: ignore[arg-type]


def test_from_rules(config: ModelConfig) -> None:
    plan = AttentionPlan.from_rules([[(-1024, 0.75), [64, 0.0, 256]], [(0, 1), SpanRule(9, 0.5)]])
    assert plan.rules[0] == [SpanRule(-1024, 0.75), SpanRule(64, 0.0, 256)]
    assert (plan.sink_size, plan.rounding) == (64, 64)
    with pytest.raises(ArgumentError, match="config"):
        plan.cache_bytes(1024)
    spans = sum(h.span for row in plan.spans(1024) for h in row)
    assert plan.cache_bytes(1024, "bf16", config) == spans * 2 * 64 * 2
    assert plan.cache_bytes(1024, "bf16") == spans * 2 * 64 * 2, "it remembers the head size"
    with pytest.raises(TypeError):
        plan.quality["ppl"] = 3.0  # type: ignore[index]


@pytest.mark.parametrize(
    ("rules", "item"),
    [
        ([], "layers: got 0"),
        ([[]], "KV heads: got 0"),
        ([[(0, 1)], []], "layer 1"),
        (3, "rules"),
        ([3], r"rules\[0\]"),
        ([[(0, 1)], [(0, 1), (0, 1, 2, 3)]], r"rules\[1\]\[1\]"),
        ([[(0.5, 1)]], r"rules\[0\]\[0\]\.alpha"),
        ([[(2**22, 1)]], r"rules\[0\]\[0\]\.alpha"),
        ([[(2**70, 1)]], r"rules\[0\]\[0\]\.alpha"),
        ([[(0, "1")]], r"rules\[0\]\[0\]\.beta"),
        ([[(0, True)]], r"rules\[0\]\[0\]\.beta"),
        ([[(0, math.nan)]], "beta"),
        ([[(0, 1.5)]], "beta"),
        ([[(0, -0.0)]], "beta"),
        ([[(0, 1, -64)]], r"rules\[0\]\[0\]\.max_span"),
        ([["ab"]], r"rules\[0\]\[0\]"),
    ],
    ids=repr,
)
def test_E2_E5_rules_out_of_bounds(rules: Any, item: str) -> None:
    with pytest.raises(ArgumentError, match=item):
        AttentionPlan.from_rules(rules)


def test_E18_save_and_load_are_exact(config: ModelConfig, tmp_path: Path) -> None:
    plan = AttentionPlan.from_rules(
        [[(-64, 1 / 3), (0, 0.1, 640)], [(128, 0.0), (0, 1.0)]], min_length=512, max_length=8192
    )
    plan.out_of_range = "refuse"
    plan.model_name = 'a "name" \u00e9'
    plan.provenance = {"method": "test", "a": "b"}
    plan.quality = {"passkey@4096": 0.95}
    for name in ("one.json", "two.json"):
        plan.save(tmp_path / name)
    first = (tmp_path / "one.json").read_bytes()
    assert first == (tmp_path / "two.json").read_bytes()
    again = AttentionPlan.load(tmp_path / "one.json")
    assert again == plan
    assert again.to_json().encode() == first
    assert (again.out_of_range, again.model_name) == ("refuse", 'a "name" \u00e9')
    assert dict(again.provenance) == {"method": "test", "a": "b"}
    assert dict(again.quality) == {"passkey@4096": 0.95}
    for twin in (pickle.loads(pickle.dumps(plan)), copy.copy(plan), copy.deepcopy(plan)):
        assert twin == plan
    with pytest.raises(IoError):
        plan.save(tmp_path / "none" / "plan.json")
    with pytest.raises(ArgumentError, match="512"):
        plan.spans(511)
    with pytest.raises(TypeError, match="unhashable"):
        hash(plan)


def test_plan_against_model(config: ModelConfig, tiny_dir: Path) -> None:
    plan = AttentionPlan.from_rules([[(0, 0.5)] * 2] * 2)
    plan.check_model(config)
    assert plan.cache_bytes(1024, "float32") > 0
    with pytest.raises(MismatchError):
        AttentionPlan.from_rules([[(0, 0.5)] * 4] * 2).check_model(config)
    real = ModelConfig.load(tiny_dir)
    plan.fingerprint = "1" * 64
    with pytest.raises(MismatchError, match="fingerprint"):
        plan.check_model(real)
    plan.check_model(real, force=True)
    plan.fingerprint = real.fingerprint
    plan.check_model(real)


def test_plan_attributes_are_checked() -> None:
    plan = AttentionPlan.from_rules([[(0, 0.5)]])
    for name, bad in [
        ("out_of_range", "clamp"),
        ("out_of_range", 3),
        ("model_name", 3),
        ("fingerprint", None),
        ("provenance", {"a": 1}),
        ("quality", {"a": "1"}),
    ]:
        with pytest.raises(ArgumentError, match=name):
            setattr(plan, name, bad)
    assert plan.validate() == 0
    with pytest.raises(ArgumentError, match="n: got"):
        plan.spans(2**70)
    with pytest.raises(ArgumentError, match="layer"):
        plan.head_span(1, 0, 64)
