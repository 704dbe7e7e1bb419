"""tokenizer.json and tokenizer_config.json rebuilt from a GGUF file's tokenizer.ggml.* keys."""

from __future__ import annotations

from typing import Any

from moa_rt import FormatError, UnsupportedError

from moa_tools import strict_json
from moa_tools.convert.source import TokenizerFiles

# tokenizer.ggml.token_type
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)

_LETTERS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{DIGITS}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3_SPLIT = _LETTERS.replace("{DIGITS}", "{1,3}")
_QWEN2_SPLIT = _LETTERS.replace("{DIGITS}", "")
_SPACE = "\u2581"


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def _split(pattern: str) -> dict[str, Any]:
    split = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, _byte_level(use_regex=False)]}


def _pre_tokenizer(pre: str, path: str) -> dict[str, Any]:
    if pre == "smollm":
        digits = {"type": "Digits", "individual_digits": True}
        return {"type": "Sequence", "pretokenizers": [digits, _byte_level(use_regex=True)]}
    if pre == "qwen2":
        return _split(_QWEN2_SPLIT)
    if pre == "llama-bpe":
        return _split(_LLAMA3_SPLIT)
    raise UnsupportedError(
        f"{path}: tokenizer.ggml.pre: got {pre[:80]!r}, want smollm, qwen2 or llama-bpe"
    )


class _Vocabulary:
    """The checked arrays of tokenizer.ggml.*."""

    def __init__(self, metadata: dict[str, Any], path: str) -> None:
        self.path = path
        self._metadata = metadata
        self.model = self.get("model", str, "")
        self.tokens: list[str] = self._strings("tokens")
        count = len(self.tokens)
        if count == 0:
            raise FormatError(f"{path}: tokenizer.ggml.tokens: got none, want the vocabulary")
        self.ids = {token: index for index, token in enumerate(self.tokens)}
        if len(self.ids) != count:
            twice = next(t for i, t in enumerate(self.tokens) if self.ids[t] != i)
            raise FormatError(f"{path}: tokenizer.ggml.tokens: {twice[:80]!r} is there twice")
        types = metadata.get("tokenizer.ggml.token_type", [_NORMAL] * count)
        if not isinstance(types, list) or len(types) != count:
            raise FormatError(f"{path}: tokenizer.ggml.token_type: want {count} numbers")
        self.types: list[int] = types
        while self.types and self.types[-1] == _UNUSED:  # fills up the embedding's last rows
            self.types = self.types[:-1]
        self.tokens = self.tokens[: len(self.types)]

    def _strings(self, name: str) -> list[str]:
        value = self._metadata.get(f"tokenizer.ggml.{name}", [])
        if not isinstance(value, list) or (value and not isinstance(value[0], str)):
            raise FormatError(f"{self.path}: tokenizer.ggml.{name}: want an array of strings")
        return value

    def get(self, name: str, kind: type, default: Any) -> Any:
        value = self._metadata.get(f"tokenizer.ggml.{name}", default)
        if value is not None and (type(value) is not kind):
            raise FormatError(
                f"{self.path}: tokenizer.ggml.{name}: got {str(value)[:80]!r}, want {kind.__name__}"
            )
        return value

    def special(self, name: str) -> str | None:
        """The token that tokenizer.ggml.<name>_token_id names."""
        index: int | None = self.get(f"{name}_token_id", int, None)
        if index is None:
            return None
        if not 0 <= index < len(self.tokens):
            raise FormatError(
                f"{self.path}: tokenizer.ggml.{name}_token_id: got {index}, want "
                f"0..{len(self.tokens) - 1}"
            )
        return self.tokens[index]

    def merges(self) -> list[list[str]]:
        """The file's merges as pairs."""
        pairs = []
        for index, text in enumerate(self._strings("merges")):
            left, space, right = text.partition(" ")
            if not left or not space or not right or " " in right:
                raise FormatError(
                    f"{self.path}: tokenizer.ggml.merges: merge {index}: got {text[:80]!r}, want "
                    "two tokens and a space"
                )
            pairs.append([left, right])
        return pairs

    def scores(self) -> list[float]:
        """One score per token."""
        value = self._metadata.get("tokenizer.ggml.scores")
        if not isinstance(value, list) or len(value) < len(self.tokens):
            raise FormatError(f"{self.path}: tokenizer.ggml.scores: want one per token")
        return value


