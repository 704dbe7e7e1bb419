"""Several needles in natural text: each fact asked for in turn, the score is the share found."""

from __future__ import annotations

import random

from moa_tools.evaluate.items import Question
from moa_tools.evaluate.prompts import Piece
from moa_tools.evaluate.retrieval.words import CITIES

INTRO = "The text below tells the secret numbers of some cities. Remember them.\n\n"
MOST_FACTS = len(CITIES)  # no city has two numbers
_ROOM_PER_NEEDLE = 16


def answer_room(facts: int) -> int:
    """Tokens for a sentence about each needle."""
    return _ROOM_PER_NEEDLE * facts


def make(rng: random.Random, depth: float, facts: int) -> tuple[list[Piece], Question]:
    """`facts` needles, the first at `depth`, the others anywhere; all are asked for at once."""
    cities = rng.sample(CITIES, facts)
    values = [str(rng.randint(10000, 99999)) for _ in cities]
    depths = [depth, *(rng.random() for _ in cities[1:])]
    sentences = [
        f"The secret number of {city} is {value}."
        for city, value in zip(cities, values, strict=True)
    ]
    pieces = [
        Piece(place, sentence + " ") for place, sentence in zip(depths, sentences, strict=True)
    ]
    # A numbered list that has begun is gone on with, where a sentence would be the whole answer.
    listed = [f"{number}. {sentence}" for number, sentence in enumerate(sentences, 1)]
    start = f"1. The secret number of {cities[0]} is"
    question = Question(
        f"\n\nList the secret numbers of {', '.join(cities)}.",
        start,
        tuple(values),
        "\n".join(listed).removeprefix(start),
    )
    return pieces, question
