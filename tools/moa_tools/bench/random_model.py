"""A model directory with random weights, good for timing and for nothing else.

Weights come from one pool of random numbers that every tensor starts at another place of: making
13 GB then takes as long as writing them. Hashes of tensors are not computed but written as zeros,
so `moa-rt inspect --verify` refuses such a directory, as it should. Sections that need the same
model read the same files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from moa_rt import ResourceError, _core

from moa_tools import strict_json
from moa_tools.bench.shapes import Shape
from moa_tools.convert.safetensors_writer import TensorPlan, make_header
from moa_tools.files import io_errors

_POOL = 1 << 24  # numbers
_BLOCK = 1 << 24  # bytes a write
_NO_HASH = "0" * 64
_PART = ".part-"  # follows the name of a directory that is being written
_LABEL = {"bfloat16": "BF16", "float32": "F32"}

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def _random_pool(dtype: str, scale: float, seed: int) -> Bytes:
    """Normal numbers times `scale`, as the bytes of `dtype`."""
    values = np.random.default_rng(seed).standard_normal(_POOL, dtype=np.float32) * scale
    if dtype == "float32":
        return values.view(np.uint8)
    # The upper half of a float32 is the bfloat16 that truncation gives.
    return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)


def _fill(descriptor: int, offset: int, size: int, pool: Bytes, start: int) -> None:
    at = start % pool.size
    while size > 0:
        part = min(size, _BLOCK, pool.size - at)
        os.pwrite(descriptor, pool[at : at + part].data, offset)
        offset, size, at = offset + part, size - part, (at + part) % pool.size


def _tensors(shape: Shape, dtype: str) -> list[TensorPlan]:
    label = _LABEL[dtype]
    return [
        TensorPlan(spec.name, label, spec.shape)
        for spec in _core.weight_manifest(shape.config(dtype))
    ]


def model_bytes(shape: Shape, dtype: str = "bfloat16") -> int:
    """Size of the weights file."""
    tensors = _tensors(shape, dtype)
    return len(make_header(tensors)) + sum(tensor.bytes for tensor in tensors)


def _write_weights(path: Path, shape: Shape, dtype: str, seed: int, threads: int) -> bytes:
    tensors = _tensors(shape, dtype)
    header = make_header(tensors)
    scale = 1.0 / math.sqrt(shape.hidden_size)
    matrices = _random_pool(dtype, scale, seed)
    # A norm's weights are about 1: random, too, but they must not let the numbers vanish.
    ones = _random_pool(dtype, 1.0, seed + 1)
    with io_errors(path, "write"):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.pwrite(descriptor, header, 0)
            offset = len(header)
            with ThreadPoolExecutor(threads) as workers:
                jobs = []
                for i, tensor in enumerate(tensors):
                    pool = matrices if len(tensor.shape) > 1 else ones
                    start = i * 7919 * 4  # element-aligned, another place for each tensor
                    jobs.append(
                        workers.submit(_fill, descriptor, offset, tensor.bytes, pool, start)
                    )
                    offset += tensor.bytes
                for job in jobs:
                    job.result()
        finally:
            os.close(descriptor)
    return header


def write_model(
    directory: Path, shape: Shape, dtype: str = "bfloat16", *, seed: int = 0, threads: int = 8
) -> Path:
    """Makes `directory` with config.json, model.safetensors and manifest.json.

    It appears under its name when it is whole. Raises ResourceError if the file system has less
    room than the weights need.
    """
    need = model_bytes(shape, dtype)
    with io_errors(directory.parent, "statvfs"):
        free = shutil.disk_usage(directory.parent).free
    if free < need:
        raise ResourceError(
            f"{directory}: need {need} bytes for random weights of {shape.name}, free {free}, "
            f"missing {need - free}"
        )
    part = directory.with_name(f"{directory.name}{_PART}{os.getpid()}")
    with io_errors(part, "create"):
        part.mkdir()
    try:
        _write_files(part, shape, dtype, seed, threads)
        with io_errors(directory, "create"):
            part.rename(directory)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return directory


def _write_files(directory: Path, shape: Shape, dtype: str, seed: int, threads: int) -> None:
    config = strict_json.dump(shape.config_json(dtype))
    with io_errors(directory, "write"):
        (directory / "config.json").write_bytes(config)
    weights = directory / "model.safetensors"
    header = _write_weights(weights, shape, dtype, seed, threads)
    manifest = {
        "format": "moa_rt-model",
        "version": 1,
        "fingerprint": hashlib.sha256(header + config).hexdigest(),
        "dtype": dtype,
        "source": {"kind": "random weights for benchmarks", "seed": str(seed)},
        "files": {
            "config.json": {
                "bytes": len(config),
                "sha256": hashlib.sha256(config).hexdigest(),
            },
            "model.safetensors": {
                "bytes": weights.stat().st_size,
                "sha256": _NO_HASH,
                "header_sha256": hashlib.sha256(header).hexdigest(),
            },
        },
        "tensors": dict.fromkeys((t.name for t in _tensors(shape, dtype)), _NO_HASH),
    }
    with io_errors(directory, "write"):
        (directory / "manifest.json").write_text(json.dumps(manifest) + "\n")


def ready_model(parent: Path, shape: Shape, dtype: str = "bfloat16") -> Path:
    """The random model of that shape below `parent`, written if it is not there yet."""
    directory = parent / f"random-{shape.name}-{dtype}"
    return directory if directory.is_dir() else write_model(directory, shape, dtype)


def remove_parts(parent: Path, writer: int) -> None:
    """Removes what the process `writer`, which was stopped, has left below `parent`."""
    for part in parent.glob(f"*{_PART}{writer}"):
        shutil.rmtree(part, ignore_errors=True)
