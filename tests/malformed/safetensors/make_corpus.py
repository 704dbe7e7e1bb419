"""Writes the hostile safetensors files beside this script.

Their names are `<error class>_<row>_<what>.safetensors`. The files are kept so that every reader
can be run over the same bytes; this script says what is in them.
"""

from pathlib import Path
from struct import pack

GOOD = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'


def entry(name: str, dtype: str, shape: str, offsets: str) -> str:
    return f'"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}'


def container(header: bytes, data: bytes = b"ABCD") -> bytes:
    return pack("<Q", len(header)) + header + data


def tensors(*entries: str, data: bytes = b"ABCD") -> bytes:
    return container(("{" + ",".join(entries) + "}").encode(), data)


FILES = {
    "E_FORMAT_A1_five_bytes": b"\0" * 5,
    "E_FORMAT_A2_header_longer_than_file": pack("<Q", 100) + b"{}",
    "E_FORMAT_A3_header_length_all_ones": b"\xff" * 8 + b"{}",
    "E_MISMATCH_A4_empty_object": container(b"{}", b""),
    "E_FORMAT_A5_invalid_utf8": container(b'{"\xff":1}', b""),
    "E_FORMAT_A6_trailing_comma": container(GOOD[:-1] + b",}"),
    "E_FORMAT_A8_same_name_twice": tensors(
        entry("x", "F32", "[1]", "[0,4]"), entry("x", "F32", "[1]", "[4,8]"), data=b"ABCDEFGH"
    ),
    "E_FORMAT_A9_deep": container(b"[" * 1000, b""),
    "E_FORMAT_A11_float_offset": tensors(entry("x", "F32", "[1]", "[0,4.0]")),
    "E_FORMAT_A12_begin_after_end": tensors(entry("x", "F32", "[1]", "[4,0]")),
    "E_FORMAT_A13_overlap": tensors(
        entry("x", "F32", "[2]", "[0,8]"), entry("y", "F32", "[1]", "[4,8]"), data=b"ABCDEFGH"
    ),
    "E_FORMAT_A14_polyglot_tail": container(GOOD, b"ABCDPK\x03\x04"),
    "E_FORMAT_A15_too_few_bytes": tensors(entry("x", "F32", "[1000000]", "[0,4]")),
    "E_FORMAT_A16_product_wraps_to_4": tensors(
        entry("x", "U8", "[4194305,4194305,4194305]", "[0,4]")
    ),
    "E_UNSUPPORTED_A17_lower_case_dtype": tensors(entry("x", "f32", "[1]", "[0,4]")),
    "E_FORMAT_A20_number_in_metadata": container(b'{"__metadata__":{"k":1}}', b""),
    "E_FORMAT_B12_git_lfs_pointer": b"version https://git-lfs.github.com/spec/v1\nsize 1\n",
}


def main() -> None:
    folder = Path(__file__).parent
    for name, data in FILES.items():
        (folder / f"{name}.safetensors").write_bytes(data)


if __name__ == "__main__":
    main()
