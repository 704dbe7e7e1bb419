"""Measurements of plans, each made once: what an interrupted run has measured is on disk."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence

import numpy as np
from moa_rt import NumericError

from moa_tools.calibrate.journal import Journal
from moa_tools.refine.losses import Bench
from moa_tools.refine.rules import knots
from moa_tools.search.problem import Floats, Ints
from moa_tools.search.rules import Candidates


class OutOfTimeError(Exception):
    """The time limit has passed; what is known by then counts."""


class Measured:
    """Losses and derivatives of plans that are given as choices (heads,) of rules."""

    def __init__(
        self,
        bench: Bench,
        rules: Candidates,
        lengths: Sequence[int],
        shape: tuple[int, int],
        journal: Journal,
        seconds: float | None,
    ) -> None:
        """`shape`: layers, KV heads."""
        self._bench, self._rules, self._journal = bench, rules, journal
        self.lengths, self._shape = tuple(lengths), shape
        self._knots = {n: knots(rules, n) for n in lengths}
        self._third, self._half = bench.third(), bench.half()
        self._end = time.monotonic() + seconds if seconds is not None else None
        self._hurried = False

    def hurry(self) -> None:
        """From now on the time limit holds: what a run starts from is measured in any case."""
        self._hurried = True

    def spans(self, choice: Ints) -> dict[int, Ints]:
        """By length, (layers, KV heads)."""
        return {n: self._column(n)[choice].reshape(self._shape) for n in self.lengths}

    def _column(self, length: int) -> Ints:
        """Spans (rules,); that of a dense rule may be rounded up beyond the length."""
        return np.minimum(self._rules.column(length), length)

    def _once(
        self, name: str, make: Callable[[], dict[str, list[float]]]
    ) -> dict[str, list[float]]:
        parts = self._bench.parts
        known = {part: self._journal.get(f"{name} {part}") for part in parts}
        if any(values is None for values in known.values()):
            if self._hurried and self._end is not None and time.monotonic() > self._end:
                raise OutOfTimeError
            known = dict(make())
            for part, values in known.items():
                if values is None or not np.isfinite(values).all():
                    raise NumericError(f"refine: {part}: got a loss that is not finite")
            self._journal.add([f"{name} {p}" for p in parts], [known[p] or [] for p in parts])
        return {part: list(values or []) for part, values in known.items()}

    def losses(
        self, choice: Ints, base: Ints | None = None, roughly: bool = False
    ) -> dict[str, float]:
        """Of every part and length; `roughly`: over a third of the samples.

        `base` is a plan from which this one and others differ little.
        """

        def make() -> dict[str, list[float]]:
            if base is not None:
                self._bench.set_base(self.spans(base))
            found = self._bench.losses(self.spans(choice), self._third if roughly else None)
            return {name: [value] for name, value in found.items()}

        kind = "third" if roughly else "all"
        return {
            name: value[0] for name, value in self._once(f"{kind} {_hash(choice)}", make).items()
        }

    def other_losses(self, name: str, spans: dict[int, Ints], sink: int) -> dict[str, float]:
        """Of a plan that is none of the rules', with its own sink."""

        def make() -> dict[str, list[float]]:
            return {k: [v] for k, v in self._bench.losses(spans, sink=sink).items()}

        return {key: value[0] for key, value in self._once(f"other {name}", make).items()}

    def first_order(self, choice: Ints) -> dict[str, Floats]:
        """Change (heads, rules) of every part as a head begins to move, 0 at its own rule."""

        def make() -> dict[str, list[float]]:
            found = self._bench.first_order(self.spans(choice), self._knots, self._half)
            return {name: values.ravel().tolist() for name, values in found.items()}

        heads = np.arange(len(choice))
        costs = {}
        for name, values in self._once(f"order {_hash(choice)}", make).items():
            n = int(name.split("@")[1])
            table = np.array(values).reshape(len(choice), len(self._knots[n]))
            by_rule = table[:, np.searchsorted(self._knots[n], self._column(n))]
            costs[name] = by_rule - by_rule[heads, choice][:, None]
        return costs


def _hash(choice: Ints) -> str:
    return hashlib.sha256(np.ascontiguousarray(choice, dtype="<i8").tobytes()).hexdigest()[:24]
