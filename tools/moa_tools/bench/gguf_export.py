"""A converted model as a GGUF file with the same bits, for llama.cpp to run beside us.

Token ids go in and come out, so the file holds no tokenizer ("no_vocab").
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from moa_rt import ModelConfig, UnsupportedError, _core

from moa_tools.files import io_errors

_ARCHITECTURE = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
_TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NUMPY = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}

Array = np.ndarray[Any, np.dtype[Any]]


def gguf_name(source: str) -> str:
    """The GGUF name of a Hugging Face weight."""
    if source in _TOP:
        return _TOP[source]
    stem, kind = source.rsplit(".", 1)
    _, _, index, rest = stem.split(".", 3)
    return f"blk.{index}.{_LAYER[rest]}.{kind}"


def permute(rows: Array, head_dim: int) -> Array:
    """Rows of q or k as ggml's llama rotates them: neighbours (2i, 2i + 1), not halves."""
    heads = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    permuted: Array = heads.swapaxes(1, 2).reshape(rows.shape)
    return np.ascontiguousarray(permuted)


def _add(writer: Any, name: str, rows: Array, dtype: str) -> None:
    from gguf import GGMLQuantizationType

    if rows.ndim == 1:  # norms and biases are float32 in every GGUF file
        wide = rows
        if dtype == "BF16":
            wide = (rows.astype(np.uint32) << 16).view(np.float32)
        writer.add_tensor(name, wide.astype(np.float32))
        return
    kind = {"BF16": GGMLQuantizationType.BF16, "F16": GGMLQuantizationType.F16}.get(dtype)
    if kind is None:
        writer.add_tensor(name, rows)
    else:
        writer.add_tensor(name, rows.view(np.uint8), raw_dtype=kind)


def _head(writer: Any, config: ModelConfig) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope.theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")


def export(model_dir: Path, target: Path) -> Path:
    """Writes `target`, bit for bit the model's matrices.

    Raises UnsupportedError for a scaled rotary embedding, and what reading the model raises.
    """
    from gguf import GGUFWriter

    config = ModelConfig.load(str(model_dir))
    if config.rope.type != "default":
        raise UnsupportedError(f"{model_dir}: rope {config.rope.type!r} is not written as GGUF")
    architecture = _ARCHITECTURE[config.model_type]
    file = _core.SafetensorsFile(str(model_dir / "model.safetensors"))
    writer = GGUFWriter(str(target), architecture)
    _head(writer, config)
    for spec in _core.weight_manifest(config):
        info = file.find(spec.name)
        if info is None:
            raise UnsupportedError(f"{model_dir}: tensor {spec.name!r} is not stored")
        data = np.frombuffer(file.read(spec.name), _NUMPY[info.dtype]).reshape(spec.shape)
        start = 0
        for source in spec.sources:
            rows = data[start : start + source.shape[0]]
            start += source.shape[0]
            if architecture == "llama" and (".q_proj." in source.name or ".k_proj." in source.name):
                rows = permute(rows, config.head_dim)
            _add(writer, gguf_name(source.name), rows, info.dtype)
    with io_errors(target, "write"):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return target
