"""Pass key: one number hidden in running text."""

from __future__ import annotations

import random

from moa_tools.evaluate.items import Question
from moa_tools.evaluate.prompts import Piece

INTRO = "Somewhere in the text below a pass key is hidden. Remember it.\n\n"
ANSWER_ROOM = 12


def make(rng: random.Random, depth: float, _facts: int) -> tuple[list[Piece], Question]:
    """The hidden sentence and the question about it."""
    key = str(rng.randint(10000, 99999))
    hidden = f"The pass key is {key}. Remember it: {key} is the pass key. "
    question = Question("\n\nWhat is the pass key?", "The pass key is", (key,), f" {key}")
    return [Piece(depth, hidden)], question
