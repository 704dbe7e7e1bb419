"""Cost curves: what it costs to let a KV head keep only so many tokens.

`profile` and `gates` write them, `search` reads them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
from moa_rt import (
    MAX_TOKENS,
    ArgumentError,
    MismatchError,
    ModelConfig,
    NumericError,
    SpanRule,
    resolve_span,
)
from numpy.typing import NDArray

# A curve begins here or below, where the narrowest plans of rounding 64 are.
LEAST_WINDOW = 64
_ROUNDINGS = (64, 32, 16)


@dataclass(frozen=True, eq=False)
class CostCurve:
    """Costs of one objective at one length.

    Attributes:
        objective: what was measured: "retrieval", "language" or a task of the user's.
        length: tokens of the profiled inputs (the token budget N).
        spans: int64 (K,), tokens kept (sink + window), ascending; the last is `length`: dense.
        costs: float64 (layers, kv_heads, K), finite and >= 0; lower is better.

    Raises:
        ArgumentError: a shape or an order is not as above.
        NumericError: a cost is NaN, infinite or negative, or all of them are zero.
    """

    objective: str
    length: int
    spans: NDArray[np.int64]
    costs: NDArray[np.float64]

    def __post_init__(self) -> None:
        spans = np.ascontiguousarray(self.spans)
        costs = np.ascontiguousarray(self.costs)
        if spans.dtype.kind not in "iu" or costs.dtype.kind != "f":
            self._wrong(f"got spans {spans.dtype} and costs {costs.dtype}, want int and float")
        object.__setattr__(self, "spans", spans.astype(np.int64))
        object.__setattr__(self, "costs", costs.astype(np.float64))
        self._check_spans()
        self._check_costs()
        self.spans.setflags(write=False)
        self.costs.setflags(write=False)

    @property
    def title(self) -> str:
        """How messages and plots name the curve."""
        return f"{self.objective} at N={self.length}"

    def _wrong(self, text: str) -> NoReturn:
        raise ArgumentError(f"curve {self.objective[:100]!r} at N={self.length}: {text}")

    def _check_spans(self) -> None:
        if not self.objective or not self.objective.isprintable():
            raise ArgumentError(f"objective: got {self.objective[:100]!r}, want a name")
        if not 0 < self.length <= MAX_TOKENS:
            self._wrong(f"length: want 1..{MAX_TOKENS}")
        spans = self.spans
        if spans.ndim != 1 or len(spans) < 2:
            self._wrong(f"spans: got shape {spans.shape}, want at least two in a row")
        if spans[0] < 1 or not (np.diff(spans) > 0).all():
            self._wrong("spans: want positive and ascending")
        if spans[-1] != self.length:
            self._wrong(f"spans: the last is {spans[-1]}, want the length {self.length}")
        if self.costs.ndim != 3 or self.costs.shape[2] != len(spans) or 0 in self.costs.shape:
            shape = self.costs.shape
            self._wrong(f"costs: got shape {shape}, want (layers, kv_heads, {len(spans)})")

    def _check_costs(self) -> None:
        bad = ~(np.isfinite(self.costs) & (self.costs >= 0))
        if bad.any():
            layer, head, k = (int(i) for i in np.argwhere(bad)[0])
            raise NumericError(
                f"curve {self.objective!r} at N={self.length}: costs[{layer}][{head}][{k}] (span "
                f"{self.spans[k]}): got {self.costs[layer, head, k]}, want finite and >= 0; "
                f"{int(bad.sum())} such values"
            )
        if not self.costs.any():
            raise NumericError(
                f"curve {self.objective!r} at N={self.length}: all costs are zero: nothing was "
                "measured"
            )


def at(curve: CostCurve, span: int) -> NDArray[np.float64]:
    """Costs (layers, kv_heads) of keeping `span` tokens; linear between the measured spans.

    A span beyond the length costs what the length does. Raises ArgumentError below the first one.
    """
    spans = curve.spans
    if span < spans[0]:
        raise ArgumentError(f"curve {curve.title}: span {span} is below the first, {spans[0]}")
    right = int(np.searchsorted(spans, span))
    if right >= len(spans):
        dense: NDArray[np.float64] = curve.costs[:, :, -1].copy()
        return dense
    if spans[right] == span:
        exact: NDArray[np.float64] = curve.costs[:, :, right].copy()
        return exact
    share = float(span - spans[right - 1]) / float(spans[right] - spans[right - 1])
    left = curve.costs[:, :, right - 1]
    interpolated: NDArray[np.float64] = left + share * (curve.costs[:, :, right] - left)
    return interpolated


@dataclass(frozen=True, eq=False)
class CostCurves:
    """The curves of one model and how they were made.

    Attributes:
        fingerprint, model_name: the model they belong to.
        method: "influence", "gates", ...
        sink_size: tokens at the start that every head keeps.
        curves: one for each (objective, length); all for the same layers and KV heads.
        provenance: more about their origin, text by name.
    """

    fingerprint: str
    model_name: str
    method: str
    sink_size: int
    curves: tuple[CostCurve, ...]
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "curves", tuple(self.curves))
        object.__setattr__(self, "provenance", dict(self.provenance))
        if not self.curves:
            raise ArgumentError("curves: got none, want at least one")
        if not 0 <= self.sink_size <= MAX_TOKENS:
            raise ArgumentError(f"sink_size: got {self.sink_size}, want 0..{MAX_TOKENS}")
        seen: set[tuple[str, int]] = set()
        for curve in self.curves:
            if (curve.objective, curve.length) in seen:
                raise ArgumentError(f"curve {curve.title}: is there twice")
            seen.add((curve.objective, curve.length))
            if curve.costs.shape[:2] != self.shape:
                raise ArgumentError(
                    f"curve {curve.title}: got {curve.costs.shape[:2]} (layers, KV heads), the "
                    f"first one has {self.shape}"
                )
            least = self.sink_size + LEAST_WINDOW
            if curve.spans[0] > least:
                raise ArgumentError(
                    f"curve {curve.title}: the first span is {curve.spans[0]}, want at most "
                    f"sink + {LEAST_WINDOW} = {least}"
                )

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, KV heads)."""
        layers, heads, _ = self.curves[0].costs.shape
        return layers, heads

    @property
    def rounding(self) -> int:
        """What the spans of plans made from these curves are multiples of.

        64, or what makes the narrowest span of a plan the one where the curves begin.
        """
        narrowest = max(int(curve.spans[0]) for curve in self.curves)
        for rounding in _ROUNDINGS:
            if (
                resolve_span(SpanRule(0, 0.0), self.sink_size, rounding, MAX_TOKENS).span
                == narrowest
            ):
                return rounding
        return _ROUNDINGS[0]

    def check_model(self, config: ModelConfig) -> None:
        """Raises MismatchError unless the curves were measured on this model (E17)."""
        want = (config.num_hidden_layers, config.num_key_value_heads)
        if self.shape != want:
            raise MismatchError(
                f"curves {self.shape[0]}x{self.shape[1]} vs model {want[0]}x{want[1]} (layers x "
                "KV heads)"
            )
        if self.fingerprint != config.fingerprint:
            raise MismatchError(
                f"fingerprint: curves are of {self.model_name or 'a model'} "
                f"({self.fingerprint[:16]}...), got {config.fingerprint[:16]}..."
            )
        for curve in self.curves:
            if curve.length > config.max_position_embeddings:
                raise MismatchError(
                    f"curve {curve.title}: the model ends at {config.max_position_embeddings}"
                )

    def sha256(self) -> str:
        """Hash of all that is stored: equal curves have equal hashes."""
        from moa_tools.profile import curve_files

        return hashlib.sha256(curve_files.document(self)).hexdigest()

    def save(self, path: Path) -> None:
        """Writes NAME.safetensors, then NAME.json, each whole or not at all; `path` names either.

        Raises IoError or ResourceError.
        """
        from moa_tools.profile import curve_files

        curve_files.save(self, path)

    @staticmethod
    def load(path: Path, config: ModelConfig | None = None) -> CostCurves:
        """Reads and checks a pair of files; with `config` also that they belong to that model.

        Raises FormatError, UnsupportedError (newer version), NumericError, MismatchError, IoError.
        """
        from moa_tools.profile import curve_files

        return curve_files.load(path, config)
