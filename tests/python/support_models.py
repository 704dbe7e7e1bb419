"""Tiny random Hugging Face checkpoints, one per family, for parity and conversion tests.

Everything is made by transformers' own classes with seeded weights, so the checkpoint on disk is
what a real one of the family looks like. Weights are scaled by 1/sqrt(fan_in) instead of the
library's 0.02: attention and every bias and norm then matter to the logits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FAMILIES = ("llama", "llama3", "llama_linear", "mistral", "qwen2", "qwen3")

# Families whose tokenizer is SentencePiece-style BPE with byte fallback; the others are byte-level.
SENTENCEPIECE_FAMILIES = ("llama", "llama_linear", "mistral")

_CORPUS = (
    "The quick brown fox jumps over the lazy dog. A head keeps the first tokens and the last ones.",
    'Numbers: 0 1 2 3 10 42 1234567890; punctuation, too! (Is it so?) "Yes" - it\'s ours.',
    "naïve café, Grüße aus Köln, 東京は夜, привет мир, emoji 🙂\n\tindented line\n\n",
    "def add(a, b):\n    return a + b\n",
)

# How Llama 3 and Qwen2 split text before BPE; they differ only in how many digits stay together.
_BYTE_LEVEL_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _rope_parameters(family: str) -> dict[str, Any]:
    if family == "llama3":
        return {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    if family == "llama_linear":
        return {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    theta = 1000000.0 if family.startswith("qwen") else 10000.0
    return {"rope_type": "default", "rope_theta": theta}


def make_config(family: str, **shape: Any) -> Any:
    """A transformers config of `family` (see FAMILIES); `shape` overrides any of its fields."""
    import transformers

    if family not in FAMILIES:
        raise ValueError(f"family: got {family!r}, want one of {FAMILIES}")
    fields: dict[str, Any] = {
        "vocab_size": 512,
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "rope_parameters": _rope_parameters(family),
    }
    classes = {
        "llama": transformers.LlamaConfig,
        "llama3": transformers.LlamaConfig,
        "llama_linear": transformers.LlamaConfig,
        "mistral": transformers.MistralConfig,
        "qwen2": transformers.Qwen2Config,
        "qwen3": transformers.Qwen3Config,
    }
    if family == "mistral":
        fields["sliding_window"] = None
    fields.update(shape)
    return classes[family](**fields)


def seed_weights(model: Any, seed: int) -> None:
    """Overwrites every parameter with seeded numbers large enough to matter."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    embedding: Any = (
        None if model.config.tie_word_embeddings else model.get_input_embeddings().weight
    )
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter is embedding:
                parameter.normal_(0.0, 1.0, generator=generator)
            elif parameter.dim() == 2:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.5, generator=generator)
            else:
                parameter.uniform_(0.5, 1.5, generator=generator)


def byte_level_tokenizer(vocab_size: int, specials: list[str], qwen: bool) -> Any:
    """A byte-level BPE tokenizer as Qwen2 or Llama 3 have it, trained on a few lines."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    if qwen:
        tokenizer.normalizer = normalizers.NFC()
    pattern = _BYTE_LEVEL_PATTERN.replace("DIGITS", "" if qwen else "{1,3}")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer


def sentencepiece_tokenizer(vocab_size: int) -> Any:
    """A SentencePiece-style BPE `tokenizers.Tokenizer` with byte fallback (Llama 1/2, Mistral)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers

    specials = ["<unk>", "<s>", "</s>"]
    byte_tokens = [f"<0x{value:02X}>" for value in range(256)]
    normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    draft = Tokenizer(models.BPE(unk_token="<unk>"))
    draft.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(byte_tokens), special_tokens=specials, show_progress=False
    )
    draft.train_from_iterator([line for text in _CORPUS for line in text.split()], trainer)
    learned = json.loads(draft.to_str())["model"]
    pieces = [p for p in sorted(learned["vocab"], key=learned["vocab"].get) if p not in specials]
    names = specials + byte_tokens + pieces
    tokenizer = Tokenizer(
        models.BPE(
            vocab={name: index for index, name in enumerate(names)},
            merges=[tuple(pair) for pair in learned["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    return tokenizer


def make_tokenizer(family: str, vocab_size: int) -> Any:
    """The small tokenizer that `make_tiny_model` saves: ids below `vocab_size`, bos 1, eos 2."""
    if family in SENTENCEPIECE_FAMILIES:
        return sentencepiece_tokenizer(vocab_size)
    specials = ["<|pad|>", "<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"]
    return byte_level_tokenizer(vocab_size, specials, qwen=family.startswith("qwen"))


def make_tiny_model(
    directory: str | Path,
    family: str = "llama",
    *,
    seed: int = 0,
    dtype: str = "float32",
    max_shard_size: str = "5GB",
    tokenizer: bool = True,
    **shape: Any,
) -> Path:
    """Writes a seeded random checkpoint of `family` in Hugging Face form and returns its directory.

    `shape` overrides config fields (hidden_size, num_key_value_heads, head_dim,
    tie_word_embeddings, ...). `max_shard_size` below the model's size gives shards and an index.
    Load it for reference logits with `transformers.AutoModelForCausalLM.from_pretrained`.
    """
    import torch
    import transformers

    target = Path(directory)
    config = make_config(family, **shape)
    factory: Any = transformers.AutoModelForCausalLM
    model = factory.from_config(config)
    seed_weights(model, seed)
    model = model.to(getattr(torch, dtype))
    model.eval()
    model.save_pretrained(target, max_shard_size=max_shard_size)
    if tokenizer:
        made = make_tokenizer(family, config.vocab_size)
        made.save(str(target / "tokenizer.json"))
        sentencepiece = family in SENTENCEPIECE_FAMILIES
        settings = {
            "tokenizer_class": "LlamaTokenizer" if sentencepiece else "PreTrainedTokenizerFast",
            "bos_token": "<s>" if sentencepiece else "<|begin_of_text|>",
            "eos_token": "</s>" if sentencepiece else "<|end_of_text|>",
            "add_bos_token": sentencepiece,
            "model_max_length": config.max_position_embeddings,
        }
        (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return target


def reference_model(directory: str | Path) -> Any:
    """The checkpoint as transformers runs it, in float32 with the plain (eager) attention."""
    import torch
    import transformers

    factory: Any = transformers.AutoModelForCausalLM
    model = factory.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    model.eval()
    return model
