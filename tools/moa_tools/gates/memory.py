"""How many bytes a step of the gates takes: checked before anything is read."""

from __future__ import annotations

from moa_rt import ModelConfig

from moa_tools.gates.training import chunk_size
from moa_tools.profile.memory import free_bytes
from moa_tools.profile.memory import predict_memory as profile_memory

_FLOAT = 4
# Layers are computed once if all their graphs take no more than this share of what is free.
_PLENTY = 0.5
_STEP = 64
# Buffers over query rows and keys that are alive at the worst moment of the mixture's backward.
_SLABS = 6
# Of a GPU's kernels: numbers of a row for every span, and gradients of keys for every query head.
_ROW_TABLES, _MOST_SPANS, _KEY_GRADIENTS = 3, 16, 4


def predict_memory(
    config: ModelConfig, length: int, batch: int, item: int, device: str, graphs: int = 1
) -> int:
    """Peak bytes of a step with `batch` samples of `length` tokens, in a type of `item` bytes.

    Weights, the inputs of all layers, the graphs of so many of them (one, where layers are computed
    again in the backward pass) and the mixture's buffers.
    """
    parts = profile_memory(config, length * batch, _STEP, item, device)
    heads = config.num_attention_heads
    if device == "cpu":
        rows = chunk_size(length, heads, batch, device)
        buffers = _SLABS * _FLOAT * batch * heads * rows * (length + rows)
    else:
        row = _ROW_TABLES * _FLOAT * _MOST_SPANS + _KEY_GRADIENTS * item * config.head_dim
        buffers = batch * heads * length * row
    return (
        parts.weights + parts.layer_inputs + max(parts.logits, graphs * parts.layer_graph + buffers)
    )


def is_scarce(config: ModelConfig, length: int, batch: int, item: int, device: str) -> bool:
    """Whether the graphs of all layers would take too much of what is free."""
    layers = config.num_hidden_layers
    needed = predict_memory(config, length, batch, item, device, graphs=layers)
    return needed > _PLENTY * free_bytes(device)


def longest_that_fits(
    config: ModelConfig, batch: int, item: int, device: str, free: int, longest: int
) -> int:
    """The longest length, a multiple of 64 and at most `longest`, that fits; 0: none."""
    low, high = 0, longest // _STEP
    while low < high:
        middle = (low + high + 1) // 2
        fits = predict_memory(config, middle * _STEP, batch, item, device) <= free
        low, high = (middle, high) if fits else (low, middle - 1)
    return low * _STEP
