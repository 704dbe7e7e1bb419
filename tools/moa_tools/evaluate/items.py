"""What a retrieval suite asks: prompts of an exact token budget, with the answers."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from moa_tools.evaluate.engines import Ids, as_ids
from moa_tools.evaluate.prompts import Kit


@dataclass(frozen=True)
class Question:
    """One question before it has a length: what to find, and how the prompt ends."""

    ask: str  # the end of the user's message
    answer_start: str  # the model's answer is begun for it
    gold: tuple[str, ...]  # what a right answer holds, in order; the first follows answer_start
    continuation: str  # the text after `answer_start` that is exactly right


@dataclass(frozen=True, eq=False)
class Item:
    """One prompt. `length` is the token budget: prompt and `max_new_tokens` fill it exactly."""

    id: str
    suite: str
    length: int
    depth: float  # the depth asked for, 0 to 1
    placed: float  # the depth it got: the beginning of the nearest sentence
    prompt_ids: Ids
    max_new_tokens: int
    gold: tuple[str, ...]
    gold_ids: tuple[int, ...]  # of the right continuation


@dataclass(frozen=True)
class Grid:
    """How many questions of which kind: the same for every plan."""

    samples: int = 100
    depths: int = 10
    seed: int = 0
    facts: int = 4  # lines, pairs or needles in a text; 0: as many as fit
    teacher_forced: bool = False

    def depth_of(self, index: int) -> float:
        """The middle of a slice of the text: samples go round the slices."""
        return round((index % self.depths + 0.5) / self.depths, 6)

    def rng(self, suite: str, length: int, index: int) -> random.Random:
        """The randomness of one question, by its place alone."""
        return random.Random(f"{self.seed}/{suite}/{length}/{index}")


def gold_ids(kit: Kit, question: Question) -> tuple[int, ...]:
    """Ids of the right continuation."""
    return tuple(kit.encode(question.continuation))


def make_item(
    kit: Kit,
    grid: Grid,
    question: Question,
    body: Sequence[int],
    *,
    suite: str,
    length: int,
    index: int,
    placed: float,
    answer_room: int,
) -> Item:
    """Frames a body of ids; the caller has made it fill the budget but for the answer's room."""
    ids = kit.chat([*body, *kit.encode(question.ask)], question.answer_start)
    return Item(
        id=f"{suite}/{length}/{index}",
        suite=suite,
        length=length,
        depth=grid.depth_of(index),
        placed=round(placed, 6),
        prompt_ids=as_ids(ids),
        max_new_tokens=answer_room,
        gold=question.gold,
        gold_ids=gold_ids(kit, question),
    )


def digest(items: Sequence[Item]) -> str:
    """SHA-256 over all prompts and answers: equal digests, equal questions."""
    total = hashlib.sha256()
    for item in items:
        total.update(f"{item.id} {item.max_new_tokens} {item.gold}\n".encode())
        total.update(item.prompt_ids.tobytes())
    return total.hexdigest()
