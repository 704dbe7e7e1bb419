"""Strict reader of the GGUF header (ggml docs, gguf.md).

Nothing is allocated that the file cannot hold.

The gguf library's own reader maps the file and trusts its counts: a hostile one makes it loop for
ever or read past the end. This one checks every count against the bytes left first; the type
tables and the dequantisers are the library's.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from moa_rt import FormatError, UnsupportedError

from moa_tools.files import RegularFile

MAGIC = b"GGUF"
VERSIONS = (2, 3)
_MAX_ARRAY = 1 << 24  # entries; vocabularies have fewer than 2^20
_CHUNK = 1 << 20

_SCALARS: dict[GGUFValueType, str] = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.BOOL: "|u1",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT64: "<f8",
}


@dataclass(frozen=True)
class GGUFTensor:
    """One entry of the tensor table: row-major `shape`, `offset` from the file's start."""

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    bytes: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of the first axis."""
        return self.bytes // self.shape[0]


class _Cursor:
    """Sequential reading with a check against the file's end before every step."""

    def __init__(self, file: RegularFile) -> None:
        self._file = file
        self._buffer = b""
        self._start = 0
        self.position = 0

    @property
    def left(self) -> int:
        return self._file.size - self.position

    def fail(self, item: str, text: str) -> FormatError:
        return FormatError(f"{self._file.path}: {item}: offset {self.position}: {text}")

    def take(self, size: int, item: str) -> bytes:
        if size > self.left:
            raise self.fail(item, f"got {self.left} bytes left, want {size}")
        begin = self.position - self._start
        if begin + size > len(self._buffer):
            length = min(max(size, _CHUNK), self.left)
            self._buffer = self._file.read_at(self.position, length)
            self._start, begin = self.position, 0
        self.position += size
        return self._buffer[begin : begin + size]

    def u32(self, item: str) -> int:
        return int.from_bytes(self.take(4, item), "little")

    def u64(self, item: str) -> int:
        return int.from_bytes(self.take(8, item), "little")

    def text(self, item: str) -> str:
        length = self.u64(item)
        if length > self.left:
            raise self.fail(item, f"string length: got {length}, want at most {self.left}")
        data = self.take(length, item)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fail(item, f"byte {error.start}: invalid UTF-8") from error


def _value_type(cursor: _Cursor, item: str) -> GGUFValueType:
    number = cursor.u32(item)
    try:
        return GGUFValueType(number)
    except ValueError:
        raise cursor.fail(item, f"value type: got {number}, want 0..12") from None


def _scalar(cursor: _Cursor, kind: GGUFValueType, item: str) -> Any:
    if kind == GGUFValueType.STRING:
        return cursor.text(item)
    dtype = np.dtype(_SCALARS[kind])
    value = np.frombuffer(cursor.take(dtype.itemsize, item), dtype=dtype)[0]
    if kind == GGUFValueType.BOOL:
        if value > 1:
            raise cursor.fail(item, f"bool: got {value}, want 0 or 1")
        return bool(value)
    if kind == GGUFValueType.FLOAT32:
        return float(str(value))  # the shortest decimal: 1e-05, not 9.99999974e-06
    return value.item()