def derive_merges(tokens: list[str], scores: list[float], types: list[int]) -> list[list[str]]:
    """BPE merges that a SentencePiece vocabulary implies.

    SentencePiece always joins the neighbours whose union scores best. So every way of cutting a
    piece in two pieces of the vocabulary is a merge, ranked by the score of the whole; among the
    cuts of one piece the longer left part comes first.
    """
    pieces = {t: s for t, s, k in zip(tokens, scores, types, strict=False) if k == _NORMAL}
    found = []
    for token, score in pieces.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in pieces and right in pieces:
                found.append((score, len(left), len(right), left, right))
    found.sort(key=lambda merge: merge[:3], reverse=True)
    return [[left, right] for _, _, _, left, right in found]


def _added_tokens(vocabulary: _Vocabulary) -> list[dict[str, Any]]:
    added = []
    for index, kind in enumerate(vocabulary.types):
        if kind not in (_CONTROL, _USER_DEFINED) and not (
            kind == _UNKNOWN and vocabulary.model == "llama"
        ):
            continue
        added.append(
            {
                "id": index,
                "content": vocabulary.tokens[index],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": kind != _USER_DEFINED,
            }
        )
    return added


def _template(vocabulary: _Vocabulary, add_bos: bool, add_eos: bool) -> dict[str, Any] | None:
    """The post-processor that adds BOS and EOS, None if neither is added."""
    bos = vocabulary.special("bos") if add_bos else None
    eos = vocabulary.special("eos") if add_eos else None
    if bos is None and eos is None:
        return None

    def mark(token: str, segment: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": token, "type_id": segment}}

    def sequence(name: str, segment: int) -> list[dict[str, Any]]:
        parts = [mark(bos, segment)] if bos is not None else []
        parts.append({"Sequence": {"id": name, "type_id": segment}})
        return parts + ([mark(eos, segment)] if eos is not None else [])

    names = [token for token in (bos, eos) if token is not None]
    return {
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": sequence("A", 0) + sequence("B", 1),
        "special_tokens": {
            token: {"id": token, "ids": [vocabulary.ids[token]], "tokens": [token]}
            for token in names
        },
    }


def _byte_level_parts(vocabulary: _Vocabulary) -> dict[str, Any]:
    pre = vocabulary.get("pre", str, "")
    last_normal = max(
        (i for i, kind in enumerate(vocabulary.types) if kind not in (_CONTROL, _USER_DEFINED)),
        default=-1,
    )
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": pre == "llama-bpe",
        "vocab": {token: i for i, token in enumerate(vocabulary.tokens[: last_normal + 1])},
        "merges": vocabulary.merges(),
    }
    return {
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": _pre_tokenizer(pre, vocabulary.path),
        "decoder": _byte_level(use_regex=True),
        "model": model,
    }


def _sentencepiece_parts(vocabulary: _Vocabulary) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    if vocabulary.get("add_space_prefix", bool, True):
        steps.append({"type": "Prepend", "prepend": _SPACE})
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": _SPACE})
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if len(steps) == 2:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    merges = vocabulary.merges()
    if not merges:
        merges = derive_merges(vocabulary.tokens, vocabulary.scores(), vocabulary.types)
    unknown = next(
        (t for t, k in zip(vocabulary.tokens, vocabulary.types, strict=True) if k == _UNKNOWN), None
    )
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": {token: i for i, token in enumerate(vocabulary.tokens)},
        "merges": merges,
    }
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model,
    }


def tokenizer_files(metadata: dict[str, Any], path: str) -> TokenizerFiles:
    """Both files. Raises FormatError or UnsupportedError naming the key."""
    vocabulary = _Vocabulary(metadata, path)
    if vocabulary.model == "gpt2":
        parts = _byte_level_parts(vocabulary)
        bos_by_default = vocabulary.get("pre", str, "") == "llama-bpe"
    elif vocabulary.model == "llama":
        parts = _sentencepiece_parts(vocabulary)
        bos_by_default = True
    else:
        raise UnsupportedError(
            f"{path}: tokenizer.ggml.model: got {vocabulary.model[:80]!r}, want gpt2 or llama"
        )
    add_bos = vocabulary.get("add_bos_token", bool, bos_by_default)
    add_eos = vocabulary.get("add_eos_token", bool, False)
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(vocabulary),
        "post_processor": _template(vocabulary, add_bos, add_eos),
        **parts,
    }
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": add_bos,
        "add_eos_token": add_eos,
        "clean_up_tokenization_spaces": False,
    }
    for field, name in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token = vocabulary.special(name)
        if token is not None:
            config[f"{field}_token"] = token
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        config["chat_template"] = template
    return TokenizerFiles(strict_json.dump(tokenizer, compact=True), config)
