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
class Extreme:
    """A round's time over the median (`factor`), and what stands for that round."""

    factor: float
    what: str


def slowest(rounds: Rounds | None, spread: float | None = None) -> Extreme:
    """The slowest round; without rounds at most `spread` above the median, else the median."""
    if rounds is not None:
        return Extreme(max(rounds.of_rounds) / rounds.median, "slowest round")
    if spread is not None:
        return Extreme(1.0 + spread, "median plus spread")
    return Extreme(1.0, "median")


def fastest(rounds: Rounds | None, spread: float | None = None) -> Extreme:
    """The fastest round; without rounds at most `spread` below the median, else the median."""
    if rounds is not None:
        return Extreme(min(rounds.of_rounds) / rounds.median, "fastest round")
    if spread is not None:
        return Extreme(1.0 / (1.0 + spread), "median less spread")
    return Extreme(1.0, "median")


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
