"""Reading the user's own text: files, JSONL, Hugging Face datasets on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moa_rt import ArgumentError, FormatError, IoError

from moa_tools import strict_json
from moa_tools.files import read_bounded

MAX_FILE = 1 << 30  # bytes; a larger corpus wants to be cut into files
# Names that published sets use for their long text, in the order in which they are tried.
FIELDS = ("text", "document", "content", "context", "article", "body")
_TEXT_SUFFIXES = (".txt", ".md", ".rst", ".py", ".c", ".h", ".cc", ".cpp", ".java", ".js", ".ts")


def read_all(paths: Sequence[str | Path], field: str | None) -> Iterator[tuple[str, str]]:
    """(name, text) of every document that is not blank; names are unique."""
    for given in paths:
        path = Path(given)
        if path.is_dir():
            pairs = _dataset(path, field) if _is_dataset(path) else _directory(path, field)
        else:
            pairs = _file(path, path.name, field)
        for name, text in pairs:
            if text.strip():
                yield name, text


def _decode(data: bytes, path: Path) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: byte {error.start}: invalid UTF-8") from error
    if "\0" in text:
        raise FormatError(f"{path}: character {text.index(chr(0))}: got NUL, want plain text")
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _file(path: Path, name: str, field: str | None) -> Iterator[tuple[str, str]]:
    text = _decode(read_bounded(path, MAX_FILE), path)
    if path.suffix not in (".jsonl", ".ndjson"):
        yield name, text
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}: line {number}"
            row = strict_json.parse(line, where)
            yield f"{name}:{number}", _text_of(row, field, where)


def _text_of(row: Any, field: str | None, where: str) -> str:
    if not isinstance(row, Mapping):
        raise FormatError(f"{where}: got {type(row).__name__}, want an object with a text field")
    names = [field] if field is not None else [name for name in FIELDS if name in row]
    if not names or names[0] not in row:
        want = repr(field) if field is not None else f"one of {', '.join(FIELDS)}, or --field"
        raise FormatError(f"{where}: fields: got {sorted(map(str, row))[:20]}, want {want}")
    text = row[names[0]]
    if isinstance(text, list) and all(isinstance(part, str) for part in text):
        return "\n\n".join(text)
    if not isinstance(text, str):
        raise FormatError(f"{where}: {names[0]}: got {type(text).__name__}, want text")
    return text


def _directory(path: Path, field: str | None) -> Iterator[tuple[str, str]]:
    suffixes = (*_TEXT_SUFFIXES, ".jsonl", ".ndjson")
    files = sorted(file for file in path.rglob("*") if file.suffix in suffixes and file.is_file())
    if not files:
        raise ArgumentError(f"{path}: got no file that ends in {', '.join(suffixes)}, want some")
    for file in files:
        yield from _file(file, file.relative_to(path).as_posix(), field)


def _is_dataset(path: Path) -> bool:
    return any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _dataset(path: Path, field: str | None) -> Iterator[tuple[str, str]]:
    """Rows of what `datasets.Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    try:
        import datasets
    except ImportError as error:
        raise ArgumentError(
            f"{path}: a Hugging Face dataset needs the package datasets; run `pip install datasets`"
        ) from error
    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise FormatError(f"{path}: not a dataset on disk: {error}") from error
    parts = loaded if isinstance(loaded, Mapping) else {"": loaded}
    for part in sorted(parts):
        for number, row in enumerate(parts[part]):
            where = f"{path}: {part or 'rows'}[{number}]"
            yield f"{path.name}:{part}:{number}", _text_of(row, field, where)


def check_paths(paths: Sequence[str | Path]) -> None:
    """Raises IoError for the first path that is not there."""
    for path in paths:
        if not Path(path).exists():
            raise IoError(2, f"{path}: source: No such file or directory", str(path))
