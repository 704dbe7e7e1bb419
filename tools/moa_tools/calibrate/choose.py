"""Which samples of a calibration set a measurement uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from moa_rt import ArgumentError, ModelConfig

from moa_tools.calibrate.samples import Sample, load_samples


def choose_samples(
    calibration: Path,
    config: ModelConfig,
    lengths: Sequence[int],
    max_samples: int | None,
    by: Callable[[Sample], str] = lambda sample: sample.objective,
) -> tuple[Sample, ...]:
    """The samples of the "profile" split to use, in the order of the file.

    `lengths`: the buckets, all if empty. `max_samples`: of each objective (or what
    `by` says) and length.

    Raises what `load_samples` raises, and ArgumentError for a length that the set has no sample of
    or the model no room for.
    """
    samples = load_samples(calibration, config=config).select("profile")
    has = sorted({sample.length for sample in samples})
    for length in lengths:
        if length not in has:
            raise ArgumentError(
                f"{calibration}: lengths: got {length}, the profile split has {has}"
            )
    counts: dict[tuple[str, int], int] = {}
    chosen: list[Sample] = []
    for sample in samples:
        if lengths and sample.length not in lengths:
            continue
        if sample.length > config.max_position_embeddings:
            raise ArgumentError(
                f"{calibration}: sample {sample.id!r}: length {sample.length}: the model ends at "
                f"{config.max_position_embeddings}"
            )
        key = (by(sample), sample.length)
        counts[key] = counts.get(key, 0) + 1
        if max_samples is None or counts[key] <= max_samples:
            chosen.append(sample)
    return tuple(chosen)
