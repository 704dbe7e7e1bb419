"""What is replayed: the user's texts, or some that ship with Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moa_rt import ArgumentError, Tokenizer

from moa_tools.text.corpus import Document, builtin_documents, user_documents


def builtin_prompts(tokenizer: Tokenizer, length: int) -> list[list[int]]:
    """Prose and code of `length` tokens, and prose of an odd third of it."""
    prose, code = (builtin_documents(kind, "heldout") for kind in ("prose", "code"))
    third = max(2, length // 3 | 1)
    return [
        _first_tokens(tokenizer, prose, length),
        _first_tokens(tokenizer, code, length),
        _first_tokens(tokenizer, prose[::-1], third),
    ]


def file_prompts(tokenizer: Tokenizer, path: Path, length: int) -> list[list[int]]:
    """Each text of a file, its first `length` tokens. Raises ArgumentError if one is empty."""
    prompts = [tokenizer.encode(document.text)[:length] for document in user_documents([path])]
    for index, prompt in enumerate(prompts):
        if len(prompt) < 2:
            raise ArgumentError(f"{path}: text {index}: got {len(prompt)} tokens, want at least 2")
    return prompts


def _first_tokens(tokenizer: Tokenizer, documents: Sequence[Document], length: int) -> list[int]:
    ids: list[int] = []
    for document in documents:
        ids += tokenizer.encode(document.text, add_special=not ids)
        if len(ids) >= length:
            return ids[:length]
    raise ArgumentError(f"length: got {length}, the built-in text has {len(ids)} tokens")
