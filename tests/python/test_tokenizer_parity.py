"""Our tokenizer against the `tokenizers` library: equal ids and equal text, 0 differences.

The families are those of tests/golden/tokenizers (published components, small vocabularies), the
real SmolLM2 tokenizer, and the real Qwen2.5 one where `--qwen-dir` names it.
"""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from moa_rt import Tokenizer
from support_mixed_text import SAMPLES, assigned, mixed_text, random_string
from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Reference

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizers"
SMALL = sorted(path.name for path in GOLDEN.iterdir())
LOW_LINE = "\u2581"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "family" in metafunc.fixturenames:
        real = ["real-smollm2"]
        if metafunc.config.getoption("--qwen-dir") is not None:
            real.append("real-qwen2.5")
        metafunc.parametrize("family", SMALL + real)


@pytest.fixture
def directory(family: str, request: pytest.FixtureRequest) -> Path:
    if family == "real-smollm2":
        found: Path = request.getfixturevalue("smollm2_dir")
        return found
    if family == "real-qwen2.5":
        return Path(request.config.getoption("--qwen-dir"))
    return GOLDEN / family


@dataclass(frozen=True)
class Pair:
    """The same tokenizer twice."""

    ours: Tokenizer
    theirs: Reference

    @classmethod
    def load(cls, directory: Path) -> Pair:
        return cls(
            Tokenizer.load(directory), Reference.from_file(str(directory / "tokenizer.json"))
        )

    def check_encode(self, text: str) -> None:
        for special in (False, True):
            self.theirs.encode_special_tokens = not special
            want = self.theirs.encode(text, add_special_tokens=special).ids
            got = self.ours.encode(text, add_special=special, allow_special=special)
            if got != want:
                same = sum(
                    1 for _ in takewhile(lambda ab: ab[0] == ab[1], zip(got, want, strict=False))
                )
                pytest.fail(f"{text[:200]!r}: id {same}: {got[same:][:9]} want {want[same:][:9]}")

    def check_decode(self, ids: list[int]) -> None:
        for skip in (False, True):
            want = self.theirs.decode(ids, skip_special_tokens=skip)
            assert self.ours.decode(ids, skip_special=skip) == want, ids[:50]

    def spellings(self) -> list[str]:
        return [token.content for token in self.theirs.get_added_tokens_decoder().values()][:30]


@cache
def marks_beyond_their_tables() -> frozenset[str]:
    """Characters that the library's normalizer does not know as Python's Unicode version does.

    Its tables of composition and of combining classes are older than its tables of categories.
    """
    nfc = normalizers.NFC()

    def agrees(text: str) -> bool:
        return bool(nfc.normalize_str(text) == unicodedata.normalize("NFC", text))

    unknown = set()
    for c in assigned():
        texts = [unicodedata.normalize("NFD", c)]
        if unicodedata.combining(c):
            texts += ["q" + c + "\u0323", "q\u0323" + c, "q" + c + "\u0301", "q\u0301" + c]
        if not all(map(agrees, texts)):
            unknown.add(c)
            unknown.update(texts[0])
    return frozenset(unknown)


def test_the_tables_of_categories_agree() -> None:
    """What the choice of random characters rests on."""
    text = "".join(assigned())
    for name in ("L", "N"):
        split = pre_tokenizers.Split(Regex(rf"\p{{{name}}}"), "removed")
        outside = {c for piece, _ in split.pre_tokenize_str(text) for c in piece}
        assert {c for c in assigned() if unicodedata.category(c)[0] != name} == outside
    assert len(marks_beyond_their_tables()) < 200


def test_a_megabyte_of_mixed_text(directory: Path) -> None:
    text = mixed_text(1_000_000)
    assert len(text.encode()) >= 1_000_000
    pair = Pair.load(directory)
    pair.check_encode(text)
    pair.check_decode(pair.theirs.encode(text).ids)


def test_random_strings(directory: Path) -> None:
    pair = Pair.load(directory)
    uses_nfc = "NFC" in json.dumps(json.loads(pair.theirs.to_str())["normalizer"])
    excluded = marks_beyond_their_tables() if uses_nfc else frozenset()
    rng = random.Random(10_000)
    for _ in range(10_000):
        pair.check_encode(random_string(rng, pair.spellings(), excluded))


def test_random_ids(directory: Path) -> None:
    pair = Pair.load(directory)
    rng = random.Random(7)
    for _ in range(3000):
        limit = rng.choice((300, pair.theirs.get_vocab_size()))
        pair.check_decode([rng.randrange(limit) for _ in range(rng.randrange(12))])


def edited(family: str, folder: Path, edit: Callable[[dict[str, Any]], None]) -> Pair:
    """The small tokenizer of `family` after `edit` of its document."""
    document = json.loads((GOLDEN / family / "tokenizer.json").read_text(encoding="utf-8"))
    edit(document)
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    return Pair.load(folder)


