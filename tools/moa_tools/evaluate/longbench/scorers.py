"""Scorers of LongBench (arXiv 2308.14508) and LV-Eval (arXiv 2402.05136), each in [0, 1].

Written from the published definitions. A scorer takes the answer and the gold; `Case` holds what
some of them need besides.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moa_tools.evaluate.longbench.words import chinese, english

Words = Callable[[str], list[str]]

_INTEGER = re.compile(r"\d+")
_COMMENT_MARKS = ("`", "#", "//")
# Words too common to show that an answer has the keywords.
_COMMON = frozenset(
    {
        "about", "and", "are", "as", "at", "be", "because", "being", "but", "by", "does",
        "for", "from", "had", "has", "have", "he", "her", "his", "in", "is", "it", "of",
        "on", "or", "she", "that", "their", "they", "this", "to", "was", "were", "what",
        "when", "which", "who", "with",
    }
)  # fmt: skip
_KEYWORD_SHARE_ENGLISH, _KEYWORD_SHARE_CHINESE = 0.2, 0.4


@dataclass(frozen=True)
class Case:
    """What belongs to a question besides the gold answers."""

    classes: tuple[str, ...] = ()
    keywords: str | None = None


Scorer = Callable[[str, str, Case], float]


def f1(answer: Sequence[str], gold: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of words, each counted as often as it occurs."""
    shared = sum((Counter(answer) & Counter(gold)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(answer), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


def qa_f1(answer: str, gold: str, _: Case) -> float:
    """Word F1 of English answers."""
    return f1(english(answer), english(gold))


def qa_f1_chinese(answer: str, gold: str, _: Case) -> float:
    """The same for Chinese."""
    return f1(chinese(answer), chinese(gold))


def _common_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of a longest common subsequence."""
    row = [0] * (len(b) + 1)
    for item in a:
        left_above = 0
        for index, other in enumerate(b, 1):
            above = row[index]
            row[index] = left_above + 1 if item == other else max(above, row[index - 1])
            left_above = above
    return row[-1]


def _common_places(reference: Sequence[str], answer: Sequence[str]) -> set[int]:
    """Places in `reference` of one longest common subsequence with `answer`."""
    table = [[0] * (len(answer) + 1) for _ in range(len(reference) + 1)]
    for i, word in enumerate(reference):
        for j, other in enumerate(answer):
            same = table[i][j] + 1 if word == other else 0
            table[i + 1][j + 1] = same or max(table[i][j + 1], table[i + 1][j])
    places = set()
    i, j = len(reference), len(answer)
    while i and j:
        if reference[i - 1] == answer[j - 1]:
            i, j = i - 1, j - 1
            places.add(i)
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return places


def _sentences(text: str) -> list[list[str]]:
    """Cut at full stops, then at white space."""
    return [part.split() for part in text.split(".") if part.split()]


def rouge_l(answer: str, gold: str, _: Case) -> float:
    """ROUGE-L F1 of summaries: union of longest common subsequences by sentence (Lin 2004, 3.2).

    Each sentence of the gold contributes the different words that it shares, in order, with any
    sentence of the answer; counts are of different words, as in the package LongBench uses.
    """
    ours, golds = _sentences(answer), _sentences(gold)
    if not ours or not golds:
        return 0.0
    union = {
        reference[place]
        for reference in golds
        for sentence in ours
        for place in _common_places(reference, sentence)
    }
    recall = len(union) / len({word for sentence in golds for word in sentence})
    precision = len(union) / len({word for sentence in ours for word in sentence})
    return 2 * precision * recall / (precision + recall) if union else 0.0


def rouge_l_chinese(answer: str, gold: str, case: Case) -> float:
    """The same over Chinese characters."""
    return rouge_l(" ".join(chinese(answer)), " ".join(chinese(gold)), case)


def classification(answer: str, gold: str, case: Case) -> float:
    """1 / the number of classes named in the answer if the gold is one of them, else 0.

    A class whose name is part of the gold's name is not counted.
    """
    named = [name for name in case.classes if name in answer]
    # One pass over the list while it shrinks, as published: after a removal one entry is skipped.
    index = 0
    while index < len(named):
        if named[index] in gold and named[index] != gold:
            named.remove(named[index])
        index += 1
    return 1.0 / len(named) if gold in named else 0.0


def code_similarity(answer: str, gold: str, _: Case) -> float:
    """Edit similarity of the answer's first line of code: 2 * common subsequence / both lengths.

    Lines with a back quote, "#" or "//" are passed over. Rounded to whole percents.
    """
    lines = answer.lstrip("\n").split("\n")
    line = next((x for x in lines if not any(mark in x for mark in _COMMENT_MARKS)), "")
    total = len(line) + len(gold)
    if not line or not gold:
        return 0.0
    return round(100 * 2 * _common_length(line, gold) / total) / 100


def _share_of_integers(answer: str, wanted: str) -> float:
    found = _INTEGER.findall(answer)
    return found.count(wanted) / len(found) if found else 0.0


def count(answer: str, gold: str, _: Case) -> float:
    """Share of the integers in the answer that are the gold number."""
    return _share_of_integers(answer, gold)


def _retrieval(word: str) -> Scorer:
    pattern = re.compile(word + r"(\d+)")

    def scorer(answer: str, gold: str, _: Case) -> float:
        found = pattern.search(gold)
        return _share_of_integers(answer, found[1]) if found else 0.0

    scorer.__doc__ = "Share of the integers in the answer that are the number of the paragraph."
    return scorer


retrieval = _retrieval("Paragraph ")
retrieval_chinese = _retrieval("段落")


def _keyword_f1(words: Words, least: float) -> Scorer:
    def scorer(answer: str, gold: str, case: Case) -> float:
        ours = words(answer)
        keywords = words(case.keywords or (gold if words is chinese else ""))
        if keywords:
            shared = Counter(ours) & Counter(keywords)
            recalled = sum(n for word, n in shared.items() if word not in _COMMON)
            if recalled / len(keywords) < least:
                return 0.0
        return f1(ours, words(gold))

    scorer.__doc__ = "Word F1 if enough of the keywords are in the answer, else 0 (LV-Eval)."
    return scorer


keyword_f1 = _keyword_f1(english, _KEYWORD_SHARE_ENGLISH)
keyword_f1_chinese = _keyword_f1(chinese, _KEYWORD_SHARE_CHINESE)
