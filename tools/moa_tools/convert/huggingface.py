"""A Hugging Face checkpoint directory: config, tokenizer, one or several safetensors files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from moa_rt import FormatError, IoError, MismatchError, UnsupportedError, _core

from moa_tools import strict_json
from moa_tools.convert.sentencepiece_model import from_sentencepiece
from moa_tools.convert.source import STORAGE, Rows, SourceTensor, TokenizerFiles
from moa_tools.files import RegularFile, check_magic, read_bounded

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_CONFIG_BYTES = 16 << 20
MAX_TOKENIZER_BYTES = 256 << 20
_MAX_OPEN_SHARDS = 4
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,250}")


def is_pickle(path: Path) -> bool:
    """Whether the name says that the file is a pickle."""
    return path.suffix.lower() in _PICKLES


def refuse_pickle(path: Path) -> UnsupportedError:
    """The error for a pickle (B13); the file is not opened."""
    return UnsupportedError(
        f"{path}: pickle is not read; save the model as safetensors (save_pretrained does)"
    )


def _check_shard_name(index_path: Path, tensor: str, name: object) -> str:
    if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
        raise FormatError(
            f'{index_path}: weight_map: tensor "{tensor[:200]}": got {str(name)[:200]!r}: '
            "shard name must be a plain file name"
        )
    if is_pickle(Path(name)):
        raise refuse_pickle(index_path.parent / name)
    return name


def _check_inside(directory: Path, name: str) -> None:
    """A shard lies in the directory, or is a link into the blobs of a Hugging Face cache."""
    path = directory / name
    if not path.is_symlink():
        return
    home = directory.resolve()
    target = path.resolve()
    blobs = home.parent.parent / "blobs"
    if target.parent not in (home, blobs):
        raise FormatError(
            f"{path}: links to {str(target)!r}: shard name must be a plain file name, not a link "
            "out of the model directory"
        )


class _Shards:
    """The safetensors files of a checkpoint, few of them open at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: dict[str, _core.SafetensorsFile] = {}
        self._stamp: dict[str, tuple[int, int]] = {}

    def _status(self, name: str) -> tuple[int, int]:
        with RegularFile(self._directory / name) as file:
            return file.size, file.modified_ns

    def get(self, name: str) -> _core.SafetensorsFile:
        """The file, opened and its header checked."""
        if name in self._open:
            return self._open[name]
        path = self._directory / name
        _check_inside(self._directory, name)
        stamp = self._status(name)
        if self._stamp.setdefault(name, stamp) != stamp:
            raise IoError(5, f"{path}: changed while it was read", str(path))
        check_magic(path)
        while len(self._open) >= _MAX_OPEN_SHARDS:
            del self._open[next(iter(self._open))]
        self._open[name] = _core.SafetensorsFile(str(path))
        return self._open[name]

    def check_unchanged(self) -> None:
        for name, stamp in self._stamp.items():
            if self._status(name) != stamp:
                path = self._directory / name
                raise IoError(5, f"{path}: changed while it was read", str(path))

    def header_sha256(self, name: str) -> str:
        with RegularFile(self._directory / name) as file:
            length = int.from_bytes(file.read_at(0, 8), "little")
            return hashlib.sha256(file.read_at(0, 8 + length)).hexdigest()


