"""Converting small Hugging Face checkpoints that a test has damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from moa_tools.convert.pipeline import ConvertOptions, ConvertReport, convert
from moa_tools.convert.progress import Silent
from numpy.typing import NDArray

Weights = dict[str, NDArray[Any]]
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def run(source: Path, **options: Any) -> tuple[ConvertReport, Silent]:
    log = Silent()
    out = source.parent / "out"
    return convert(str(source), out, ConvertOptions(**options), log), log


def refused(source: Path, error: type[Exception], words: str, **options: Any) -> str:
    with pytest.raises(error, match=words) as caught:
        run(source, **options)
    assert sorted(p.name for p in source.parent.iterdir()) == [source.name]
    return str(caught.value)


def edit_weights(source: Path, edit: Callable[[Weights], None]) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(source / SINGLE)
    edit(weights)
    save_file(weights, source / SINGLE)


def edit_json(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
