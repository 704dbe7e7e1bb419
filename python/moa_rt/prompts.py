"""What generate() and submit() accept as prompts, made into token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias, Union

import numpy as np

from moa_rt._core import Tokenizer
from moa_rt.errors import ArgumentError

TokenIds: TypeAlias = Union[Sequence[int], "np.ndarray[tuple[int], np.dtype[np.integer]]"]
# {"role": "system", "user" or "assistant", "content": ...}, oldest first.
Chat: TypeAlias = Sequence[Mapping[str, str]]
Prompt: TypeAlias = str | Chat | TokenIds

# A token is at most this many bytes of text on average; anything longer is refused before it is
# tokenized (D9).
_BYTES_PER_TOKEN = 16


def is_batch(prompts: object) -> bool:
    """Whether this is a list of prompts and not one prompt. An empty list is a batch of none."""
    if not isinstance(prompts, (list, tuple)):
        return False
    return not prompts or isinstance(prompts[0], (str, list, tuple, range, np.ndarray))


def to_token_ids(
    prompt: Prompt, tokenizer: Tokenizer | None, max_tokens: int, name: str
) -> TokenIds:
    """Ids of a text (with the tokenizer's BOS), of a chat (ready for the answer), or ids as given.

    Raises:
        ArgumentError: a text or chat for a model without tokenizer, or far too much text.
    """
    if isinstance(prompt, str):
        _check_length([prompt], max_tokens, name)
        return _named(tokenizer, name).encode(prompt)
    if isinstance(prompt, (list, tuple)) and prompt and isinstance(prompt[0], Mapping):
        contents = [m.get("content") for m in prompt if isinstance(m, Mapping)]
        _check_length(contents, max_tokens, name)
        return _named(tokenizer, name).encode_chat(list(prompt))
    return prompt  # type: ignore[return-value]


def _named(tokenizer: Tokenizer | None, name: str) -> Tokenizer:
    if tokenizer is None:
        raise ArgumentError(f"{name}: got text, want token ids: this model has no tokenizer.json")
    return tokenizer


def _check_length(texts: Sequence[object], max_tokens: int, name: str) -> None:
    limit = _BYTES_PER_TOKEN * max_tokens
    characters = sum(len(text) for text in texts if isinstance(text, str))
    size = characters  # at least; encoding costs a copy, so only when it can matter
    if characters <= limit < 4 * characters:
        size = sum(len(t.encode(errors="surrogatepass")) for t in texts if isinstance(t, str))
    if size > limit:
        raise ArgumentError(
            f"{name}: got {size} bytes of text, want at most {limit} "
            f"for a limit of {max_tokens} tokens"
        )
