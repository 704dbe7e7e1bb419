"""Cost curves on disk: NAME.json (spans, lengths, origin) beside NAME.safetensors (costs, float64).

A SHA-256 ties the two together. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from moa_rt import (
    MAX_TOKENS,
    ArgumentError,
    FormatError,
    MismatchError,
    ModelConfig,
    NumericError,
    UnsupportedError,
    _core,
)

from moa_tools import strict_json
from moa_tools.files import check_file_target, check_magic, read_bounded, write_atomic
from moa_tools.profile.cost_curves import CostCurve, CostCurves

FORMAT = "moa_rt.cost_curves"
VERSION = 1
_MAX_JSON_BYTES = 16 << 20
_KEYS = {
    "curves", "fingerprint", "format", "kv_heads", "layers", "method", "model_name", "provenance",
    "sink_size", "tensors_sha256", "version",
}  # fmt: skip
_CURVE_KEYS = {"length", "objective", "spans"}


def check_target(path: Path) -> None:
    """Refuses, before hours of work, a NAME whose files could not be written.

    Raises IoError, or ArgumentError for what is no name for files.
    """
    if not path.name:
        raise ArgumentError(f"output: got {str(path)!r}, want the NAME of two files")
    for file in paths(path):
        check_file_target(file)


def save(curves: CostCurves, path: Path) -> None:
    """Writes NAME.safetensors, then NAME.json, each whole or not at all."""
    json_path, tensors_path = paths(path)
    write_atomic(tensors_path, _tensor_bytes(curves))
    write_atomic(json_path, document(curves))


def document(curves: CostCurves) -> bytes:
    """The JSON file; it holds the hash of the other one, so equal curves have equal documents."""
    return strict_json.dump(
        {
            "format": FORMAT,
            "version": VERSION,
            "fingerprint": curves.fingerprint,
            "model_name": curves.model_name,
            "method": curves.method,
            "sink_size": curves.sink_size,
            "layers": curves.shape[0],
            "kv_heads": curves.shape[1],
            "curves": [
                {"objective": c.objective, "length": c.length, "spans": c.spans.tolist()}
                for c in curves.curves
            ],
            "tensors_sha256": hashlib.sha256(_tensor_bytes(curves)).hexdigest(),
            "provenance": dict(curves.provenance),
        }
    )


def load(path: Path, config: ModelConfig | None = None) -> CostCurves:
    """See `CostCurves.load`."""
    json_path, tensors_path = paths(path)
    _refuse_other_files(json_path)
    fields = strict_json.load_object(json_path, _MAX_JSON_BYTES)
    _check_fields(fields, json_path)
    try:
        curves = CostCurves(
            fingerprint=fields["fingerprint"],
            model_name=fields["model_name"],
            method=fields["method"],
            sink_size=fields["sink_size"],
            curves=_read_curves(fields, tensors_path),
            provenance=fields["provenance"],
        )
        if config is not None:
            curves.check_model(config)
    except (NumericError, MismatchError) as error:
        raise type(error)(f"{json_path}: {error}") from error
    except ArgumentError as error:
        raise FormatError(f"{json_path}: {error}") from error
    return curves


def paths(path: Path) -> tuple[Path, Path]:
    """The two files that `path` (NAME, NAME.json or NAME.safetensors) stands for."""
    base = path.with_suffix("") if path.suffix in (".json", ".safetensors") else path
    return base.with_name(base.name + ".json"), base.with_name(base.name + ".safetensors")


def _tensor_name(index: int) -> str:
    return f"costs.{index}"


def _tensor_bytes(curves: CostCurves) -> bytes:
    from safetensors.numpy import save

    return save({_tensor_name(i): curve.costs for i, curve in enumerate(curves.curves)})


def _refuse_other_files(path: Path) -> None:
    check_magic(path)
    start = read_bounded(path, _MAX_JSON_BYTES)[:4]
    if start[:1] == b"\x80" or start[:2] == b"PK":
        raise FormatError(f"{path}: looks like a pickle or an archive; want JSON (torch.load is "
                          "never used)")  # fmt: skip


def _check_fields(fields: dict[str, Any], path: Path) -> None:
    if fields.get("format") != FORMAT:
        raise FormatError(f"{path}: format: got {str(fields.get('format'))[:100]!r}, want {FORMAT}")
    version = fields.get("version")
    if type(version) is not int or version < 1:
        raise FormatError(f"{path}: version: got {str(version)[:100]!r}, want {VERSION}")
    if version > VERSION:
        raise UnsupportedError(f"{path}: version {version}, this build reads {VERSION}")
    _check_keys(fields, _KEYS, f"{path}")
    for name in ("fingerprint", "method", "model_name", "tensors_sha256"):
        _check_type(fields[name], str, f"{path}: {name}")
    for name in ("kv_heads", "layers", "sink_size"):
        _check_type(fields[name], int, f"{path}: {name}")
    _check_type(fields["provenance"], dict, f"{path}: provenance")
    for key, value in fields["provenance"].items():
        _check_type(value, str, f"{path}: provenance: {key[:100]}")
    _check_type(fields["curves"], list, f"{path}: curves")
    for i, curve in enumerate(fields["curves"]):
        at_ = f"{path}: curves[{i}]"
        _check_type(curve, dict, at_)
        _check_keys(curve, _CURVE_KEYS, at_)
        _check_type(curve["objective"], str, f"{at_}: objective")
        _check_type(curve["length"], int, f"{at_}: length")
        _check_type(curve["spans"], list, f"{at_}: spans")
        for span in curve["spans"]:
            _check_type(span, int, f"{at_}: spans")
            if not 0 < span <= MAX_TOKENS:
                raise FormatError(f"{at_}: spans: got {span}, want 1..{MAX_TOKENS}")


def _check_keys(fields: dict[str, Any], want: set[str], item: str) -> None:
    if set(fields) != want:
        extra, missing = sorted(set(fields) - want), sorted(want - set(fields))
        raise FormatError(f"{item}: unknown keys {str(extra)[:200]}, missing keys {missing}")


def _check_type(value: object, want: type, item: str) -> None:
    if type(value) is not want:
        raise FormatError(f"{item}: got {type(value).__name__}, want {want.__name__}")


def _read_curves(fields: dict[str, Any], tensors: Path) -> tuple[CostCurve, ...]:
    got = _core.sha256_file(tensors)
    if got != fields["tensors_sha256"]:
        raise FormatError(
            f"{tensors}: SHA-256: got {got[:16]}..., want {fields['tensors_sha256'][:16]}...: the "
            "two files are not of one piece"
        )
    file = _core.SafetensorsFile(tensors)
    names = {tensor.name for tensor in file.tensors}
    wanted = {_tensor_name(i) for i in range(len(fields["curves"]))}
    if names != wanted:
        raise FormatError(f"{tensors}: got tensors {sorted(names)[:8]}, want {sorted(wanted)[:8]}")
    return tuple(
        _read_curve(curve, _tensor_name(i), file, fields)
        for i, curve in enumerate(fields["curves"])
    )


def _read_curve(
    curve: dict[str, Any], name: str, file: _core.SafetensorsFile, fields: dict[str, Any]
) -> CostCurve:
    info = file.find(name)
    want = (fields["layers"], fields["kv_heads"], len(curve["spans"]))
    if info is None or info.dtype != "F64" or info.shape != want:
        got = None if info is None else (info.dtype, info.shape)
        raise FormatError(f"{file.path}: tensor {name}: got {got}, want ('F64', {want})")
    costs = np.frombuffer(file.read(name), dtype="<f8").reshape(want)
    spans = np.array(curve["spans"], dtype=np.int64)
    return CostCurve(curve["objective"], curve["length"], spans, costs)
