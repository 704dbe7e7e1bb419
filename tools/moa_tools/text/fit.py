"""Prompts of an exact number of tokens: filler text with needles at given depths.

The length is that of the final token ids, chat template and question included, so it is found by
encoding the whole prompt: tokens at a seam depend on both sides of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moa_rt import ArgumentError, Tokenizer

# Body text -> token ids of the whole prompt.
Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Needle:
    """A text to be put at `depth` of the filler: 0 before all of it, 1 after it."""

    depth: float
    text: str


class FrameTooLongError(ArgumentError):
    """Needles and frame alone are longer than the length."""


class FillerTooShortError(ArgumentError):
    """All the filler has `got` tokens, with needles and frame; `want` were asked for."""

    def __init__(self, got: int, want: int) -> None:
        super().__init__(f"filler: got {got} tokens of text, want {want}")
        self.got, self.want = got, want


def chat_ids(tokenizer: Tokenizer, user: str, answer_start: str = "") -> list[int]:
    """Ids of a prompt as the model wants it: its chat template if it has one, else the text.

    `answer_start` opens the answer.
    """
    if not tokenizer.has_chat_template:
        return tokenizer.encode(user + ("\n" + answer_start if answer_start else "\n"))
    ids = tokenizer.encode_chat([{"role": "user", "content": user}])
    return ids + (tokenizer.encode(answer_start, add_special=False) if answer_start else [])


def paragraphs(text: str) -> list[str]:
    """The text cut at blank lines, with its line breaks kept: joined, it is the text again."""
    return [part for part in re.split(r"(?<=\n\n)(?!\n)", text) if part]


def sentences(text: str) -> list[str]:
    """Prose as one sentence a unit, each ending in one space; white space is made plain."""
    flat = " ".join(text.split())
    return [part + " " for part in re.split(r"(?<=[.!?]) (?=[A-Z\"'(])", flat) if part]


def compose(units: Sequence[str], needles: Sequence[Needle]) -> str:
    """The units in order, with every needle before the first unit that starts at its depth."""
    total = sum(map(len, units))
    waiting = sorted(needles, key=lambda needle: needle.depth)
    parts: list[str] = []
    done = 0
    for unit in units:
        while waiting and waiting[0].depth * total <= done:
            parts.append(waiting.pop(0).text)
        parts.append(unit)
        done += len(unit)
    return "".join([*parts, *(needle.text for needle in waiting)])


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The largest count in [low, high] that fits; `low` is known to."""
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def fit(encode: Encode, units: Sequence[str], needles: Sequence[Needle], length: int) -> list[int]:
    """Ids of `encode(units with needles)` with as many units as `length` tokens can hold.

    The last unit is cut to fill up, so the result is `length` tokens or a few less (no cut of a
    text gives every count). Needles are never cut.

    Raises FrameTooLongError if needles and frame alone are longer, FillerTooShortError if the units
    are too short.
    """

    def ids(count: int, extra: str = "") -> list[int]:
        # A cut unit ends its line: a needle may follow.
        return encode(compose([*units[:count], extra + "\n"] if extra else units[:count], needles))

    least = len(ids(0))
    if least > length:
        raise FrameTooLongError(
            f"length: got {length}, want at least {least} tokens for this prompt"
        )
    whole = ids(len(units))
    if len(whole) <= length:
        if len(whole) == length:
            return whole
        raise FillerTooShortError(len(whole), length)
    count = _largest(0, len(units) - 1, lambda n: len(ids(n)) <= length)
    last = units[count]
    cut = _largest(0, len(last), lambda n: len(ids(count, last[:n])) <= length)
    return ids(count, last[:cut])
