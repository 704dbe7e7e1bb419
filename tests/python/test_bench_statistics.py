"""Rounds, medians and the rule for a win."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moa_rt import ArgumentError
from moa_tools.bench.statistics import Rounds, fastest, interleave, rotation, slowest


def test_medians_and_spread_of_a_case_made_by_hand() -> None:
    rounds = Rounds(((1.0, 2.0, 9.0), (3.0, 3.0, 3.0), (4.0, 5.0, 6.0)))
    assert rounds.of_rounds == (2.0, 3.0, 5.0)
    assert rounds.median == 3.0
    assert rounds.best == 1.0
    assert rounds.spread == pytest.approx(1.5)


def test_a_slowest_and_a_fastest_round_are_told_over_the_median() -> None:
    rounds = Rounds(((4.0, 1.0, 1.0), (2.0,), (5.0,)))  # medians of rounds: 1, 2, 5; of all: 2
    assert (slowest(rounds).factor, slowest(rounds).what) == (2.5, "slowest round")
    assert (fastest(rounds).factor, fastest(rounds).what) == (0.5, "fastest round")
    # A spread that was told beside rounds adds nothing to them.
    assert slowest(rounds, 9.0) == slowest(rounds)
    assert fastest(rounds, 9.0) == fastest(rounds)


def test_without_rounds_a_spread_or_the_median_stands_for_them_and_says_so() -> None:
    assert (slowest(None, 0.25).factor, slowest(None, 0.25).what) == (1.25, "median plus spread")
    assert (fastest(None, 0.25).factor, fastest(None, 0.25).what) == (0.8, "median less spread")
    assert (slowest(None).factor, slowest(None).what) == (1.0, "median")
    assert (fastest(None).factor, fastest(None).what) == (1.0, "median")


@given(st.lists(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=5), min_size=1, max_size=5))
def test_the_spread_lies_between_the_fastest_and_the_slowest_round(rows: list[list[float]]) -> None:
    rounds = Rounds(tuple(tuple(row) for row in rows))
    over = slowest(rounds).factor / fastest(rounds).factor
    assert over == pytest.approx(1.0 + rounds.spread)


@pytest.mark.parametrize("seconds", [(), ((),), ((1.0,), ()), ((0.0,),), ((-1.0,),)])
def test_empty_rounds_and_times_of_nothing_are_refused(
    seconds: tuple[tuple[float, ...], ...],
) -> None:
    with pytest.raises(ArgumentError):
        Rounds(seconds)


@given(st.integers(1, 6))
def test_in_as_many_rounds_as_contenders_each_of_them_is_first_once(count: int) -> None:
    names = [str(i) for i in range(count)]
    orders = [rotation(names, turn) for turn in range(count)]
    assert sorted(order[0] for order in orders) == names
    assert all(sorted(order) == names for order in orders)


def test_contenders_take_turns_and_the_order_rotates() -> None:
    calls: list[str] = []

    def contender(name: str, seconds: float) -> float:
        calls.append(name)
        return seconds

    found = interleave(
        {"a": lambda: contender("a", 1.0), "b": lambda: contender("b", 2.0)},
        rounds=3,
        warm_ups=2,
        repeats=1,
    )
    assert "".join(calls) == "aaabbb" + "bbbaaa" + "aaabbb"
    assert found["a"].seconds == ((1.0,), (1.0,), (1.0,))
    assert found["b"].median == 2.0
