"""Scores plans at an unseen length and writes what was measured into their files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moa_rt import ArgumentError, AttentionPlan, Engine, ModelConfig, ResourceError

from moa_tools import strict_json
from moa_tools.calibrate.answers import explain_memory
from moa_tools.calibrate.journal import Journal, key_of
from moa_tools.calibrate.samples import SAMPLES, Sample, load_samples
from moa_tools.files import read_bounded, write_atomic
from moa_tools.progress import Reporter
from moa_tools.validate.report import Report, Result, quality, rank, summarise
from moa_tools.validate.scores import Score, score

_DENSE = "dense"


@dataclass(frozen=True)
class ValidateOptions:
    """`length`: None for the longest of the split "validate". `agreement`: also compare answers."""

    length: int | None = None
    agreement: bool = True
    device: str = "cpu"
    dtype: str = "auto"
    write: bool = True


@dataclass(frozen=True)
class _Candidate:
    name: str
    path: Path
    plan: AttentionPlan
    sha256: str  # of its rules and ranges, not of what was measured before


def validate(
    model_dir: str | Path,
    calibration: str | Path,
    plans: Sequence[str | Path],
    report_path: str | Path,
    options: ValidateOptions,
    reporter: Reporter,
) -> Report:
    """Measures every plan, ranks them, writes the report and the plans' `quality`.

    No file of a plan changes before all of them are measured. An interrupted run goes on where it
    ended when it is started again with the same report path.

    Raises:
        ArgumentError: no plans, no samples of that length, a length outside a plan's range (E8).
        MismatchError: a plan or the calibration set is another model's (E2, E4).
        FormatError, IoError, ResourceError, NumericError: as the engine and the files give them.
    """
    model, report_file = Path(model_dir), Path(report_path)
    config = ModelConfig.load(str(model))
    found = load_samples(calibration, config=config)
    length = options.length or max(s.length for s in found.select("validate"))
    samples = found.select("validate", length)
    candidates = _load(plans, config, length)
    data = read_bounded(Path(calibration) / SAMPLES, 1 << 30)
    digest = hashlib.sha256(data).hexdigest()
    key = key_of(
        {
            "fingerprint": config.fingerprint,
            "calibration": digest,
            "length": length,
            "agreement": options.agreement,
            "device": options.device,
            "dtype": options.dtype,
        }
    )
    journal_path = report_file.with_name(f".{report_file.name}.journal")
    with Journal(journal_path, key) as journal:
        runner = _Runner(model, config, samples, options, journal, reporter)
        dense = runner.result(None, None)
        results = [runner.result(c, dense) for c in candidates]
        report = Report(
            model.resolve().name,
            config.fingerprint,
            length,
            len(samples),
            digest,
            dense,
            rank(results),
        )
        if options.write:
            _write_quality(candidates, report)
        write_atomic(report_file, strict_json.dump(report.to_dict()))
        journal.remove()
    return report


def _load(paths: Sequence[str | Path], config: ModelConfig, length: int) -> list[_Candidate]:
    if not paths:
        raise ArgumentError("plans: got none, want at least one plan file")
    found: list[_Candidate] = []
    for path in dict.fromkeys(Path(path) for path in paths):
        plan = AttentionPlan.load(str(path))
        try:
            plan.check_model(config)
        except ValueError as error:
            raise type(error)(f"{path}: {error}") from error
        if not plan.min_length <= length <= plan.max_length:
            raise ArgumentError(
                f"{path}: length {length} is outside the plan's range {plan.min_length}.."
                f"{plan.max_length}, where it says {plan.out_of_range!r}"
            )
        found.append(_Candidate(path.name, path, plan, _sha256(plan)))
    if len({candidate.name for candidate in found}) != len(found):
        found = [_Candidate(str(c.path), c.path, c.plan, c.sha256) for c in found]
    return found


def _sha256(plan: AttentionPlan) -> str:
    """Of the plan without its measurements and origin: what decides its masks."""
    bare = AttentionPlan.from_rules(
        plan.rules,
        sink_size=plan.sink_size,
        rounding=plan.rounding,
        min_length=plan.min_length,
        max_length=plan.max_length,
    )
    return hashlib.sha256(bare.to_json().encode("utf-8")).hexdigest()


class _Runner:
    """Scores plans on the same samples, each sample once for each plan over all runs."""

    def __init__(
        self,
        model: Path,
        config: ModelConfig,
        samples: Sequence[Sample],
        options: ValidateOptions,
        journal: Journal,
        reporter: Reporter,
    ) -> None:
        self._model, self._config, self._samples = model, config, samples
        self._options, self._journal, self._reporter = options, journal, reporter

    def result(self, candidate: _Candidate | None, dense: Result | None) -> Result:
        """Figures of a plan, or of the dense model for None."""
        name = candidate.name if candidate else _DENSE
        plan = candidate.plan if candidate else AttentionPlan.dense(self._config)
        sha256 = candidate.sha256 if candidate else _DENSE
        length = self._samples[0].length
        # The dense answers are given: comparing them with themselves would take time only.
        agreement = self._options.agreement and candidate is not None
        scores = self._scores(name, sha256, candidate.plan if candidate else None, agreement)
        return summarise(
            name,
            sha256,
            plan.density(length),
            plan.cache_bytes(length, self._cache_dtype(), self._config),
            self._samples,
            scores,
            dense.objectives if dense else None,
        )

    def _cache_dtype(self) -> str:
        return "float32" if self._options.dtype == "float32" else "bfloat16"

    def _scores(
        self, name: str, sha256: str, plan: AttentionPlan | None, agreement: bool
    ) -> list[Score]:
        keys = [f"{sha256}/{sample.id}" for sample in self._samples]
        missing = [i for i, key in enumerate(keys) if self._journal.get(key) is None]
        if missing:
            self._reporter.start(f"validate {name}", len(missing))
            try:
                self._measure(plan, agreement, [(keys[i], self._samples[i]) for i in missing])
            except (ResourceError, MemoryError) as error:
                options = self._options
                length = self._samples[0].length
                raise explain_memory(
                    error, self._model, length, options.device, options.dtype
                ) from error
            finally:
                self._reporter.stop()
        found = [self._journal.get(key) or [] for key in keys]
        return [Score(float(f[0]), bool(f[1]) if len(f) > 1 else None) for f in found]

    def _measure(
        self, plan: AttentionPlan | None, agreement: bool, todo: Sequence[tuple[str, Sample]]
    ) -> None:
        options = self._options
        length = todo[0][1].length
        with Engine(
            self._model,
            plan=plan,
            device=options.device,
            dtype=options.dtype,
            max_batch=1,
            max_seq_len=length,
        ) as engine:
            for key, sample in todo:
                measured = score(engine, sample, agreement)
                same = [] if measured.same is None else [float(measured.same)]
                self._journal.add([key], [[measured.loss, *same]])
                self._reporter.advance(1)


def _write_quality(candidates: Sequence[_Candidate], report: Report) -> None:
    results = {result.name: result for result in report.plans}
    for candidate in candidates:
        plan = candidate.plan
        measured = quality(results[candidate.name], report.dense, report.length)
        plan.quality = {**plan.quality, **measured}
        plan.provenance = {
            **plan.provenance,
            f"validation@{report.length}": f"{report.samples} samples of calibration set "
            f"{report.calibration[:16]}, loss in nats a token through Engine.score",
        }
        plan.save(str(candidate.path))
