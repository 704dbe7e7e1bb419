"""Documents and prompts of an exact length."""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moa_rt import ArgumentError, FormatError, IoError, Tokenizer
from moa_tools.text import (
    Document,
    Needle,
    builtin_documents,
    chat_ids,
    fit,
    paragraphs,
    sentences,
    user_documents,
)
from moa_tools.text.corpus import KINDS, PARTS
from moa_tools.text.fit import compose
from moa_tools.text.split import split_user


@pytest.mark.parametrize("kind", KINDS)
def test_parts_share_no_document_and_no_paragraph(kind: Any) -> None:
    parts = [builtin_documents(kind, part) for part in PARTS]
    names = [document.name for part in parts for document in part]
    assert len(names) == len(set(names))
    assert all(len(part) >= 20 for part in parts)
    if kind == "prose":
        seen = [
            {" ".join(block.split()) for d in part for block in re.split(r"\n\s*\n", d.text)}
            for part in parts
        ]
        long = [{block for block in blocks if len(block) >= 80} for blocks in seen]
        assert not long[0] & long[1]
        assert not long[0] & long[2]
        assert not long[1] & long[2]


def test_prose_and_source_of_a_module_are_in_the_same_part() -> None:
    for part in PARTS:
        others = [other for other in PARTS if other != part]
        prose = {document.name for document in builtin_documents("prose", part)}
        for other in others:
            assert not prose & {document.name for document in builtin_documents("code", other)}


def test_unknown_kind_and_part() -> None:
    with pytest.raises(ArgumentError, match="kind: got 'poetry'"):
        builtin_documents("poetry", "heldout")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="part: got 'test'"):
        builtin_documents("prose", "test")  # type: ignore[arg-type]


@given(st.text(alphabet="ab.\n ", max_size=60))
def test_paragraphs_joined_are_the_text(text: str) -> None:
    assert "".join(paragraphs(text)) == text


def test_sentences_end_in_one_space() -> None:
    assert sentences("One.  Two\nthree? 'Four' is.") == ["One. ", "Two three? ", "'Four' is. "]


@settings(deadline=None, max_examples=12)
@given(
    length=st.integers(60, 500),
    depths=st.lists(st.floats(0, 1), max_size=3),
    seed=st.integers(0, 5),
)
def test_fit_fills_the_length_and_keeps_needles(
    tiny_dir: Path, length: int, depths: list[float], seed: int
) -> None:
    tokenizer = Tokenizer.load(str(tiny_dir))
    units = paragraphs(builtin_documents("prose", "heldout")[seed].text[:2000])
    needles = [Needle(depth, f"#{i}# ") for i, depth in enumerate(depths)]
    ids = fit(lambda body: chat_ids(tokenizer, body + "?"), units, needles, length)
    text = tokenizer.decode(ids)
    assert length - 6 <= len(ids) <= length
    for i in range(len(depths)):
        assert text.count(f"#{i}#") == 1


def test_needles_stand_at_their_depths() -> None:
    units = ["x" * 10] * 10
    text = compose(units, [Needle(0.0, "A"), Needle(0.5, "B"), Needle(1.0, "C")])
    assert text == "A" + "x" * 50 + "B" + "x" * 50 + "C"


def test_fit_says_what_is_too_short(tiny_dir: Path) -> None:
    tokenizer = Tokenizer.load(str(tiny_dir))
    with pytest.raises(ArgumentError, match=r"filler: got \d+ tokens of text, want 500"):
        fit(tokenizer.encode, ["few words. "], [], 500)
    with pytest.raises(ArgumentError, match=r"length: got 5, want at least \d+ tokens"):
        fit(tokenizer.encode, ["few words. "] * 9, [Needle(0, "a long needle, uncut")], 5)


