"""Key-value retrieval: JSON pairs of random hexadecimal keys and values."""

from __future__ import annotations

import random

from moa_tools.evaluate.items import Question
from moa_tools.evaluate.prompts import Piece

INTRO = "The text below has JSON objects of one key and one value in it. Remember them.\n\n"
ANSWER_ROOM = 24


def identifier(rng: random.Random) -> str:
    """The first two groups of a random UUID: 8 and 4 hexadecimal digits."""
    return f"{rng.getrandbits(32):08x}-{rng.getrandbits(16):04x}"


def make(rng: random.Random, depth: float, facts: int) -> tuple[list[Piece], Question]:
    """`facts` pairs, the first of which is asked for and stands at `depth`."""
    pairs = [(identifier(rng), identifier(rng)) for _ in range(facts)]
    depths = [depth, *(rng.random() for _ in pairs[1:])]
    pieces = [
        Piece(place, f'\n{{"{key}": "{value}"}}\n')
        for place, (key, value) in zip(depths, pairs, strict=True)
    ]
    key, value = pairs[0]
    question = Question(
        f'\n\nWhat is the value of the key "{key}"?', f'{{"{key}": "', (value,), value
    )
    return pieces, question
