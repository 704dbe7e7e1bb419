"""Rounds, medians and the rule for a win."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moa_rt import ArgumentError
from moa_tools.bench.statistics import Rounds, interleave, rotation, speed_up


def test_medians_and_spread_of_a_case_made_by_hand() -> None:
    rounds = Rounds(((1.0, 2.0, 9.0), (3.0, 3.0, 3.0), (4.0, 5.0, 6.0)))
    assert rounds.of_rounds == (2.0, 3.0, 5.0)
    assert rounds.median == 3.0
    assert rounds.best == 1.0
    assert rounds.spread == pytest.approx(1.5)


def test_a_win_needs_every_round() -> None:
    base = Rounds(((2.0,), (2.0,), (2.0,)))
    faster = speed_up(base, Rounds(((1.0,), (1.0,), (1.9,))))
    assert faster.win
    assert faster.median == pytest.approx(2.0)
    assert faster.worst == pytest.approx(2.0 / 1.9)
    # Faster by the median and still no win: one round was not.
    mostly = speed_up(base, Rounds(((1.0,), (1.0,), (2.0,))))
    assert mostly.median == pytest.approx(2.0)
    assert not mostly.win


def test_rounds_that_were_not_side_by_side_are_compared_at_their_worst() -> None:
    found = speed_up(Rounds(((4.0,), (2.0,))), Rounds(((1.0,), (2.0,), (4.0,))))
    assert found.worst == pytest.approx(2.0 / 4.0)
    assert found.best == pytest.approx(4.0 / 1.0)


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
