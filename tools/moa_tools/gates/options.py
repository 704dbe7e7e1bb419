"""What the gates' training is asked for, checked, and the samples it uses."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from moa_rt import ArgumentError, ModelConfig

from moa_tools.calibrate.samples import SAMPLES, Sample
from moa_tools.files import read_bounded
from moa_tools.hf.numeric_type import check_dtype, dtype_in_use

DEFAULT_TARGETS = (0.5, 0.25, 0.125)
_MAX_SAMPLES_FILE = 1 << 30


@dataclass(frozen=True)
class GatesOptions:
    """How to train the gates.

    Attributes:
        lengths: the buckets to use; all of the calibration set if empty.
        device: "cpu", "cuda" or "cuda:<index>".
        dtype: of weights and activations; "auto": bfloat16 on a GPU, else float32. Softmax
            statistics and gates are always float32.
        steps: steps of Adam; None: 300 on a GPU, 60 on a CPU.
        batch: samples a step, a quarter of them plain text; None: 4 on a GPU, 2 on a CPU.
        learning_rate: of Adam, in units of price.
        densest, sparsest: the sweep begins and ends at these densities.
        targets: densities on the way at which the sweep rests, so that the gates settle: the curves
            are best there.
        language_weight: of the divergence on plain text against that on answers.
        max_samples: at most this many of each objective and length.
        answer_tokens: at most so many positions of a sample enter the loss.
        sink: tokens at the start that every head keeps.
        seed: of the order of the samples.
    """

    lengths: tuple[int, ...] = ()
    device: str = "cpu"
    dtype: str = "auto"
    steps: int | None = None
    batch: int | None = None
    learning_rate: float = 0.15
    densest: float = 0.8
    sparsest: float = 0.125
    targets: tuple[float, ...] = DEFAULT_TARGETS
    language_weight: float = 0.2
    max_samples: int | None = None
    answer_tokens: int = 256
    sink: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        for name, low in (("steps", 2), ("batch", 2), ("max_samples", 1), ("answer_tokens", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise ArgumentError(f"{name}: got {value}, want at least {low}")
        if not 0 < self.sparsest < self.densest < 1:
            raise ArgumentError(
                f"densities: got a sweep from {self.densest} to {self.sparsest}, want "
                "1 > densest > sparsest > 0"
            )
        for target in self.targets:
            if not self.sparsest <= target <= self.densest:
                raise ArgumentError(
                    f"targets: got {target}, want {self.sparsest} to {self.densest}, the sweep's "
                    "densities"
                )
        for name in ("learning_rate", "language_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ArgumentError(f"{name}: got {value}, want a positive number")
        if self.sink < 0:
            raise ArgumentError(f"sink: got {self.sink}, want at least 0")

    @property
    def torch_dtype(self) -> str:
        """The type in use."""
        return dtype_in_use(self.dtype, self.device)

    @property
    def step_count(self) -> int:
        """Steps in use."""
        return self.steps or (60 if self.device == "cpu" else 300)

    @property
    def batch_size(self) -> int:
        """Samples a step in use."""
        return self.batch or (2 if self.device == "cpu" else 4)


def provenance(
    calibration: Path, config: ModelConfig, samples: tuple[Sample, ...], options: GatesOptions
) -> dict[str, str]:
    """All that the result depends on: equal provenance, equal bytes (on a CPU)."""
    raw = read_bounded(calibration / SAMPLES, _MAX_SAMPLES_FILE)
    ids = "\n".join(sample.id for sample in samples)
    used = {key: str(value) for key, value in asdict(options).items()}
    del used["lengths"], used["max_samples"]
    return {
        **used,
        "batch": str(options.batch_size),
        "calibration_sha256": hashlib.sha256(raw).hexdigest(),
        "device": options.device.partition(":")[0],
        "dtype": options.torch_dtype,
        "model_fingerprint": config.fingerprint,
        "samples": str(len(samples)),
        "samples_sha256": hashlib.sha256(ids.encode("utf-8")).hexdigest(),
        "steps": str(options.step_count),
    }
