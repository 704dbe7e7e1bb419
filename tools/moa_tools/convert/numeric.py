"""Exact casts between the stored types, and the scan for values no weight should have."""

from __future__ import annotations

import numpy as np
from moa_rt import NumericError

from moa_tools.convert.source import BF16, F16, F32, STORAGE, Array, Rows

_EXPONENT = {F32: 0x7F800000, F16: 0x7C00, BF16: 0x7F80}
_MANTISSA = {F32: 0x007FFFFF, F16: 0x03FF, BF16: 0x007F}
_MAX_F16 = 65504.0


def to_float32(rows: Rows) -> Array:
    """The values as float32; exact for every stored type."""
    if rows.label == BF16:
        wide: Array = (rows.values.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return wide
    return rows.values.astype(np.float32, copy=False)


def float32_to_bf16(values: Array) -> Array:
    """Rounds float32 to bfloat16 (returned as uint16), to nearest even; NaN stays a quiet NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    lowest_kept = (bits >> np.uint32(16)) & np.uint32(1)
    rounded: Array = ((bits + (np.uint32(0x7FFF) + lowest_kept)) >> np.uint32(16)).astype(np.uint16)
    nan = np.isnan(values)
    if nan.any():
        rounded[nan] = ((bits[nan] >> np.uint32(16)) | np.uint32(0x40)).astype(np.uint16)
    return rounded


def cast(rows: Rows, label: str, name: str) -> Array:
    """The rows as `label`, contiguous and little-endian.

    Raises NumericError if a finite value becomes infinite (B8).
    """
    if rows.label == label:
        return np.ascontiguousarray(rows.values.astype(STORAGE[label], copy=False))
    values = to_float32(rows)
    if label == F32:
        return np.ascontiguousarray(values.astype(STORAGE[F32], copy=False))
    if label == BF16:
        result = float32_to_bf16(values)
        overflow = ((result & 0x7FFF) == _EXPONENT[BF16]) & np.isfinite(values)
        limit, hint = 3.3895313892515355e38, "float32"
    else:
        with np.errstate(over="ignore"):
            result = values.astype(np.float16)
        overflow = np.isinf(result) & np.isfinite(values)
        limit, hint = _MAX_F16, "bfloat16"
    if overflow.any():
        largest = float(np.abs(values[overflow]).max())
        target = "F16" if label == F16 else "BF16"
        raise NumericError(
            f'tensor "{name}": cast to {target}: got max {largest:.3g} > {limit:.6g}; '
            f"use --dtype {hint}"
        )
    return np.ascontiguousarray(result.astype(STORAGE[label], copy=False))


class Scan:
    """What is wrong with one tensor's values (B7), over its blocks."""

    def __init__(self, name: str, allow_nonfinite: bool) -> None:
        self._name = name
        self._allow_nonfinite = allow_nonfinite
        self._count = 0
        self._nonzero = 0
        self._subnormal = 0
        self.nonfinite = 0

    def add(self, rows: Rows) -> None:
        """Looks at the next block. Raises NumericError for NaN or Inf unless they are allowed."""
        bits = np.ascontiguousarray(rows.values).reshape(-1)
        bits = bits.view(np.uint32 if rows.label == F32 else np.uint16)
        exponent = bits & bits.dtype.type(_EXPONENT[rows.label])
        bad = exponent == _EXPONENT[rows.label]
        if bad.any():
            first = int(np.argmax(bad))
            if not self._allow_nonfinite:
                found = Rows(rows.label, rows.values.reshape(-1)[first : first + 1])
                value = float(to_float32(found)[0])
                raise NumericError(
                    f'tensor "{self._name}": element {self._count + first}: got {value}, want a '
                    "finite number (--allow-nonfinite converts it all the same)"
                )
            self.nonfinite += int(bad.sum())
        mantissa = bits & bits.dtype.type(_MANTISSA[rows.label])
        normal = int(np.count_nonzero(exponent))
        nonzero = normal + int(np.count_nonzero(mantissa[exponent == 0]))
        self._nonzero += nonzero
        self._subnormal += nonzero - normal
        self._count += bits.size

    def warnings(self) -> list[str]:
        """Suspicious but convertible: all zero, mostly subnormal, non-finite."""
        found = []
        if self._count > 0 and self._nonzero == 0:
            found.append(f'tensor "{self._name}": every element is zero')
        elif self._subnormal * 2 > self._count:
            found.append(
                f'tensor "{self._name}": {self._subnormal} of {self._count} elements are subnormal'
            )
        if self.nonfinite:
            found.append(f'tensor "{self._name}": {self.nonfinite} elements are not finite')
        return found
