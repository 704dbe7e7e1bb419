"""Hostile GGUF files: each row refused with its class and its words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moa_rt import FormatError, IoError, UnsupportedError
from moa_tools.convert.gguf_source import GGUFSource
from support_gguf import (
    ARRAY,
    BOOL,
    GGUF,
    STRING,
    TENSOR_F32,
    TENSOR_Q8_0,
    U32,
    U64,
    Tensor,
    minimal,
    pair,
    string,
)


def refused(file: GGUF, tmp_path: Path, error: type[Exception], words: str) -> None:
    path = file.write(tmp_path / "bad.gguf")
    with pytest.raises(error, match=words) as caught:
        GGUFSource(path)
    assert "bad.gguf" in str(caught.value)


def test_F1_magic(tmp_path: Path) -> None:
    file = minimal()
    file.magic = b"GGML"
    refused(file, tmp_path, FormatError, r"magic: got b'GGML', want b'GGUF'")


@pytest.mark.parametrize(
    ("version", "error", "words"),
    [
        (0, FormatError, "version: got 0"),
        (1, UnsupportedError, "version: got 1"),
        (4, UnsupportedError, "version: got 4"),
        (0x03000000, UnsupportedError, "big-endian"),
    ],
)
def test_F1_version(tmp_path: Path, version: int, error: type[Exception], words: str) -> None:
    file = minimal()
    file.version = version
    refused(file, tmp_path, error, words)


@pytest.mark.parametrize("count", [(1 << 64) - 1, 1 << 63, 1 << 40])
@pytest.mark.parametrize("which", ["tensor_count", "pair_count"])
def test_F2_counts(tmp_path: Path, count: int, which: str) -> None:
    file = minimal()
    setattr(file, which, count)
    refused(file, tmp_path, FormatError, f"got {count}, want at most")


@pytest.mark.parametrize("length", [1 << 60, (1 << 64) - 1])
def test_F2_string_length(tmp_path: Path, length: int) -> None:
    file = minimal()
    body = string("general.name") + STRING.to_bytes(4, "little") + length.to_bytes(8, "little")
    file.pairs.insert(1, body)
    refused(file, tmp_path, FormatError, f"string length: got {length}, want at most")


@pytest.mark.parametrize("kind", [U32, STRING, BOOL])
def test_F2_array_length(tmp_path: Path, kind: int) -> None:
    file = minimal()
    head = string("x") + ARRAY.to_bytes(4, "little") + kind.to_bytes(4, "little")
    file.pairs.insert(1, head + (1 << 60).to_bytes(8, "little"))
    refused(file, tmp_path, FormatError, "array length: got 1152921504606846976, want at most")


def test_F2_cut_in_the_header(tmp_path: Path) -> None:
    whole = minimal().bytes()
    for size in range(0, 300, 7):
        path = tmp_path / "cut.gguf"
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError, match=r"cut\.gguf"):
            GGUFSource(path)


def test_F3_duplicate_key(tmp_path: Path) -> None:
    file = minimal()
    file.add("llama.block_count", U32, 2)
    refused(file, tmp_path, FormatError, "'llama.block_count'.*duplicate key")


def test_F3_empty_key(tmp_path: Path) -> None:
    file = minimal()
    file.add("", U32, 2)
    refused(file, tmp_path, FormatError, "empty key")


def test_F3_value_type_out_of_range(tmp_path: Path) -> None:
    file = minimal()
    file.pairs.append(string("x") + (13).to_bytes(4, "little") + b"\0" * 8)
    refused(file, tmp_path, FormatError, "value type: got 13, want 0..12")


def test_F3_array_of_arrays(tmp_path: Path) -> None:
    file = minimal()
    nested = ARRAY.to_bytes(4, "little") + (1).to_bytes(8, "little") + b"\0" * 16
    file.pairs.append(string("x") + ARRAY.to_bytes(4, "little") + nested)
    refused(file, tmp_path, FormatError, "array of arrays")


@pytest.mark.parametrize("value", [0, 3, 4, 1 << 31])
def test_F3_alignment(tmp_path: Path, value: int) -> None:
    file = minimal()
    file.add("general.alignment", U32, value)
    refused(file, tmp_path, FormatError, f"alignment: got {value}, want a power of two")


def test_F3_alignment_of_another_type(tmp_path: Path) -> None:
    file = minimal()
    file.pairs.append(pair("general.alignment", U64, 32))
    refused(file, tmp_path, FormatError, "alignment: got type UINT64, want UINT32")


@pytest.mark.parametrize("dims", [(), (1, 1, 1, 1, 1)])
def test_F4_rank(tmp_path: Path, dims: tuple[int, ...]) -> None:
    file = minimal()
    file.tensors.append(Tensor("t", TENSOR_F32, (1,), b"\0" * 4, dims=dims))
    refused(file, tmp_path, FormatError, f"n_dims: got {len(dims)}, want 1..4")


@pytest.mark.parametrize(
    ("dims", "words"),
    [
        ((-1, 4), "dims: got"),
        ((0, 4), "dims: got"),
        ((1 << 62, 1 << 62), "data ends at"),
        ((4194305, 4194305, 4194305), "data ends at"),
        ((1 << 63, 1), "dims: got"),
    ],
)
def test_F4_sizes_overflow(tmp_path: Path, dims: tuple[int, ...], words: str) -> None:
    file = minimal()
    file.tensors.append(Tensor("t", TENSOR_F32, (1,), b"\0" * 4, dims=dims))
    refused(file, tmp_path, FormatError, words)


def test_F4_row_is_not_whole_blocks(tmp_path: Path) -> None:
    file = minimal()
    file.tensors.append(Tensor("t", TENSOR_Q8_0, (2, 31), b"\0" * 68))
    refused(file, tmp_path, FormatError, r"got 31, want a multiple of 32 \(Q8_0\)")


@pytest.mark.parametrize("offset", [1 << 40, 1025, 0, 512, (1 << 64) - 32])
def test_F5_offset(tmp_path: Path, offset: int) -> None:
    """Past the end, misaligned, on the tensor before, inside it, wrapped: the one right is 1024."""
    file = minimal()
    file.tensors.append(Tensor("t", TENSOR_F32, (8,), b"\0" * 32, offset=offset))
    refused(file, tmp_path, FormatError, f'"t": offset: got {offset}, want 1024')


def test_F5_wrong_order(tmp_path: Path) -> None:
    file = minimal()
    file.tensors[0].offset = 32
    file.tensors.append(Tensor("t", TENSOR_F32, (8,), b"\0" * 32, offset=0))
    refused(file, tmp_path, FormatError, "offset: got 32, want 0")


def test_F5_data_cut_off(tmp_path: Path) -> None:
    file = minimal()
    file.cut = 1
    refused(file, tmp_path, FormatError, "data ends at .* want 1 more")


def test_F5_same_tensor_twice(tmp_path: Path) -> None:
    file = minimal()
    file.tensor("token_embd.weight", np.zeros((2, 128), np.float32))
    refused(file, tmp_path, FormatError, '"token_embd.weight": listed twice')


def test_F6_unknown_tensor_type(tmp_path: Path) -> None:
    file = minimal()
    file.tensors.append(Tensor("t", 99, (32,), b"\0" * 32))
    refused(file, tmp_path, UnsupportedError, "type 99 is not read")


def test_F6_type_without_a_dequantiser(tmp_path: Path) -> None:
    file = minimal()
    file.tensors.append(Tensor("t", 24, (32,), b"\0" * 32))  # I8: a table, not a weight
    refused(file, tmp_path, UnsupportedError, "quantisation I8 is not read")


@pytest.mark.parametrize(
    ("key", "kind", "value", "words"),
    [
        ("llama.expert_count", U32, 8, "expert_count"),
        ("llama.attention.sliding_window", U32, 4096, "sliding_window"),
        ("llama.rope.scaling.type", STRING, "yarn", "yarn"),
        ("llama.attention.layer_indexes", U32, 1, "layer_indexes.*not implemented"),
        ("llama.rope.dimension_count", U32, 32, "dimension_count: got 32, want 64"),
    ],
)
def test_C9_feature_of_the_architecture(
    tmp_path: Path, key: str, kind: int, value: Any, words: str
) -> None:
    file = minimal()
    file.add(key, kind, value)
    refused(file, tmp_path, UnsupportedError, words)


def test_C9_other_architecture(tmp_path: Path) -> None:
    file = minimal()
    file.pairs[0] = pair("general.architecture", STRING, "gemma2")
    refused(file, tmp_path, UnsupportedError, "general.architecture: got 'gemma2'")


def test_C2_missing_and_mistyped_fields(tmp_path: Path) -> None:
    file = minimal()
    del file.pairs[1]
    refused(file, tmp_path, FormatError, "llama.block_count: got none, want int")
    file = minimal()
    file.pairs[1] = pair("llama.block_count", STRING, "1")
    refused(file, tmp_path, FormatError, "llama.block_count: got '1', want int")


def test_B12_git_lfs_pointer(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 98362432\n")
    with pytest.raises(FormatError, match="this is a Git LFS pointer"):
        GGUFSource(path)


def test_A22_directory_and_fifo(tmp_path: Path) -> None:

    os.mkfifo(tmp_path / "fifo.gguf")
    with pytest.raises(IoError, match="not a regular file"):
        GGUFSource(tmp_path / "fifo.gguf")
    with pytest.raises(IoError, match="No such file"):
        GGUFSource(tmp_path / "none.gguf")
