"""Texts as sequences of words, the way the metrics of LongBench and LV-Eval compare them.

Chinese is compared character by character: the published scripts cut it into words with a
dictionary, so their Chinese scores differ from ours.
"""

from __future__ import annotations

import re
import string
import unicodedata

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def english(text: str) -> list[str]:
    """Words in lower case, without ASCII punctuation and without articles (SQuAD's rule)."""
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF" and character.isalnum()


def chinese(text: str) -> list[str]:
    """Chinese characters and runs of other letters or digits, without any punctuation."""
    words: list[str] = []
    run = ""
    for character in text.lower():
        if character.isalnum() and not _is_wide(character):
            run += character
            continue
        if run:
            words.append(run)
            run = ""
        if _is_wide(character):
            words.append(character)
    return [*words, run] if run else words
