"""JSON as the format has it: no duplicate keys, no NaN, bounded size and depth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moa_rt import FormatError

from moa_tools.files import read_bounded


def parse(text: bytes | str, path: str) -> Any:
    """The value of a JSON text. Raises FormatError naming `path`."""

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise FormatError(f"{path}: duplicate key {key[:200]!r}")
            result[key] = value
        return result

    def no_constants(name: str) -> Any:
        raise FormatError(f"{path}: got {name}, want a JSON number")

    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return json.loads(text, object_pairs_hook=no_duplicates, parse_constant=no_constants)
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: byte {error.start}: invalid UTF-8") from error
    except json.JSONDecodeError as error:
        raise FormatError(f"{path}: character {error.pos}: {error.msg}") from error
    except RecursionError as error:
        raise FormatError(f"{path}: nested too deep") from error


def load_object(path: Path, max_bytes: int) -> dict[str, Any]:
    """The object in a JSON file of at most `max_bytes`. Raises IoError or FormatError."""
    value = parse(read_bounded(path, max_bytes), str(path))
    if not isinstance(value, dict):
        raise FormatError(f"{path}: top level: got {type(value).__name__}, want an object")
    return value


def dump(value: Any, compact: bool = False) -> bytes:
    """Equal content gives equal bytes: plain UTF-8, a final newline.

    For people: two spaces and sorted keys. `compact`: no space at all, keys as they are.
    """
    layout: dict[str, Any] = {"indent": 2, "sort_keys": True}
    if compact:
        layout = {"separators": (",", ":")}
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, **layout)
    return (text + "\n").encode("utf-8")
