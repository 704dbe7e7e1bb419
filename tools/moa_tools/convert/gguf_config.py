"""GGUF metadata to the fields of a Hugging Face config.json."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from moa_rt import FormatError, UnsupportedError

from moa_tools.convert.gguf_file import GGUFFile, GGUFTensor
from moa_tools.convert.source import Array

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
# Architecture keys whose meaning is used or known not to matter; any other one is refused, because
# it may change what the weights mean.
_KNOWN = {
    "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size",
    "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.value_length", "attention.layer_norm_rms_epsilon", "attention.sliding_window",
    "attention.causal", "rope.dimension_count", "rope.freq_base", "rope.scale_linear",
    "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length",
    "rope.scaling.finetuned", "expert_count", "expert_used_count", "use_parallel_residual",
    "tensor_data_layout",
}  # fmt: skip
_PIECE_TYPES = {"int": int, "float": (int, float), "str": str, "bool": bool}


class _Fields:
    """Typed look-ups of `<arch>.<name>`."""

    def __init__(self, gguf: GGUFFile, arch: str) -> None:
        self._gguf = gguf
        self._arch = arch

    def get(self, name: str, kind: str, default: Any = None) -> Any:
        key = f"{self._arch}.{name}"
        if key not in self._gguf.metadata:
            return default
        value = self._gguf.metadata[key]
        wrong_bool = isinstance(value, bool) and kind != "bool"
        if wrong_bool or not isinstance(value, _PIECE_TYPES[kind]):  # type: ignore[arg-type]
            raise FormatError(f"{self._gguf.path}: {key}: got {str(value)[:80]!r}, want {kind}")
        return value

    def need(self, name: str, kind: str) -> Any:
        value = self.get(name, kind)
        if value is None:
            raise FormatError(f"{self._gguf.path}: {self._arch}.{name}: got none, want {kind}")
        return value


def _architecture(gguf: GGUFFile) -> str:
    arch = gguf.metadata.get("general.architecture")
    if not isinstance(arch, str):
        raise FormatError(f"{gguf.path}: general.architecture: got none, want str")
    if arch not in ARCHITECTURES:
        raise UnsupportedError(
            f"{gguf.path}: general.architecture: got {arch[:80]!r}, want one of "
            f"{sorted(ARCHITECTURES)}"
        )
    for key in gguf.metadata:
        if key.startswith(arch + ".") and key[len(arch) + 1 :] not in _KNOWN:
            raise UnsupportedError(f"{gguf.path}: {key[:200]}: this setting is not implemented")
    return arch


def _refuse_features(gguf: GGUFFile, fields: _Fields, arch: str) -> None:
    for name in ("expert_count", "expert_used_count", "attention.sliding_window"):
        if fields.get(name, "int", 0) != 0:
            raise UnsupportedError(f"{gguf.path}: {arch}.{name}: this feature is not implemented")
    if not fields.get("attention.causal", "bool", True):
        raise UnsupportedError(f"{gguf.path}: {arch}.attention.causal: got false, want true")
    if fields.get("use_parallel_residual", "bool", False):
        raise UnsupportedError(f"{gguf.path}: {arch}.use_parallel_residual is not implemented")


def _rope_scaling(gguf: GGUFFile, fields: _Fields) -> dict[str, Any] | None:
    kind = fields.get("rope.scaling.type", "str", "none")
    factor = fields.get("rope.scaling.factor", "float", fields.get("rope.scale_linear", "float"))
    if kind == "none" and (factor is None or factor in (0, 1)):
        return None
    if kind in ("linear", "none") and factor is not None:
        return {"rope_type": "linear", "factor": float(factor)}
    raise UnsupportedError(
        f"{gguf.path}: rope.scaling.type: got {kind[:80]!r}, want none or linear"
    )


def to_config(gguf: GGUFFile) -> dict[str, Any]:
    """The config.json of the model. Raises FormatError or UnsupportedError naming the key."""
    arch = _architecture(gguf)
    fields = _Fields(gguf, arch)
    _refuse_features(gguf, fields, arch)
    hidden = fields.need("embedding_length", "int")
    heads = fields.need("attention.head_count", "int")
    if heads < 1 or hidden < 1:
        raise FormatError(f"{gguf.path}: {arch}.attention.head_count: got {heads}, want at least 1")
    head_dim = fields.get("attention.key_length", "int", hidden // heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if fields.get(name, "int", head_dim) != head_dim:
            got = fields.get(name, "int")
            raise UnsupportedError(f"{gguf.path}: {arch}.{name}: got {got}, want {head_dim}")
    embedding = gguf.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise FormatError(f'{gguf.path}: tensor "token_embd.weight": want a matrix')
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[arch]],
        "model_type": arch,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": fields.need("feed_forward_length", "int"),
        "num_hidden_layers": fields.need("block_count", "int"),
        "num_attention_heads": heads,
        "num_key_value_heads": fields.get("attention.head_count_kv", "int", heads),
        "head_dim": head_dim,
        "vocab_size": embedding.shape[0],
        "max_position_embeddings": fields.need("context_length", "int"),
        "rms_norm_eps": float(fields.need("attention.layer_norm_rms_epsilon", "float")),
        "rope_theta": float(fields.get("rope.freq_base", "float", 10000.0)),
        "rope_scaling": _rope_scaling(gguf, fields),
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
    }
    config.update(_special_ids(gguf))
    return config


def _special_ids(gguf: GGUFFile) -> dict[str, Any]:
    """bos_token_id and eos_token_id; the end-of-turn token also ends generation."""
    ids: dict[str, int | None] = {}
    for name in ("bos", "eos", "eot"):
        value = gguf.metadata.get(f"tokenizer.ggml.{name}_token_id")
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise FormatError(f"{gguf.path}: tokenizer.ggml.{name}_token_id: want an integer")
        ids[name] = value
    ends = sorted({v for v in (ids["eos"], ids["eot"]) if v is not None})
    eos: int | list[int] | None = ends if len(ends) > 1 else ends[0] if ends else None
    return {"bos_token_id": ids["bos"], "eos_token_id": eos}


def _llama3_factors(head_dim: int, theta: float, factor: float, original: int) -> Array:
    """By how much Llama 3.1 slows each of the head_dim / 2 rotations (low 1, high 4)."""
    wavelength = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = np.clip((original / wavelength - 1.0) / 3.0, 0.0, 1.0)
    return np.asarray(1.0 / ((1.0 - smooth) / factor + smooth))


def rope_frequencies(
    gguf: GGUFFile, read: Callable[[GGUFTensor], Array], config: dict[str, Any]
) -> dict[str, Any] | None:
    """The llama3 rope_scaling that `rope_freqs.weight` spells out number by number, if it is there.

    Raises UnsupportedError for frequencies that no Llama 3.1 style scaling explains.
    """
    tensor = gguf.tensors.get("rope_freqs.weight")
    if tensor is None:
        return None
    got = read(tensor)
    head_dim, theta = int(config["head_dim"]), float(config["rope_theta"])
    item = f'{gguf.path}: tensor "rope_freqs.weight"'
    if got.shape != (head_dim // 2,):
        raise FormatError(f"{item}: shape: got {got.shape}, want ({head_dim // 2},)")
    factor = float(np.round(got.max(), 4))
    for original in (8192, 4096, 16384, 32768):
        want = _llama3_factors(head_dim, theta, factor, original)
        if factor >= 1 and np.allclose(got, want, rtol=1e-4):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": original,
            }
    raise UnsupportedError(f"{item}: these frequencies are no llama3 scaling with factors 1 and 4")
