"""Writes the config.json files beside this script: `<verdict>_<row>_<what>.json`.

The verdict is OK or the error class. Every reader of configurations is run over the same files and
must agree; this script says what is in them.
"""

import json
from pathlib import Path
from typing import Any

GOOD: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
}


def changed(**fields: Any) -> str:
    return json.dumps(GOOD | fields)


def without(field: str) -> str:
    return json.dumps({key: value for key, value in GOOD.items() if key != field})


FILES = {
    "OK_plain": json.dumps(GOOD),
    "OK_C13_auto_map": changed(auto_map={"AutoModelForCausalLM": "modeling_other.Other"}),
    "E_FORMAT_C1_empty": "",
    "E_FORMAT_C1_array": "[" + json.dumps(GOOD) + "]",
    "E_FORMAT_C1_nan_literal": changed(rms_norm_eps=float("nan")),
    "E_FORMAT_C1_infinity_literal": changed(rope_theta=float("inf")),
    "E_FORMAT_C1_duplicate_key": json.dumps(GOOD)[:-1] + ', "hidden_size": 128}',
    "E_FORMAT_C1_trailing_text": json.dumps(GOOD) + " {}",
    "E_FORMAT_C2_absent": without("hidden_size"),
    "E_FORMAT_C2_text": changed(hidden_size="64"),
    "E_FORMAT_C2_float": changed(hidden_size=64.0),
    "E_FORMAT_C2_boolean": changed(num_hidden_layers=True),
    "E_MISMATCH_C3_hidden_not_divisible": changed(hidden_size=66),
    "E_MISMATCH_C4_kv_heads_not_divisible": changed(num_key_value_heads=3),
    "E_FORMAT_C5_layers_513": changed(num_hidden_layers=513),
    "E_FORMAT_C5_two_to_the_63": changed(vocab_size=2**63),
    "E_UNSUPPORTED_C6_head_dim_20": changed(head_dim=20),
    "E_FORMAT_C7_eps_zero": changed(rms_norm_eps=0.0),
    "E_UNSUPPORTED_C8_yarn": changed(rope_scaling={"type": "yarn", "factor": 4.0}),
    "E_UNSUPPORTED_C8_unknown_key": changed(
        rope_scaling={"rope_type": "linear", "factor": 2.0, "beta_fast": 32}
    ),
    "E_UNSUPPORTED_C9_softcap": changed(final_logit_softcapping=30.0),
    "E_UNSUPPORTED_C9_two_architectures": changed(
        architectures=["LlamaForCausalLM", "MistralForCausalLM"]
    ),
    "E_MISMATCH_C11_eos_beyond_vocabulary": changed(eos_token_id=[2, 320]),
    "E_UNSUPPORTED_C12_gptq": changed(quantization_config={"quant_method": "gptq"}),
}


def main() -> None:
    folder = Path(__file__).parent
    for name, text in FILES.items():
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
