"""The retrieval suites by name, and the making of their questions."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moa_rt import ArgumentError

from moa_tools.evaluate import grade
from moa_tools.evaluate.items import Grid, Item, Question, gold_ids, make_item
from moa_tools.evaluate.prompts import Kit, Piece
from moa_tools.evaluate.retrieval import kv, lines, needles, passkey

Make = Callable[[random.Random, float, int], tuple[list[Piece], Question]]


@dataclass(frozen=True)
class Generator:
    """A suite: how a question is made, and how an answer is graded."""

    name: str
    intro: str
    make: Make
    grade: Callable[[str, Sequence[str]], float]
    answer_room: Callable[[int], int]  # facts -> tokens of the answer
    many_facts: bool  # whether "as many facts as fit" means something
    stop: tuple[str, ...]
    most_facts: int | None = None  # that can be told apart; None: any number


GENERATORS = {
    g.name: g
    for g in (
        Generator(
            "passkey",
            passkey.INTRO,
            passkey.make,
            grade.first_integer,
            lambda _: passkey.ANSWER_ROOM,
            False,
            ("\n",),
        ),
        Generator(
            "lines",
            lines.INTRO,
            lines.make,
            grade.last_integer,
            lambda _: lines.ANSWER_ROOM,
            True,
            ("\n",),
            lines.MOST_FACTS,
        ),
        Generator(
            "kv",
            kv.INTRO,
            kv.make,
            grade.begins_with,
            lambda _: kv.ANSWER_ROOM,
            True,
            ("\n",),
        ),
        Generator(
            "needles",
            needles.INTRO,
            needles.make,
            grade.fraction_found,
            needles.answer_room,
            False,
            (),
            needles.MOST_FACTS,
        ),
    )
}


def _as_many_as_fit(
    generator: Generator, kit: Kit, grid: Grid, length: int, index: int
) -> tuple[list[Piece], Question]:
    """The published form: nothing but facts, the one asked for at its depth among them.

    Where there are no more facts to be told apart, filler takes the rest of the room.
    """
    end = (generator.most_facts or length) + 1  # a fact takes a token at least
    low, high = 1, min(2, end)
    while high < end and _fits(generator, kit, grid, length, index, high):
        low, high = high, min(2 * high, end)
    while high - low > 1:
        middle = (low + high) // 2
        if _fits(generator, kit, grid, length, index, middle):
            low = middle
        else:
            high = middle
    rng = grid.rng(generator.name, length, index)
    pieces, question = generator.make(rng, grid.depth_of(index), low)
    place = min(low - 1, int(grid.depth_of(index) * low))
    ordered = [*pieces[1 : place + 1], pieces[0], *pieces[place + 1 :]]
    return [Piece(i / low, piece.text) for i, piece in enumerate(ordered)], question


def _fits(generator: Generator, kit: Kit, grid: Grid, length: int, index: int, facts: int) -> bool:
    rng = grid.rng(generator.name, length, index)
    pieces, question = generator.make(rng, grid.depth_of(index), facts)
    room = _body_room(generator, kit, question, length, generator.answer_room(facts))
    return sum(len(kit.encode(piece.text)) for piece in pieces) <= room


def _body_room(
    generator: Generator, kit: Kit, question: Question, length: int, answer_room: int
) -> int:
    return kit.room(length - answer_room, generator.intro, question.ask, question.answer_start)


def _make_one(generator: Generator, kit: Kit, grid: Grid, length: int, index: int) -> Item:
    facts = 1 if generator.name == "passkey" else grid.facts
    if generator.most_facts is not None and facts > generator.most_facts:
        raise ArgumentError(f"facts: got {facts}, want at most {generator.most_facts}")
    if facts == 0:
        if not generator.many_facts:
            raise ArgumentError(f"{generator.name}: got 0 facts, want the number of them")
        pieces, question = _as_many_as_fit(generator, kit, grid, length, index)
    else:
        rng = grid.rng(generator.name, length, index)
        pieces, question = generator.make(rng, grid.depth_of(index), facts)
    room = generator.answer_room(facts)
    if grid.teacher_forced:
        room = len(gold_ids(kit, question))
    space = _body_room(generator, kit, question, length, room)
    asked = next(i for i, piece in enumerate(pieces) if question.gold[0] in piece.text)
    rng = grid.rng(f"{generator.name}/text", length, index)
    body, placed = kit.weave(rng, pieces, space)
    return make_item(
        kit,
        grid,
        question,
        [*kit.encode(generator.intro), *body],
        suite=generator.name,
        length=length,
        index=index,
        placed=placed[asked],
        answer_room=room,
    )


def make_items(name: str, kit: Kit, grid: Grid, length: int) -> list[Item]:
    """The questions of a suite at one length, in order.

    Raises ArgumentError for an unknown suite, more facts than can be told apart, or a length too
    short for them.
    """
    generator = GENERATORS.get(name)
    if generator is None:
        raise ArgumentError(f"--suite: got {name!r}, want one of {sorted(GENERATORS)}")
    try:
        return [_make_one(generator, kit, grid, length, i) for i in range(grid.samples)]
    except ArgumentError as error:
        raise ArgumentError(f"{name}: length {length}: {error}") from error
