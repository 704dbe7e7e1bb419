"""The differentiable knapsack: budgets met, prices pooled, rounding within the budget."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from moa_rt import ArgumentError
from moa_tools.gates import prices
from moa_tools.gates.knapsack import (
    band_sizes,
    fill,
    keep_probabilities,
    non_increasing,
    probabilities,
)
from moa_tools.gates.options import GatesOptions
from moa_tools.gates.schedule import Schedule

SPANS = (128, 192, 384, 1024, 2048)


def random_prices(seed: int, heads: int = 6) -> torch.Tensor:
    maker = torch.Generator().manual_seed(seed)
    return torch.randn(2, heads // 2, len(SPANS) - 1, generator=maker, dtype=torch.float64)


def pooled(row: list[float], sizes: list[float]) -> list[float]:
    """Pool adjacent violators, step by step."""
    blocks: list[tuple[float, float, int]] = []  # sum, size, members
    for value, size in zip(row, sizes, strict=True):
        blocks.append((value * size, size, 1))
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] < blocks[-1][0] / blocks[-1][1]:
            a, b = blocks.pop(-2), blocks.pop()
            blocks.append((a[0] + b[0], a[1] + b[1], a[2] + b[2]))
    return [total / size for total, size, count in blocks for _ in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_non_increasing_pools_adjacent_violators(seed: int) -> None:
    raw = random_prices(seed)
    sizes = band_sizes(SPANS, raw)
    got = non_increasing(raw, sizes).reshape(-1, len(SPANS) - 1)
    for row, want in zip(raw.reshape(-1, len(SPANS) - 1).tolist(), got.tolist(), strict=True):
        assert pooled(row, sizes.tolist()) == pytest.approx(want)


@pytest.mark.parametrize("density", [0.07, 0.125, 0.25, 0.5, 0.95])
@pytest.mark.parametrize("temperature", [1.0, 0.05])
def test_the_mean_span_is_the_budget(density: float, temperature: float) -> None:
    raw = random_prices(1)
    sizes = band_sizes(SPANS, raw)
    kept, _ = keep_probabilities(non_increasing(raw, sizes), SPANS, density, temperature)
    chance = probabilities(kept)
    assert (chance >= 0).all()
    torch.testing.assert_close(chance.sum(-1), torch.ones_like(chance[..., 0]))
    mean = (chance * torch.tensor(SPANS)).sum(-1).mean()
    assert float(mean) == pytest.approx(density * SPANS[-1], rel=1e-6)


def test_gradients_keep_the_budget() -> None:
    raw = random_prices(2).requires_grad_()

    def kept(x: torch.Tensor) -> torch.Tensor:
        sizes = band_sizes(SPANS, x)
        out, _ = keep_probabilities(non_increasing(x, sizes), SPANS, 0.3, 0.7)
        return out

    assert torch.autograd.gradcheck(kept, raw, eps=1e-6, atol=1e-5)
    spent = (kept(raw) * band_sizes(SPANS, raw)).sum()
    (slope,) = torch.autograd.grad(spent, raw)
    assert float(slope.abs().max()) < 1e-6, "no price can change what is spent"


@given(st.integers(0, 1000), st.floats(0.0625, 1.0))
def test_fill_never_spends_more_than_the_budget(seed: int, density: float) -> None:
    raw = random_prices(seed)
    spans = fill(non_increasing(raw, band_sizes(SPANS, raw)), SPANS, density)
    assert set(spans.flatten().tolist()) <= set(SPANS)
    assert float(spans.double().mean()) <= density * SPANS[-1] + 1e-6


def test_fill_takes_the_dearest_bands() -> None:
    """Against all plans of three heads, where the budget has no broken band."""
    raw = non_increasing(random_prices(3, 6)[:1], band_sizes(SPANS, random_prices(3)))
    sizes = band_sizes(SPANS, raw).tolist()
    values = [
        [sum(p * s for p, s in zip(row[:j], sizes[:j], strict=True)) for j in range(len(SPANS))]
        for row in raw[0].tolist()
    ]
    chosen = fill(raw, SPANS, 0.4)[0].tolist()
    spent = sum(chosen)
    best = max(
        sum(values[h][j] for h, j in enumerate(plan))
        for plan in itertools.product(range(len(SPANS)), repeat=len(values))
        if sum(SPANS[j] for j in plan) <= spent
    )
    assert sum(values[h][SPANS.index(s)] for h, s in enumerate(chosen)) == pytest.approx(best)


@pytest.mark.parametrize("length", [256, 1000, 1024, 2048, 4096, 8192])
def test_grid_runs_from_the_narrowest_plan_to_dense(length: int) -> None:
    at = prices.grid(length, 16)
    assert at.spans[0] == 64
    assert at.spans[-1] == length
    assert list(at.spans) == sorted(set(at.spans))
    assert len(at.absolute) == len(at.relative) == len(at.spans) - 1


def test_a_length_that_no_plan_can_narrow_is_refused() -> None:
    with pytest.raises(ArgumentError, match="length: got 120, want at least 128"):
        prices.grid(120, 16)


def test_prices_of_all_lengths_come_from_the_same_numbers() -> None:
    parameters = prices.fresh(1, 1)
    parameters[..., : len(prices.ABSOLUTE) + 1] = -torch.arange(len(prices.ABSOLUTE) + 1).float()
    short, long = (prices.grid(n, 16) for n in (1024, 4096))
    found = [prices.prices_at(parameters, at)[0, 0].tolist() for at in (short, long)]
    for span in (192, 256, 512):
        a, b = short.spans.index(span) - 1, long.spans.index(span) - 1
        assert found[0][a] == found[1][b], "an absolute price does not know the length"


@pytest.mark.parametrize("steps", [2, 7, 40, 200])
def test_the_sweep_goes_down_and_rests_at_its_targets(steps: int) -> None:
    options = GatesOptions(steps=steps)
    schedule = Schedule(options)
    densities = [schedule.sweep(i) for i in range(steps)]
    assert densities[0] < options.densest
    assert densities[-1] == pytest.approx(options.sparsest)
    assert all(a >= b for a, b in itertools.pairwise(densities))
    settled = [densities[i] for i in range(steps) if schedule.settled(i)]
    assert len(settled) == schedule.rests
    if steps >= 40:
        assert settled == pytest.approx(sorted(options.targets, reverse=True))
        for target in options.targets:
            assert sum(abs(d - target) < 1e-12 for d in densities) >= 0.1 * steps
    assert schedule.density(steps - 1, prices.grid(512, 64)) > 96 / 512


def test_the_gates_are_sharpest_when_they_have_settled() -> None:
    schedule = Schedule(GatesOptions(steps=200))
    widths = [schedule.temperature(i) for i in range(200)]
    for step in range(200):
        if schedule.settled(step):
            assert widths[step] == pytest.approx(min(widths))
            assert schedule.learning_rate(step) < 0.2 * schedule.learning_rate(10)
    assert max(widths) == pytest.approx(16 * min(widths))
    rises = [i for i in range(199) if widths[i + 1] > widths[i]]
    assert rises, "between two targets the gates melt again"


@pytest.mark.parametrize("targets", [(), (0.3,), (0.75, 0.5, 0.25)])
def test_a_sweep_ends_where_it_is_to(targets: tuple[float, ...]) -> None:
    schedule = Schedule(GatesOptions(steps=50, targets=targets))
    assert schedule.sweep(49) == pytest.approx(0.125)
    assert schedule.rests == len(targets)