def _array(cursor: _Cursor, item: str) -> list[Any]:
    kind = _value_type(cursor, item)
    if kind == GGUFValueType.ARRAY:
        raise cursor.fail(item, "got an array of arrays, want an array of scalars or strings")
    count = cursor.u64(item)
    smallest = 8 if kind == GGUFValueType.STRING else np.dtype(_SCALARS[kind]).itemsize
    if count > _MAX_ARRAY or count * smallest > cursor.left:
        most = min(_MAX_ARRAY, cursor.left // smallest)
        raise cursor.fail(item, f"array length: got {count}, want at most {most}")
    if kind == GGUFValueType.STRING:
        return [cursor.text(item) for _ in range(count)]
    values = np.frombuffer(cursor.take(count * smallest, item), dtype=_SCALARS[kind])
    return [bool(v) for v in values] if kind == GGUFValueType.BOOL else values.tolist()


class GGUFFile:
    """A GGUF file whose header has been read and checked.

    Raises FormatError, UnsupportedError or IoError; the messages name file, item and offset.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.file = RegularFile(path)
        try:
            self._read_header()
        except BaseException:
            self.file.close()
            raise

    def _read_header(self) -> None:
        cursor = _Cursor(self.file)
        magic = cursor.take(4, "magic")
        if magic != MAGIC:
            raise FormatError(f"{self.path}: magic: got {magic!r}, want {MAGIC!r}")
        self.version = self._check_version(cursor.u32("version"))
        tensor_count = cursor.u64("tensor_count")
        key_count = cursor.u64("metadata_kv_count")
        # A pair needs 8 + 1 + 4 + 1 bytes, a tensor entry 8 + 1 + 4 + 8 + 4 + 8.
        for item, count, size in (
            ("metadata_kv_count", key_count, 14),
            ("tensor_count", tensor_count, 33),
        ):
            if count * size > cursor.left:
                raise cursor.fail(item, f"got {count}, want at most {cursor.left // size}")
        self.metadata = self._read_metadata(cursor, key_count)
        self.alignment = self._check_alignment()
        entries = [self._read_entry(cursor) for _ in range(tensor_count)]
        self.header_bytes = cursor.position
        self.tensors = self._place(entries)

    def _check_version(self, version: int) -> int:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in VERSIONS and swapped in (1, *VERSIONS):
            raise UnsupportedError(f"{self.path}: version: big-endian GGUF is not read")
        if version == 0:
            raise FormatError(f"{self.path}: version: got 0, want one of {VERSIONS}")
        if version not in VERSIONS:
            raise UnsupportedError(f"{self.path}: version: got {version}, want one of {VERSIONS}")
        return version

    def _read_metadata(self, cursor: _Cursor, count: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        self.kinds: dict[str, GGUFValueType] = {}
        for _ in range(count):
            key = cursor.text("key")
            if not key or key in metadata:
                raise cursor.fail(f"key {key[:200]!r}", "duplicate key" if key else "empty key")
            item = f"key {key[:200]!r}"
            kind = _value_type(cursor, item)
            self.kinds[key] = kind
            array = kind == GGUFValueType.ARRAY
            metadata[key] = _array(cursor, item) if array else _scalar(cursor, kind, item)
        return metadata

    def _check_alignment(self) -> int:
        key = "general.alignment"
        if key not in self.metadata:
            return 32
        value = self.metadata[key]
        if self.kinds[key] != GGUFValueType.UINT32:
            raise FormatError(f"{self.path}: {key}: got type {self.kinds[key].name}, want UINT32")
        if value < 8 or value > 4096 or value & (value - 1):
            raise FormatError(f"{self.path}: {key}: got {value}, want a power of two in 8..4096")
        return int(value)

    def _read_entry(self, cursor: _Cursor) -> GGUFTensor:
        """One entry as written: `offset` is still relative to the data section."""
        name = cursor.text("tensor name")
        item = f'tensor "{name[:200]}"'
        rank = cursor.u32(item)
        if not 1 <= rank <= 4:
            raise cursor.fail(item, f"n_dims: got {rank}, want 1..4")
        dims = struct.unpack(f"<{rank}Q", cursor.take(8 * rank, item))
        number = cursor.u32(item)
        offset = cursor.u64(item)
        try:
            kind = GGMLQuantizationType(number)
            block, block_bytes = GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError):
            raise UnsupportedError(f"{self.path}: {item}: type {number} is not read") from None
        count = 1
        for size in dims:
            if not 1 <= size < 1 << 63:
                raise cursor.fail(item, f"dims: got {dims}, want each in 1..2^63-1")
            count *= size
        if dims[0] % block:
            raise cursor.fail(
                item, f"dims: got {dims[0]}, want a multiple of {block} ({kind.name})"
            )
        return GGUFTensor(name, kind, dims[::-1], offset, count // block * block_bytes)

    def _place(self, entries: list[GGUFTensor]) -> dict[str, GGUFTensor]:
        """Checks that the data lies where the format has it: in order, aligned, in the file."""
        start = -(-self.header_bytes // self.alignment) * self.alignment
        expected = 0
        tensors: dict[str, GGUFTensor] = {}
        for entry in entries:
            item = f'{self.path}: tensor "{entry.name[:200]}"'
            if entry.name in tensors:
                raise FormatError(f"{item}: listed twice")
            if entry.offset != expected:
                raise FormatError(f"{item}: offset: got {entry.offset}, want {expected}")
            end = start + expected + entry.bytes
            if end > self.file.size:
                raise FormatError(
                    f"{item}: data ends at {end}: got a file of {self.file.size} bytes, want "
                    f"{end - self.file.size} more"
                )
            tensors[entry.name] = GGUFTensor(
                entry.name, entry.type, entry.shape, start + expected, entry.bytes
            )
            expected += -(-entry.bytes // self.alignment) * self.alignment
        return tensors
