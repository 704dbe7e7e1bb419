"""Scorers against cases worked out by hand from their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from moa_tools.evaluate import grade, intervals
from moa_tools.evaluate.longbench import scorers
from moa_tools.evaluate.longbench.scorers import Case
from moa_tools.evaluate.longbench.tasks import LONGBENCH, LVEVAL
from moa_tools.evaluate.longbench.words import chinese, english

NONE = Case()


@pytest.mark.parametrize(
    ("scorer", "answer", "gold", "want"),
    [
        (grade.last_integer, "line 7 has <24169>", ["24169"], 1.0),
        (grade.last_integer, "<24169> is in line 7", ["24169"], 0.0),
        (grade.last_integer, "24169, sorry, 24196", ["24169"], 0.0),
        (grade.last_integer, "none", ["24169"], 0.0),
        (grade.last_integer, "024169", ["24169"], 1.0),
        (grade.first_integer, " 71432. Or 5?", ["71432"], 1.0),
        (grade.first_integer, "5, not 71432", ["71432"], 0.0),
        (grade.first_integer, "714320", ["71432"], 0.0),
        (grade.begins_with, ' "1f2e-00aa"}', ["1f2e-00aa"], 1.0),
        (grade.begins_with, "1f2e-00aab", ["1f2e-00aa"], 0.0),
        (grade.begins_with, "x 1f2e-00aa", ["1f2e-00aa"], 0.0),
        (grade.fraction_found, "1 and 3 and 33", ["1", "2", "3", "4"], 0.5),
        (grade.fraction_found, "", ["1"], 0.0),
    ],
)
def test_grades(scorer: object, answer: str, gold: list[str], want: float) -> None:
    assert callable(scorer)
    assert scorer(answer, gold) == want


def test_words() -> None:
    assert english("The U.S.A., an old -- country's anthem") == [
        "usa",
        "old",
        "countrys",
        "anthem",
    ]
    assert chinese("《北京》是 Capital-1，中国。") == ["北", "京", "是", "capital", "1", "中", "国"]


@pytest.mark.parametrize(
    ("answer", "gold", "want"),
    [
        ("The cat sat.", "a cat SAT", 1.0),
        ("the dog", "cat", 0.0),
        ("", "cat", 0.0),
        ("cat cat dog", "cat", 2 * (1 / 3) * 1 / (1 / 3 + 1)),  # one of three, all of one
        ("red cat", "cat on red mat", 2 * 1 * 0.5 / 1.5),  # order does not count
    ],
)
def test_qa_f1(answer: str, gold: str, want: float) -> None:
    assert scorers.qa_f1(answer, gold, NONE) == pytest.approx(want)


def test_qa_f1_chinese() -> None:
    # 3 of 4 characters against 3: precision 3/4, recall 1.
    assert scorers.qa_f1_chinese("是北京市。", "北京市", NONE) == pytest.approx(6 / 7)


@pytest.mark.parametrize(
    ("answer", "gold", "want"),
    [
        ("police killed the gunman", "police killed the gunman", 1.0),
        # Lin's example: LCS 3 of 4 words both ways.
        ("police kill the gunman", "police killed the gunman", 0.75),
        # "the gunman" only: in another order the rest is not shared.
        ("the gunman kill police", "police killed the gunman", 0.5),
        # Union over sentences of the answer: w1 w2 and w1 w3 w5 give 4 of 5; 4 of the 8 answered.
        ("w1 w2 w6 w7. w1 w3 w8 w9 w5", "w1 w2 w3 w4 w5", 2 * 0.8 * 0.5 / 1.3),
        ("", "x", 0.0),
        ("...", "x", 0.0),
        ("x", "", 0.0),
    ],
)
def test_rouge_l(answer: str, gold: str, want: float) -> None:
    assert scorers.rouge_l(answer, gold, NONE) == pytest.approx(want)


def test_rouge_l_chinese() -> None:
    assert scorers.rouge_l_chinese("今天下雨", "今天下雪", NONE) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("answer", "want"),
    [
        ("Human individual", 1.0),
        ("Human individual or City", 0.5),
        ("City", 0.0),
        ("nothing", 0.0),
        # "Human" is part of the gold's name and does not count against it.
        ("Human individual, that is a Human", 1.0),
    ],
)
def test_classification(answer: str, want: float) -> None:
    case = Case(classes=("Human", "City", "Human individual"))
    assert scorers.classification(answer, "Human individual", case) == want


@pytest.mark.parametrize(
    ("answer", "gold", "want"),
    [
        ("return x", "return x", 1.0),
        ("\n\n# a comment\nreturn x\nmore", "return x", 1.0),
        ("```python\n// c\nreturn y", "return x", 0.88),  # 7 of 8 characters both ways: 14/16
        ("# only a comment", "return x", 0.0),
        ("abcd", "wxyz", 0.0),
        ("abcd", "bc", 0.67),  # 2 * 2 / 6
    ],
)
def test_code_similarity(answer: str, gold: str, want: float) -> None:
    assert scorers.code_similarity(answer, gold, NONE) == pytest.approx(want)


def test_integers_among_others() -> None:
    assert scorers.count("There are 7.", "7", NONE) == 1.0
    assert scorers.count("7 of 30", "7", NONE) == 0.5
    assert scorers.count("17", "7", NONE) == 0.0
    assert scorers.count("", "7", NONE) == 0.0
    assert scorers.retrieval("Paragraph 12", "Paragraph 12", NONE) == 1.0
    assert scorers.retrieval("12 or 13 or 14", "Paragraph 13", NONE) == pytest.approx(1 / 3)
    assert scorers.retrieval("12", "no number", NONE) == 0.0
    assert scorers.retrieval_chinese("段落3", "段落3", NONE) == 1.0


def test_keyword_f1() -> None:
    case = Case(keywords="silver bridge of Ghent")  # 4 words, "of" never counts as found
    assert scorers.keyword_f1("the bridge", "silver bridge", case) == pytest.approx(2 / 3)
    assert scorers.keyword_f1("of of of", "of silver", case) == 0.0
    assert scorers.keyword_f1("silver bridge", "silver bridge", NONE) == 1.0
    few = Case(keywords="a1 a2 a3 a4 a5 a6")  # 1 of 6 is less than a fifth
    assert scorers.keyword_f1("a1", "a1", few) == 0.0
    # Chinese: two fifths of the gold itself where there are no keywords.
    assert scorers.keyword_f1_chinese("北", "北京市中心", NONE) == 0.0
    assert scorers.keyword_f1_chinese("北京", "北京市中心", NONE) == pytest.approx(4 / 7)


def test_every_published_dataset_is_there() -> None:
    assert len(LONGBENCH) == 21
    assert len(LVEVAL) == 11
    for dataset in [*LONGBENCH.values(), *LVEVAL.values()]:
        assert "{context}" in dataset.prompt
        assert dataset.scorer("", "1", Case(classes=("1",))) == 0.0


def test_wilson_from_its_definition() -> None:
    # The ends solve |p - rate| = z * sqrt(p (1 - p) / n).
    for successes, trials in ((93, 100), (1, 7), (50, 100)):
        rate = successes / trials
        for p in intervals.wilson(successes, trials):
            left = abs(p - rate)
            assert left == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / trials), abs=1e-5)
    assert intervals.wilson(0, 10)[0] == 0.0
    assert intervals.wilson(10, 10)[1] == 1.0
    assert intervals.wilson(0, 0) == (0.0, 1.0)


def test_bootstrap_close_to_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    low, high = intervals.bootstrap_mean(list(values))
    half = 1.96 * values.std(ddof=1) / 20
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)
    assert intervals.bootstrap_mean([0.5]) == (0.5, 0.5)
    assert intervals.bootstrap_mean(list(values)) == (low, high)


def test_bootstrap_of_ratios_is_paired() -> None:
    base = list(np.random.default_rng(1).uniform(1, 9, size=50))
    assert intervals.bootstrap_ratio([0.5 * value for value in base], base) == (0.5, 0.5)
    assert intervals.bootstrap_ratio([1.0, 0.0], [1.0, 0.0]) is None, "the base can be zero"
    totals = [100.0 * value for value in base]
    assert intervals.bootstrap_exp_mean(totals, [100] * 50, totals) == (1.0, 1.0)
