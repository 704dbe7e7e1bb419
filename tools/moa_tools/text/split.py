"""The user's documents in parts: whole ones where there are enough, else a piece of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from moa_tools.text.corpus import PARTS, Document, Part, part_at
from moa_tools.text.fit import paragraphs

# From so many different texts on, documents stay whole.
WHOLE_FROM = 3 * len(PARTS)
# Of a part's due share of a document, so much must come of a cut, or the next finer one is tried.
_FAIR = 0.5
_RUNS = 100  # pieces of a text that has no other seams
_SENTENCE_END = re.compile(r"(?<=[.!?])(?=\s)|(?<=[。！？])")  # Chinese and Japanese, too
_WORD_START = re.compile(r"(?<=\s)(?=\S)")


def split_user(documents: Sequence[Document], part: Part) -> list[Document]:
    """Those of the user's documents that belong to `part`, or their pieces, in the given order.

    With nine different texts or more (`WHOLE_FROM`), documents are ranked by the hash of their
    text, and the first 5 tenths of the ranks are for calibration, 2 for validation and 3 held out:
    no part is empty, whatever the order and the names. Equal texts fall to the same part.

    With fewer, each document is cut in that order and those shares of its characters: between
    paragraphs, or where these give a part less than half of its due, lines, then sentences, then
    words, then anywhere. A part is empty only if no text has a few characters.
    """
    ranked = sorted({document.sha256 for document in documents})
    if len(ranked) >= WHOLE_FROM:
        mine = {key for i, key in enumerate(ranked) if part_at(i, len(ranked)) == part}
        return [document for document in documents if document.sha256 in mine]
    pieces = (
        Document(f"{document.name}#{part}", _cut(document.text)[part].strip())
        for document in documents
    )
    return [piece for piece in pieces if piece.text]


def _cut(text: str) -> dict[Part, str]:
    """A text in parts, by the coarsest seams that are fair to each."""
    shares: dict[Part, str] = {}
    for units_of in _SEAMS:
        shares = _shares([unit for unit in units_of(text) if unit])
        if all(len(shares[p].strip()) >= _FAIR * due * len(text) for p, due in _due().items()):
            break
    return shares


def _shares(units: Sequence[str]) -> dict[Part, str]:
    """Every unit in the part in which its middle character lies."""
    found: dict[Part, list[str]] = {part: [] for part in PARTS}
    total, start = sum(map(len, units)), 0
    for unit in units:
        found[part_at(2 * start + len(unit), 2 * total)].append(unit)
        start += len(unit)
    return {part: "".join(kept) for part, kept in found.items()}


def _due() -> dict[Part, float]:
    tenths = [part_at(tenth, 10) for tenth in range(10)]
    return {part: tenths.count(part) / 10 for part in PARTS}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _runs(text: str) -> Iterator[str]:
    size = max(1, len(text) // _RUNS)
    return (text[i : i + size] for i in range(0, len(text), size))


# Coarse to fine; of each, the units joined are the text again.
_SEAMS: tuple[Callable[[str], Sequence[str] | Iterator[str]], ...] = (
    paragraphs,
    _lines,
    _SENTENCE_END.split,
    _WORD_START.split,
    _runs,
)
