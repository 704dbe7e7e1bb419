"""tokenizer.model, where a checkpoint has no tokenizer.json."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from moa_rt import FormatError, UnsupportedError
from moa_tools.convert.pipeline import ConvertOptions, convert
from moa_tools.convert.progress import Silent
from moa_tools.convert.sentencepiece_model import from_sentencepiece
from support_models import make_tiny_model, make_tokenizer
from support_sentencepiece import random_texts, sentencepiece_encode


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def block(number: int, data: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def number(number: int, value: int) -> bytes:
    """A varint field."""
    return varint(number << 3) + varint(value)


def piece(text: str, score: float, kind: int) -> bytes:
    body = block(1, text.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score)
    return block(1, body + (number(3, kind) if kind != 1 else b""))


NORMALIZER = block(1, b"identity") + number(3, 1) + number(4, 0)


def model_of(vocab: dict[str, int]) -> bytes:
    """A tokenizer.model with this vocabulary; scores fall with the id."""
    out = b""
    for text in sorted(vocab, key=vocab.__getitem__):
        kind = {"<unk>": 2, "<s>": 3, "</s>": 3}.get(text, 1)
        if text.startswith("<0x") and len(text) == 6:
            kind = 6
        out += piece(text, -float(vocab[text]), kind)
    return out + block(2, number(3, 2) + number(35, 1)) + block(3, NORMALIZER)


def test_encoding_follows_the_scores() -> None:
    from tokenizers import Tokenizer

    vocab = make_tokenizer("llama", 512).get_vocab()
    files = from_sentencepiece(model_of(vocab), "tokenizer.model", {}, {"<pad>": len(vocab)})
    assert files.tokenizer is not None
    got = Tokenizer.from_str(files.tokenizer.decode())
    scores = {
        text: -float(index)
        for text, index in vocab.items()
        if not (text.startswith("<") and text.endswith(">") and len(text) > 1)
    }
    for text in random_texts(500):
        if text != "<s>":
            tokens = got.encode(text, add_special_tokens=False).tokens
            assert tokens == sentencepiece_encode(text, scores), text
    assert got.encode("a").tokens[0] == "<s>"
    assert got.token_to_id("<pad>") == len(vocab)
    assert files.config["bos_token"] == "<s>"


def test_directory_with_only_a_tokenizer_model(tmp_path: Path) -> None:
    source = make_tiny_model(tmp_path / "vicuna-7b", "llama")
    vocab = make_tokenizer("llama", 512).get_vocab()
    (source / "tokenizer.json").unlink()
    (source / "tokenizer.model").write_bytes(model_of(vocab))
    log = Silent()
    report = convert(str(source), tmp_path / "out", ConvertOptions(), log)
    assert "tokenizer.json: none; it is made from tokenizer.model" in log.infos
    made = json.loads((report.path / "tokenizer.json").read_text())
    assert made["model"]["vocab"] == vocab
    settings = json.loads((report.path / "tokenizer_config.json").read_text())
    assert settings["moa_rt_chat_family"] == "vicuna"


def test_directory_without_any_tokenizer(tmp_path: Path) -> None:
    source = make_tiny_model(tmp_path / "source", "llama", tokenizer=False)
    log = Silent()
    report = convert(str(source), tmp_path / "out", ConvertOptions(), log)
    assert log.warnings == ["tokenizer.json: none; the model will take token ids only"]
    assert not (report.path / "tokenizer.json").exists()


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (piece("a", 0, 1)[:-3], FormatError, "bytes left, want"),
        (b"\xff" * 12, FormatError, "varint is cut off or too long"),
        (b"\x0b", FormatError, "wire type: got 3"),
        (block(1, block(1, b"\xff\xfe")), FormatError, "piece 0: byte 0: invalid UTF-8"),
        (block(1, number(1, 3)), FormatError, "piece 0: want a string and a float"),
        (block(2, number(3, 1)), UnsupportedError, r"model_type: got 1, want 2 \(BPE\)"),
        (block(2, number(3, 2)), UnsupportedError, "only the identity normaliser"),
        (
            block(2, number(3, 2)) + block(3, block(2, b"x") + number(4, 0)),
            UnsupportedError,
            "only the identity normaliser",
        ),
        (block(2, number(3, 2)) + block(3, NORMALIZER), FormatError, "got none, want the vocab"),
    ],
)
def test_D1_hostile_tokenizer_model(data: bytes, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        from_sentencepiece(data, "bad.model", {}, {})
    assert "bad.model" in str(caught.value)


def test_D4_added_token_with_a_hole() -> None:
    data = model_of({"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3})
    with pytest.raises(FormatError, match="added token '<pad>': id: got 9, want 4"):
        from_sentencepiece(data, "bad.model", {}, {"<pad>": 9})
