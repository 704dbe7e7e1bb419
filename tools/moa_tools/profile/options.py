"""What a profile is asked for, checked, and the samples it uses."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from moa_rt import ArgumentError, ModelConfig

from moa_tools.calibrate.samples import SAMPLES, Sample
from moa_tools.files import read_bounded
from moa_tools.hf.numeric_type import check_dtype, dtype_in_use
from moa_tools.profile.influence import FORMS, Form

_MAX_SAMPLES_FILE = 1 << 30


@dataclass(frozen=True)
class ProfileOptions:
    """How to profile.

    Attributes:
        lengths: the buckets to use; all of the calibration set if empty.
        form: "joint" (exact to first order for a whole span) or "entry" (the paper's).
        device: "cpu", "cuda" or "cuda:<index>".
        dtype: of weights and activations; "auto": bfloat16 on a GPU, else float32. Statistics are
            always float32.
        max_samples: at most this many of each objective and length.
        sink: tokens at the start that every head keeps.
    """

    lengths: tuple[int, ...] = ()
    form: Form = "joint"
    device: str = "cpu"
    dtype: str = "auto"
    max_samples: int | None = None
    sink: int = 64

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ArgumentError(f"form: got {self.form!r}, want one of {FORMS}")
        check_dtype(self.dtype)
        if self.max_samples is not None and self.max_samples < 1:
            raise ArgumentError(f"max_samples: got {self.max_samples}, want at least 1")
        if self.sink < 0:
            raise ArgumentError(f"sink: got {self.sink}, want at least 0")

    @property
    def torch_dtype(self) -> str:
        """The type in use."""
        return dtype_in_use(self.dtype, self.device)


def provenance(
    calibration: Path, config: ModelConfig, samples: tuple[Sample, ...], options: ProfileOptions
) -> dict[str, str]:
    """All that the result depends on: equal provenance, equal bytes."""
    raw = read_bounded(calibration / SAMPLES, _MAX_SAMPLES_FILE)
    ids = "\n".join(sample.id for sample in samples)
    return {
        "calibration_sha256": hashlib.sha256(raw).hexdigest(),
        "device": options.device.partition(":")[0],
        "dtype": options.torch_dtype,
        "form": options.form,
        "model_fingerprint": config.fingerprint,
        "samples": str(len(samples)),
        "samples_sha256": hashlib.sha256(ids.encode("utf-8")).hexdigest(),
        "sink_size": str(options.sink),
    }
