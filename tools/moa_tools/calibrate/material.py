"""The text of one split that exercises are made of: prose, code and whole documents."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moa_rt import ArgumentError

from moa_tools.calibrate.samples import Split
from moa_tools.text.corpus import Document, Part, builtin_documents
from moa_tools.text.fit import paragraphs, sentences
from moa_tools.text.split import WHOLE_FROM, split_user

PART_OF_SPLIT: dict[Split, Part] = {
    "profile": "calibration",
    "validate": "validation",
    "heldout": "heldout",
}

# More characters than any tokenizer has in a token of running text, on average.
CHARACTERS_PER_TOKEN = 8
_MAX_BLOCK = 2000  # characters of code without a place for a constant
_QUOTABLE = re.compile(r"[A-Z][a-zA-Z ,'()-]{70,220}[.]\s?")


@dataclass(frozen=True)
class Material:
    """Documents of one split: prose (the user's, if there is any) and code."""

    split: Split
    prose: tuple[Document, ...]
    code: tuple[Document, ...]

    def filler(self, rng: random.Random, length: int, kind: str) -> tuple[list[str], str]:
        """Units of running text for `length` tokens, and the names of their documents.

        `kind`: "sentences" or "paragraphs" of prose, or "code" in top-level blocks. It starts
        within a document and goes on with others.
        """
        documents = list(self.code if kind == "code" else self.prose)
        rng.shuffle(documents)
        cut = {"sentences": sentences, "paragraphs": paragraphs, "code": code_blocks}[kind]
        units: list[str] = []
        names: list[str] = []
        missing = CHARACTERS_PER_TOKEN * length
        head: list[str] = []
        for number, document in enumerate(documents):
            found = cut(document.text)
            if number == 0:
                start = rng.randrange(0, 1 + len(found) // 2)
                head, found = found[:start], found[start:]
            if found:
                units += [*found, "\n\n"] if kind != "code" else found
                names.append(document.name)
                missing -= sum(map(len, found))
            if missing <= 0:
                break
        return units + head if missing > 0 else units, _listed(names)

    def pieces(self, rng: random.Random, size: int) -> Iterator[tuple[str, str]]:
        """(name, text of `size` characters or less): one of each document, then their others."""
        documents = list(self.prose)
        rng.shuffle(documents)
        rest = []
        for document in documents:
            found = [document.text[i : i + size] for i in range(0, len(document.text), size)]
            whole = [piece for piece in found if len(piece) > size // 2] or found
            first = whole.pop(rng.randrange(len(whole)))
            rest += [(document.name, piece) for piece in whole]
            yield document.name, first
        rng.shuffle(rest)
        yield from rest

    def quotable(self, rng: random.Random, count: int) -> list[str]:
        """Sentences that begin in different ways; of plain words, 70 to 220 characters, if any are.

        Else runs of 20 words. Raises ArgumentError if there is no text of that many words.
        """
        found: dict[str, str] = {}
        documents = list(self.prose)
        rng.shuffle(documents)
        for document in documents:
            plain = [s.strip() for s in sentences(document.text) if _QUOTABLE.fullmatch(s)]
            for sentence in rng.sample(plain, min(2, len(plain))):
                found.setdefault(" ".join(sentence.split()[:4]), sentence)
            if len(found) >= count:
                break
        for document in documents if not found else ():
            words = document.text.split()
            if len(words) >= 20:
                begin = rng.randrange(0, len(words) - 19)
                found.setdefault(" ".join(words[begin : begin + 4]), " ".join(words[begin:][:20]))
        if not found:
            raise ArgumentError(f"source: got no 20 words to quote for {self.split}, want some")
        return list(found.values())[:count]


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(names[:4])
    return (text + ", ..." if len(names) > 4 else text)[:190]


def code_blocks(source: str) -> list[str]:
    """A module's top-level statements, each with the blank lines behind it; huge ones left out."""
    blocks = re.split(
        r"\n(?=(?:def|class|async def|@|[A-Za-z_]+ *=|if|for|try|import|from)\b)", source
    )
    return [block.rstrip() + "\n\n\n" for block in blocks if 0 < len(block) <= _MAX_BLOCK]


def amount(documents: Sequence[Document]) -> str:
    """How much text that is, in words."""
    size = sum(len(document.text) for document in documents)
    return f"{len(documents)} document{'s'[: len(documents) != 1]} of {size} characters in all"


def material_of(split: Split, user: Sequence[Document] | None) -> Material:
    """The material of a split; `user` documents take the place of Python's own prose.

    Raises ArgumentError if nothing of the user's text falls to this split.
    """
    part = PART_OF_SPLIT[split]
    prose = builtin_documents("prose", part) if user is None else split_user(user, part)
    if not prose:
        raise ArgumentError(
            f"source: got {amount(user or ())}, and nothing of it for the split {split!r}; want "
            f"{WHOLE_FROM} different documents or more, or longer ones, which are cut"
        )
    return Material(split, tuple(prose), tuple(builtin_documents("code", part)))
