"""tokenizer.model (SentencePiece, a protobuf) for checkpoints that have no tokenizer.json.

Only what the Llama 1 and 2, Vicuna and Mistral vocabularies use: BPE with byte fallback and the
identity normaliser. Field numbers are those of sentencepiece_model.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from moa_rt import FormatError, UnsupportedError

from moa_tools.convert.gguf_tokenizer import tokenizer_files
from moa_tools.convert.source import TokenizerFiles

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_BPE = 2
_NORMAL = 1


def _varint(data: bytes, at: int, path: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise FormatError(f"{path}: byte {at}: varint is cut off or too long")


def _fields(data: bytes, path: str) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of one message; groups do not occur."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at, path)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at, path)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at, path)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise FormatError(f"{path}: byte {at}: wire type: got {wire}, want 0, 1, 2 or 5")
        if size > len(data) - at:
            raise FormatError(f"{path}: byte {at}: got {len(data) - at} bytes left, want {size}")
        yield number, data[at : at + size]
        at += size


@dataclass
class SentencePieceModel:
    """The vocabulary: pieces, scores and types (1 normal, 2 unknown, 3 control, 4 user, 6 byte)."""

    pieces: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    model_type: int = 1
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    charsmap: bytes = b""


def parse(data: bytes, path: str) -> SentencePieceModel:
    """Reads the protobuf. Raises FormatError."""
    model = SentencePieceModel()
    for number, value in _fields(data, path):
        if isinstance(value, int):
            continue
        if number == 1:
            _add_piece(model, value, path)
        elif number == 2:
            trainer = dict(_fields(value, path))
            model.model_type = _integer(trainer.get(3, 1), path, "trainer_spec.model_type")
        elif number == 3:
            normalizer = dict(_fields(value, path))
            model.add_dummy_prefix = bool(normalizer.get(3, 1))
            model.remove_extra_whitespaces = bool(normalizer.get(4, 1))
            charsmap = normalizer.get(2, b"")
            model.charsmap = charsmap if isinstance(charsmap, bytes) else b""
    return model


def _integer(value: int | bytes, path: str, item: str) -> int:
    if not isinstance(value, int):
        raise FormatError(f"{path}: {item}: want a varint")
    return value


def _add_piece(model: SentencePieceModel, data: bytes, path: str) -> None:
    item = f"piece {len(model.pieces)}"
    parts = dict(_fields(data, path))
    text, score = parts.get(1, b""), parts.get(2, b"\0\0\0\0")
    if not isinstance(text, bytes) or not isinstance(score, bytes) or len(score) != 4:
        raise FormatError(f"{path}: {item}: want a string and a float")
    try:
        model.pieces.append(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: {item}: byte {error.start}: invalid UTF-8") from error
    model.scores.append(struct.unpack("<f", score)[0])
    model.types.append(_integer(parts.get(3, _NORMAL), path, item))


def from_sentencepiece(
    data: bytes, path: str, config: dict[str, Any], added: dict[str, Any]
) -> TokenizerFiles:
    """tokenizer.json for a tokenizer.model.

    `config` is tokenizer_config.json, `added` is added_tokens.json: {token: id}, with ids that
    follow the vocabulary. Raises FormatError or UnsupportedError.
    """
    model = parse(data, path)
    if model.model_type != _BPE:
        raise UnsupportedError(f"{path}: model_type: got {model.model_type}, want 2 (BPE)")
    if model.charsmap or model.remove_extra_whitespaces:
        raise UnsupportedError(f"{path}: normalizer_spec: only the identity normaliser is read")
    for token, index in added.items():
        if index != len(model.pieces):
            raise FormatError(
                f"{path}: added token {token[:80]!r}: id: got {index}, want {len(model.pieces)}"
            )
        model.pieces.append(token)
        model.scores.append(0.0)
        model.types.append(3)
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": model.pieces,
        "tokenizer.ggml.scores": model.scores,
        "tokenizer.ggml.token_type": model.types,
        "tokenizer.ggml.add_space_prefix": model.add_dummy_prefix,
        "tokenizer.ggml.add_bos_token": config.get("add_bos_token", True),
        "tokenizer.ggml.add_eos_token": config.get("add_eos_token", False),
    }
    for name, token in (("bos", "<s>"), ("eos", "</s>"), ("unknown", "<unk>")):
        if token in model.pieces:
            metadata[f"tokenizer.ggml.{name}_token_id"] = model.pieces.index(token)
    files = tokenizer_files(metadata, path)
    return TokenizerFiles(files.tokenizer, {**files.config, **config})
