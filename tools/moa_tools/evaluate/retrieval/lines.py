"""Line retrieval in the form of LongEval: named lines, each with a register content."""

from __future__ import annotations

import random

from moa_tools.evaluate.items import Question
from moa_tools.evaluate.prompts import Piece
from moa_tools.evaluate.retrieval.words import ADJECTIVES, NOUNS

INTRO = (
    "Below are lines of the form 'line NAME: REGISTER_CONTENT is <NUMBER>'. Remember the number "
    "of every line.\n\n"
)
ANSWER_ROOM = 12
MOST_FACTS = len(ADJECTIVES) * len(NOUNS)  # no two lines have one name


def _names(rng: random.Random, count: int) -> list[str]:
    """Different names; no adjective and no noun twice while there are enough of them."""
    if count <= min(len(ADJECTIVES), len(NOUNS)):
        pairs = zip(rng.sample(ADJECTIVES, count), rng.sample(NOUNS, count), strict=True)
        return [f"{adjective}-{noun}" for adjective, noun in pairs]
    every = [f"{adjective}-{noun}" for adjective in ADJECTIVES for noun in NOUNS]
    return rng.sample(every, count)


def make(rng: random.Random, depth: float, facts: int) -> tuple[list[Piece], Question]:
    """`facts` lines, the first of which is asked for and stands at `depth`."""
    names = _names(rng, facts)
    values = [str(rng.randint(10000, 50000)) for _ in names]
    depths = [depth, *(rng.random() for _ in names[1:])]
    pieces = [
        Piece(place, f"\nline {name}: REGISTER_CONTENT is <{value}>\n")
        for place, name, value in zip(depths, names, values, strict=True)
    ]
    question = Question(
        f"\n\nWhat is the REGISTER_CONTENT in line {names[0]}?",
        f"line {names[0]}: REGISTER_CONTENT is <",
        (values[0],),
        values[0],
    )
    return pieces, question
