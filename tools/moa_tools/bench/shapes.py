"""Model shapes by name, as the configurations of their publishers give them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from moa_rt import ArgumentError, ModelConfig


@dataclass(frozen=True)
class Shape:
    """What a Llama of this size looks like; names as in `config.json`."""

    name: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rope_theta: float

    def config_json(self, dtype: str) -> dict[str, Any]:
        """The `config.json` of a model of this shape."""
        fields = {name: value for name, value in asdict(self).items() if name != "name"}
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_scaling": None,
            "tie_word_embeddings": False,
            "torch_dtype": dtype,
            "bos_token_id": 1,
            "eos_token_id": 2,
            **fields,
        }

    def config(self, dtype: str = "bfloat16") -> ModelConfig:
        """The same as the runtime reads it."""
        return ModelConfig.parse(json.dumps(self.config_json(dtype)), f"{self.name}/config.json")


# The position limits are raised to 32768 where the published one is shorter: weights are random,
# and the longest setting of the paper needs 16384.
_SHAPES = (
    Shape("llama-2-7b", 4096, 11008, 32, 32, 32, 128, 32000, 32768, 10000.0),
    Shape("llama-3-8b", 4096, 14336, 32, 32, 8, 128, 128256, 32768, 500000.0),
    # For dry runs without a GPU: same ratios, a few megabytes.
    Shape("tiny-mha", 128, 192, 2, 4, 4, 64, 512, 32768, 10000.0),
    Shape("tiny-gqa", 128, 192, 2, 4, 2, 64, 512, 32768, 10000.0),
)
NAMES = tuple(shape.name for shape in _SHAPES)


def find(name: str) -> Shape:
    """The shape of that name. Raises ArgumentError naming all of them."""
    for shape in _SHAPES:
        if shape.name == name:
            return shape
    raise ArgumentError(f"model shape: got {name!r}, want one of {', '.join(NAMES)}")
