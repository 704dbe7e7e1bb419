"""The gradient of a loss by each layer's attention output, one layer in memory at a time.

One pass without gradients keeps the input of every layer; then the layers are run again from the
last to the first, each with its own graph, and the gradient is handed down. Weights are frozen, so
no weight gradient is ever made, and logits exist at the answer's positions only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moa_tools.hf.attention import layer_attention
from moa_tools.profile.influence import AttentionGradient

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LayerInput:
    """What a decoder layer was called with."""

    hidden: torch.Tensor  # (1, T, hidden)
    arguments: dict[str, Any]


def attention_gradients(
    model: Any, prompt_ids: Sequence[int], answer_ids: Sequence[int]
) -> tuple[float, Iterator[tuple[int, AttentionGradient]]]:
    """The loss, and for every layer, last one first, its attention and the loss's gradient by it.

    The loss is the mean cross-entropy (natural log) of the answer's tokens, each given all before
    it. The iterator frees a layer when the next one is asked for.
    """
    import torch

    device = next(model.parameters()).device
    ids = torch.tensor([[*prompt_ids, *answer_ids]], device=device)
    inputs, final = _layer_inputs(model, ids)
    loss, gradient = _loss_gradient(model, final, ids, len(prompt_ids))
    return loss, _walk_back(model, inputs, gradient)


def _layer_inputs(model: Any, ids: torch.Tensor) -> tuple[list[LayerInput], torch.Tensor]:
    """The input of every layer and the output of the last."""
    import torch

    inputs: list[LayerInput] = []

    def record(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = dict(kwargs)
        hidden = args[0] if args else named.pop("hidden_states")
        inputs.append(LayerInput(hidden, named))

    layers = model.model.layers
    hooks = [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in layers]
    outputs: list[torch.Tensor] = []
    hooks.append(model.model.norm.register_forward_pre_hook(lambda _m, a: outputs.append(a[0])))
    try:
        with torch.no_grad(), layer_attention(model, _attend):
            model.model(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return inputs, outputs[0]


def _attend(
    _layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> torch.Tensor:
    """Dense causal attention in O(N * D) memory."""
    import torch

    groups = query.shape[1] // key.shape[1]
    out: torch.Tensor = torch.nn.functional.scaled_dot_product_attention(
        query,
        key.repeat_interleave(groups, dim=1),
        value.repeat_interleave(groups, dim=1),
        is_causal=True,
        scale=scale,
    )
    return out


def _loss_gradient(
    model: Any, final: torch.Tensor, ids: torch.Tensor, answer_start: int
) -> tuple[float, torch.Tensor]:
    """The loss and its gradient by the last layer's output (1, T, hidden)."""
    import torch

    rows = slice(answer_start - 1, ids.shape[1] - 1)
    with torch.enable_grad():
        hidden = final[:, rows].detach().requires_grad_()
        logits = model.lm_head(model.model.norm(hidden)).float()
        loss = torch.nn.functional.cross_entropy(logits[0], ids[0, answer_start:])
        (part,) = torch.autograd.grad(loss, hidden)
    gradient = torch.zeros_like(final)
    gradient[:, rows] = part
    return float(loss.detach()), gradient


def _walk_back(
    model: Any, inputs: list[LayerInput], gradient: torch.Tensor
) -> Iterator[tuple[int, AttentionGradient]]:
    for index in reversed(range(len(inputs))):
        gradient, attention = _layer_gradient(model, index, inputs.pop(), gradient)
        yield index, attention
        del attention


def _layer_gradient(
    model: Any, index: int, given: LayerInput, gradient: torch.Tensor
) -> tuple[torch.Tensor, AttentionGradient]:
    """The gradient by the layer's input, and its attention."""
    import torch

    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, float, torch.Tensor]] = []

    def attend(
        layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        out = _attend(layer, query, key, value, scale)
        seen.append((query.detach(), key.detach(), value.detach(), scale, out))
        return out

    with torch.enable_grad(), layer_attention(model, attend):
        hidden = given.hidden.detach().requires_grad_()
        result = model.model.layers[index](hidden, **given.arguments)
        output = result[0] if isinstance(result, tuple) else result
        query, key, value, scale, out = seen.pop()
        by_hidden, by_attention = torch.autograd.grad(output, (hidden, out), gradient)
    return by_hidden, AttentionGradient(query[0], key[0], value[0], by_attention[0], scale)
