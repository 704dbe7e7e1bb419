"""Makes a calibration set: prompts, the dense model's answers to them, and what is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from moa_rt import (
    ArgumentError,
    Engine,
    FormatError,
    MismatchError,
    ModelConfig,
    ResourceError,
)

from moa_tools.calibrate import answers
from moa_tools.calibrate.exercises import Context, Draft, make_draft
from moa_tools.calibrate.journal import JOURNAL, Journal, key_of
from moa_tools.calibrate.material import Material, material_of
from moa_tools.calibrate.options import CalibrateOptions, complete
from moa_tools.calibrate.samples import (
    MANIFEST,
    SCHEMA,
    CalibrationSet,
    Sample,
    Split,
    load_samples,
    save,
)
from moa_tools.files import io_errors
from moa_tools.progress import Reporter
from moa_tools.text.corpus import Document, user_documents
from moa_tools.text.user_files import check_paths

GENERATOR = 1  # raised whenever equal options no longer give equal prompts


@dataclass
class _Tally:
    """Prompts of a split, length and task: asked, kept, and dropped for what reason."""

    wanted: int
    asked: int = 0
    kept: int = 0
    wrong: int = 0
    repetitive: int = 0


@dataclass
class _Bucket:
    """A split and length in the making."""

    split: Split
    length: int
    context: Context
    tally: dict[str, _Tally]
    samples: dict[str, list[Sample]] = field(default_factory=dict)


def calibrate(
    model_dir: str | Path,
    out: str | Path,
    options: CalibrateOptions,
    reporter: Reporter,
    overwrite: bool = False,
) -> CalibrationSet:
    """Makes the calibration set `out` for a converted model and returns it.

    Equal model, options and sources give equal bytes, also when the run was interrupted and gone
    on with. A set that is there already with the same options is returned as it is.

    Raises:
        ArgumentError: an option is out of bounds, the text is too short for a length, or `out`
            holds a set made with other options and `overwrite` is not set.
        IoError, FormatError: model or sources cannot be read.
        ResourceError: out of memory (with the length that fits) or disk.
        StateError: another run is writing `out`.
    """
    model, place = Path(model_dir), Path(out)
    config = ModelConfig.load(str(model))
    options = complete(options, config)
    check_paths(options.sources)
    user = user_documents(options.sources, options.field) if options.sources else None
    materials = {split: material_of(split, user) for split, _, _ in options.buckets()}
    manifest = _manifest(config, model.resolve().name, options, materials)
    with io_errors(place, "create"):
        place.mkdir(parents=True, exist_ok=True)
    key = key_of(manifest)
    if (place / MANIFEST).exists():
        existing = _existing(place, config, key, overwrite)
        if existing is not None:
            return existing
    with Journal(place / JOURNAL, key) as journal:
        if len(journal):
            reporter.info(f"{place}: going on after {len(journal)} answers")
        made = _Maker(model, options, config, journal, reporter).run(materials)
        manifest["tally"] = {
            f"{b.split}/{b.length}/{task}": asdict(t) for b in made for task, t in b.tally.items()
        }
        samples = [sample for b in made for task in options.tasks for sample in b.samples[task]]
        if not samples:
            raise ArgumentError(
                f"{place}: the model answered none of the questions right at lengths "
                f"{list(options.lengths)}; shorter lengths, other tasks or --keep-wrong would help"
            )
        save(place, samples, manifest)
        journal.remove()
    return CalibrationSet(tuple(samples), manifest)


def _existing(place: Path, config: ModelConfig, key: str, overwrite: bool) -> CalibrationSet | None:
    """The set that is there if it is the one asked for; None if it may be replaced."""
    try:
        found = load_samples(place, config=config)
        if key_of({k: v for k, v in found.manifest.items() if k != "tally"}) == key:
            return found
    except (FormatError, MismatchError):
        if not overwrite:
            raise
    if overwrite:
        return None
    raise ArgumentError(
        f"OUT: {str(place)!r}: holds a calibration set made with other options or text; "
        "--overwrite replaces it"
    )


def _manifest(
    config: ModelConfig,
    name: str,
    options: CalibrateOptions,
    materials: dict[Split, Material],
) -> dict[str, Any]:
    """Everything that the bytes of the set depend on but the machine's arithmetic."""
    kept = asdict(options)
    kept["sources"] = [path.name for path in options.sources]
    del kept["seed"], kept["lengths"], kept["tasks"]
    return {
        "schema": SCHEMA,
        "generator": GENERATOR,
        "fingerprint": config.fingerprint,
        "model_name": name,
        "seed": options.seed,
        "lengths": list(options.lengths),
        "tasks": list(options.tasks),
        "options": {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()},
        "sources": {
            split: {document.name: document.sha256 for document in _documents(material)}
            for split, material in materials.items()
        },
    }


