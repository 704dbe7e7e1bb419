"""Grading of retrieval answers: from the text of an answer and the gold to a score in [0, 1]."""

from __future__ import annotations

import re
from collections.abc import Sequence

_INTEGER = re.compile(r"\d+")


def integers(text: str) -> list[str]:
    """Runs of decimal digits, leading zeros dropped, in order."""
    return [str(int(run)) for run in _INTEGER.findall(text)]


def last_integer(answer: str, gold: Sequence[str]) -> float:
    """1 iff the last integer of the answer is the value: the rule of LongEval's line retrieval."""
    found = integers(answer)
    return float(bool(found) and found[-1] == str(int(gold[0])))


def first_integer(answer: str, gold: Sequence[str]) -> float:
    """1 iff the first integer of the answer is the value."""
    found = integers(answer)
    return float(bool(found) and found[0] == str(int(gold[0])))


def begins_with(answer: str, gold: Sequence[str]) -> float:
    """1 iff the answer begins with the value, and the value ends there."""
    rest = answer.lstrip(' "')
    value = gold[0]
    return float(rest.startswith(value) and not rest[len(value) : len(value) + 1].isalnum())


def fraction_found(answer: str, gold: Sequence[str]) -> float:
    """Share of the values that are among the integers of the answer."""
    found = set(integers(answer))
    return sum(str(int(value)) in found for value in gold) / len(gold)
