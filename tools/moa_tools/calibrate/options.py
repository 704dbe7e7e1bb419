"""What `calibrate` is asked to make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from moa_rt import ArgumentError, ModelConfig

from moa_tools.calibrate.exercises import TASKS
from moa_tools.calibrate.samples import Split

MIN_LENGTH = 256  # tokens; below, question and needles leave no room for text
MAX_SAMPLES = 10_000
DEFAULT_LENGTHS = (1024, 2048, 4096)
# Of each task and length. On two cores 4 take minutes; what a GPU makes in that time is more.
DEFAULT_SAMPLES = {"cpu": 4, "cuda": 12}
DEFAULT_ATTEMPTS = {"cpu": 3, "cuda": 6}


@dataclass(frozen=True)
class CalibrateOptions:
    """What to make. None stands for a default that depends on model and device (`complete`).

    `samples`: of each task and length in the split "profile"; the other splits get half of it.
    `validate_lengths`: twice the longest of `lengths`, or the model's limit if that is less.
    `heldout_lengths`: the longest of `lengths`. `answer_tokens`: most tokens of a recalled answer;
    summaries may have twice as many. `attempts`: prompts tried for each sample that is wanted.
    """

    lengths: tuple[int, ...] = DEFAULT_LENGTHS
    validate_lengths: tuple[int, ...] | None = None
    heldout_lengths: tuple[int, ...] | None = None
    samples: int | None = None
    tasks: tuple[str, ...] = TASKS
    sources: tuple[Path, ...] = ()
    field: str | None = None
    device: str = "cpu"
    dtype: str = "auto"
    seed: int = 0
    answer_tokens: int = 40
    keep_wrong: bool = False
    attempts: int | None = None
    batch: int = 8

    def buckets(self) -> list[tuple[Split, int, int]]:
        """(split, length, samples of each task), in the order of the work."""
        count = self.samples or 1
        half = (count + 1) // 2
        found: list[tuple[Split, int, int]] = [("profile", n, count) for n in self.lengths]
        found += [("validate", n, half) for n in self.validate_lengths or ()]
        return found + [("heldout", n, half) for n in self.heldout_lengths or ()]


def complete(options: CalibrateOptions, config: ModelConfig) -> CalibrateOptions:
    """The options with every default set. Raises ArgumentError for one that is out of bounds."""
    limit = config.max_position_embeddings
    if not options.lengths:
        raise ArgumentError("lengths: got none, want at least one")
    longest = max(options.lengths)
    done = replace(
        options,
        lengths=tuple(sorted(set(options.lengths))),
        validate_lengths=tuple(sorted(set(options.validate_lengths or (min(2 * longest, limit),)))),
        heldout_lengths=tuple(sorted(set(options.heldout_lengths or (longest,)))),
        samples=_default(options.samples, DEFAULT_SAMPLES, options.device),
        attempts=_default(options.attempts, DEFAULT_ATTEMPTS, options.device),
    )
    for name in ("lengths", "validate_lengths", "heldout_lengths"):
        for length in getattr(done, name):
            _bounded(name, length, MIN_LENGTH, limit)
    _bounded("samples", done.samples, 1, MAX_SAMPLES)
    _bounded("answer_tokens", done.answer_tokens, 8, 1024)
    _bounded("attempts", done.attempts, 1, 100)
    _bounded("batch", done.batch, 1, 256)
    unknown = [task for task in done.tasks if task not in TASKS]
    if unknown or not done.tasks:
        raise ArgumentError(f"tasks: got {list(done.tasks)}, want some of {list(TASKS)}")
    if len(set(done.tasks)) != len(done.tasks):
        raise ArgumentError(f"tasks: got {list(done.tasks)}, want each once")
    return done


def _default(value: int | None, defaults: Mapping[str, int], device: str) -> int:
    kind = device.split(":")[0]
    if kind not in defaults:
        raise ArgumentError(f"device: got {device!r}, want cpu, cuda or cuda:<index>")
    return defaults[kind] if value is None else value


def _bounded(name: str, value: int | None, least: int, most: int) -> None:
    if value is None or not least <= value <= most:
        raise ArgumentError(f"{name}: got {value}, want {least} to {most}")
