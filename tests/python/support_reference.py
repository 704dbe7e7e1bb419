"""What the runtime is compared with: transformers under masks written from their definition.

Nothing here asks the package under test for a span, a mask or a slot.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

# (alpha, beta) or (alpha, beta, max_span); beta a multiple of 2^-32.
Rule = tuple[int, float] | tuple[int, float, int]
# (sink, window), in tokens.
Span = tuple[int, int]
Logits = NDArray[np.float32]

_ATTENTION = "explicit_span_mask"


def span_of(rule: Rule, sink: int, rounding: int, n: int) -> Span:
    """round_up(clamp(alpha + beta * n, sink + rounding, n), rounding), in exact arithmetic."""
    raw = rule[0] + Fraction(rule[1]) * n
    if len(rule) == 3 and rule[2]:
        raw = min(raw, Fraction(rule[2]))
    bounded = min(max(raw, Fraction(sink + rounding)), Fraction(n))
    span = math.ceil(bounded / rounding) * rounding
    return (sink, span - sink) if span > sink else (span - 1, 1)


def spans_of(rules: Sequence[Sequence[Rule]], sink: int, rounding: int, n: int) -> list[list[Span]]:
    """`span_of` for every layer and KV head."""
    return [[span_of(rule, sink, rounding, n) for rule in layer] for layer in rules]


def visible(span: Span, length: int) -> torch.Tensor:
    """Whether query q (row) sees key k (column): k <= q and (k < sink or q - k < window)."""
    sink, window = span
    q = torch.arange(length)[:, None]
    k = torch.arange(length)[None, :]
    return (k <= q) & ((k < sink) | (q - k < window))


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float,
    dropout: float = 0.0,
    **unused: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax attention under `module.span_mask`, boolean (Hkv, T, T)."""
    groups = query.shape[1] // key.shape[1]
    keys = key.repeat_interleave(groups, dim=1)
    values = value.repeat_interleave(groups, dim=1)
    mask = module.span_mask.repeat_interleave(groups, dim=0)[None]
    scores = (query @ keys.transpose(2, 3)) * scaling
    weights = torch.softmax(scores.masked_fill(~mask, -math.inf), dim=-1)
    return (weights @ values).transpose(1, 2).contiguous(), weights


class Reference:
    """A transformers model in float32."""

    def __init__(self, model: Any) -> None:
        import transformers

        transformers.AttentionInterface.register(_ATTENTION, _attention)
        self._model = model.eval()

    def logits(self, token_ids: Sequence[int], spans: list[list[Span]] | None = None) -> Logits:
        """Logits (T, vocab). `spans` per layer and KV head; without, the model's own attention."""
        model = self._model
        length = len(token_ids)
        if spans is None:
            model.set_attn_implementation("eager")
        else:
            model.set_attn_implementation(_ATTENTION)
            for layer, row in zip(model.model.layers, spans, strict=True):
                layer.self_attn.span_mask = torch.stack([visible(s, length) for s in row])
        with torch.no_grad():
            out = model(torch.tensor([list(token_ids)]), use_cache=False).logits[0]
        return np.asarray(out.float().numpy(), dtype=np.float32)


def load_reference(hf_dir: Path) -> Reference:
    """From a Hugging Face directory."""
    import transformers

    return Reference(
        transformers.AutoModelForCausalLM.from_pretrained(
            hf_dir, dtype=torch.float32, attn_implementation="eager"
        )
    )


def load_reference_from_converted(model_dir: Path) -> Reference:
    """From a converted directory: its fused tensors are cut apart again."""
    import transformers
    from safetensors.torch import load_file

    fields = json.loads((model_dir / "config.json").read_text())
    config = transformers.AutoConfig.for_model(**fields)
    config._attn_implementation = "eager"
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    heads = fields["num_attention_heads"] * fields["head_dim"]
    kv_heads = fields["num_key_value_heads"] * fields["head_dim"]
    inner = fields["intermediate_size"]
    parts = {
        "qkv_proj": ([heads, kv_heads, kv_heads], ["q_proj", "k_proj", "v_proj"]),
        "gate_up_proj": ([inner, inner], ["gate_proj", "up_proj"]),
    }
    state: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(model_dir / "model.safetensors").items():
        fused = next((key for key in parts if key in name), None)
        if fused is None:
            state[name] = tensor.float()
            continue
        sizes, names = parts[fused]
        for piece, part in zip(torch.split(tensor.float(), sizes), names, strict=True):
            state[name.replace(fused, part)] = piece
    if fields["tie_word_embeddings"]:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its buffers are no weights
    return Reference(model)


def log_softmax(logits: Logits) -> NDArray[np.float64]:
    """Over the last axis, in float64."""
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    out: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return out


def worst(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Largest absolute difference."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())
