"""A knapsack that can be differentiated: prices in, spans (or their distribution) out.

Every KV head prices the tokens of each band, the step from one span to the next. At one common
price tau a head keeps a band with probability sigmoid((price - tau) / temperature), and tau is the
one at which the mean span is exactly the budget: all heads compete for the same bytes. At
temperature 0 that is the linear relaxation of the integer program that `search` solves.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_BISECTIONS = 60


def non_increasing(prices: Tensor, sizes: Tensor) -> Tensor:
    """The nearest prices (least squares, weights `sizes`) that never rise along the last axis.

    prices (..., J), sizes (J,). A wide span is kept only together with all narrower ones, so
    neighbouring bands whose prices rise are worth their common average (pool adjacent violators,
    here in closed form: max over ends of the min over starts of interval means).
    """
    count = prices.shape[-1]
    zero = torch.zeros_like(prices[..., :1])
    sums = torch.cat([zero, (prices * sizes).cumsum(-1)], -1)
    bytes_ = torch.cat([torch.zeros_like(sizes[:1]), sizes.cumsum(0)])
    columns = []
    for j in range(count):
        # means[a, b]: of the bands a..b with a <= j <= b.
        means = torch.stack(
            [(sums[..., j + 1 :] - sums[..., a : a + 1]) / (bytes_[j + 1 :] - bytes_[a])
             for a in range(j + 1)], -2
        )  # fmt: skip
        columns.append(means.amax(-1).amin(-1))
    return torch.stack(columns, -1)


def band_sizes(spans: Sequence[int], like: Tensor) -> Tensor:
    """Tokens of each band beyond the first span: (K - 1,)."""
    edges = torch.tensor(list(spans), dtype=like.dtype, device=like.device)
    return edges.diff()


def _mean_extra(prices: Tensor, sizes: Tensor, tau: Tensor, temperature: float) -> Tensor:
    kept = torch.sigmoid((prices - tau) / temperature)
    return (kept * sizes).sum(-1).mean()


def keep_probabilities(
    prices: Tensor, spans: Sequence[int], density: float, temperature: float
) -> tuple[Tensor, Tensor]:
    """P(a head keeps a band), (..., K - 1), and the price tau at which the budget is met.

    prices (..., K - 1) non-increasing along the last axis; `density` is the mean span over the
    last span and must lie strictly between that of the narrowest plan and 1. Differentiable: the
    derivative of tau follows from the budget staying met.
    """
    sizes = band_sizes(spans, prices)
    want = density * spans[-1] - spans[0]
    with torch.no_grad():
        low = prices.amin() - 40 * temperature
        high = prices.amax() + 40 * temperature
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            if _mean_extra(prices, sizes, middle, temperature) > want:
                low = middle
            else:
                high = middle
        tau = (low + high) / 2
        kept = torch.sigmoid((prices - tau) / temperature)
        slope = ((kept * (1 - kept) * sizes).sum(-1).mean() / temperature).clamp(min=1e-12)
    # One Newton step whose value is nothing and whose derivative is that of the solution.
    residual = _mean_extra(prices, sizes, tau, temperature) - want
    tau = tau + (residual - residual.detach()) / slope
    return torch.sigmoid((prices - tau) / temperature), tau.detach()


def probabilities(kept: Tensor) -> Tensor:
    """P(span = s_r), (..., K), from P(span >= s_r), (..., K - 1)."""
    above = torch.cat([torch.ones_like(kept[..., :1]), kept], -1)
    below = torch.cat([kept, torch.zeros_like(kept[..., :1])], -1)
    return above - below


def fill(prices: Tensor, spans: Sequence[int], density: float) -> Tensor:
    """Spans, int64 (...), that spend at most the budget on the dearest bands first.

    The relaxation's plan with its one broken band left out, then whatever still fits: pooled bands
    are kept or left together. prices as for `keep_probabilities`.
    """
    flat = prices.detach().double().cpu().reshape(-1, prices.shape[-1])
    sizes = [b - a for a, b in itertools.pairwise(spans)]
    left = int(density * spans[-1] * len(flat) + 1e-6) - spans[0] * len(flat)
    blocks: list[tuple[float, int, int, int]] = []
    for head, row in enumerate(flat.tolist()):
        start = 0
        for j in range(1, len(row) + 1):
            if j == len(row) or abs(row[j] - row[start]) > 1e-9 * max(1.0, abs(row[start])):
                blocks.append((-row[start], head, start, j))
                start = j
    level = [0] * len(flat)
    for _, head, start, stop in sorted(blocks):
        cost = sum(sizes[start:stop])
        if level[head] == start and cost <= left:
            level[head] = stop
            left -= cost
    chosen = torch.tensor([spans[index] for index in level], dtype=torch.int64)
    return chosen.reshape(prices.shape[:-1])
