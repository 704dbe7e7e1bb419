"""Compares a checkpoint with the weight manifest of its config, before any weight is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from moa_rt import MismatchError, UnsupportedError, _core

from moa_tools import strict_json
from moa_tools.convert.numeric import to_float32
from moa_tools.convert.source import BF16, DTYPE_LABELS, F16, F32, Source

_EMBEDDING = "model.embed_tokens.weight"
_LM_HEAD = "lm_head.weight"
_MAX_NAMED = 20
_PLAIN = (F32, F16, BF16)
# Extra tensors of these names change what the model computes, so that dropping one is never right.
_MEANINGFUL = re.compile(r"model\.layers\.\d+\..*(\.bias|[qk]_norm\.weight)")


def _named(items: Sequence[str]) -> str:
    more = f" and {len(items) - _MAX_NAMED} more" if len(items) > _MAX_NAMED else ""
    return ", ".join(items[:_MAX_NAMED]) + more


def fit_vocabulary(source: Source, path: str) -> tuple[dict[str, Any], list[str]]:
    """The config with vocab_size set to the rows of the embedding: the rows decide (C10)."""
    fields = dict(source.config)
    embedding = source.tensors.get(_EMBEDDING)
    if embedding is None or len(embedding.shape) != 2 or "vocab_size" not in fields:
        return fields, []
    rows = embedding.shape[0]
    if fields["vocab_size"] == rows:
        return fields, []
    note = (
        f"{path}: vocab_size: got {fields['vocab_size']}, embedding has {rows} rows, which decide"
    )
    fields["vocab_size"] = rows
    return fields, [f"warning: {note}"]


def check(specs: Sequence[Any], config: Any, source: Source, strict: bool, path: str) -> list[str]:
    """Notes about what is extra.

    Raises MismatchError naming everything missing or misshaped (B1, B2, B4, B5) or a tied head that
    differs (B3), UnsupportedError for an unknown type.
    """
    if not source.tensors:
        raise MismatchError(f"{path}: no tensors")
    wanted = {part.name: tuple(part.shape) for spec in specs for part in spec.sources}
    missing = [name for name in wanted if name not in source.tensors]
    misshaped = [
        f'"{name}": got {list(source.tensors[name].shape)}, want {list(shape)}'
        for name, shape in wanted.items()
        if name in source.tensors and source.tensors[name].shape != shape
    ]
    problems = []
    if missing:
        problems.append(f"{len(missing)} tensors are missing: {_named(missing)}")
    if misshaped:
        problems.append(f"{len(misshaped)} tensors have another shape: {_named(misshaped)}")
    if problems:
        raise MismatchError(f"{path}: " + "; ".join(problems) + _hint(missing, source))
    for name in wanted:
        dtype = source.tensors[name].dtype
        if source.description["kind"] == "huggingface" and dtype not in _PLAIN:
            raise UnsupportedError(
                f'{path}: tensor "{name}": dtype: got {dtype}, want one of {list(_PLAIN)}'
            )
    notes = _check_tied_head(config, source, path)
    return notes + _check_extra(set(wanted), source, strict, path) + _check_declared(source)


def _hint(missing: Sequence[str], source: Source) -> str:
    if missing == [_LM_HEAD]:
        return "; is tie_word_embeddings missing in config.json?"
    fused = [n for n in source.tensors if re.search(r"(qkv_proj|query_key_value|gate_up_proj)", n)]
    if fused:
        return f"; fused weights are not split ({fused[0]!r})"
    return ""


def _check_tied_head(config: Any, source: Source, path: str) -> list[str]:
    head, embedding = source.tensors.get(_LM_HEAD), source.tensors.get(_EMBEDDING)
    if not config.tie_word_embeddings or head is None or embedding is None:
        return []
    same = head.shape == embedding.shape
    step = max((1 << 20) // max(head.shape[-1], 1), 1)
    for begin in range(0, head.shape[0] if same else 0, step):
        end = min(begin + step, head.shape[0])
        left, right = to_float32(head.read(begin, end)), to_float32(embedding.read(begin, end))
        if not np.array_equal(left, right, equal_nan=True):
            same = False
            break
    if not same:
        raise MismatchError(
            f'{path}: tensor "{_LM_HEAD}": tied but different: tie_word_embeddings is true and it '
            f'is not equal to "{_EMBEDDING}"'
        )
    return [f'"{_LM_HEAD}" equals the tied embedding; one copy is kept']


def _check_extra(wanted: set[str], source: Source, strict: bool, path: str) -> list[str]:
    extra = [name for name in source.tensors if name not in wanted and name != _LM_HEAD]
    ignorable = [name for name in extra if _core.is_ignorable_source(name)]
    others = [name for name in extra if not _core.is_ignorable_source(name)]
    meaningful = [name for name in others if _MEANINGFUL.fullmatch(name)]
    if meaningful:
        raise MismatchError(
            f"{path}: {len(meaningful)} extra tensors would change the result: {_named(meaningful)}"
        )
    if others and strict:
        raise MismatchError(f"{path}: {len(others)} extra tensors: {_named(others)}")
    notes = [f"{len(ignorable)} tensors the model does not need are left out"] if ignorable else []
    if others:
        notes.append(f"warning: {len(others)} extra tensors are left out: {_named(others)}")
    return notes


def _check_declared(source: Source) -> list[str]:
    """torch_dtype against the tensors (C14): the tensors win."""
    declared = source.config.get("torch_dtype", source.config.get("dtype"))
    embedding = source.tensors.get(_EMBEDDING)
    label = DTYPE_LABELS.get(declared) if isinstance(declared, str) else None
    if label is None or embedding is None or label == embedding.dtype:
        return []
    return [
        f"warning: torch_dtype: got {declared}, but the tensors are {embedding.dtype}; they win"
    ]


def choose_dtype(specs: Sequence[Any], source: Source, wanted: str) -> str:
    """The label the matrices are stored in.

    "auto" keeps what the source has; quantised sources become BF16, and sources of several plain
    types F32.
    """
    if wanted != "auto":
        return DTYPE_LABELS[wanted]
    found = {
        source.tensors[part.name].dtype
        for spec in specs
        if len(spec.shape) > 1
        for part in spec.sources
    }
    if found - set(_PLAIN):
        return BF16
    return found.pop() if len(found) == 1 else F32


def check_token_ids(tokenizer: bytes, config: Any, path: str) -> None:
    """Every id of tokenizer.json has a row in the embedding (C10)."""
    item = f"{path}: tokenizer.json"
    parsed = strict_json.parse(tokenizer, item)
    model = parsed.get("model") if isinstance(parsed, dict) else None
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, dict):
        ids = [value for value in vocab.values() if isinstance(value, int)]
        for token in parsed.get("added_tokens") or []:
            if isinstance(token, dict) and isinstance(token.get("id"), int):
                ids.append(token["id"])
        if ids and max(ids) >= config.vocab_size:
            raise MismatchError(
                f"{item}: token id: got {max(ids)}, want below vocab_size {config.vocab_size}"
            )