class HuggingFaceSource:
    """Opens a directory and checks every header; see `Source` for the members.

    Raises FormatError, MismatchError, IoError or UnsupportedError.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.notes: list[str] = []
        self._shards = _Shards(directory)
        where = self._locate()
        config_path = directory / "config.json"
        self.config: dict[str, Any] = strict_json.load_object(config_path, MAX_CONFIG_BYTES)
        if "auto_map" in self.config:
            self.notes.append("config.json: auto_map (remote code) is ignored")
        self.tensors: Mapping[str, SourceTensor] = {
            name: self._tensor(name, shard) for name, shard in where.items()
        }
        self.tokenizer = self._read_tokenizer()
        self.generation_config = self._optional("generation_config.json")
        shards = sorted(set(where.values()))
        headers = "".join(f"{name}:{self._shards.header_sha256(name)}\n" for name in shards)
        self.description = {
            "kind": "huggingface",
            "name": directory.resolve().name,
            "files": str(len(shards)),
            "headers_sha256": hashlib.sha256(headers.encode()).hexdigest(),
        }

    def check_unchanged(self) -> None:
        """Raises IoError if a shard changed since it was opened."""
        self._shards.check_unchanged()

    def _optional(self, name: str) -> dict[str, Any] | None:
        path = self._directory / name
        return strict_json.load_object(path, MAX_CONFIG_BYTES) if path.exists() else None

    def _locate(self) -> dict[str, str]:
        """Tensor name -> file name. A single file is used when there is one (B14)."""
        single, index = self._directory / SINGLE, self._directory / INDEX
        has_single, has_index = os.path.lexists(single), os.path.lexists(index)
        if has_single:
            names = {info.name: SINGLE for info in self._shards.get(SINGLE).tensors}
            if has_index and self._read_index(index) != names:
                raise MismatchError(
                    f"{self._directory}: {SINGLE} and {INDEX} disagree; remove the one that is not "
                    "the model"
                )
            return names
        if has_index:
            return self._check_index(index, self._read_index(index))
        pickles = sorted(p for p in self._directory.iterdir() if is_pickle(p))
        if pickles:
            raise refuse_pickle(pickles[0])
        raise FormatError(f"{self._directory}: weights: got none, want {SINGLE} or {INDEX}")

    def _read_index(self, path: Path) -> dict[str, str]:
        check_magic(path)
        index = strict_json.load_object(path, 64 << 20)
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise FormatError(f"{path}: weight_map: want an object of tensor name to file name")
        result = {
            tensor: _check_shard_name(path, tensor, name) for tensor, name in weight_map.items()
        }
        folded: dict[str, str] = {}
        for name in result.values():
            if folded.setdefault(name.lower(), name) != name:
                raise FormatError(
                    f"{path}: weight_map: got {name!r} and {folded[name.lower()]!r}: shard name "
                    "must be a plain file name that differs in more than case"
                )
        metadata = index.get("metadata")
        self._total_size = metadata.get("total_size") if isinstance(metadata, dict) else None
        return result

    def _check_index(self, path: Path, weight_map: dict[str, str]) -> dict[str, str]:
        """Compares the index with the shards themselves (B9)."""
        shards = sorted(set(weight_map.values()))
        absent = [name for name in shards if not os.path.lexists(self._directory / name)]
        problems = [f"shard {name!r} is missing" for name in absent]
        held: dict[str, str] = {}
        total = 0
        for shard in shards:
            if shard in absent:
                continue
            for info in self._shards.get(shard).tensors:
                total += info.bytes
                if info.name in held:
                    problems.append(
                        f'tensor "{info.name}" is in {held[info.name]!r} and in {shard!r}'
                    )
                held[info.name] = shard
                if info.name not in weight_map:
                    problems.append(f'shard {shard!r} holds the unlisted tensor "{info.name}"')
        for tensor, shard in weight_map.items():
            if shard not in absent and held.get(tensor) != shard and tensor not in held:
                problems.append(
                    f'tensor "{tensor}" is not in {shard!r}, where the index says it is'
                )
            elif shard not in absent and tensor in held and held[tensor] != shard:
                problems.append(f'tensor "{tensor}" is in {held[tensor]!r}, index says {shard!r}')
        known = {name.lower() for name in shards}
        for extra in sorted(self._directory.glob("*.safetensors")):
            if extra.name.lower() not in known:
                problems.append(f"file {extra.name!r} is not in the index")
        if problems:
            more = f" and {len(problems) - 20} more" if len(problems) > 20 else ""
            raise MismatchError(f"{path}: " + "; ".join(problems[:20]) + more)
        if self._total_size not in (None, total):
            self.notes.append(
                f"warning: {path.name}: total_size: got {self._total_size}, want {total}"
            )
        return weight_map

    def _tensor(self, name: str, shard: str) -> SourceTensor:
        info = self._shards.get(shard).find(name)
        if info is None:
            raise MismatchError(f'{self._directory / shard}: tensor "{name}" is missing')
        shape = tuple(int(size) for size in info.shape)
        row_bytes = info.bytes // shape[0] if shape and shape[0] else 0
        label = info.dtype

        def read(begin: int, end: int) -> Rows:
            data = self._shards.get(shard).read(name, begin * row_bytes, (end - begin) * row_bytes)
            values = np.frombuffer(data, dtype=STORAGE[label])
            return Rows(label, values.reshape((end - begin, *shape[1:])))

        return SourceTensor(name, label, shape, read)

    def _read_tokenizer(self) -> TokenizerFiles:
        path = self._directory / "tokenizer.json"
        config = self._optional("tokenizer_config.json") or {}
        config.pop("auto_map", None)
        template = self._directory / "chat_template.jinja"
        if "chat_template" not in config and template.exists():
            text = read_bounded(template, MAX_CONFIG_BYTES)
            try:
                config["chat_template"] = text.decode("utf-8")
            except UnicodeDecodeError as error:
                raise FormatError(f"{template}: byte {error.start}: invalid UTF-8") from error
        if not path.exists():
            return self._read_sentencepiece(config)
        check_magic(path)
        return TokenizerFiles(read_bounded(path, MAX_TOKENIZER_BYTES), config)

    def _read_sentencepiece(self, config: dict[str, Any]) -> TokenizerFiles:
        path = self._directory / "tokenizer.model"
        if not path.exists():
            self.notes.append("warning: tokenizer.json: none; the model will take token ids only")
            return TokenizerFiles(None, config)
        check_magic(path)
        added = self._optional("added_tokens.json") or {}
        data = read_bounded(path, MAX_TOKENIZER_BYTES)
        self.notes.append("tokenizer.json: none; it is made from tokenizer.model")
        return from_sentencepiece(data, str(path), config, added)