def check_texts(pair: Pair, count: int = 300) -> None:
    rng = random.Random(count)
    texts = [*SAMPLES, *(random_string(rng, pair.spellings()) for _ in range(count))]
    for text in ("", " ", LOW_LINE, *texts):
        pair.check_encode(text)
        pair.check_decode(pair.theirs.encode(text).ids)


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
@pytest.mark.parametrize("split", [False, True])
def test_metaspace_schemes(tmp_path: Path, scheme: str, split: bool) -> None:
    metaspace = {"type": "Metaspace", "replacement": LOW_LINE, "prepend_scheme": scheme}
    change = {"pre_tokenizer": {**metaspace, "split": split}, "decoder": metaspace}
    check_texts(edited("mistral", tmp_path, lambda document: document.update(change)))


@pytest.mark.parametrize("more", [{}, {"add_prefix_space": True}])
def test_metaspace_of_older_files(tmp_path: Path, more: dict[str, Any]) -> None:
    metaspace = {"type": "Metaspace", "replacement": LOW_LINE, **more}
    change = {"pre_tokenizer": metaspace, "decoder": metaspace}
    check_texts(edited("mistral", tmp_path, lambda document: document.update(change)))


def test_byte_level_with_a_prefix_space(tmp_path: Path) -> None:
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    change = {"pre_tokenizer": byte_level}
    check_texts(edited("smollm2", tmp_path, lambda document: document.update(change)))


def test_runs_of_digits(tmp_path: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = False

    check_texts(edited("smollm2", tmp_path, edit))


@pytest.mark.parametrize("fuse", [False, True])
def test_unknown_characters(tmp_path: Path, fuse: bool) -> None:
    """Without byte fallback every character outside the vocabulary is unknown."""
    change = {"byte_fallback": False, "fuse_unk": fuse}
    check_texts(edited("llama2", tmp_path, lambda document: document["model"].update(change)))


def test_without_unknown_token(tmp_path: Path) -> None:
    change = {"byte_fallback": False, "unk_token": None}
    check_texts(edited("llama2", tmp_path, lambda document: document["model"].update(change)))


def test_missing_byte_token(tmp_path: Path) -> None:
    """Characters that need it are unknown; the others still fall back to bytes."""

    def edit(document: dict[str, Any]) -> None:
        vocabulary = document["model"]["vocab"]
        vocabulary["<0xE6>x"] = vocabulary.pop("<0xE6>")

    check_texts(edited("llama2", tmp_path, edit))


def test_special_tokens_that_are_normalized(tmp_path: Path) -> None:
    """As the first Llama files had them: found, and decoded, in their normalised spelling.

    The library compares that spelling with the plain one and so never skips such a token; we do.
    """

    def edit(document: dict[str, Any]) -> None:
        for token in document["added_tokens"]:
            token["normalized"] = True

    pair = edited("llama2", tmp_path, edit)
    rng = random.Random(5)
    for text in [*SAMPLES, *(random_string(rng, pair.spellings()) for _ in range(300))]:
        pair.check_encode(text)
        ids = pair.theirs.encode(text).ids
        decoded = pair.theirs.decode(ids, skip_special_tokens=False)
        assert pair.ours.decode(ids, skip_special=False) == decoded
    assert pair.ours.decode([1, 2], skip_special=True) == ""


def test_added_tokens_that_are_normalized(tmp_path: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        token = {"content": "two words", "special": False, "normalized": True}
        flags = {"lstrip": False, "rstrip": False, "single_word": False}
        next_id = len(document["model"]["vocab"])
        document["added_tokens"].append({"id": next_id, **token, **flags})

    check_texts(edited("llama2", tmp_path, edit))


CONVERSATIONS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": "Be brief. "}, {"role": "user", "content": " Hi\n"}],
    [
        {"role": "user", "content": "What is 1 + 1?"},
        {"role": "assistant", "content": "It's 2.\n\n"},
        {"role": "user", "content": "天地玄黄 👍🏽"},
    ],
    [{"role": "system", "content": ""}],
]


def test_chat_template_of_the_model(smollm2_dir: Path, request: pytest.FixtureRequest) -> None:
    """The models' own Jinja templates, rendered, are the oracle of ours."""
    qwen = request.config.getoption("--qwen-dir")
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    for directory in [smollm2_dir, *([Path(qwen)] if qwen is not None else [])]:
        config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
        template = environment.from_string(config["chat_template"])
        pair = Pair.load(directory)
        for messages in CONVERSATIONS:
            for ask in (False, True):
                text = template.render(messages=messages, add_generation_prompt=ask)
                assert pair.ours.apply_chat_template(messages, ask) == text
                pair.theirs.encode_special_tokens = False
                ids = pair.theirs.encode(text, add_special_tokens=False).ids
                assert pair.ours.encode_chat(messages, ask) == ids


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(ValueError, match="text"):
        Tokenizer.load(GOLDEN / "smollm2").encode("a\ud800")
