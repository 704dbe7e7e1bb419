"""What profiling takes on a device, for a model shape: random weights, real shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moa_rt import ArgumentError, ResourceError

from moa_tools.bench.shapes import Shape
from moa_tools.calibrate.samples import Sample
from moa_tools.hf.load import torch_device
from moa_tools.profile import memory
from moa_tools.profile.meter import Meter
from moa_tools.profile.options import ITEM_BYTES, ProfileOptions
from moa_tools.profile.run import sample_curves


@dataclass(frozen=True)
class ProfileCost:
    """Of one sample; the first one, which warms up, is left out."""

    seconds: float
    predicted_bytes: int
    peak_bytes: int | None  # GPU only: what its allocator gave out at most


def measure(
    shape: Shape, length: int, answer: int, options: ProfileOptions, repeat: int = 3
) -> ProfileCost:
    """Profiles `repeat` samples of random tokens after a first one.

    Raises ArgumentError for lengths that do not go together and ResourceError if the prediction is
    more than what the device has free.
    """
    if not 0 < answer < length <= shape.max_position_embeddings:
        raise ArgumentError(
            f"length and answer: got {length} and {answer}, want 1 <= answer < length <= "
            f"{shape.max_position_embeddings}"
        )
    if repeat < 1:
        raise ArgumentError(f"repeat: got {repeat}, want at least 1")
    torch_device(options.device)
    config = shape.config(options.torch_dtype)
    item = ITEM_BYTES[options.torch_dtype]
    predicted = memory.predict_memory(config, length, answer, item, options.device).total
    free = memory.free_bytes(options.device)
    if predicted > free:
        raise ResourceError(
            f"{shape.name} at {length} tokens on {options.device}: needs {predicted} bytes, free "
            f"{free}"
        )
    model = _random_model(shape, options)
    ids = tuple((7 * i) % shape.vocab_size for i in range(1, length + 1))
    sample = Sample("random", "text", "profile", length, ids[:-answer], ids[-answer:], "random")
    sample_curves(model, sample, options)
    meter = Meter(options.device)
    for _ in range(repeat):
        with meter.measure(length):
            sample_curves(model, sample, options)
    return ProfileCost(meter.mean_seconds()[length], predicted, meter.peak_bytes.get(length))


def _random_model(shape: Shape, options: ProfileOptions) -> Any:
    import torch
    import transformers

    fields = shape.config_json(options.torch_dtype)
    config = transformers.AutoConfig.for_model(**fields)
    factory: Any = transformers.AutoModelForCausalLM
    with torch.device(options.device):
        torch.manual_seed(0)
        model = factory.from_config(config, dtype=getattr(torch, options.torch_dtype))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()
