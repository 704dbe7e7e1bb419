"""Writes rope.json: rotary tables of transformers for the types that moa_rt implements.

Run with the tools' extras installed; the file is kept in the tree. Each case holds the
configuration, the inverse frequencies, and cos and sin of a few positions, all float32 as computed
by transformers' LlamaRotaryEmbedding on the CPU.
"""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

POSITIONS = [1, 8192, 131071]

LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "smollm2_default_100000": (64, {"rope_type": "default", "rope_theta": 100000.0}),
    "llama2_default_10000": (128, {"rope_type": "default", "rope_theta": 10000.0}),
    "qwen2_default_1000000": (64, {"rope_type": "default", "rope_theta": 1000000.0}),
    "head_dim_80": (80, {"rope_type": "default", "rope_theta": 10000.0}),
    "vicuna_16k_linear_4": (128, {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
    "linear_3_head_dim_96": (96, {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}),
    "llama_3_1": (
        128,
        LLAMA3 | {"rope_theta": 500000.0, "factor": 8.0, "original_max_position_embeddings": 8192},
    ),
    "llama_3_2_1b": (
        64,
        LLAMA3 | {"rope_theta": 500000.0, "factor": 32.0, "original_max_position_embeddings": 8192},
    ),
    "llama3_short_context": (
        64,
        LLAMA3 | {"rope_theta": 10000.0, "factor": 2.5, "original_max_position_embeddings": 300},
    ),
}


def numbers(tensor: torch.Tensor) -> list[float]:
    # 9 significant digits give back every float32 exactly.
    return [float(f"{value:.9g}") for value in tensor.flatten().tolist()]


def make_case(head_dim: int, parameters: dict[str, Any]) -> dict[str, Any]:
    config = LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=head_dim,
        max_position_embeddings=131072,
        rope_parameters=parameters,
    )
    rotary = LlamaRotaryEmbedding(config)
    positions = torch.tensor([POSITIONS])
    cos, sin = rotary(torch.zeros(1, dtype=torch.float32), positions)
    half = head_dim // 2
    return {
        "head_dim": head_dim,
        "rope_parameters": parameters,
        "inv_freq": numbers(rotary.inv_freq),
        "cos": [numbers(row[:half]) for row in cos[0]],
        "sin": [numbers(row[:half]) for row in sin[0]],
    }


def main() -> None:
    document = {
        "made_with": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "positions": POSITIONS,
        "cases": {name: make_case(*case) for name, case in CASES.items()},
    }
    path = Path(__file__).parent / "rope.json"
    path.write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
