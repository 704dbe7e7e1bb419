"""Inference runtime for decoders whose attention heads each keep their own span."""

from __future__ import annotations

from moa_rt import _core
from moa_rt._core import (
    MAX_TOKENS,
    AttentionPlan,
    HeadSpan,
    ModelConfig,
    RopeConfig,
    SpanRule,
    filled_slots,
    resolve_span,
    slot_of,
    visible,
    window_start,
)
from moa_rt.errors import (
    ArgumentError,
    BusyError,
    DeviceError,
    Error,
    FormatError,
    InternalError,
    IoError,
    MismatchError,
    NumericError,
    ResourceError,
    StateError,
    UnsupportedError,
)

__version__ = "0.1.0"

if _core.__version__ != __version__:
    raise ImportError(
        f"moa_rt {__version__} was installed over the compiled part of {_core.__version__}: "
        "install the package again"
    )

__all__ = [
    "MAX_TOKENS",
    "ArgumentError",
    "AttentionPlan",
    "BusyError",
    "DeviceError",
    "Error",
    "FormatError",
    "HeadSpan",
    "InternalError",
    "IoError",
    "MismatchError",
    "ModelConfig",
    "NumericError",
    "ResourceError",
    "RopeConfig",
    "SpanRule",
    "StateError",
    "UnsupportedError",
    "__version__",
    "filled_slots",
    "resolve_span",
    "slot_of",
    "visible",
    "window_start",
]