def test_user_files_in_every_form(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("plain text")
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n\n{"text": ["two", "three"]}\n')
    found = user_documents([tmp_path / "a.txt", tmp_path / "b.jsonl"])
    assert [(d.name, d.text) for d in found] == [
        ("a.txt", "plain text"),
        ("b.jsonl:1", "one"),
        ("b.jsonl:3", "two\n\nthree"),
    ]
    assert [d.text for d in user_documents([tmp_path])] == [d.text for d in found]


def test_dataset_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "news"
    place.mkdir()
    (place / "state.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ArgumentError, match="pip install datasets"):
        user_documents([place])
    fake = types.ModuleType("datasets")
    rows = {"train": [{"document": "long", "summary": "short"}]}
    fake.load_from_disk = lambda path: rows  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", fake)
    assert user_documents([place]) == [Document("news:train:0", "long")]
    assert user_documents([place], "summary") == [Document("news:train:0", "short")]


@pytest.mark.parametrize(
    ("content", "field", "want"),
    [
        (b"caf\xe9", None, r"s.txt: byte 3: invalid UTF-8"),
        (b"a\0b", None, "NUL"),
        (b'{"body2": "x"}', None, r"s.jsonl: line 1: fields: got \['body2'\], want one of text"),
        (b'{"text": "x"}', "story", r"line 1: fields: got \['text'\], want 'story'"),
        (b'{"text": 3}', None, "line 1: text: got int, want text"),
        (b'{"text": "x"}\n[1]', None, "line 2: got list, want an object"),
        (b"{not json}", None, "line 1: character 1"),
    ],
)
def test_bad_user_files(tmp_path: Path, content: bytes, field: str | None, want: str) -> None:
    path = tmp_path / ("s.jsonl" if content.lstrip()[:1] == b"{" else "s.txt")
    path.write_bytes(content)
    with pytest.raises(FormatError, match=want):
        user_documents([path], field)


def test_user_files_without_text(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(ArgumentError, match="got no text"):
        user_documents([tmp_path / "empty.txt"])
    (tmp_path / "none").mkdir()
    with pytest.raises(ArgumentError, match="got no file"):
        user_documents([tmp_path / "none"])
    with pytest.raises(IoError):
        user_documents([tmp_path / "gone.txt"])


@pytest.mark.parametrize("count", [1, 2, 8, 40])
def test_user_parts_share_no_line(count: int) -> None:
    documents = [
        Document(f"d{i}", "\n\n".join(f"paragraph {i} {j}" for j in range(30)))
        for i in range(count)
    ]
    parts = [
        {line for d in split_user(documents, part) for line in d.text.split("\n\n")}
        for part in PARTS
    ]
    assert all(parts)
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert json.dumps(sorted(parts[0] | parts[1] | parts[2])) == json.dumps(
        sorted(line for d in documents for line in d.text.split("\n\n"))
    )


def numbered(count: int, salt: int = 0) -> list[Document]:
    return [Document(f"d{i}", f"text {i} of {salt}") for i in range(count)]


@pytest.mark.parametrize("count", range(9, 41))
def test_every_part_gets_its_share_of_whole_documents(count: int) -> None:
    for salt in range(50):
        documents = numbered(count, salt)
        parts = [split_user(documents, part) for part in PARTS]
        assert sorted(d.name for part in parts for d in part) == sorted(d.name for d in documents)
        for part, tenths in zip(parts, (5, 2, 3), strict=True):
            assert part
            assert abs(len(part) - count * tenths / 10) < 1


def test_neither_order_nor_name_nor_repetition_decides_the_part() -> None:
    documents = numbered(12)
    others = [Document(f"other {d.name}", d.text) for d in [*reversed(documents), *documents[:5]]]
    for part in PARTS:
        found = split_user(documents, part)
        assert found == [d for d in documents if d in found], "in the given order"
        assert {d.text for d in split_user(others, part)} == {d.text for d in found}


SENTENCES = "".join(f"On day {i} nobody of the harbour spoke. " for i in range(5000))


@pytest.mark.parametrize(
    ("text", "units"),
    [
        (SENTENCES, sentences),
        (SENTENCES.replace(".", ","), str.split),
        ("\n".join(f"row {i} no end" for i in range(3000)), str.splitlines),
        ("short\n\nshorter\n\n" + SENTENCES, sentences),
        ("港は静かだった。" * 900, re.compile("[^。]+。").findall),
        ("港" * 7000, list),
    ],
    ids=["sentences", "words", "lines", "one long paragraph", "no spaces", "no seams"],
)
def test_a_document_is_cut_where_it_has_seams(text: str, units: Callable[[str], list[str]]) -> None:
    """A file of one line, too: each part has its share, no unit is cut, lost or there twice."""
    pieces = [split_user([Document("own.txt", text)], part) for part in PARTS]
    assert [[d.name for d in piece] for piece in pieces] == [[f"own.txt#{p}"] for p in PARTS]
    texts = [piece[0].text for piece in pieces]
    assert [unit for found in texts for unit in units(found)] == units(text)
    for found, tenths in zip(texts, (5, 2, 3), strict=True):
        assert abs(len(found) - len(text) * tenths / 10) < 0.02 * len(text)
