"""Medians of interleaved rounds, and when a difference counts as a win.

Contenders take turns: every round measures each of them, and the order rotates from round to round,
so that a device that warms up or slows down does so for all of them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from moa_rt import ArgumentError

ROUNDS = 3
WARM_UPS = 5
REPEATS = 7


@dataclass(frozen=True)
class Rounds:
    """seconds[round][repeat] of one contender."""

    seconds: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not self.seconds or any(not row for row in self.seconds):
            raise ArgumentError("rounds: got an empty one, want at least one time in each")
        if not all(value > 0.0 for row in self.seconds for value in row):
            raise ArgumentError("rounds: got a time that is not above 0 s")

    @property
    def median(self) -> float:
        """Of all times, whatever their round."""
        return statistics.median(value for row in self.seconds for value in row)

    @property
    def best(self) -> float:
        """The shortest time."""
        return min(min(row) for row in self.seconds)

    @property
    def of_rounds(self) -> tuple[float, ...]:
        """The median of each round."""
        return tuple(statistics.median(row) for row in self.seconds)

    @property
    def spread(self) -> float:
        """Slowest round over fastest, minus 1: what a difference must exceed to mean anything."""
        rounds = self.of_rounds
        return max(rounds) / min(rounds) - 1.0


@dataclass(frozen=True)
class SpeedUp:
    """How many times faster a contender is than its base: by the medians and round by round."""

    median: float
    worst: float
    best: float

    @property
    def win(self) -> bool:
        """Faster in every round."""
        return self.worst > 1.0


def speed_up(base: Rounds, contender: Rounds) -> SpeedUp:
    """Time of `base` over time of `contender`.

    Rounds measured side by side are compared one with one. Where the two were not measured in the
    same rounds, the worst is the base's fastest round over the contender's slowest.
    """
    ours, theirs = contender.of_rounds, base.of_rounds
    if len(ours) == len(theirs):
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        worst, best = min(ratios), max(ratios)
    else:
        worst, best = min(theirs) / max(ours), max(theirs) / min(ours)
    return SpeedUp(base.median / contender.median, worst, best)


def rotation(names: Sequence[str], turn: int) -> list[str]:
    """The order of the contenders in round `turn`: each of them is first once in a while."""
    at = turn % len(names) if names else 0
    return [*names[at:], *names[:at]]


def interleave(
    contenders: Mapping[str, Callable[[], float]],
    rounds: int = ROUNDS,
    warm_ups: int = WARM_UPS,
    repeats: int = REPEATS,
) -> dict[str, Rounds]:
    """Times every contender in every round; a contender returns the seconds of one repetition."""
    times: dict[str, list[tuple[float, ...]]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(rounds):
        for name in rotation(names, turn):
            run = contenders[name]
            for _ in range(warm_ups):
                run()
            times[name].append(tuple(run() for _ in range(repeats)))
    return {name: Rounds(tuple(rows)) for name, rows in times.items()}
