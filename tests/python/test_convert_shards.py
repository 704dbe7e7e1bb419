"""Files of a checkpoint that are missing, misnamed, cut or no weights at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from moa_rt import (
    FormatError,
    MismatchError,
    UnsupportedError,
)
from moa_tools.convert.pipeline import ConvertOptions, convert
from moa_tools.convert.progress import Silent
from support_convert import INDEX, SINGLE, edit_json, refused, run
from support_models import make_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "hf", "llama")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sharded") / "hf"
    return make_tiny_model(place, "llama", max_shard_size="300KB")


@pytest.fixture
def source(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "source"))


@pytest.fixture
def shards(sharded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sharded, tmp_path / "source"))


def test_B9_index_against_shards(shards: Path) -> None:
    index = json.loads((shards / INDEX).read_text())
    held = list(index["weight_map"].values())
    names = sorted(set(held), key=held.count, reverse=True)
    victim = next(k for k, v in index["weight_map"].items() if v == names[0])

    def check(change: Callable[[dict[str, str]], None], words: str) -> None:
        changed = json.loads(json.dumps(index))
        change(changed["weight_map"])
        (shards / INDEX).write_text(json.dumps(changed))
        refused(shards, MismatchError, words)

    check(lambda m: m.update({victim: names[1]}), f'"{victim}" is in .* index says')
    check(lambda m: m.update({"ghost": names[0]}), f'"ghost" is not in {names[0]!r}')
    check(lambda m: m.__delitem__(victim), f'holds the unlisted tensor "{victim}"')
    check(lambda m: m.update({"ghost": "no.safetensors"}), "shard 'no.safetensors' is missing")
    shutil.copy(shards / names[0], shards / "spare.safetensors")
    check(lambda m: None, "file 'spare.safetensors' is not in the index")
    check(lambda m: m.update({"x": "spare.safetensors"}), f'"{victim}" is in .* and in')


def test_B9_total_size_only_warns(shards: Path) -> None:
    edit_json(shards / INDEX, metadata={"total_size": 1})
    _, log = run(shards)
    assert len(log.warnings) == 1
    assert "total_size: got 1, want" in log.warnings[0]


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/passwd", "a/b", "C:\\x", "", ".", "..", "a\0b", 3, None, ["x"]],
)
def test_B10_shard_name(shards: Path, name: Any) -> None:
    index = json.loads((shards / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = name
    (shards / INDEX).write_text(json.dumps(index))
    refused(shards, FormatError, "shard name must be a plain file name")


def test_B10_twin_in_another_case(shards: Path) -> None:
    index = json.loads((shards / INDEX).read_text())
    first = index["weight_map"]["model.norm.weight"]
    index["weight_map"]["model.norm.weight"] = first.replace("model", "Model")
    (shards / INDEX).write_text(json.dumps(index))
    refused(shards, FormatError, "differs in more than case")


def test_B10_link_out_of_the_directory(shards: Path, tmp_path: Path) -> None:
    name = json.loads((shards / INDEX).read_text())["weight_map"]["model.norm.weight"]
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    shutil.move(shards / name, outside / "secret")
    (shards / name).symlink_to(outside / "secret")
    with pytest.raises(FormatError, match="not a link out of the model directory"):
        run(shards)


def test_B10_links_of_a_hub_cache_are_followed(shards: Path, tmp_path: Path) -> None:
    home = tmp_path / "models--x" / "snapshots" / "0"
    home.parent.mkdir(parents=True)
    shutil.move(shards, home)
    blobs = tmp_path / "models--x" / "blobs"
    blobs.mkdir()
    for path in sorted(home.glob("*.safetensors")):
        shutil.move(path, blobs / path.name)
        path.symlink_to(Path("../../blobs") / path.name)
    report = convert(str(home), tmp_path / "out", ConvertOptions(), Silent())
    assert report.tensors > 0


@pytest.mark.parametrize("missing", [1, 100_000])
def test_B11_cut_download(source: Path, missing: int) -> None:
    path = source / SINGLE
    os.truncate(path, path.stat().st_size - missing)
    refused(source, FormatError, SINGLE)


def test_B12_pointer_and_page(source: Path) -> None:
    (source / SINGLE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    refused(source, FormatError, "this is a Git LFS pointer")
    (source / SINGLE).write_text("<!DOCTYPE html>\n<html><body>404</body></html>")
    refused(source, FormatError, "this looks like HTML")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_B13_pickle_is_refused_unread(source: Path, name: str) -> None:
    (source / SINGLE).unlink()
    os.mkfifo(source / name)  # opening it would hang
    refused(source, UnsupportedError, "pickle is not read")
    with pytest.raises(UnsupportedError, match="pickle is not read"):
        convert(str(source / name), source.parent / "out", ConvertOptions(), Silent())


def test_B13_pickle_in_an_index(shards: Path) -> None:
    index = json.loads((shards / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = "pytorch_model.bin"
    (shards / INDEX).write_text(json.dumps(index))
    refused(shards, UnsupportedError, "pickle is not read")


def test_B14_single_file_and_index(shards: Path, tiny: Path) -> None:
    shutil.copy(tiny / SINGLE, shards / SINGLE)
    refused(shards, MismatchError, "disagree; remove the one that is not the model")
    index = json.loads((shards / INDEX).read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], SINGLE)
    (shards / INDEX).write_text(json.dumps(index))
    report, _ = run(shards)
    assert report.tensors > 0


def test_no_weights_at_all(source: Path) -> None:
    (source / SINGLE).unlink()
    refused(source, FormatError, "weights: got none, want model.safetensors or")
