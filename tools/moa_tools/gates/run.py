"""`moa-tools gates`: cost curves from gates that were trained on a calibration set."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from moa_rt import IoError, ModelConfig, ResourceError

from moa_tools.calibrate.choose import choose_samples
from moa_tools.calibrate.samples import Sample
from moa_tools.gates import memory
from moa_tools.gates.objective import Lesson, teach
from moa_tools.gates.options import GatesOptions, provenance
from moa_tools.gates.partial import Partial
from moa_tools.gates.training import Pools, Trainer
from moa_tools.hf.load import load_model, torch_device
from moa_tools.hf.numeric_type import ITEM_BYTES
from moa_tools.profile import curve_files
from moa_tools.profile.cost_curves import CostCurve, CostCurves
from moa_tools.profile.memory import CAUTION, free_bytes, is_out_of_memory
from moa_tools.progress import Reporter, Silent

if TYPE_CHECKING:
    from torch import Tensor

METHOD = "gates"
# Answers and plain text are learned together, so there is one curve a length.
OBJECTIVE = "joint"
_SAVE_EVERY = 20  # steps
# On a CPU a step may take half a minute; with this the file is never older than this and a step.
_SAVE_SECONDS = 30.0

__all__ = ["GatesOptions", "GatesReport", "gates"]


@dataclass(frozen=True)
class GatesReport:
    """What a run made, and what it took: that is not part of the result, whose bytes repeat."""

    curves: CostCurves
    losses: tuple[tuple[float, float, float], ...]  # of each step: density, answers, plain text
    seconds_per_step: float
    peak_bytes: int | None  # GPU only


def gates(
    model_dir: Path,
    calibration: Path,
    out: Path,
    options: GatesOptions | None = None,
    reporter: Reporter | None = None,
) -> GatesReport:
    """Trains the gates on the "profile" split and writes their curves to `out`.

    One curve a length, objective "joint": what keeping only a span loses is the sum, over the bands
    it leaves out, of tokens / N times the worth of the band to the head (see `training.py`).
    Interrupted, it goes on after the last step that was finished; killed, where it was saved last
    (every 20 steps and every half a minute); on a CPU, to the same bytes.

    Raises ArgumentError (options), IoError (`out` cannot be written; before any work),
    MismatchError (a set of another model), ResourceError (naming the length that would fit) or
    NumericError (a loss that is not finite).
    """
    options, reporter = options or GatesOptions(), reporter or Silent()
    torch_device(options.device)
    curve_files.check_target(out)
    config = ModelConfig.load(str(model_dir))
    samples = choose_samples(calibration, config, options.lengths, options.max_samples)
    longest = max(sample.length for sample in samples)
    _check_memory(config, longest, options)
    origin = provenance(calibration, config, samples, options)
    partial = Partial(curve_files.paths(out)[0].with_suffix(".partial.safetensors"), origin)
    with _out_of_memory_named(config, longest, options), _fast_products(options):
        model, _ = load_model(model_dir, dtype=options.torch_dtype, device=options.device)
        pools = Pools(lessons(model, samples, options, reporter))
        shape = (config.num_hidden_layers, config.num_key_value_heads, config.num_attention_heads)
        trainer = Trainer(model, pools, options, shape, is_scarce(config, longest, options))
        if partial.restore(trainer):
            reporter.info(f"gates: going on after step {trainer.state.step}")
        seconds = _train(trainer, partial, options, reporter)
        peak = torch.cuda.max_memory_allocated(model.device) if options.device != "cpu" else None
    curves = CostCurves(
        fingerprint=config.fingerprint,
        model_name=model_dir.resolve().name,
        method=METHOD,
        sink_size=options.sink,
        curves=tuple(
            cost_curve(trainer.grids[n].spans, trainer.state.worth[n]) for n in trainer.lengths
        ),
        provenance=origin,
    )
    curves.save(out)
    partial.remove()
    return GatesReport(curves, tuple(trainer.state.losses), seconds, peak)


def cost_curve(spans: tuple[int, ...], worth: Tensor) -> CostCurve:
    """The curve of a length, spans[-1]: worth (layers, KV heads, K - 1) of the bands between spans.

    A wider span is never dearer, and what a head loses goes up ever faster as its span shrinks, so
    the integer program gives bands up in the order of their worth.
    """
    lost = np.diff(np.array(spans)) / spans[-1] * worth.detach().double().cpu().numpy()
    below = np.flip(np.cumsum(np.flip(lost, -1), -1), -1)
    costs = np.concatenate([below, np.zeros_like(below[..., :1])], -1)
    return CostCurve(OBJECTIVE, spans[-1], np.array(spans, dtype=np.int64), np.maximum(costs, 0.0))


def lessons(
    model: Any, samples: Sequence[Sample], options: GatesOptions, reporter: Reporter
) -> dict[int, dict[str, list[Lesson]]]:
    """What the dense model says to every sample, by length and objective."""
    found: dict[int, dict[str, list[Lesson]]] = {}
    reporter.start("dense answers", len(samples))
    try:
        for length in sorted({sample.length for sample in samples}):
            same = [sample for sample in samples if sample.length == length]
            for start in range(0, len(same), options.batch_size):
                batch = same[start : start + options.batch_size]
                for lesson in teach(model, batch, options.answer_tokens):
                    pools = found.setdefault(length, {})
                    pools.setdefault(lesson.sample.objective, []).append(lesson)
                reporter.advance(len(batch))
    finally:
        reporter.stop()
    return found


def _train(trainer: Trainer, partial: Partial, options: GatesOptions, reporter: Reporter) -> float:
    """All steps that are left; seconds of one. However it ends, every whole step is saved."""
    left = options.step_count - trainer.state.step
    reporter.start("gates", left)
    begun = saved = time.monotonic()
    try:
        while trainer.state.step < options.step_count:
            trainer.step()
            partial.keep(trainer)
            reporter.advance(1)
            due = trainer.state.step % _SAVE_EVERY == 0
            if due or time.monotonic() - saved >= _SAVE_SECONDS:
                partial.save()
                saved = time.monotonic()
            if due:
                reporter.info(_line(trainer))
        partial.save()
    except BaseException:
        _save_what_is_done(partial, reporter)
        raise
    finally:
        reporter.stop()
    return (time.monotonic() - begun) / max(left, 1)


def _save_what_is_done(partial: Partial, reporter: Reporter) -> None:
    """On the way out: the error that ends the run is the one to be told, not one of saving."""
    try:
        if partial.save():
            reporter.info("gates: what is done is saved; the same command goes on from there")
    except (IoError, ResourceError) as error:
        reporter.warning(f"gates: the last steps are not saved: {error}")


def _line(trainer: Trainer) -> str:
    density = trainer.state.losses[-1][0]
    recent = trainer.state.losses[-_SAVE_EVERY:]
    answers, text = (sum(loss[i] for loss in recent) / len(recent) for i in (1, 2))
    return (
        f"step {trainer.state.step}: density {density:.3f}, divergence {answers:.3f} nats on "
        f"answers, {text:.3f} on text"
    )


@contextmanager
def _fast_products(options: GatesOptions) -> Iterator[None]:
    """TF32 for the float32 products on a GPU: their inputs were bfloat16 before."""
    before = torch.get_float32_matmul_precision()
    if options.torch_dtype == "bfloat16":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _fits(config: ModelConfig, options: GatesOptions, longest: int) -> str:
    item, batch = ITEM_BYTES[options.torch_dtype], options.batch_size
    free = free_bytes(options.device)
    fits = memory.longest_that_fits(config, batch, item, options.device, free, longest)
    return f"length {fits} would fit" if fits > 0 else "no length would: the weights do not fit"


def is_scarce(config: ModelConfig, length: int, options: GatesOptions) -> bool:
    """Whether layers are to be computed again in the backward pass."""
    item = ITEM_BYTES[options.torch_dtype]
    return memory.is_scarce(config, length, options.batch_size, item, options.device)


def _check_memory(config: ModelConfig, length: int, options: GatesOptions) -> None:
    item, batch = ITEM_BYTES[options.torch_dtype], options.batch_size
    needed = memory.predict_memory(config, length, batch, item, options.device)
    free = free_bytes(options.device)
    if needed > free:
        raise ResourceError(
            f"gates: {batch} samples of length {length} on {options.device}: needs {needed} bytes, "
            f"free {free}; {_fits(config, options, length)}"
        )


@contextmanager
def _out_of_memory_named(config: ModelConfig, length: int, options: GatesOptions) -> Iterator[None]:
    """An allocation that failed all the same: the prediction is trusted no longer than that."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(
            f"gates: {options.batch_size} samples of length {length} on {options.device}: out of "
            f"memory; {_fits(config, options, int(CAUTION * length))}"
        ) from error
