"""Plans published by thu-nics/MoA (one rule per query head) as plans of ours (one per KV head).

Such a file is {"alphas": [[...]], "betas": [[...]]}, layers by query heads in the model's order. It
records neither the lengths it was searched for nor the model, so both are the caller's to say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from moa_rt import (
    MAX_TOKENS,
    ArgumentError,
    AttentionPlan,
    FormatError,
    MismatchError,
    SpanRule,
)

from moa_tools import strict_json

# The lengths that the published plans were searched for.
DEFAULT_MIN_LENGTH = 2048
DEFAULT_MAX_LENGTH = 16384
_MAX_BYTES = 16 << 20
_Q32 = 1 << 32


@dataclass(frozen=True)
class ReferencePlan:
    """rules[layer][query_head], as published."""

    rules: tuple[tuple[SpanRule, ...], ...]

    @property
    def num_layers(self) -> int:
        """Layers."""
        return len(self.rules)

    @property
    def num_heads(self) -> int:
        """Query heads of a layer."""
        return len(self.rules[0])


def _matrix(value: Any, name: str, path: str) -> list[list[Any]]:
    if not isinstance(value, list) or not value:
        raise FormatError(f"{path}: {name}: want a list of layers")
    for layer, row in enumerate(value):
        if not isinstance(row, list) or not row:
            raise FormatError(f"{path}: {name}[{layer}]: want a list of heads")
        if len(row) != len(value[0]):
            raise MismatchError(
                f"{path}: {name}[{layer}]: got {len(row)} heads, want {len(value[0])}"
            )
    return value


def _number(value: Any, item: str, low: float, high: float) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not low <= value <= high or (value == 0 and math.copysign(1, value) < 0):
        raise FormatError(f"{item}: got {str(value)[:40]}, want a number in [{low:g}, {high:g}]")
    return float(value)


def parse_reference(text: bytes, path: str) -> ReferencePlan:
    """Reads the text of a published plan. Raises FormatError, or MismatchError for ragged rows."""
    if len(text) > _MAX_BYTES:
        raise FormatError(f"{path}: size: got {len(text)} bytes, want at most {_MAX_BYTES}")
    document = strict_json.parse(text, path)
    if not isinstance(document, dict) or set(document) != {"alphas", "betas"}:
        got = sorted(document) if isinstance(document, dict) else type(document).__name__
        raise FormatError(f"{path}: got {str(got)[:200]}, want the keys alphas and betas alone")
    alphas = _matrix(document["alphas"], "alphas", path)
    betas = _matrix(document["betas"], "betas", path)
    if (len(alphas), len(alphas[0])) != (len(betas), len(betas[0])):
        raise MismatchError(
            f"{path}: alphas are {len(alphas)}x{len(alphas[0])}, betas "
            f"{len(betas)}x{len(betas[0])}: want the same layers and heads"
        )
    rules = []
    for layer, (alpha_row, beta_row) in enumerate(zip(alphas, betas, strict=True)):
        row = []
        for head, (alpha, beta) in enumerate(zip(alpha_row, beta_row, strict=True)):
            at = f"[{layer}][{head}]"
            tokens = _number(alpha, f"{path}: alphas{at}", -MAX_TOKENS, MAX_TOKENS)
            share = _number(beta, f"{path}: betas{at}", 0.0, 1.0)
            row.append(SpanRule(math.ceil(tokens), share))
        rules.append(tuple(row))
    return ReferencePlan(tuple(rules))


def load_reference(path: Path) -> ReferencePlan:
    """Reads a published plan file."""
    from moa_tools.files import read_bounded

    return parse_reference(read_bounded(path, _MAX_BYTES), str(path))


def _value(rule: SpanRule, n: int) -> Fraction:
    return rule.alpha + Fraction(rule.beta_q32 * n, _Q32)


def dominating_rule(rules: Sequence[SpanRule], low: int, high: int) -> SpanRule:
    """The least rule that is nowhere in [low, high] below any of `rules`.

    If one of them is the largest at both ends it is the largest between them, too, and is the
    answer. Otherwise the maximum of the lines is convex, so the chord between its ends lies above
    it, and no line below that chord does at both ends; alpha is rounded up to a whole token.
    """
    at_low = max(_value(rule, low) for rule in rules)
    at_high = max(_value(rule, high) for rule in rules)
    for rule in rules:
        if _value(rule, low) == at_low and _value(rule, high) == at_high:
            return rule
    beta_q32 = math.floor((at_high - at_low) * _Q32 / (high - low))
    slope = Fraction(beta_q32, _Q32)
    alpha = max(math.ceil(at_low - slope * low), math.ceil(at_high - slope * high))
    return SpanRule(alpha, beta_q32 / _Q32)


def group_maximum(plan: ReferencePlan, kv_heads: int, low: int, high: int) -> list[list[SpanRule]]:
    """rules[layer][kv_head]: what each group of query heads that shares a KV head needs.

    Query head h reads KV head h // (heads / kv_heads), as in every Hugging Face model. Raises
    MismatchError if the heads do not divide.
    """
    if kv_heads < 1 or plan.num_heads % kv_heads:
        raise MismatchError(
            f"plan has {plan.num_heads} query heads: not a multiple of {kv_heads} KV heads"
        )
    size = plan.num_heads // kv_heads
    return [
        [dominating_rule(row[g * size : (g + 1) * size], low, high) for g in range(kv_heads)]
        for row in plan.rules
    ]


def import_plan(plan: ReferencePlan, kv_heads: int, low: int, high: int) -> AttentionPlan:
    """The plan of ours, checked over token budgets in [low, high]."""
    if not 1 <= low <= high <= MAX_TOKENS:
        raise ArgumentError(
            f"length range: got {low}..{high}, want 1 <= min <= max <= {MAX_TOKENS}"
        )
    rules = group_maximum(plan, kv_heads, low, high)
    made = AttentionPlan.from_rules(rules, min_length=low, max_length=high)
    made.validate()
    return made


def expanded_plan(plan: ReferencePlan, low: int, high: int) -> AttentionPlan:
    """The plan as published: every query head keeps keys and values of its own."""
    return AttentionPlan.from_rules(
        [list(row) for row in plan.rules], min_length=low, max_length=high
    )
