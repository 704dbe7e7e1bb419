"""A per-layer replacement for attention, through transformers' AttentionInterface.

Works with transformers 4.51 and later: a layer looks its attention function up by the name in its
config. Ours asks the layer's own module what to do, so nothing is global but the name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import torch

    # (layer, queries (B, Hq, T, D), keys, values (B, Hkv, T, D), scale) -> outputs (B, Hq, T, D).
    # Queries and keys are after RoPE.
    LayerAttention: TypeAlias = Callable[
        [int, torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor
    ]

_NAME = "moa_tools_layer_attention"
_SLOT = "moa_tools_attention"


def _dispatch(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    out = getattr(module, _SLOT)(module.layer_idx, query, key, value, scale)
    return out.transpose(1, 2), None


@contextmanager
def layer_attention(model: Any, function: LayerAttention) -> Iterator[None]:
    """Within it every layer of `model` computes its attention by `function`.

    The function gets no mask: sequences start at position 0 and padding stands at the right, where
    no earlier token sees it. Call the model with `use_cache=False`.
    """
    import transformers

    transformers.AttentionInterface.register(_NAME, _dispatch)
    modules = [layer.self_attn for layer in model.model.layers]
    configs = {id(module.config): module.config for module in modules}
    configs[id(model.config)] = model.config
    before = {key: config._attn_implementation for key, config in configs.items()}
    for module in modules:
        setattr(module, _SLOT, function)
    for config in configs.values():
        config._attn_implementation = _NAME
    try:
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]
        for module in modules:
            delattr(module, _SLOT)


def hidden_states(model: Any, token_ids: torch.Tensor) -> torch.Tensor:
    """Final hidden states (B, T, hidden), after the last norm, of `token_ids` (B, T)."""
    out: torch.Tensor = model.model(input_ids=token_ids, use_cache=False).last_hidden_state
    return out
