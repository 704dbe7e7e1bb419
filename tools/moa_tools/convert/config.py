"""The config.json of a converted model, and the chat family where nothing spells it out."""

from __future__ import annotations

import re
from typing import Any

from moa_tools import strict_json
from moa_tools.convert.source import DTYPE_NAMES, Source

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def _rope_scaling(rope: Any) -> dict[str, Any] | None:
    kind = str(getattr(rope.type, "name", rope.type)).lower()
    if kind.endswith("linear"):
        return {"rope_type": "linear", "factor": rope.factor}
    if kind.endswith("llama3"):
        return {
            "rope_type": "llama3",
            "factor": rope.factor,
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
            "original_max_position_embeddings": rope.original_max_position_embeddings,
        }
    return None


def normalised_config(fields: dict[str, Any], config: Any, label: str) -> dict[str, Any]:
    """The parsed config under the classic field names, whatever spelling the source used."""
    eos = list(config.eos_token_ids)
    result = {
        "architectures": [_ARCHITECTURES[config.model_type]],
        "model_type": config.model_type,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope.theta,
        "rope_scaling": _rope_scaling(config.rope),
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": DTYPE_NAMES[label],
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
    }
    if isinstance(fields.get("pad_token_id"), int):
        result["pad_token_id"] = fields["pad_token_id"]
    return result


# Names of models whose repositories have no template, although they were trained with one.
_NAMED_FAMILIES = (
    (re.compile(r"vicuna", re.I), "vicuna"),
    (re.compile(r"llama-?2.*chat", re.I), "llama2"),
    (re.compile(r"mistral.*instruct", re.I), "mistral"),
)


def chat_family(tokenizer: bytes, source: Source, fields: dict[str, Any]) -> str | None:
    """The family of a model without a chat template, from its marker tokens or its name."""
    parsed = strict_json.parse(tokenizer, "tokenizer.json")
    added = {
        token.get("content")
        for token in (parsed.get("added_tokens") or [])
        if isinstance(token, dict)
    }
    if {"<|start_header_id|>", "<|eot_id|>"} <= added:
        return "llama3"
    name = " ".join(
        [
            source.description.get("name", ""),
            source.description.get("model", ""),
            str(fields.get("_name_or_path", "")),
        ]
    )
    for pattern, family in _NAMED_FAMILIES:
        if pattern.search(name):
            return family
    if {"<|im_start|>", "<|im_end|>"} <= added:
        return "chatml"
    return None
