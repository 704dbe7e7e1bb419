"""Documents that ship with Python: no download, and the same for everybody with that Python.

Prose: the topics of `help()` and the docstrings of the standard library. Code: its sources. A
document belongs to one part for good, by a hash of its name; a paragraph that two prose documents
share stays in one of them, so the parts have no paragraph in common.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from moa_rt import ArgumentError

from moa_tools.text import user_files

Kind = Literal["prose", "code"]
Part = Literal["calibration", "validation", "heldout"]
KINDS: tuple[Kind, ...] = ("prose", "code")
PARTS: tuple[Part, ...] = ("calibration", "validation", "heldout")

# Tenths of the documents in each part, in the order of PARTS.
_TENTHS = (5, 7, 10)
_MIN_DOCSTRING = 300  # characters; shorter ones are one-line reminders
_MIN_PARAGRAPH = 80  # characters; a shorter one may well be written twice
_MIN_DOCUMENT = 1500  # characters of prose worth keeping
# Not written by people for people, or (tests) mostly tables of cases.
_SKIPPED = {
    "encodings", "lib2to3", "site-packages", "dist-packages", "test", "tests", "idlelib",
    "pydoc_data", "__pycache__", "turtledemo", "ensurepip", "__phello__",
}  # fmt: skip


@dataclass(frozen=True)
class Document:
    """A text with a name that is unique in its corpus."""

    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Of the text in UTF-8, as hex digits."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()


def part_at(position: int, total: int) -> Part:
    """The part in which a place of `total` lies: 5 tenths, 2 tenths, 3 tenths."""
    return PARTS[next(i for i, end in enumerate(_TENTHS) if position * 10 < end * total)]


def part_of(name: str) -> Part:
    """The part a document of that name belongs to: stable over machines and versions."""
    return part_at(hashlib.sha256(name.encode("utf-8")).digest()[0], 256)


def builtin_documents(kind: Kind, part: Part) -> list[Document]:
    """Documents of the installed Python's own text, sorted by name.

    A module's docstrings and its source are in the same part. Raises ArgumentError if `kind` or
    `part` is none of `KINDS`, `PARTS`.
    """
    if kind not in KINDS:
        raise ArgumentError(f"kind: got {kind!r}, want one of {KINDS}")
    if part not in PARTS:
        raise ArgumentError(f"part: got {part!r}, want one of {PARTS}")
    documents = _prose() if kind == "prose" else _code()
    return [document for document in documents if part_of(document.name) == part]


def user_documents(paths: Sequence[str | Path], field: str | None = None) -> list[Document]:
    """Documents from text files, JSONL files, directories of text, Hugging Face datasets on disk.

    `field` names the text in JSONL lines and dataset rows, None for the first usual name that is
    there. Raises IoError, FormatError (not UTF-8, not JSON, no such field) or ArgumentError (no
    text at all, `datasets` is not installed).
    """
    found = [Document(name, text) for name, text in user_files.read_all(paths, field)]
    if not found:
        raise ArgumentError(f"source: got no text in {[str(p) for p in paths]}, want some")
    return found


@lru_cache(maxsize=1)
def _sources() -> tuple[Document, ...]:
    """Modules of the standard library as (dotted name, source), sorted by name."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for path in root.rglob("*.py"):
        relative = path.relative_to(root)
        if _SKIPPED.intersection(relative.parts):
            continue
        try:
            text = path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError):
            continue  # a module in an old encoding, or one that we may not read
        found.append(Document(".".join(relative.with_suffix("").parts), text.replace("\r", "")))
    return tuple(sorted(found, key=lambda document: document.name))


def _code() -> list[Document]:
    return [document for document in _sources() if len(document.text) >= _MIN_DOCUMENT]


def _docstrings(source: str) -> Iterator[str]:
    nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, nodes):
            text = ast.get_docstring(node)
            if text and len(text) >= _MIN_DOCSTRING:
                yield inspect.cleandoc(text)


@lru_cache(maxsize=1)
def _prose() -> tuple[Document, ...]:
    from pydoc_data.topics import topics

    found = [Document(f"help.{name}", text.strip()) for name, text in topics.items()]
    # Longest first: a long topic holds several short ones as its sections.
    found.sort(key=lambda document: (-len(document.text), document.name))
    for module in _sources():
        text = "\n\n".join(_docstrings(module.text))
        if text:
            found.append(Document(module.name, text))
    return tuple(sorted(_without_repeats(found), key=lambda document: document.name))


def _without_repeats(documents: Sequence[Document]) -> Iterator[Document]:
    seen: set[str] = set()
    for document in documents:
        blocks = re.split(r"\n\s*\n", document.text)
        keys = [" ".join(block.split()) for block in blocks]
        kept = [
            block
            for block, key in zip(blocks, keys, strict=True)
            if len(key) < _MIN_PARAGRAPH or key not in seen
        ]
        seen.update(key for key in keys if len(key) >= _MIN_PARAGRAPH)
        text = "\n\n".join(kept)
        if len(text) >= max(_MIN_DOCUMENT, len(document.text) // 2):
            yield Document(document.name, text)
