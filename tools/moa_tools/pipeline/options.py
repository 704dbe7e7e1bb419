"""What the pipeline is asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from moa_rt import ArgumentError, ModelConfig

from moa_tools.calibrate.options import MIN_LENGTH

Method = Literal["gates", "influence"]
METHODS: tuple[Method, ...] = ("gates", "influence")

DEFAULT_BUDGETS = (0.5, 0.25)
DEFAULT_LENGTHS = {"cpu": (1024, 2048), "cuda": (2048, 4096)}
# Plans of a front that are validated for each budget. One takes minutes on two cores at 4k.
DEFAULT_PLANS = {"cpu": 2, "cuda": 4}
# Of the gates: on two cores a step takes about half a minute, and all has to end within the hour.
DEFAULT_STEPS = {"cpu": 40, "cuda": 300}


@dataclass(frozen=True)
class PipelineOptions:
    """None stands for a default that depends on model and device (`complete`).

    `budgets`: shares of the dense KV bytes, one chosen plan for each. `lengths`: to profile at.
    `validate_length`: twice the longest, or the model's limit. `max_length`: up to where the plans
    are for, at least as long as all of these. `steps`: of the gates' training, none by influence.
    `plans`: of each front, how many are validated.
    `refine`: whether a searched plan of each budget is refined by its true loss and validated too,
    which takes minutes on a GPU.
    `agreement`: whether greedy answers are compared too, which takes as long as the losses.
    """

    budgets: tuple[float, ...] = DEFAULT_BUDGETS
    lengths: tuple[int, ...] | None = None
    validate_length: int | None = None
    max_length: int | None = None
    method: Method = "gates"
    steps: int | None = None
    samples: int | None = None
    sources: tuple[Path, ...] = ()
    field: str | None = None
    device: str = "cpu"
    seed: int = 0
    solver: str = "cbc"
    plans: int | None = None
    refine: bool = False
    agreement: bool = False

    @property
    def longest(self) -> int:
        """The last length of the plans."""
        return max(self.max_length or 0, self.validate_length or 0, *(self.lengths or (0,)))


def complete(options: PipelineOptions, config: ModelConfig) -> PipelineOptions:
    """The options with every default set. Raises ArgumentError for one that is out of bounds.

    What a step's own options say is out of bounds is found by `checks.check`.
    """
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,4})?", options.device):
        raise ArgumentError(f"device: got {options.device!r}, want cpu, cuda or cuda:<index>")
    kind = options.device.split(":")[0]
    as_method(options.method)
    gates = options.method == "gates"
    if options.steps is not None and not gates:
        raise ArgumentError(f"steps: got {options.steps}, want none: only gates are trained")
    if options.field is not None and not options.sources:
        raise ArgumentError(f"field: got {options.field[:100]!r}, want a source that has it")
    if options.plans is not None and options.plans < 1:
        raise ArgumentError(f"plans: got {options.plans}, want at least 1")
    lengths, validate_length = _lengths(options, config.max_position_embeddings, kind)
    steps = DEFAULT_STEPS[kind] if gates and options.steps is None else options.steps
    return replace(
        options,
        budgets=_budgets(options),
        lengths=lengths,
        validate_length=validate_length,
        plans=DEFAULT_PLANS[kind] if options.plans is None else options.plans,
        steps=steps,
    )


def _budgets(options: PipelineOptions) -> tuple[float, ...]:
    """Each once, the largest first."""
    if not options.budgets:
        raise ArgumentError("budget: got none, want at least one")
    for budget in options.budgets:
        if not 0 < budget < 1:
            raise ArgumentError(f"budget: got {budget}, want a share of the KV bytes in (0, 1)")
    return tuple(sorted(set(options.budgets), reverse=True))


def _lengths(options: PipelineOptions, limit: int, kind: str) -> tuple[tuple[int, ...], int]:
    """Lengths to profile at, ascending, and the one to validate at. `limit`: the model's."""
    given = DEFAULT_LENGTHS[kind] if options.lengths is None else options.lengths
    lengths = tuple(sorted(set(given)))
    if not lengths:
        raise ArgumentError("lengths: got none, want at least one")
    validate_length = options.validate_length
    if validate_length is None:
        validate_length = min(2 * lengths[-1], limit)
    named = [("lengths", n) for n in lengths] + [("validate_length", validate_length)]
    for name, length in named:
        if not MIN_LENGTH <= length <= limit:
            raise ArgumentError(f"{name}: got {length}, want {MIN_LENGTH} to {limit}")
    longest, last = max(lengths[-1], validate_length), options.max_length
    if last is not None and not longest <= last <= limit:
        raise ArgumentError(
            f"max_length: got {last}, want {longest}, the longest that is profiled or validated, "
            f"to {limit}, where the model ends"
        )
    return lengths, validate_length


def sort_numbers(
    numbers: Sequence[str], budgets: Sequence[float], lengths: Sequence[int]
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Numbers that stand behind --budget 0.5 or --lengths 1024 on the command line, told apart.

    Raises ArgumentError if one is neither a share below 1 nor a whole length, or if the option it
    would belong to is not there.
    """
    more_budgets, more_lengths = list(budgets), list(lengths)
    for text in numbers:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if 0 < value < 1 and budgets:
            more_budgets.append(value)
        elif value >= 1 and value.is_integer() and lengths:
            more_lengths.append(int(value))
        else:
            raise ArgumentError(
                f"got {text!r:.200} after OUT, want more budgets behind --budget or more lengths "
                "behind --lengths"
            )
    return tuple(more_budgets), tuple(more_lengths)


def as_method(text: str) -> Method:
    """Checked. Raises ArgumentError."""
    if text not in METHODS:
        raise ArgumentError(f"method: got {text!r}, want one of {METHODS}")
    return text
