"""How many bytes profiling a sample takes, from the shape alone: checked before anything is read.

The terms, for N tokens: the input of every layer; one layer's graph (its activations and their
gradients, the MLP's being the most); float32 copies of what the influence of that layer is computed
from, and its slab; the logits of the answer. The counts are those of a Llama layer, chosen to agree
with the resident memory of a CPU run; tensors alone, which is what a GPU's allocator counts, take
about 60 % of the graph's share.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moa_rt import ModelConfig, ResourceError

from moa_tools.profile.influence import CPU_SLAB, CUDA_SLAB

# After an allocation failed although the prediction was within reach: what to trust of the length.
CAUTION = 0.8
_FLOAT = 4
_STEP = 64
# Tensors of each width that are alive at the worst moment of a layer's backward pass.
_HIDDEN, _HIDDEN_FLOAT, _QUERY, _KEY_VALUE, _INNER = 8, 5, 9, 8, 6
# Float32 buffers of a slab: weights, gains and what their products need for a moment.
_SLABS = 4
# What CUDA, its libraries and the allocator's gaps keep for themselves.
_CUDA_OVERHEAD = 2 << 30


@dataclass(frozen=True)
class ProfileMemory:
    """Bytes at the worst moment of one sample."""

    weights: int
    layer_inputs: int
    layer_graph: int
    influence: int
    logits: int

    @property
    def total(self) -> int:
        """The peak: the graph is gone when the influence is computed, the logits before both."""
        return self.weights + self.layer_inputs + max(self.layer_graph, self.influence, self.logits)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; not what has been named already, a ResourceError."""
    import torch

    if isinstance(error, ResourceError):
        return False
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return "can't allocate memory" in str(error)  # what torch's CPU allocator says


def parameter_count(config: ModelConfig) -> int:
    """Weights of the model, norms and biases left out."""
    layer = config.hidden_size * (
        config.qkv_size + config.query_size + 3 * config.intermediate_size
    )
    tables = 1 if config.tie_word_embeddings else 2
    return config.num_hidden_layers * layer + tables * config.vocab_size * config.hidden_size


def predict_memory(
    config: ModelConfig, length: int, answer: int, item: int, device: str
) -> ProfileMemory:
    """Peak bytes for `length` tokens, `answer` of them the response, in a type of `item` bytes."""
    hidden, query, inner = config.hidden_size, config.query_size, config.intermediate_size
    slab = CPU_SLAB if device == "cpu" else CUDA_SLAB
    slab = max(slab, config.num_attention_heads * length)
    row = item * (_HIDDEN * hidden + _QUERY * query + _KEY_VALUE * config.kv_size + _INNER * inner)
    return ProfileMemory(
        weights=parameter_count(config) * item,
        layer_inputs=(config.num_hidden_layers + 1) * length * hidden * item,
        layer_graph=length * (row + _FLOAT * _HIDDEN_FLOAT * hidden),
        influence=length * (item * (3 * query + 3 * config.kv_size + hidden))
        + _FLOAT * (2 * length * config.kv_size + _SLABS * slab),
        logits=answer * config.vocab_size * (item + 3 * _FLOAT),
    )


def free_bytes(device: str) -> int:
    """Bytes that this process could still take on the device."""
    if device != "cpu":
        import torch

        return int(torch.cuda.mem_get_info(device)[0]) - _CUDA_OVERHEAD
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise ResourceError("/proc/meminfo: no MemAvailable")


def longest_that_fits(
    config: ModelConfig, answer: int, item: int, device: str, free: int, longest: int
) -> int:
    """The longest length, a multiple of 64, whose predicted peak is within `free`; 0: none.

    At most `longest`.
    """
    low, high = 0, longest // _STEP
    while low < high:
        middle = (low + high + 1) // 2
        needed = predict_memory(config, middle * _STEP, answer, item, device).total
        low, high = (middle, high) if needed <= free else (low, middle - 1)
    return low * _STEP
