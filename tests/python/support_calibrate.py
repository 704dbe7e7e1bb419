"""A small calibration set over the tiny model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moa_rt import Engine
from moa_tools.calibrate.build import calibrate
from moa_tools.calibrate.options import CalibrateOptions
from moa_tools.calibrate.samples import SCHEMA, CalibrationSet, Sample, save
from moa_tools.progress import Silent

# A random model answers nothing right, so wrong answers are kept.
SMALL = {
    "lengths": (640,),
    "validate_lengths": (768,),
    "heldout_lengths": (640,),
    "samples": 2,
    "attempts": 1,
    "keep_wrong": True,
    "answer_tokens": 8,
    "batch": 3,
}


def small_options(**changes: Any) -> CalibrateOptions:
    """`SMALL` with other values."""
    return CalibrateOptions(**{**SMALL, **changes})


def small_set(model: Path, out: Path, **changes: Any) -> CalibrationSet:
    """A set of a few short samples."""
    return calibrate(model, out, small_options(**changes), Silent())


def save_samples(place: Path, samples: Sequence[Sample], fingerprint: str) -> Path:
    """A set of just these samples, at `place`."""
    manifest = {
        "schema": SCHEMA,
        "fingerprint": fingerprint,
        "model_name": "tiny",
        "seed": 0,
        "lengths": sorted({sample.length for sample in samples}),
        "tasks": sorted({sample.task for sample in samples}),
        "sources": {},
        "options": {},
    }
    place.mkdir(exist_ok=True)
    save(place, samples, manifest)
    return place


def decode(model: Path, ids: tuple[int, ...]) -> str:
    """The text of ids."""
    with Engine(model, num_threads=1, max_seq_len=64) as engine:
        return engine.tokenizer.decode(ids)
