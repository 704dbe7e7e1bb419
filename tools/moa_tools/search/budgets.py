"""Budgets: how much KV memory, or how many milliseconds, a plan may cost at a length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from moa_rt import MAX_TOKENS, ArgumentError, FormatError, SpanRule, resolve_span

from moa_tools import strict_json
from moa_tools.search.rules import ROUNDING, Candidates

_MAX_TABLE_BYTES = 1 << 20


@dataclass(frozen=True)
class CostTable:
    """What a decode step costs on a device, as `moa-tools bench cost` measured it.

    A step takes `base` + `per_kept_token_per_head` * (tokens kept, summed over all KV heads) ms.
    """

    base: float
    per_kept_token_per_head: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.base) and self.base >= 0):
            raise ArgumentError(f"cost table: base: got {self.base}, want >= 0 ms")
        slope = self.per_kept_token_per_head
        if not (math.isfinite(slope) and slope > 0):
            raise ArgumentError(f"cost table: per_kept_token_per_head: got {slope}, want > 0 ms")

    @staticmethod
    def load(path: Path) -> CostTable:
        """Reads {"per_step_ms": {"base": ..., "per_kept_token_per_head": ...}, ...}.

        Raises FormatError or IoError.
        """
        fields = strict_json.load_object(path, _MAX_TABLE_BYTES)
        step = fields.get("per_step_ms")
        names = ("base", "per_kept_token_per_head")
        if not isinstance(step, dict) or not all(type(step.get(n)) in (int, float) for n in names):
            raise FormatError(f"{path}: per_step_ms: want an object with numbers {names}")
        try:
            return CostTable(float(step[names[0]]), float(step[names[1]]))
        except ArgumentError as error:
            raise FormatError(f"{path}: {error}") from error


@dataclass(frozen=True)
class Budgets:
    """Bounds by length N. A plan must keep all of them.

    Attributes:
        density: share of the dense model's KV bytes, in (0, 1].
        step_ms: milliseconds of a decode step, by `table`.
    """

    density: Mapping[int, float] = field(default_factory=dict)
    step_ms: Mapping[int, float] = field(default_factory=dict)
    table: CostTable | None = None

    def __post_init__(self) -> None:
        if not self.density and not self.step_ms:
            raise ArgumentError("budgets: got none, want a density or milliseconds")
        for n in (*self.density, *self.step_ms):
            if not 1 <= n <= MAX_TOKENS:
                raise ArgumentError(f"budgets: length {n}: want 1..{MAX_TOKENS}")
        for n, share in self.density.items():
            if not 0 < share <= 1:
                raise ArgumentError(f"budgets: density at N={n}: got {share}, want in (0, 1]")
        for n, value in self.step_ms.items():
            if not 0 < value < math.inf:
                raise ArgumentError(f"budgets: ms at N={n}: got {value}, want > 0")
        if self.step_ms and self.table is None:
            raise ArgumentError("budgets: milliseconds need a cost table")

    @property
    def lengths(self) -> tuple[int, ...]:
        """All lengths with a bound, ascending."""
        return tuple(sorted({*self.density, *self.step_ms}))

    def describe(self) -> str:
        """As stored with a plan."""
        parts = [f"{n}={share!r}" for n, share in sorted(self.density.items())]
        parts += [f"{n}={value!r}ms" for n, value in sorted(self.step_ms.items())]
        return ",".join(parts)

    def kept_limits(self, heads: int, sink_size: int, rounding: int = ROUNDING) -> dict[int, int]:
        """Most tokens kept, summed over `heads` KV heads, at every length: exact, rounded down.

        A KV head's token costs the same bytes in every layer, so tokens stand for bytes. Raises
        ArgumentError if a step takes longer than its bound even without any token.
        """
        limits = {}
        for n in self.lengths:
            bounds = []
            if n in self.density:
                share = Fraction(repr(float(self.density[n])))
                bounds.append(math.floor(share * dense_tokens(n, sink_size, rounding) * heads))
            if n in self.step_ms and self.table is not None:
                bounds.append(self._ms_limit(n, self.table))
            limits[n] = min(bounds)
        return limits

    def _ms_limit(self, n: int, table: CostTable) -> int:
        left = Fraction(self.step_ms[n]) - Fraction(table.base)
        if left <= 0:
            raise ArgumentError(
                f"{self.step_ms[n]:g} ms at N={n} cannot be met: a step with an empty cache takes "
                f"{table.base:g} ms"
            )
        return math.floor(left / Fraction(table.per_kept_token_per_head))


def dense_tokens(n: int, sink_size: int, rounding: int = ROUNDING) -> int:
    """Tokens that a dense head keeps at N = `n` (rounded up as every span is)."""
    return resolve_span(SpanRule(0, 1.0), sink_size, rounding, n).span


def check_feasible(
    budgets: Budgets,
    limits: Mapping[int, int],
    candidates: Candidates,
    sink_size: int,
    heads: int,
    rounding: int = ROUNDING,
) -> None:
    """Raises ArgumentError naming each length that no choice of rules can meet, and its least.

    `limits` are the budgets' own, in tokens over all `heads`.
    """
    wrong = []
    for n, limit in limits.items():
        least = int(np.min(candidates.column(n))) * heads
        if least <= limit:
            continue
        need = _rounded_up(Fraction(least, dense_tokens(n, sink_size, rounding) * heads))
        wanted = [f"density {budgets.density[n]:g}"] if n in budgets.density else []
        wanted += [f"{budgets.step_ms[n]:g} ms"] if n in budgets.step_ms else []
        enough = f"{need:g}"
        if n in budgets.step_ms and budgets.table is not None:
            table = budgets.table
            enough += f" or {table.base + table.per_kept_token_per_head * least:.4g} ms"
        wrong.append(f"{' and '.join(wanted)} at N={n} cannot be met, least is {enough}")
    if wrong:
        raise ArgumentError("budgets: " + "; ".join(wrong))


def _rounded_up(share: Fraction) -> float:
    return math.ceil(share * 10000) / 10000
