"""The rules that a KV head may be given, and the spans they come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from moa_rt import MAX_TOKENS, ArgumentError, SpanRule, resolve_span
from numpy.typing import NDArray

ROUNDING = 64
Grid = Literal["fine", "elastic", "relative", "absolute"]
GRIDS: tuple[Grid, ...] = ("fine", "elastic", "relative", "absolute")

# Tokens kept whatever N is; closer together where a token more matters most.
_ABSOLUTE = (
    64,
    96,
    128,
    192,
    256,
    384,
    512,
    768,
    1024,
    1536,
    2048,
    3072,
    4096,
    6144,
    8192,
    12288,
    16384,
)
# Shares of N, in 32nds.
_SHARES = (0, 1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32)
_EIGHTHS = tuple(range(0, 33, 4))
# A share of N up to a bound.
_BOUNDED_SHARES = (4, 8, 16, 24)


@dataclass(frozen=True)
class Candidates:
    """Rules that differ at one of the lengths at least.

    Attributes:
        lengths: token budgets N, ascending.
        rules: one for each distinct row of spans.
        spans: int64 (rules, lengths), what moa_rt.resolve_span answers.
    """

    lengths: tuple[int, ...]
    rules: tuple[SpanRule, ...]
    spans: NDArray[np.int64]

    def table(self, choice: Sequence[int], kv_heads: int) -> list[list[SpanRule]]:
        """Rules by layer and KV head, from their indices (heads,) by layer."""
        return [
            [self.rules[r] for r in choice[first : first + kv_heads]]
            for first in range(0, len(choice), kv_heads)
        ]

    def column(self, length: int) -> NDArray[np.int64]:
        """Spans (rules,) at one of the lengths."""
        column: NDArray[np.int64] = self.spans[:, self.lengths.index(length)]
        return column


def _share(thirty_seconds: int) -> float:
    return thirty_seconds / 32


def _elastic(lengths: Sequence[int], parts: int = 2) -> list[SpanRule]:
    """Alphas in steps of the least length / `parts` times betas in eighths (the paper: 2 parts)."""
    low, high = lengths[0], lengths[-1]
    step = max(64, low // parts // 64 * 64)
    alphas = range(-(low // step) * step, high + 1, step)
    return [SpanRule(alpha, _share(s)) for s in _EIGHTHS for alpha in alphas]


def grid_rules(grid: Grid, lengths: Sequence[int]) -> list[SpanRule]:
    """All rules of a grid, simplest first. Raises ArgumentError for an unknown grid."""
    if grid not in GRIDS:
        raise ArgumentError(f"grid: got {str(grid)[:100]!r}, want one of {', '.join(GRIDS)}")
    absolute = [SpanRule(tokens, 0.0) for tokens in _ABSOLUTE if tokens < lengths[-1]]
    relative = [SpanRule(0, _share(s)) for s in _SHARES if s]
    if grid == "absolute":
        return [SpanRule(0, 1.0), *absolute]
    if grid == "relative":
        return relative
    if grid == "elastic":
        return _elastic(lengths)
    bounded = [
        SpanRule(0, _share(s), bound)
        for s in _BOUNDED_SHARES
        for bound in _ABSOLUTE
        if bound < lengths[-1] * _share(s)
    ]
    narrow = [SpanRule(alpha, _share(s)) for s in (1, 2, 4, 8) for alpha in (128, 256, 512)]
    return [*relative, *absolute, *_elastic(lengths, parts=4), *narrow, *bounded]


def candidates(
    lengths: Sequence[int],
    min_length: int,
    max_length: int,
    sink_size: int,
    grid: Grid = "fine",
    rounding: int = ROUNDING,
) -> Candidates:
    """The rules of a grid that are positive on [min_length, max_length], each span row once.

    Of rules with equal spans at all lengths the first of the grid is kept. Raises ArgumentError if
    none is left.
    """
    ordered = tuple(sorted(set(lengths)))
    kept: dict[tuple[int, ...], SpanRule] = {}
    narrowest = resolve_span(SpanRule(0, 0.0), sink_size, rounding, MAX_TOKENS).span
    for rule in grid_rules(grid, ordered):
        ends = (min_length, max_length)
        if (rule.beta == 0 and rule.alpha < narrowest) or 0 < (rule.max_span or 0) < narrowest:
            continue  # it says less than any head keeps
        if any(rule.alpha + rule.beta * n < 1 for n in ends):
            continue  # a plan with such a rule is refused (E6)
        spans = tuple(resolve_span(rule, sink_size, rounding, n).span for n in ordered)
        kept.setdefault(spans, rule)
    if not kept:
        raise ArgumentError(
            f"grid {grid}: no rule is positive on all of {min_length}..{max_length}"
        )
    # Ascending by what they keep: equal inputs then give equal programs, and equal plans.
    rows = sorted(kept)
    spans_of = np.array(rows, dtype=np.int64).reshape(len(rows), len(ordered))
    return Candidates(ordered, tuple(kept[row] for row in rows), spans_of)
