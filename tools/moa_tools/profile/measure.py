"""What profiling takes on a device, for a model shape: random weights, real shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moa_rt import ArgumentError, ResourceError

from moa_tools.bench.shapes import Shape
from moa_tools.calibrate.samples import Sample
from moa_tools.hf.load import random_model, torch_device
from moa_tools.hf.numeric_type import ITEM_BYTES
from moa_tools.profile import memory
from moa_tools.profile.meter import Meter
from moa_tools.profile.options import ProfileOptions
from moa_tools.profile.run import sample_curves


@dataclass(frozen=True)
class Cost:
    """Of one round of work; the first one, which warms up, is left out."""

    seconds: float
    dtype: str
    predicted_bytes: int
    peak_bytes: int | None  # GPU only: what its allocator gave out at most


def check_fits(shape: Shape, length: int, answer: int, device: str, predicted: int) -> None:
    """Raises ArgumentError for lengths that do not agree, ResourceError for want of memory."""
    if not 0 < answer < length <= shape.max_position_embeddings:
        raise ArgumentError(
            f"length and answer: got {length} and {answer}, want 1 <= answer < length <= "
            f"{shape.max_position_embeddings}"
        )
    free = memory.free_bytes(device)
    if predicted > free:
        raise ResourceError(
            f"{shape.name} at {length} tokens on {device}: needs {predicted} bytes, free {free}"
        )


def random_sample(shape: Shape, length: int, answer: int, task: str = "text") -> Sample:
    """A sample of `length` tokens without meaning, the last `answer` of them its answer."""
    ids = tuple((7 * i) % shape.vocab_size for i in range(1, length + 1))
    return Sample("random", task, "profile", length, ids[:-answer], ids[-answer:], "random")


def repeated(
    work: Callable[[], object], device: str, length: int, repeat: int
) -> tuple[float, int | None]:
    """Mean seconds of a round after a first one, and the most bytes on a GPU in any of them.

    Raises ArgumentError if no round is asked for.
    """
    if repeat < 1:
        raise ArgumentError(f"repeat: got {repeat}, want at least 1")
    work()
    meter = Meter(device)
    for _ in range(repeat):
        with meter.measure(length):
            work()
    return meter.mean_seconds()[length], meter.peak_bytes.get(length)


def measure(
    shape: Shape, length: int, answer: int, options: ProfileOptions, repeat: int = 3
) -> Cost:
    """Profiles `repeat` samples of random tokens after a first one.

    Raises what `check_fits` and `repeated` raise.
    """
    torch_device(options.device)
    dtype = options.torch_dtype
    config = shape.config(dtype)
    parts = memory.predict_memory(config, length, answer, ITEM_BYTES[dtype], options.device)
    check_fits(shape, length, answer, options.device, parts.total)
    model = random_model(shape.config_json(dtype), dtype=dtype, device=options.device)
    sample = random_sample(shape, length, answer)
    seconds, peak = repeated(
        lambda: sample_curves(model, sample, options), options.device, length, repeat
    )
    return Cost(seconds, dtype, parts.total, peak)
