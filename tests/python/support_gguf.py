"""Small GGUF files, written from the format's description with struct alone."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Value types of the format.
U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
# Tensor types.
TENSOR_F32, TENSOR_F16, TENSOR_Q8_0 = 0, 1, 8


def string(text: str) -> bytes:
    """A length and UTF-8 bytes."""
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def scalar(kind: int, value: Any) -> bytes:
    """A value without its type."""
    if kind == STRING:
        return string(value)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?", U64: "<Q"}[kind], value)


def pair(key: str, kind: int, value: Any) -> bytes:
    """One metadata entry; a list becomes an array of `kind`."""
    if isinstance(value, list):
        body = struct.pack("<IQ", kind, len(value)) + b"".join(scalar(kind, v) for v in value)
        return string(key) + struct.pack("<I", ARRAY) + body
    return string(key) + struct.pack("<I", kind) + scalar(kind, value)


@dataclass
class Tensor:
    """A tensor entry; `shape` is row-major. `offset` and `dims` override what is right."""

    name: str
    kind: int
    shape: tuple[int, ...]
    data: bytes
    offset: int | None = None
    dims: tuple[int, ...] | None = None


@dataclass
class GGUF:
    """A file in parts, any of which a test may make wrong before `write`."""

    pairs: list[bytes] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    version: int = 3
    magic: bytes = b"GGUF"
    tensor_count: int | None = None
    pair_count: int | None = None
    alignment: int = 32
    cut: int = 0  # bytes missing at the end

    def add(self, key: str, kind: int, value: Any) -> None:
        """Appends a metadata entry."""
        self.pairs.append(pair(key, kind, value))

    def tensor(self, name: str, values: NDArray[Any]) -> None:
        """Appends a float32 or float16 tensor."""
        kind = TENSOR_F16 if values.dtype == np.float16 else TENSOR_F32
        self.tensors.append(Tensor(name, kind, values.shape, values.tobytes()))

    def bytes(self) -> bytes:
        """The whole file."""
        tensors = len(self.tensors) if self.tensor_count is None else self.tensor_count
        pairs = len(self.pairs) if self.pair_count is None else self.pair_count
        head = self.magic + struct.pack("<IQQ", self.version, tensors, pairs)
        head += b"".join(self.pairs)
        data = b""
        for tensor in self.tensors:
            dims = tensor.shape[::-1] if tensor.dims is None else tensor.dims
            offset = len(data) if tensor.offset is None else tensor.offset
            head += string(tensor.name) + struct.pack("<I", len(dims))
            head += b"".join(struct.pack("<Q", size % (1 << 64)) for size in dims)
            head += struct.pack("<IQ", tensor.kind, offset)
            data += tensor.data + b"\0" * (-len(tensor.data) % self.alignment)
        whole = head + b"\0" * (-len(head) % self.alignment) + data
        return whole[: len(whole) - self.cut]

    def write(self, path: Path) -> Path:
        """Writes the file and returns its path."""
        path.write_bytes(self.bytes())
        return path


def to_ggml_rotary(weight: NDArray[Any], head_dim: int) -> NDArray[Any]:
    """A q or k projection in the row order of ggml's llama architecture.

    There the rotation turns neighbours (2i, 2i + 1) of a head, in Hugging Face's order it turns
    (i, i + head_dim / 2).
    """
    result = np.empty_like(weight)
    half = head_dim // 2
    for row in range(weight.shape[0]):
        head, within = divmod(row, head_dim)
        part, i = divmod(within, half)
        result[head * head_dim + 2 * i + part] = weight[row]
    return result


_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def ggml_name(name: str) -> str:
    """The GGUF name of a Hugging Face tensor."""
    top = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in top:
        return top[name]
    _, _, layer, *middle, suffix = name.split(".")
    return f"blk.{layer}.{_NAMES['.'.join(middle)]}.{suffix}"


def add_tokenizer(file: GGUF, tokenizer: dict[str, Any], model: str, pre: str) -> None:
    """tokenizer.ggml.* of the tokenizer.json object `tokenizer`."""
    vocab = dict(tokenizer["model"]["vocab"])
    special = {t["content"]: t for t in tokenizer["added_tokens"]}
    vocab.update({content: token["id"] for content, token in special.items()})
    tokens = sorted(vocab, key=vocab.__getitem__)
    types = []
    for token in tokens:
        if token in special:
            types.append(3 if special[token]["special"] else 4)
        elif model == "llama" and token.startswith("<0x") and len(token) == 6:
            types.append(6)
        else:
            types.append(1)
    if model == "llama":
        types[tokens.index("<unk>")] = 2
        file.add("tokenizer.ggml.scores", F32, [float(-i) for i in range(len(tokens))])
    else:
        file.add("tokenizer.ggml.pre", STRING, pre)
        merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
        file.add("tokenizer.ggml.merges", STRING, merges)
    file.add("tokenizer.ggml.model", STRING, model)
    file.add("tokenizer.ggml.tokens", STRING, tokens)
    file.add("tokenizer.ggml.token_type", I32, types)
    file.add("tokenizer.ggml.bos_token_id", U32, 1)
    file.add("tokenizer.ggml.eos_token_id", U32, 2)


def from_checkpoint(
    arch: str, config: Any, weights: dict[str, NDArray[Any]], tokenizer: dict[str, Any] | None
) -> GGUF:
    """A checkpoint (Hugging Face config and float32 weights) as a GGUF file."""
    file = GGUF()
    file.add("general.architecture", STRING, arch)
    file.add("general.name", STRING, "tiny")
    for key, value in {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
    }.items():
        file.add(f"{arch}.{key}", U32, value)
    file.add(f"{arch}.attention.layer_norm_rms_epsilon", F32, config.rms_norm_eps)
    file.add(f"{arch}.rope.freq_base", F32, config.rope_parameters["rope_theta"])
    if config.rope_parameters["rope_type"] == "linear":
        file.add(f"{arch}.rope.scaling.type", STRING, "linear")
        file.add(f"{arch}.rope.scaling.factor", F32, config.rope_parameters["factor"])
    if tokenizer is not None:
        sentencepiece = bool(tokenizer["model"]["byte_fallback"])
        pre = "qwen2" if tokenizer["normalizer"] else "llama-bpe"
        add_tokenizer(file, tokenizer, "llama" if sentencepiece else "gpt2", pre)
    else:
        file.add("tokenizer.ggml.model", STRING, "gpt2")
        file.add("tokenizer.ggml.pre", STRING, "llama-bpe")
        file.add("tokenizer.ggml.tokens", STRING, ["a", "b"])
        file.add("tokenizer.ggml.bos_token_id", U32, 1)
    for name, values in weights.items():
        if arch == "llama" and ("q_proj" in name or "k_proj" in name):
            values = to_ggml_rotary(values, config.head_dim)
        file.tensor(ggml_name(name), values)
    return file


def minimal() -> GGUF:
    """A llama GGUF that opens: one layer, no tokens to speak of."""
    file = GGUF()
    file.add("general.architecture", STRING, "llama")
    for key, value in {
        "block_count": 1,
        "context_length": 64,
        "embedding_length": 128,
        "feed_forward_length": 32,
        "attention.head_count": 2,
    }.items():
        file.add(f"llama.{key}", U32, value)
    file.add("llama.attention.layer_norm_rms_epsilon", F32, 1e-5)
    file.add("tokenizer.ggml.model", STRING, "gpt2")
    file.add("tokenizer.ggml.pre", STRING, "smollm")
    file.add("tokenizer.ggml.tokens", STRING, ["a", "b"])
    file.add("tokenizer.ggml.token_type", I32, [1, 1])
    file.tensor("token_embd.weight", np.zeros((2, 128), np.float32))
    return file
