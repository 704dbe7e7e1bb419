"""`moa-tools profile`: influence curves of a model over a calibration set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from moa_rt import ModelConfig, NumericError, ResourceError
from numpy.typing import NDArray

from moa_tools.calibrate.choose import choose_samples
from moa_tools.calibrate.samples import Sample
from moa_tools.hf.load import load_model, torch_device
from moa_tools.hf.numeric_type import ITEM_BYTES
from moa_tools.profile import curve_files, memory
from moa_tools.profile.cost_curves import CostCurve, CostCurves
from moa_tools.profile.influence import influence_curves
from moa_tools.profile.layers import attention_gradients
from moa_tools.profile.meter import Meter
from moa_tools.profile.options import ProfileOptions, provenance
from moa_tools.profile.partial import PartialCurves
from moa_tools.profile.spans import profile_spans
from moa_tools.progress import Reporter, Silent

Curves = NDArray[np.float64]


@dataclass(frozen=True)
class ProfileReport:
    """What a run made, and what it took: that is not part of the result, whose bytes repeat."""

    curves: CostCurves
    samples: int  # of this run, without those that an earlier one had finished
    seconds: dict[int, float]  # mean of a sample, by length
    peak_bytes: dict[int, int]  # GPU only: most memory allocated, by length


def profile(
    model_dir: Path,
    calibration: Path,
    out: Path,
    options: ProfileOptions | None = None,
    reporter: Reporter | None = None,
) -> ProfileReport:
    """Writes the influence curves of the "profile" split to `out` (NAME.json, NAME.safetensors).

    One curve for each objective and length: the mean over its samples of the sum over rows of the
    absolute first-order change of the loss (see `influence.py`). Interrupted, it goes on where it
    was, to the same bytes.

    Raises ArgumentError (options), IoError (`out` cannot be written; before any work),
    MismatchError (a set of another model), ResourceError (naming the length that would fit) or
    NumericError (naming the sample).
    """
    options, reporter = options or ProfileOptions(), reporter or Silent()
    torch_device(options.device)
    curve_files.check_target(out)
    config = ModelConfig.load(str(model_dir))
    samples = choose_samples(calibration, config, options.lengths, options.max_samples)
    free = memory.free_bytes(options.device)
    for sample in samples:
        _check_memory(config, sample, options, free)

    origin = provenance(calibration, config, samples, options)
    partial = PartialCurves(curve_files.paths(out)[0].with_suffix(".partial"), origin)
    worker = _Worker(model_dir, config, options)
    done = _resume(samples, config, partial, options, reporter)
    reporter.start("profile", len(samples) - len(done))
    try:
        for sample in samples:
            if sample.id not in done:
                done[sample.id] = worker.curves(sample)
                partial.put(sample.id, done[sample.id])
                reporter.advance(1)
    finally:
        reporter.stop()
    curves = CostCurves(
        fingerprint=config.fingerprint,
        model_name=model_dir.resolve().name,
        method=f"influence-{options.form}",
        sink_size=options.sink,
        curves=_average(samples, done, options.sink),
        provenance=origin,
    )
    curves.save(out)
    partial.remove()
    meter = worker.meter
    return ProfileReport(curves, meter.count, meter.mean_seconds(), meter.peak_bytes)


class _Worker:
    """Profiles sample after sample; the model is loaded for the first."""

    def __init__(self, model_dir: Path, config: ModelConfig, options: ProfileOptions) -> None:
        self.meter = Meter(options.device)
        self._model_dir = model_dir
        self._config = config
        self._options = options
        self._model: Any = None

    def curves(self, sample: Sample) -> Curves:
        """(layers, KV heads, K). Raises NumericError or ResourceError naming the sample."""
        options = self._options
        try:
            if self._model is None:
                self._model, _ = load_model(
                    self._model_dir, dtype=options.torch_dtype, device=options.device
                )
            with self.meter.measure(sample.length):
                return sample_curves(self._model, sample, options)
        except (MemoryError, RuntimeError) as error:
            if not memory.is_out_of_memory(error):
                raise
            raise _out_of_memory(self._config, sample, options) from error


def sample_curves(model: Any, sample: Sample, options: ProfileOptions) -> Curves:
    """Influence of one sample, float64 (layers, KV heads, K), K spans of `profile_spans`.

    Raises NumericError, naming the sample, if the loss or an influence is not finite.
    """
    spans = profile_spans(sample.length, options.sink)
    loss, layers = attention_gradients(model, sample.prompt_ids, sample.answer_ids)
    if not np.isfinite(loss):
        raise NumericError(f"sample {sample.id!r}: loss: got {loss}, want a finite number")
    rows: list[Curves] = []
    for layer, attention in layers:
        curves = influence_curves(attention, spans, options.sink, options.form).numpy()
        if not np.isfinite(curves).all():
            raise NumericError(
                f"sample {sample.id!r}: layer {layer}: influence: got NaN or infinity, want finite "
                "numbers"
            )
        rows.append(curves)
        del attention  # else it would stay while the next layer's graph is made
    return np.stack(rows[::-1])


def _resume(
    samples: Sequence[Sample],
    config: ModelConfig,
    partial: PartialCurves,
    options: ProfileOptions,
    reporter: Reporter,
) -> dict[str, Curves]:
    done: dict[str, Curves] = {}
    for sample in samples:
        knots = len(profile_spans(sample.length, options.sink))
        shape = (config.num_hidden_layers, config.num_key_value_heads, knots)
        kept = partial.get(sample.id, shape)
        if kept is not None:
            done[sample.id] = kept
    if done:
        reporter.info(f"profile: {len(done)} of {len(samples)} samples are done already")
    return done


def _average(
    samples: Sequence[Sample], done: dict[str, Curves], sink: int
) -> tuple[CostCurve, ...]:
    groups: dict[tuple[str, int], list[Curves]] = {}
    for sample in samples:
        groups.setdefault((sample.objective, sample.length), []).append(done[sample.id])
    return tuple(
        CostCurve(
            objective,
            length,
            np.array(profile_spans(length, sink), dtype=np.int64),
            np.sum(curves, axis=0) / len(curves),
        )
        for (objective, length), curves in sorted(groups.items())
    )


def _predicted(config: ModelConfig, sample: Sample, options: ProfileOptions) -> int:
    item = ITEM_BYTES[options.torch_dtype]
    answer = len(sample.answer_ids)
    return memory.predict_memory(config, sample.length, answer, item, options.device).total


def _check_memory(config: ModelConfig, sample: Sample, options: ProfileOptions, free: int) -> None:
    needed = _predicted(config, sample, options)
    if needed > free:
        what = f"needs {needed} bytes, free {free}"
        raise _refusal(config, sample, options, free, what, sample.length)


def _out_of_memory(config: ModelConfig, sample: Sample, options: ProfileOptions) -> ResourceError:
    """For an allocation that failed all the same: the prediction is trusted no longer than that."""
    cautious = int(memory.CAUTION * sample.length)
    return _refusal(
        config, sample, options, memory.free_bytes(options.device), "out of memory", cautious
    )


def _refusal(
    config: ModelConfig,
    sample: Sample,
    options: ProfileOptions,
    free: int,
    what: str,
    longest: int,
) -> ResourceError:
    item = ITEM_BYTES[options.torch_dtype]
    answer = len(sample.answer_ids)
    fits = memory.longest_that_fits(config, answer, item, options.device, free, longest)
    hint = f"length {fits} would fit" if fits > 0 else "no length would: the weights do not fit"
    return ResourceError(
        f"sample {sample.id!r}: length {sample.length} on {options.device}: {what}; {hint}"
    )
