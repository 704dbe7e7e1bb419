"""Confidence intervals, 95 %: Wilson for rates, seeded bootstrap for means and ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]

_Z = 1.959963984540054  # the 97.5 % point of the normal distribution
_RESAMPLES = 2000
_SEED = 20240614
_DIGITS = 6


def wilson(successes: float, trials: int) -> Interval:
    """Wilson score interval of a rate (Wilson 1927). (0, 1) without a trial."""
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    scale = 1.0 + _Z * _Z / trials
    centre = (rate + _Z * _Z / (2 * trials)) / scale
    half = _Z * math.sqrt(rate * (1 - rate) / trials + _Z * _Z / (4.0 * trials * trials)) / scale
    return round(max(0.0, centre - half), _DIGITS), round(min(1.0, centre + half), _DIGITS)


def _resampled(count: int) -> NDArray[np.int64]:
    """Indices (resamples, count) drawn with replacement, the same ones every time."""
    return np.random.default_rng(_SEED).integers(0, count, size=(_RESAMPLES, count))


def _percentiles(values: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(values, (2.5, 97.5))
    return round(float(low), _DIGITS), round(float(high), _DIGITS)


def bootstrap_mean(values: Sequence[float]) -> Interval:
    """Percentile bootstrap of a mean. A single value gives an interval of no width."""
    array = np.asarray(values, dtype=np.float64)
    return _percentiles(array[_resampled(len(array))].mean(axis=1))


def bootstrap_ratio(values: Sequence[float], base: Sequence[float]) -> Interval | None:
    """Percentile bootstrap of mean(values) / mean(base), both resampled by the same indices.

    None where the base can be zero: the ratio then has no finite interval.
    """
    top, bottom = np.asarray(values, dtype=np.float64), np.asarray(base, dtype=np.float64)
    indices = _resampled(len(top))
    below = bottom[indices].mean(axis=1)
    if not (below > 0).all():
        return None
    return _percentiles(top[indices].mean(axis=1) / below)


def bootstrap_exp_mean(
    totals: Sequence[float], counts: Sequence[int], base: Sequence[float] | None = None
) -> Interval:
    """Bootstrap over documents of exp(sum of losses / sum of tokens), or its ratio to `base`'s."""
    losses, tokens = np.asarray(totals, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if base is not None:
        losses = losses - np.asarray(base, dtype=np.float64)
    indices = _resampled(len(losses))
    return _percentiles(np.exp(losses[indices].sum(axis=1) / tokens[indices].sum(axis=1)))
