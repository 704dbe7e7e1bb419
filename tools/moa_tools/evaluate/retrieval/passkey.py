"""Pass key: one number hidden in running text."""

from __future__ import annotations

import random

from moa_tools.evaluate.items import Question
from moa_tools.evaluate.prompts import Piece

INTRO = "The text below hides a pass key, which is a number. Remember it.\n\n"
ANSWER_ROOM = 12
# "The pass key is" alone is gone on with as a definition by small models: the word before the
# answer says that a number follows.
_START = "The pass key is the number"


def make(rng: random.Random, depth: float, _facts: int) -> tuple[list[Piece], Question]:
    """The hidden sentence and the question about it."""
    key = str(rng.randint(10000, 99999))
    hidden = f"{_START} {key}. Remember it: the number {key} is the pass key. "
    question = Question(
        "\n\nWhich number is the pass key hidden in the text?", _START, (key,), f" {key}"
    )
    return [Piece(depth, hidden)], question
