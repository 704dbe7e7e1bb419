"""The rules a head may move to, and the spans at which its attention is looked at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from moa_rt import AttentionPlan, SpanRule, resolve_span

from moa_tools.search.rules import Candidates, candidates

# Between the grid's: language lives on windows of some hundred tokens.
_ALSO = (160, 224, 320, 448, 640)


def key(rule: SpanRule, plan: AttentionPlan, lengths: Sequence[int]) -> tuple[int, ...]:
    """Spans of a rule at the lengths, with the plan's sink and rounding."""
    return tuple(resolve_span(rule, plan.sink_size, plan.rounding, n).span for n in lengths)


def rules_for(plans: Sequence[AttentionPlan], lengths: Sequence[int]) -> Candidates:
    """The fine grid of `search`, some windows more, and the rules that the plans have."""
    first = plans[0]
    ends = first.min_length, first.max_length
    grid = candidates(lengths, *ends, first.sink_size, "fine", first.rounding)
    kept = {tuple(row): rule for row, rule in zip(grid.spans.tolist(), grid.rules, strict=True)}
    own: Iterable[SpanRule] = (rule for plan in plans for row in plan.rules for rule in row)
    for rule in (*own, *(SpanRule(tokens, 0.0) for tokens in _ALSO)):
        kept.setdefault(key(rule, first, lengths), rule)
    rows = sorted(kept)
    return Candidates(
        tuple(lengths), tuple(kept[row] for row in rows), np.array(rows, dtype=np.int64)
    )


def choice_of(plan: AttentionPlan, rules: Candidates) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Index of each head's rule, heads ordered by layer."""
    index = {tuple(row): i for i, row in enumerate(rules.spans.tolist())}
    heads = [index[key(rule, plan, rules.lengths)] for row in plan.rules for rule in row]
    return np.array(heads, dtype=np.int64)


def knots(rules: Candidates, length: int) -> tuple[int, ...]:
    """All spans at a length, the last of which is the length."""
    spans = {int(s) for s in rules.column(length) if s < length}
    return (*sorted(spans), length)
