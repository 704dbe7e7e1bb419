"""What a decode step costs in milliseconds, by how many tokens the heads keep.

    ms(plan, N) = base + per_kept_token_per_head * (kept tokens, summed over layers and KV heads)

`base` is the weights and everything else that no plan changes. Fitted by least squares over
measured plans; `moa-tools search` can take it as a budget in milliseconds instead of bytes.

Schema 1: {"schema": 1, "kind": "moa_rt-cost", "device", "model", "fingerprint", "dtype", "batch",
"date", "per_step_ms": {"base", "per_kept_token_per_head"}, "worst_error": share of the time,
"points": [{"length", "density", "kept", "ms"}]}
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from moa_rt import ArgumentError, AttentionPlan, Engine, FormatError, ModelConfig, NumericError

from moa_tools import strict_json
from moa_tools.bench import decode_run, environment
from moa_tools.bench.decode_run import Setting
from moa_tools.bench.roofline import kept_slots

KIND = "moa_rt-cost"
SCHEMA = 1
DENSITIES = (1.0, 0.75, 0.5, 0.25, 0.125)
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Point:
    """One measurement: `kept` tokens over all layers and KV heads of one sequence."""

    length: int
    density: float
    kept: int
    ms: float


@dataclass(frozen=True)
class CostModel:
    """Milliseconds of a decode step of one sequence among `batch`."""

    device: str
    model: str
    fingerprint: str
    dtype: str
    batch: int
    date: str
    base: float
    per_kept_token_per_head: float
    points: tuple[Point, ...] = ()

    def ms(self, kept: int) -> float:
        """Predicted time of a step; `kept` is of one sequence, all of the batch alike."""
        return self.base + self.per_kept_token_per_head * kept

    def plan_ms(self, plan: AttentionPlan, length: int) -> float:
        """The same of a plan whose rings are as full as `length` tokens make them."""
        return self.ms(kept_slots(plan, length, length))

    @property
    def worst_error(self) -> float:
        """Largest share by which a measured point is missed."""
        return max((abs(self.ms(p.kept) / p.ms - 1.0) for p in self.points), default=0.0)

    def to_bytes(self) -> bytes:
        """The JSON document."""
        out: dict[str, Any] = {"schema": SCHEMA, "kind": KIND, "worst_error": self.worst_error}
        for name in ("device", "model", "fingerprint", "dtype", "batch", "date"):
            out[name] = getattr(self, name)
        out["per_step_ms"] = {
            "base": self.base,
            "per_kept_token_per_head": self.per_kept_token_per_head,
        }
        out["points"] = [asdict(point) for point in self.points]
        return strict_json.dump(out)


def fit(points: Sequence[Point]) -> tuple[float, float]:
    """(base, per kept token per head) in ms, by least squares on relative errors.

    Raises ArgumentError without two different numbers of kept tokens, and NumericError if the fit
    says that keeping more is faster: the machine was not quiet.
    """
    if len({point.kept for point in points}) < 2:
        raise ArgumentError("cost: want at least two different numbers of kept tokens")
    weights = np.array([1.0 / point.ms for point in points])
    terms = np.array([[1.0, point.kept] for point in points]) * weights[:, None]
    base, slope = np.linalg.lstsq(terms, np.ones(len(points)), rcond=None)[0]
    if not slope > 0.0 or not math.isfinite(base):
        raise NumericError(
            f"cost: got {slope:.3g} ms a kept token, want above 0: measure on a quiet machine"
        )
    return float(base), float(slope)


def measure(
    model_dir: Path,
    lengths: Sequence[int],
    device: str,
    batch: int,
    steps: int,
    threads: int | None,
) -> Iterator[Point]:
    """The median step of every density at every length."""
    config = ModelConfig.load(str(model_dir))
    for length in lengths:
        for density in DENSITIES:
            plan = AttentionPlan.uniform(config, density)
            setting = Setting(batch, length - steps // 2, steps + 8, steps)
            with Engine(
                model_dir,
                plan,
                device,
                max_batch=batch,
                max_seq_len=setting.budget,
                num_threads=threads,
            ) as engine:
                decode = decode_run.run(engine, setting, sampling=decode_run.GREEDY)
            kept = kept_slots(plan, setting.budget, decode.length)
            yield Point(length, density, kept, decode.rounds.median * 1e3)


def build(model_dir: Path, points: Sequence[Point], device: str, batch: int) -> CostModel:
    """The fitted model of these points."""
    config = ModelConfig.load(str(model_dir))
    base, slope = fit(points)
    kind = "gpu" if device.startswith("cuda") else "cpu"
    return CostModel(
        device=environment.describe(kind)["device"],
        model=model_dir.resolve().name,
        fingerprint=config.fingerprint,
        dtype=config.torch_dtype or "",
        batch=batch,
        date=environment.now(),
        base=base,
        per_kept_token_per_head=slope,
        points=tuple(points),
    )


def _field(value: Any, name: str, kind: type, path: str) -> Any:
    got: Any = value.get(name) if isinstance(value, dict) else None
    good = isinstance(got, int | float) if kind is float else isinstance(got, kind)
    if not good or isinstance(got, bool) or (kind is float and not math.isfinite(got)):
        raise FormatError(f"{path}: {name}: got {str(got)[:40]}, want {kind.__name__}")
    return kind(got)


def load(path: Path) -> CostModel:
    """Reads a cost file. Raises IoError or FormatError naming the field."""
    value = strict_json.load_object(path, _MAX_BYTES)
    name = str(path)
    if (value.get("schema"), value.get("kind")) != (SCHEMA, KIND):
        raise FormatError(f"{path}: schema, kind: want {SCHEMA} and {KIND!r}")
    cost = value.get("per_step_ms")
    raw = value.get("points")
    points = raw if isinstance(raw, list) else []
    return CostModel(
        **{
            f: _field(value, f, str, name)
            for f in ("device", "model", "fingerprint", "dtype", "date")
        },
        batch=_field(value, "batch", int, name),
        base=_field(cost, "base", float, f"{path}: per_step_ms"),
        per_kept_token_per_head=_field(
            cost, "per_kept_token_per_head", float, f"{path}: per_step_ms"
        ),
        points=tuple(
            Point(
                length=_field(p, "length", int, f"{path}: points[{i}]"),
                density=_field(p, "density", float, f"{path}: points[{i}]"),
                kept=_field(p, "kept", int, f"{path}: points[{i}]"),
                ms=_field(p, "ms", float, f"{path}: points[{i}]"),
            )
            for i, p in enumerate(points)
        ),
    )
