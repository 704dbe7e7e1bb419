"""Casts against torch's own and against the formats' definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from moa_rt import NumericError
from moa_tools.convert.numeric import Scan, cast, float32_to_bf16, to_float32
from moa_tools.convert.source import BF16, F16, F32, Rows


def float32_patterns() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Every upper half with the lower halves that decide the rounding, NaN and Inf left out."""
    upper = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=np.uint32)
    values = (upper[:, None] | lower[None, :]).reshape(-1).view(np.float32)
    finite: np.ndarray[Any, np.dtype[np.float32]] = values[np.isfinite(values)]
    return finite


def test_bf16_rounds_to_nearest_even_as_torch_does() -> None:
    import torch

    values = float32_patterns()
    want = torch.from_numpy(values.copy()).to(torch.bfloat16).view(torch.int16).numpy()
    np.testing.assert_array_equal(float32_to_bf16(values), want.view(np.uint16))


def test_bf16_keeps_nan_and_infinity() -> None:
    values = np.array([np.nan, np.inf, -np.inf], dtype=np.float32)
    back = to_float32(Rows(BF16, float32_to_bf16(values)))
    np.testing.assert_array_equal(back, values)
    payload = np.array([0x7F800001, 0xFF80FFFF], dtype=np.uint32).view(np.float32)
    assert np.isnan(to_float32(Rows(BF16, float32_to_bf16(payload)))).all()


def test_every_16_bit_value_survives_float32() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    wide = to_float32(Rows(BF16, bits))
    finite = np.isfinite(wide)
    np.testing.assert_array_equal(cast(Rows(F32, wide[finite]), BF16, "t"), bits[finite])
    half = bits.view(np.float16)
    finite = np.isfinite(half)
    wide = to_float32(Rows(F16, half[finite]))
    np.testing.assert_array_equal(cast(Rows(F32, wide), F16, "t").view(np.uint16), bits[finite])


@pytest.mark.parametrize(
    ("value", "fits"), [(65504.0, True), (65519.9, True), (65520.0, False), (-7.1e4, False)]
)
def test_B8_limit_of_float16(value: float, fits: bool) -> None:
    rows = Rows(F32, np.array([1.0, value], dtype=np.float32))
    if fits:
        assert abs(float(cast(rows, F16, "t")[1])) == 65504.0
    else:
        with pytest.raises(NumericError, match=r'"t": cast to F16: got max .* > 65504'):
            cast(rows, F16, "t")


def test_B8_limit_of_bfloat16() -> None:
    rows = Rows(F32, np.array([3.4e38], dtype=np.float32))
    with pytest.raises(NumericError, match=r"cast to BF16.*use --dtype float32"):
        cast(rows, BF16, "t")
    assert np.isinf(
        to_float32(Rows(BF16, cast(Rows(F32, np.full(1, np.inf, np.float32)), BF16, "t")))
    )[0]


@pytest.mark.parametrize("label", [F32, F16, BF16])
def test_B7_first_index_counts_over_blocks(label: str) -> None:
    scan = Scan("t", allow_nonfinite=False)
    good = Rows(F32, np.ones((2, 3), dtype=np.float32))
    scan.add(Rows(label, cast(good, label, "t")))
    bad = np.ones((2, 3), dtype=np.float32)
    bad[1, 1] = np.inf
    with pytest.raises(NumericError, match=r'"t": element 10: got inf, want a finite number'):
        scan.add(Rows(label, cast(Rows(F32, bad), label, "t")))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.0, -0.0, 0.0], ["every element is zero"]),
        ([1e-40, 2e-40, 1.0], ["2 of 3 elements are subnormal"]),
        ([1e-40, 1.0, 1.0], []),
        ([0.0, 1.0, 2.0], []),
    ],
)
def test_B7_suspicious_tensors(values: list[float], words: list[str]) -> None:
    scan = Scan("t", allow_nonfinite=False)
    scan.add(Rows(F32, np.array(values, dtype=np.float32)))
    assert [text.split(": ", 1)[1] for text in scan.warnings()] == words
