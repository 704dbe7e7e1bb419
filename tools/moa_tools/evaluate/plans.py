"""The plans under evaluation: files, shipped, uniform and dense, each with a label and a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import moa_rt.plans
from moa_rt import ArgumentError, AttentionPlan, ModelConfig

DENSE = "dense"
_UNIFORM = "uniform:"
_AUTO = "auto:"
# Of a plan's JSON, what says how long its spans are. Where it comes from, what it is good for and
# its extensions change no answer: a plan stays the same when its quality is written into it.
_SPANS = (
    "granularity", "length_range", "out_of_range", "rounding", "rules", "sink_size", "version",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class EvalPlan:
    """A plan with the name it has in tables and the SHA-256 of what decides its spans.

    `kind` is "file" for shipped plans, too.
    """

    label: str
    kind: Literal["dense", "uniform", "file"]
    plan: AttentionPlan
    digest: str

    def density(self, length: int) -> float:
        """Kept KV bytes over dense ones at a token budget of `length`."""
        return round(self.plan.density(length), 6)

    def covers(self, length: int) -> bool:
        """Whether `length` is one that the plan is made for: of a file, in its range."""
        return self.kind != "file" or self.plan.min_length <= length <= self.plan.max_length


def _make(label: str, kind: Literal["dense", "uniform", "file"], plan: AttentionPlan) -> EvalPlan:
    return EvalPlan(label, kind, plan, _digest(plan))


def _digest(plan: AttentionPlan) -> str:
    fields = json.loads(plan.to_json())
    spans = json.dumps({name: fields[name] for name in _SPANS}, sort_keys=True)
    return hashlib.sha256(spans.encode("ascii")).hexdigest()


def dense(config: ModelConfig) -> EvalPlan:
    """Every head keeps everything: the reference of every table."""
    return _make(DENSE, "dense", AttentionPlan.dense(config))


def uniform(config: ModelConfig, density: float) -> EvalPlan:
    """Every head keeps the same share. Raises ArgumentError if `density` is not in (0, 1]."""
    return _make(f"{_UNIFORM}{density:g}", "uniform", AttentionPlan.uniform(config, density))


def fixed_span(config: ModelConfig, span: int) -> EvalPlan:
    """Every head keeps `span` tokens, a multiple of 64, however long the input is."""
    rules = [[(span, 0.0)] * config.num_key_value_heads] * config.num_hidden_layers
    plan = AttentionPlan.from_rules(rules, max_length=config.max_position_embeddings)
    return _make(f"span {span}", "uniform", plan)


def _from_file(label: str, path: Path, config: ModelConfig, force: bool) -> EvalPlan:
    plan = AttentionPlan.load(str(path))
    plan.check_model(config, force)
    return _make(label, "file", plan)


def _shipped(config: ModelConfig, density: float) -> EvalPlan:
    return _make(f"{_AUTO}{density:g}", "file", moa_rt.plans.find(config, density))


def _density(text: str, prefix: str) -> float:
    try:
        return float(text.removeprefix(prefix))
    except ValueError:
        raise ArgumentError(f"--plans: got {text!r}, want {prefix}DENSITY") from None


def parse_plans(specs: Sequence[str], config: ModelConfig, force: bool = False) -> list[EvalPlan]:
    """Plans of "dense", "uniform:DENSITY", "auto:DENSITY", "FILE" and "LABEL=FILE", dense first.

    "auto:DENSITY" is the plan that ships for this model, as with `Engine(plan="auto")`; a file of
    that name is "./auto:DENSITY". A file's label is its name without the suffix; the dense plan is
    there even if not asked for.

    Raises:
        IoError, FormatError, MismatchError: a file is missing, no plan, or another model's (unless
            `force` and the shape agrees).
        ArgumentError: a density out of bounds, no shipped plan of that density for this model, or
            two plans with one label.
    """
    plans = [dense(config)]
    for spec in specs:
        if spec == DENSE:
            continue
        if spec.startswith(_UNIFORM):
            plans.append(uniform(config, _density(spec, _UNIFORM)))
            continue
        if spec.startswith(_AUTO):
            plans.append(_shipped(config, _density(spec, _AUTO)))
            continue
        label, separator, path = spec.partition("=")
        if not separator:
            label, path = Path(spec).stem, spec
        plans.append(_from_file(label, Path(path), config, force))
    _check_labels([plan.label for plan in plans])
    return plans


def _check_labels(labels: Sequence[str]) -> None:
    for label in labels:
        if not label or "/" in label or len(label) > 100 or not label.isprintable():
            raise ArgumentError(f"--plans: got the label {label[:100]!r}, want 1 to 100 characters")
        if labels.count(label) > 1:
            raise ArgumentError(f"--plans: got {label!r} twice, want LABEL=FILE to tell them apart")
