"""A GGUF file (llama, qwen2, qwen3) as a checkpoint in Hugging Face names and layout."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from moa_rt import FormatError, UnsupportedError

from moa_tools.convert.gguf_config import rope_frequencies, to_config
from moa_tools.convert.gguf_file import GGUFFile, GGUFTensor
from moa_tools.convert.gguf_tokenizer import tokenizer_files
from moa_tools.convert.source import BF16, F16, F32, STORAGE, Array, Rows, SourceTensor
from moa_tools.files import check_magic

_PLAIN = {
    GGMLQuantizationType.F32: F32,
    GGMLQuantizationType.F16: F16,
    GGMLQuantizationType.BF16: BF16,
}
_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BLOCK = re.compile(r"blk\.(\d{1,4})\.([a-z_]+)\.(weight|bias)")


def hugging_face_name(name: str) -> str:
    """The tensor's Hugging Face name; an unknown name stays as it is."""
    if name in _TOP:
        return _TOP[name]
    match = _BLOCK.fullmatch(name)
    if match is None or match[2] not in _LAYER:
        return name
    return f"model.layers.{int(match[1])}.{_LAYER[match[2]]}.{match[3]}"


def unpermute(rows: Array, head_dim: int) -> Array:
    """Rows of a llama-arch q or k projection, whole heads, back in Hugging Face order.

    ggml rotates neighbouring elements (2i, 2i + 1) of a head, Hugging Face the halves (i, i + d/2),
    so the GGUF writer stores row i + h * d/2 (h = 0, 1) at 2i + h. This undoes it.
    """
    heads = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
    restored: Array = heads.swapaxes(1, 2).reshape(rows.shape)
    return restored


def _check_dequantizer(kind: GGMLQuantizationType, item: str) -> None:
    block_bytes = GGML_QUANT_SIZES[kind][1]
    try:
        dequantize(np.zeros((1, block_bytes), dtype=np.uint8), kind)
    except (NotImplementedError, KeyError) as error:
        raise UnsupportedError(f"{item}: quantisation {kind.name} is not read") from error


class GGUFSource:
    """Opens a GGUF file; see `Source` for the members."""

    def __init__(self, path: Path) -> None:
        check_magic(path)
        self._gguf = GGUFFile(path)
        self.notes: list[str] = []
        self.generation_config: dict[str, Any] | None = None
        metadata = self._gguf.metadata
        self._arch = metadata.get("general.architecture")
        self.config: dict[str, Any] = to_config(self._gguf)
        rope = rope_frequencies(self._gguf, self._read_all, self.config)
        if rope is not None:
            self.config["rope_scaling"] = rope
        self.tensors: Mapping[str, SourceTensor] = self._map_tensors()
        self.tokenizer = tokenizer_files(metadata, str(path))
        header = self._gguf.file.read_at(0, self._gguf.header_bytes)
        self.description = {
            "kind": "gguf",
            "name": path.name,
            "architecture": str(self._arch),
            "model": str(metadata.get("general.name", "")),
            "file_bytes": str(self._gguf.file.size),
            "headers_sha256": hashlib.sha256(header).hexdigest(),
        }

    def check_unchanged(self) -> None:
        """Raises IoError if the file changed since it was opened."""
        self._gguf.file.check_unchanged()

    def _map_tensors(self) -> dict[str, SourceTensor]:
        result: dict[str, SourceTensor] = {}
        for tensor in self._gguf.tensors.values():
            if tensor.name == "rope_freqs.weight":
                continue  # became the config's rope_scaling
            item = f'{self._gguf.path}: tensor "{tensor.name[:200]}"'
            if tensor.type not in _PLAIN:
                _check_dequantizer(tensor.type, item)
            name = hugging_face_name(tensor.name)
            if name in result:
                raise FormatError(f"{item}: listed twice as {name!r}")
            result[name] = self._tensor(name, tensor)
        return result

    def _read_all(self, tensor: GGUFTensor) -> Array:
        rows = self._read(tensor, 0, tensor.shape[0])
        return rows.values.astype(np.float64)

    def _read(self, tensor: GGUFTensor, begin: int, end: int) -> Rows:
        size = tensor.row_bytes
        if len(tensor.shape) == 1 and tensor.type not in _PLAIN:
            raise UnsupportedError(f'tensor "{tensor.name}": a quantised vector is not read')
        data = self._gguf.file.read_at(tensor.offset + begin * size, (end - begin) * size)
        shape = (end - begin, *tensor.shape[1:])
        if tensor.type in _PLAIN:
            label = _PLAIN[tensor.type]
            return Rows(label, np.frombuffer(data, dtype=STORAGE[label]).reshape(shape))
        blocks = np.frombuffer(data, dtype=np.uint8).reshape(math.prod(shape[:-1]), -1)
        return Rows(F32, dequantize(blocks, tensor.type).reshape(shape))

    def _tensor(self, name: str, tensor: GGUFTensor) -> SourceTensor:
        label = _PLAIN.get(tensor.type, tensor.type.name)
        permuted = self._arch == "llama" and re.search(r"\.[qk]_proj\.(weight|bias)$", name)
        head_dim = int(self.config["head_dim"])
        if not permuted:
            return SourceTensor(name, label, tensor.shape, lambda b, e: self._read(tensor, b, e))
        if tensor.shape[0] % head_dim or head_dim % 2:
            raise FormatError(
                f'{self._gguf.path}: tensor "{tensor.name}": rows: got {tensor.shape[0]}, want a '
                f"multiple of the head size {head_dim}"
            )

        def read(begin: int, end: int) -> Rows:
            rows = self._read(tensor, begin, end)
            return Rows(rows.label, unpermute(rows.values, head_dim))

        return SourceTensor(name, label, tensor.shape, read, row_multiple=head_dim)
