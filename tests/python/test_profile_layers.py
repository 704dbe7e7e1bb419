"""Gradients by each layer's attention, and the curves made of them, against plain autograd.

The oracle interpolates one layer's output per head and row, o + t * (o_masked - o): the gradient
by t is the first-order change that a span makes, whatever the package's formula is.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers
from moa_tools.hf.attention import layer_attention
from moa_tools.profile.influence import influence_curves
from moa_tools.profile.layers import attention_gradients
from support_models import make_config, seed_weights

torch.set_num_threads(1)

LENGTH, ANSWER, SINK = 40, 12, 3
SPANS = [5, 9, 20, LENGTH]
SHAPES = [("llama", 4, 4), ("qwen2", 4, 2), ("llama", 4, 1)]


@pytest.fixture(scope="module", params=SHAPES, ids=lambda s: f"{s[0]}-{s[1]}-{s[2]}")
def model(request: pytest.FixtureRequest) -> Any:
    """A tiny frozen float64 model of three layers."""
    family, heads, kv_heads = request.param
    config = make_config(
        family,
        num_hidden_layers=3,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=16,
        hidden_size=32,
        intermediate_size=48,
        vocab_size=64,
    )
    made: Any = transformers.AutoModelForCausalLM.from_config(config)
    seed_weights(made, seed=11)
    made = made.double().eval()
    for parameter in made.parameters():
        parameter.requires_grad_(False)
    return made


def tokens() -> list[int]:
    return [
        int(i) for i in torch.randint(0, 64, (LENGTH,), generator=torch.Generator().manual_seed(2))
    ]


def attend(query: Any, key: Any, value: Any, scale: float, span: int) -> Any:
    """Attention under the sink + window mask, from its definition."""
    groups = query.shape[1] // key.shape[1]
    q, k = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)[None, :]
    mask = (k <= q) & ((k < SINK) | (q - k < span - SINK))
    scores = query @ key.repeat_interleave(groups, 1).transpose(2, 3) * scale
    weights = torch.softmax(scores.masked_fill(~mask, -math.inf), -1)
    return weights @ value.repeat_interleave(groups, 1)


def loss_with(model: Any, layer: int, span: int, step: torch.Tensor) -> torch.Tensor:
    """Loss of the answer with o + step * (o_masked - o) in one layer; step (Hq, N)."""

    def function(index: int, query: Any, key: Any, value: Any, scale: float) -> Any:
        dense = attend(query, key, value, scale, LENGTH + SINK)
        if index != layer:
            return dense
        return dense + step[None, ..., None] * (attend(query, key, value, scale, span) - dense)

    ids = tokens()
    with layer_attention(model, function):
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    start = LENGTH - ANSWER
    return torch.nn.functional.cross_entropy(logits[start - 1 : -1], torch.tensor(ids[start:]))


def first_order(model: Any, layer: int, span: int) -> torch.Tensor:
    """d loss / d step (Hq, N)."""
    step = torch.zeros(model.config.num_attention_heads, LENGTH, dtype=torch.float64)
    step.requires_grad_()
    (gradient,) = torch.autograd.grad(loss_with(model, layer, span, step), step)
    return gradient


def test_the_loss_is_of_the_answer_alone(model: Any) -> None:
    ids = tokens()
    loss, _ = attention_gradients(model, ids[:-ANSWER], ids[-ANSWER:])
    step = torch.zeros(model.config.num_attention_heads, LENGTH, dtype=torch.float64)
    assert loss == pytest.approx(float(loss_with(model, 0, LENGTH, step)), rel=1e-6)


def test_curves_equal_autograd(model: Any) -> None:
    ids = tokens()
    _, layers = attention_gradients(model, ids[:-ANSWER], ids[-ANSWER:])
    seen = []
    for layer, attention in layers:
        seen.append(layer)
        got = influence_curves(attention, SPANS, SINK)
        for i, span in enumerate(SPANS):
            rows = first_order(model, layer, span).abs().sum(-1)
            want = rows.reshape(attention.key.shape[0], -1).sum(-1)
            torch.testing.assert_close(got[:, i], want, rtol=1e-4, atol=1e-6)
    assert seen == [2, 1, 0]


def test_exact_to_first_order(model: Any) -> None:
    """The true change of the loss over a small step, against dO.(o_masked - o) of our dO."""
    ids = tokens()
    heads = model.config.num_attention_heads
    _, layers = attention_gradients(model, ids[:-ANSWER], ids[-ANSWER:])
    for layer, part in layers:
        change = attend(part.query[None], part.key[None], part.value[None], part.scale, 5)
        change = change - attend(
            part.query[None], part.key[None], part.value[None], part.scale, LENGTH + SINK
        )
        delta = (part.grad_output * change[0]).sum(-1)  # (Hq, N)
        for head in range(heads):
            step = torch.zeros(heads, LENGTH, dtype=torch.float64)
            step[head] = 1e-2  # the norms are float32: a smaller step drowns in rounding
            up, down = loss_with(model, layer, 5, step), loss_with(model, layer, 5, -step)
            slope = float(up - down) / 2e-2
            assert slope == pytest.approx(float(delta[head].sum()), rel=5e-3, abs=2e-4)


def test_no_weight_gets_a_gradient(model: Any) -> None:
    ids = tokens()
    _, layers = attention_gradients(model, ids[:-ANSWER], ids[-ANSWER:])
    assert all(part.grad_output.isfinite().all() for _, part in layers)
    assert all(parameter.grad is None for parameter in model.parameters())
