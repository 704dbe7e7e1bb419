"""One number for a plan: answers lost, and language that may cost no more than a uniform plan's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moa_tools.refine.batches import ANSWERS, SUMMARY, TEXT

Parts = Mapping[str, float]
_SUMMARY_WEIGHT = 0.1


@dataclass(frozen=True)
class Objective:
    """Weights of the parts, each meant over `lengths`.

    A nat of text costs `low` below `cap`, the loss of the uniform plan of equal bytes, and `high`
    above it.
    """

    lengths: Sequence[int]
    low: float
    high: float
    cap: float

    def mean(self, parts: Parts, part: str) -> float:
        """Over the lengths that have it; 0 if none has."""
        found = [parts[f"{part}@{n}"] for n in self.lengths if f"{part}@{n}" in parts]
        return float(np.mean(found)) if found else 0.0

    def value(self, parts: Parts) -> float:
        """The lower the better."""
        text = self.mean(parts, TEXT)
        beyond = max(0.0, text - self.cap)
        return (
            self.mean(parts, ANSWERS)
            + self.low * text
            + (self.high - self.low) * beyond
            + _SUMMARY_WEIGHT * self.mean(parts, SUMMARY)
        )

    def weights(self, parts: Parts) -> dict[str, float]:
        """Derivatives of the value by every part."""
        slope = self.high if self.mean(parts, TEXT) > self.cap else self.low
        by_part = {ANSWERS: 1.0, TEXT: slope, SUMMARY: _SUMMARY_WEIGHT}
        names = {part: [n for n in self.lengths if f"{part}@{n}" in parts] for part in by_part}
        return {
            f"{part}@{n}": weight / len(names[part])
            for part, weight in by_part.items()
            for n in names[part]
        }
