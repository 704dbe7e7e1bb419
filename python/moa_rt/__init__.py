"""Inference runtime for decoders whose attention heads each keep their own span."""

from __future__ import annotations

from moa_rt._checks import __version__

# isort: split
from moa_rt._core import (
    MAX_TOKENS,
    AttentionPlan,
    Completion,
    EngineOptions,
    EngineStats,
    HeadSpan,
    IncrementalDetokenizer,
    MemoryPrediction,
    MemoryReport,
    ModelConfig,
    RequestOptions,
    RopeConfig,
    SpanRule,
    TokenEvent,
    Tokenizer,
    TokenLogprob,
    filled_slots,
    resolve_span,
    slot_of,
    verify_model,
    visible,
    window_start,
)
from moa_rt.engine import Engine, predict_memory
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
from moa_rt.session import Session
from moa_rt.stream import Stream
from moa_rt.trace import Trace

__all__ = [
    "MAX_TOKENS",
    "ArgumentError",
    "AttentionPlan",
    "BusyError",
    "Completion",
    "DeviceError",
    "Engine",
    "EngineOptions",
    "EngineStats",
    "Error",
    "FormatError",
    "HeadSpan",
    "IncrementalDetokenizer",
    "InternalError",
    "IoError",
    "MemoryPrediction",
    "MemoryReport",
    "MismatchError",
    "ModelConfig",
    "NumericError",
    "RequestOptions",
    "ResourceError",
    "RopeConfig",
    "Session",
    "SpanRule",
    "StateError",
    "Stream",
    "TokenEvent",
    "TokenLogprob",
    "Tokenizer",
    "Trace",
    "UnsupportedError",
    "__version__",
    "filled_slots",
    "predict_memory",
    "resolve_span",
    "slot_of",
    "verify_model",
    "visible",
    "window_start",
]
