"""In which type a model's weights and activations are, where its gradients are taken."""

from __future__ import annotations

from moa_rt import ArgumentError

# Bytes of a number of each type.
ITEM_BYTES = {"float32": 4, "bfloat16": 2}


def check_dtype(dtype: str) -> None:
    """Raises ArgumentError unless it is "auto" or one of `ITEM_BYTES`."""
    if dtype not in ("auto", *ITEM_BYTES):
        want = ", ".join(("auto", *ITEM_BYTES))
        raise ArgumentError(f"dtype: got {dtype!r}, want one of {want}")


def dtype_in_use(dtype: str, device: str) -> str:
    """What "auto" stands for: bfloat16 on a GPU, else float32."""
    if dtype != "auto":
        return dtype
    return "float32" if device == "cpu" else "bfloat16"