def _documents(material: Material) -> Sequence[Document]:
    return (*material.prose, *material.code)


class _Maker:
    """Asks the model bucket by bucket; an engine for each, as long as it needs."""

    def __init__(
        self,
        model: Path,
        options: CalibrateOptions,
        config: ModelConfig,
        journal: Journal,
        reporter: Reporter,
    ) -> None:
        self._model, self._options, self._config = model, options, config
        self._journal, self._reporter = journal, reporter

    def run(self, materials: dict[Split, Material]) -> list[_Bucket]:
        """All buckets of the options, in order."""
        return [
            self._bucket(split, length, count, materials[split])
            for split, length, count in self._options.buckets()
        ]

    def _open(self, length: int) -> Engine:
        options = self._options
        return Engine(
            self._model,
            device=options.device,
            dtype=options.dtype,
            max_batch=options.batch,
            max_seq_len=length,
        )

    def _bucket(self, split: Split, length: int, count: int, material: Material) -> _Bucket:
        options = self._options
        try:
            with self._open(length) as engine:
                context = Context(engine.tokenizer, material, length, options.answer_tokens)
                tally = {task: _Tally(count) for task in options.tasks}
                bucket = _Bucket(split, length, context, tally, {t: [] for t in options.tasks})
                self._fill(bucket, engine)
        except (ResourceError, MemoryError) as error:
            raise answers.explain_memory(
                error, self._model, length, options.device, options.dtype
            ) from error
        for task, t in bucket.tally.items():
            if t.kept < t.wanted:
                self._reporter.warning(
                    f"{split} {length} {task}: kept {t.kept} of {t.wanted} samples; the model "
                    f"answered {t.wrong} of {t.asked} wrong and repeated itself in {t.repetitive}"
                )
        return bucket

    def _fill(self, bucket: _Bucket, engine: Engine) -> None:
        """Rounds of as many prompts as are still wanted, until all are kept or tries run out."""
        number = 0
        while True:
            wanted: list[tuple[str, str, Draft]] = []
            for task, tally in bucket.tally.items():
                most = tally.wanted * (self._options.attempts or 1)
                for _ in range(min(tally.wanted - tally.kept, most - tally.asked)):
                    name = f"{bucket.split}-{bucket.length}-{task}-{tally.asked:04d}"
                    tally.asked += 1
                    seed = f"{self._options.seed}/{name}"
                    wanted.append((name, task, make_draft(task, bucket.context, seed)))
            if not wanted:
                return
            number += 1
            self._answer(f"{bucket.split} {bucket.length}, round {number}", wanted, engine)
            for name, task, draft in wanted:
                self._judge(bucket, name, task, draft, engine)

    def _answer(self, what: str, wanted: list[tuple[str, str, Draft]], engine: Engine) -> None:
        """Answers that are missing from the journal, a batch at a time."""
        asked = [(name, draft) for name, _, draft in wanted if not draft.answer_ids]
        self._reporter.start(what, len(asked))
        try:
            for i in range(math.ceil(len(asked) / self._options.batch)):
                batch = asked[i * self._options.batch : (i + 1) * self._options.batch]
                names = [name for name, _ in batch]
                if all(self._journal.get(name) is not None for name in names):
                    self._reporter.advance(len(names))
                    continue
                drafts = [draft for _, draft in batch]
                self._journal.add(names, answers.generate(engine, drafts, self._reporter))
        finally:
            self._reporter.stop()

    def _judge(self, bucket: _Bucket, name: str, task: str, draft: Draft, engine: Engine) -> None:
        tally = bucket.tally[task]
        ids = draft.answer_ids or tuple(self._journal.get(name) or ())
        right = not draft.truths or answers.holds_truth(
            engine.tokenizer.decode(ids, skip_special=True), draft.truths
        )
        if right and draft.truths:
            ids = tuple(answers.trim(engine.tokenizer, ids, draft.truths))
        dull = not draft.answer_ids and answers.repeats(ids)
        tally.wrong += not right
        tally.repetitive += right and dull
        if not ids or not ((right and not dull) or self._options.keep_wrong):
            return
        tally.kept += 1
        bucket.samples[task].append(
            Sample(name, task, bucket.split, bucket.length, draft.prompt_ids, ids, draft.source)
        )
