"""What gates take on a device, for a model shape: random weights, real shapes."""

from __future__ import annotations

from moa_tools.bench.shapes import Shape
from moa_tools.gates import memory
from moa_tools.gates.options import GatesOptions
from moa_tools.gates.run import is_scarce, lessons
from moa_tools.gates.training import Pools, Trainer
from moa_tools.hf.load import random_model, torch_device
from moa_tools.hf.numeric_type import ITEM_BYTES
from moa_tools.profile.measure import Cost, check_fits, random_sample, repeated
from moa_tools.progress import Silent


def measure(shape: Shape, length: int, answer: int, options: GatesOptions, repeat: int = 3) -> Cost:
    """Makes `repeat` steps on samples of random tokens after a first one.

    Raises what `profile.measure.check_fits` and `repeated` raise.
    """
    torch_device(options.device)
    dtype, batch = options.torch_dtype, options.batch_size
    config = shape.config(dtype)
    predicted = memory.predict_memory(config, length, batch, ITEM_BYTES[dtype], options.device)
    check_fits(shape, length, answer, options.device, predicted)
    model = random_model(shape.config_json(dtype), dtype=dtype, device=options.device)
    samples = [random_sample(shape, length, answer, task) for task in ("text", *["facts"] * batch)]
    trainer = Trainer(
        model,
        Pools(lessons(model, samples, options, Silent())),
        options,
        (config.num_hidden_layers, config.num_key_value_heads, config.num_attention_heads),
        is_scarce(config, length, options),
    )
    seconds, peak = repeated(trainer.step, options.device, length, repeat)
    return Cost(seconds, dtype, predicted, peak)
