"""Prompts of an exact number of tokens, put together from token ids.

Pieces are encoded one by one and the filler is cut between two tokens, so any tokenizer gives any
length exactly, and a long prompt costs no second encoding.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from moa_rt import ArgumentError, Tokenizer

_MESSAGES = ("q", "7")
# Sentences of usual length: shorter ones are headings, longer ones tables.
_SENTENCE = range(30, 400)


@dataclass(frozen=True)
class Frame:
    """Token ids around a user's message: the chat template cut in two."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def _common_start(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two lists have in common at their beginning."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (left, right) in pairs if left != right), min(len(a), len(b)))


def frame_of(tokenizer: Tokenizer) -> Frame:
    """The model's chat template around one user turn; without a template its BOS and a newline.

    It is what the prompts of two messages have in common that share no token.
    """
    if not tokenizer.has_chat_template:
        return Frame(tuple(tokenizer.encode("")), tuple(tokenizer.encode("\n", add_special=False)))
    first, second = (
        tokenizer.encode_chat([{"role": "user", "content": message}]) for message in _MESSAGES
    )
    start = _common_start(first, second)
    end = _common_start(first[start:][::-1], second[start:][::-1])
    if start + end >= len(first) or start + end >= len(second):
        raise ArgumentError("chat template: got the same prompt for two messages")
    return Frame(tuple(first[:start]), tuple(first[len(first) - end :]))


@dataclass(frozen=True)
class Piece:
    """A text that must be in the prompt whole, at `depth` of the filler (0 first, 1 last)."""

    depth: float
    text: str


def _nearest(places: Sequence[int], wanted: float) -> int:
    return min(places, key=lambda place: abs(place - wanted))


class Kit:
    """A tokenizer with its chat frame and filler sentences, each encoded once."""

    def __init__(self, tokenizer: Tokenizer, sentences: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.frame = frame_of(tokenizer)
        self._sentences = [s for s in sentences if len(s.strip()) in _SENTENCE]
        if not self._sentences:
            raise ArgumentError("filler: got no sentence of 30 to 399 characters, want some")

    def encode(self, text: str) -> list[int]:
        """Ids of a piece: special tokens spelled in it are text, and none is added."""
        return self.tokenizer.encode(text, add_special=False)

    @cached_property
    def _filler(self) -> list[list[int]]:
        return [self.encode(sentence.strip() + " ") for sentence in self._sentences]

    def filler(self, rng: random.Random, count: int) -> tuple[list[int], list[int]]:
        """`count` ids of running sentences from a random place, and where sentences begin.

        The last sentence is cut; the ends 0 and `count` are among the places.
        """
        sentences = self._filler
        at = rng.randrange(len(sentences))
        ids: list[int] = []
        starts = [0]
        while len(ids) < count:
            ids.extend(sentences[at % len(sentences)])
            starts.append(min(len(ids), count))
            at += 1
        return ids[:count], starts

    def weave(
        self, rng: random.Random, pieces: Sequence[Piece], count: int
    ) -> tuple[list[int], list[float]]:
        """Exactly `count` ids of filler with the pieces in it, and the share of them before each.

        A piece goes to the beginning of the sentence nearest to its depth in the filler. Raises
        ArgumentError if the pieces alone are longer.
        """
        encoded = [self.encode(piece.text) for piece in pieces]
        room = count - sum(map(len, encoded))
        if room < 0:
            raise ArgumentError(
                f"length: got {count} tokens of room, want at least {count - room} for the facts"
            )
        filler, starts = self.filler(rng, room)
        places = [_nearest(starts, piece.depth * room) for piece in pieces]
        order = sorted(range(len(pieces)), key=lambda i: (places[i], i))
        ids: list[int] = []
        shares = [0.0] * len(pieces)
        done = 0
        for index in order:
            ids += filler[done : places[index]]
            shares[index] = len(ids) / count
            ids += encoded[index]
            done = places[index]
        return ids + filler[done:], shares

    def chat(self, body: Sequence[int], answer_start: str) -> list[int]:
        """The chat frame around the ids of a message, and the opening words of the answer."""
        return [*self.frame.before, *body, *self.frame.after, *self.encode(answer_start)]

    def room(self, prompt_tokens: int, *texts: str) -> int:
        """Tokens left for the body of a prompt of `prompt_tokens` beside the frame and `texts`."""
        used = len(self.frame.before) + len(self.frame.after)
        return prompt_tokens - used - sum(len(self.encode(text)) for text in texts)
