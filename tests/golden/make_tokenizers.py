"""Writes tests/golden/tokenizers: one small tokenizer per family and what `tokenizers` makes of it.

Each family's components are those of its published tokenizer.json; only the vocabulary is small,
trained here on mixed text. Run from the repository root:

    PYTHONPATH=tests/python python tests/golden/make_tokenizers.py
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from support_mixed_text import SAMPLES, mixed_text, random_string
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

OUT = Path(__file__).parent / "tokenizers"
LOW_LINE = "\u2581"
TIKTOKEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
Component = dict[str, Any]


def byte_level(use_regex: bool) -> Component:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def split_pre_tokenizer(digits: str) -> Component:
    split = {
        "type": "Split",
        "pattern": {"Regex": TIKTOKEN.replace("DIGITS", digits)},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, byte_level(use_regex=False)]}


def template(token: str, index: int) -> Component:
    special = {"SpecialToken": {"id": token, "type_id": 0}}
    single = [special, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [index], "tokens": [token]}},
    }


def added(index: int, content: str, special: bool = True, **flags: bool) -> Component:
    token = {"id": index, "content": content, "single_word": False, "lstrip": False}
    return {**token, "rstrip": False, "normalized": False, "special": special, **flags}


def train_byte_level(size: int) -> Component:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(mixed_text(300_000).split("\n"), trainer)
    model: Component = json.loads(tokenizer.to_str())["model"]
    return model


def train_sentencepiece(size: int) -> Component:
    """Merges over words and runs of spaces, byte tokens at 3..258 as SentencePiece has them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(LOW_LINE, prepend_scheme="always")
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    lines = [line for line in mixed_text(300_000).split("\n") if line]
    counts = Counter(c for line in lines for c in line.replace(" ", LOW_LINE))
    alphabet = sorted(counts, key=lambda c: (-counts[c], c))[:160]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=specials,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    model: Component = json.loads(tokenizer.to_str())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    merges: list[list[str]] = model["merges"]
    for left, right in ((LOW_LINE, LOW_LINE), (LOW_LINE * 2, LOW_LINE * 2), ("e", LOW_LINE)):
        if left + right not in vocabulary:
            vocabulary[left + right] = len(vocabulary)
            merges.append([left, right])
    model.update(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    return model


def document(model: Component, tokens: list[Component], **components: Any) -> Component:
    parts = dict.fromkeys(("truncation", "padding"))
    defaults = {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None}
    head = {"version": "1.0", **parts, "added_tokens": tokens}
    return {**head, **defaults, **components, "model": model}


def smollm2(model: Component) -> Component:
    digits = {"type": "Digits", "individual_digits": True}
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    first = len(model["vocab"])
    return document(
        model,
        [added(first + i, name) for i, name in enumerate(names)],
        pre_tokenizer={"type": "Sequence", "pretokenizers": [digits, byte_level(use_regex=True)]},
        decoder=byte_level(use_regex=True),
    )


def llama3(model: Component) -> Component:
    """With tokens that only `ignore_merges` reaches: some merges are missing."""
    names = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>")
    first = len(model["vocab"])
    kept = [merge for i, merge in enumerate(model["merges"]) if i % 10 != 9]
    processors = [byte_level(use_regex=True), template(names[0], first)]
    return document(
        {**model, "merges": kept, "ignore_merges": True},
        [added(first + i, name) for i, name in enumerate((*names, "<|eot_id|>"))],
        pre_tokenizer=split_pre_tokenizer("{1,3}"),
        post_processor={"type": "Sequence", "processors": processors},
        decoder=byte_level(use_regex=True),
    )


def qwen2(model: Component) -> Component:
    """Merges written as "a b", as older files do."""
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    first = len(model["vocab"])
    tokens = [added(first + i, name) for i, name in enumerate(names)]
    tokens += [added(first + 3, "<tool_call>", False), added(first + 4, "</tool_call>", False)]
    return document(
        {**model, "merges": [" ".join(merge) for merge in model["merges"]]},
        tokens,
        normalizer={"type": "NFC"},
        pre_tokenizer=split_pre_tokenizer(""),
        post_processor=byte_level(use_regex=False),
        decoder=byte_level(use_regex=False),
    )


def sentencepiece_decoder() -> Component:
    replace = {"type": "Replace", "pattern": {"String": LOW_LINE}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    decoders = [replace, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]
    return {"type": "Sequence", "decoders": decoders}


def llama2(model: Component) -> Component:
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": LOW_LINE}
    normalizers = [{"type": "Prepend", "prepend": LOW_LINE}, replace]
    return document(
        model,
        [added(i, name) for i, name in enumerate(("<unk>", "<s>", "</s>"))],
        normalizer={"type": "Sequence", "normalizers": normalizers},
        post_processor=template("<s>", 1),
        decoder=sentencepiece_decoder(),
    )


def mistral(model: Component) -> Component:
    names = ("<unk>", "<s>", "</s>")
    first = len(model["vocab"])
    tokens = [added(i, name) for i, name in enumerate(names)]
    tokens += [added(first, "[INST]"), added(first + 1, "[/INST]")]
    metaspace = {"type": "Metaspace", "replacement": LOW_LINE}
    return document(
        model,
        tokens,
        pre_tokenizer={**metaspace, "prepend_scheme": "first", "split": False},
        post_processor=template("<s>", 1),
        decoder=sentencepiece_decoder(),
    )


def flagged(model: Component) -> Component:
    """Every flag of an added token, over overlapping spellings and with a normalizer."""
    flags: list[tuple[str, bool, dict[str, bool]]] = [
        ("<a>", True, {}),
        ("<a><b>", False, {}),
        ("<l>", False, {"lstrip": True}),
        ("<r>", True, {"rstrip": True}),
        ("<lr>", False, {"lstrip": True, "rstrip": True}),
        ("word", False, {"single_word": True}),
        ("caf\u00e9", False, {"normalized": True}),
        ("a+(b|c)*?", False, {}),
        ("<n> ", True, {"normalized": True}),
        (" ", False, {"single_word": True}),
        ("日本", False, {"normalized": True, "single_word": True}),
    ]
    ids = dict(model["vocab"])  # an added token that the model has keeps its id
    tokens = [added(ids.setdefault(t, len(ids)), t, special, **kw) for t, special, kw in flags]
    return {**qwen2(model), "model": model, "added_tokens": tokens}


def cases(tokenizer: Tokenizer, family: str) -> list[Component]:
    """Texts with their ids for each way of encoding, and what the ids decode to."""
    tokens = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    rng = random.Random(family)
    texts = ["", " ", "\n", "a", *SAMPLES, *(random_string(rng, tokens) for _ in range(60))]
    result = []
    for text in texts:
        case: Component = {"text": text}
        for allow in (False, True):
            tokenizer.encode_special_tokens = not allow
            case["special" if allow else "plain"] = tokenizer.encode(
                text, add_special_tokens=allow
            ).ids
        for skip in (False, True):
            decoded = tokenizer.decode(case["special"], skip_special_tokens=skip)
            case["decoded_skip" if skip else "decoded"] = decoded
        result.append(case)
    return result


CHAT_CONFIG: dict[str, Component] = {
    "llama2": {"bos_token": "<s>", "eos_token": "</s>", "moa_rt_chat_family": "llama2"},
    "llama3": {"bos_token": "<|begin_of_text|>", "moa_rt_chat_family": "llama3"},
    "mistral": {"bos_token": {"content": "<s>"}, "eos_token": {"content": "</s>"}},
    "qwen2": {"moa_rt_chat_family": "chatml"},
    "smollm2": {"moa_rt_chat_family": "chatml"},
}


def main() -> None:
    byte_model = train_byte_level(900)
    piece_model = train_sentencepiece(1000)
    families = {
        "smollm2": smollm2(byte_model),
        "llama3": llama3(byte_model),
        "qwen2": qwen2(byte_model),
        "llama2": llama2(piece_model),
        "mistral": mistral(piece_model),
        "flagged": flagged(byte_model),
    }
    for family, content in families.items():
        folder = OUT / family
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, ensure_ascii=False, indent=None, separators=(",", ":"))
        (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        lines = [json.dumps(case) for case in cases(tokenizer, family)]
        (folder / "cases.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if family in CHAT_CONFIG:
            config = json.dumps(CHAT_CONFIG[family], indent=1)
            (folder / "tokenizer_config.json").write_text(config + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
