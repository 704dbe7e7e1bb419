"""Samples and sets of them on disk: `samples.jsonl` and `manifest.json` in a directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from moa_rt import MAX_TOKENS, ArgumentError, FormatError, MismatchError, ModelConfig

from moa_tools import strict_json
from moa_tools.files import io_errors, read_bounded, write_atomic

Split = Literal["profile", "validate", "heldout"]
SPLITS: tuple[Split, ...] = ("profile", "validate", "heldout")

SCHEMA = 1
SAMPLES = "samples.jsonl"
MANIFEST = "manifest.json"
_LANGUAGE = ("text", "summary")
_MAX_FILE = 1 << 30
_MAX_NAME = 200
_MANIFEST_FIELDS: dict[str, type] = {
    "schema": int,
    "fingerprint": str,
    "model_name": str,
    "seed": int,
    "lengths": list,
    "tasks": list,
    "sources": dict,
    "options": dict,
}


@dataclass(frozen=True)
class Sample:
    """One prompt with the answer that the loss is taken on.

    `length` is the token budget N: prompt and answer together are at most that. The prompt fills
    what the room for the answer leaves of it, to within a few tokens. Task "text" is plain text:
    the answer is its own continuation, in all others it is the dense model's.
    """

    id: str
    task: str
    split: str
    length: int
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    source: str

    @property
    def objective(self) -> str:
        """What its loss measures: "language" for plain text and summaries, else "retrieval".

        Most tokens of a summary follow from the ones before; in answers with one right token after
        the other their divergence would drown what was looked up.
        """
        return "language" if self.task in _LANGUAGE else "retrieval"

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class CalibrationSet:
    """Samples, in the order of the file, and how they were made."""

    samples: tuple[Sample, ...]
    manifest: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Of the model whose tokens and answers these are."""
        return str(self.manifest["fingerprint"])

    @property
    def lengths(self) -> tuple[int, ...]:
        """The buckets in use, ascending."""
        return tuple(sorted({sample.length for sample in self.samples}))

    def select(
        self, split: str, length: int | None = None, task: str | None = None
    ) -> tuple[Sample, ...]:
        """The samples of a split, optionally of one length and task only.

        Raises ArgumentError naming what the set has if there is none.
        """
        if split not in SPLITS:
            raise ArgumentError(f"split: got {split!r}, want one of {SPLITS}")
        found = tuple(
            sample
            for sample in self.samples
            if sample.split == split
            and length in (None, sample.length)
            and task in (None, sample.task)
        )
        if not found:
            has = sorted({(s.split, s.length, s.task) for s in self.samples})
            raise ArgumentError(
                f"calibration set: no sample of split {split!r}, length {length or 'any'}, task "
                f"{task or 'any'}; it has (split, length, task) {has}"
            )
        return found


def save(directory: Path, samples: Sequence[Sample], manifest: Mapping[str, Any]) -> None:
    """Writes a set; the manifest last, so that a directory with one is complete.

    Raises IoError or ResourceError (disk full).
    """
    lines = b"".join(_line(sample) for sample in samples)
    with io_errors(directory / MANIFEST, "remove"):
        (directory / MANIFEST).unlink(missing_ok=True)
    write_atomic(directory / SAMPLES, lines)
    write_atomic(directory / MANIFEST, strict_json.dump(dict(manifest)))


def _line(sample: Sample) -> bytes:
    return strict_json.dump(dict(sorted(sample.to_dict().items())), compact=True)


def load_samples(directory: str | Path, *, config: ModelConfig | None) -> CalibrationSet:
    """Reads and checks a set; with a `config`, that it is this model's.

    Raises IoError, FormatError (what is written is no set of samples) or MismatchError (made for
    another model).
    """
    place = Path(directory)
    manifest = _manifest(place / MANIFEST)
    if config is not None and manifest["fingerprint"] != config.fingerprint:
        raise MismatchError(
            f"{place / MANIFEST}: fingerprint: got {manifest['fingerprint'][:16]} "
            f"({manifest['model_name']}), want {config.fingerprint[:16]}: the answers are another "
            "model's"
        )
    path = place / SAMPLES
    vocab_size = config.vocab_size if config is not None else 1 << 31
    samples: list[Sample] = []
    for number, line in enumerate(read_bounded(path, _MAX_FILE).split(b"\n"), 1):
        if line.strip():
            where = f"{path}: line {number}"
            samples.append(parse_sample(strict_json.parse(line, where), where, vocab_size))
    if not samples:
        raise FormatError(f"{path}: samples: got 0, want at least 1")
    if len({sample.id for sample in samples}) != len(samples):
        raise FormatError(f"{path}: id: two samples have the same one, want each once")
    return CalibrationSet(tuple(samples), manifest)


def _manifest(path: Path) -> dict[str, Any]:
    manifest = strict_json.load_object(path, _MAX_FILE)
    for name, kind in _MANIFEST_FIELDS.items():
        if not isinstance(manifest.get(name), kind) or isinstance(manifest.get(name), bool):
            raise FormatError(
                f"{path}: {name}: got {manifest.get(name)!r:.200}, want {kind.__name__}"
            )
    if manifest["schema"] != SCHEMA:
        raise FormatError(f"{path}: schema: got {manifest['schema']}, this build reads {SCHEMA}")
    return manifest


def parse_sample(value: Any, where: str, vocab_size: int) -> Sample:
    """A sample from the object of a line. Raises FormatError naming `where` and the field."""
    names = [field.name for field in fields(Sample)]
    if not isinstance(value, dict) or sorted(value) != sorted(names):
        got = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise FormatError(f"{where}: fields: got {got!r:.200}, want {sorted(names)}")
    for name in ("id", "task", "split", "source"):
        if not isinstance(value[name], str) or not 0 < len(value[name]) <= _MAX_NAME:
            raise FormatError(f"{where}: {name}: got {value[name]!r:.200}, want a short text")
    if value["split"] not in SPLITS:
        raise FormatError(f"{where}: split: got {value['split']!r}, want one of {SPLITS}")
    length = value["length"]
    if type(length) is not int or not 1 <= length <= MAX_TOKENS:
        raise FormatError(f"{where}: length: got {length!r:.200}, want 1 to {MAX_TOKENS}")
    prompt = _ids(value["prompt_ids"], f"{where}: prompt_ids", vocab_size)
    answer = _ids(value["answer_ids"], f"{where}: answer_ids", vocab_size)
    if len(prompt) + len(answer) > length:
        raise FormatError(
            f"{where}: prompt_ids and answer_ids: got {len(prompt)} + {len(answer)} tokens, want "
            f"at most length {length}"
        )
    return Sample(
        value["id"], value["task"], value["split"], length, prompt, answer, value["source"]
    )


def _ids(value: Any, where: str, vocab_size: int) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise FormatError(f"{where}: got {value!r:.200}, want a list of at least one token id")
    for index, token in enumerate(value):
        if type(token) is not int or not 0 <= token < vocab_size:
            raise FormatError(f"{where}[{index}]: got {token!r:.200}, want 0 to {vocab_size - 1}")
    return tuple(value)
