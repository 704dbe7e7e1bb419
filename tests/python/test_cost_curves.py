"""Cost curves: what they are, on disk, and what is refused (E17)."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moa_rt import (
    ArgumentError,
    FormatError,
    IoError,
    MismatchError,
    ModelConfig,
    NumericError,
    UnsupportedError,
)
from moa_tools.profile.cost_curves import CostCurve, CostCurves, at
from support_search import make_curves


@pytest.fixture(scope="module")
def config(tiny_dir: Path) -> ModelConfig:
    return ModelConfig.load(tiny_dir)


def _curve(**changed: Any) -> CostCurve:
    fields: dict[str, Any] = {
        "objective": "retrieval",
        "length": 1024,
        "spans": np.array([128, 256, 1024]),
        "costs": np.arange(12, 0, -1, dtype=np.float64).reshape(2, 2, 3),
    }
    return CostCurve(**{**fields, **changed})


def _curves(*curves: CostCurve, **changed: Any) -> CostCurves:
    fields: dict[str, Any] = {
        "fingerprint": "f" * 64,
        "model_name": "m",
        "method": "test",
        "sink_size": 64,
    }
    return CostCurves(curves=curves or (_curve(),), **{**fields, **changed})


def test_round_trip(config: ModelConfig, tmp_path: Path) -> None:
    curves = make_curves(config)
    curves.save(tmp_path / "a.json")
    for name in ("a", "a.json", "a.safetensors"):
        loaded = CostCurves.load(tmp_path / name, config)
        assert loaded.sha256() == curves.sha256()
        assert dict(loaded.provenance) == dict(curves.provenance)
        for left, right in zip(loaded.curves, curves.curves, strict=True):
            assert (left.objective, left.length) == (right.objective, right.length)
            assert np.array_equal(left.costs, right.costs)
            assert np.array_equal(left.spans, right.spans)


def test_equal_curves_give_equal_files(config: ModelConfig, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_curves(config).save(tmp_path / name)
    for suffix in (".json", ".safetensors"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    assert make_curves(config, seed=1).sha256() != make_curves(config, seed=2).sha256()


@settings(max_examples=50, deadline=None)
@given(span=st.integers(128, 5000), seed=st.integers(0, 99))
def test_between_knots_costs_are_linear(span: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    curve = _curve(spans=np.array([128, 300, 1024]), costs=rng.random((2, 2, 3)))
    got = at(curve, span)
    for layer in range(2):
        for head in range(2):
            want = np.interp(span, curve.spans, curve.costs[layer, head])
            assert got[layer, head] == pytest.approx(want, rel=1e-12)


def test_a_span_below_the_first_is_refused() -> None:
    with pytest.raises(ArgumentError, match="below the first"):
        at(_curve(), 127)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e-9])
def test_E17_bad_number(value: float) -> None:
    costs = np.ones((2, 2, 3))
    costs[1, 0, 2] = value
    with pytest.raises(NumericError, match=r"costs\[1\]\[0\]\[2\]"):
        _curve(costs=costs)


def test_E17_all_zero() -> None:
    with pytest.raises(NumericError, match="all costs are zero"):
        _curve(costs=np.zeros((2, 2, 3)))


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"spans": np.array([256, 128, 1024])}, "ascending"),
        ({"spans": np.array([128, 128, 1024])}, "ascending"),
        ({"spans": np.array([0, 128, 1024])}, "positive"),
        ({"spans": np.array([128, 256, 512])}, "want the length 1024"),
        ({"spans": np.array([1024])}, "at least two"),
        ({"spans": np.array([128.0, 256.0, 1024.0])}, "want int"),
        ({"costs": np.ones((2, 2, 4))}, "want .layers, kv_heads, 3."),
        ({"costs": np.ones((0, 2, 3))}, "want .layers, kv_heads, 3."),
        ({"length": 0}, "length"),
        ({"objective": ""}, "objective"),
        ({"objective": "a\nb"}, "objective"),
    ],
)
def test_E17_bad_curve(changed: dict[str, Any], text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        _curve(**changed)


def test_E17_curves_that_do_not_go_together() -> None:
    with pytest.raises(ArgumentError, match="is there twice"):
        _curves(_curve(), _curve())
    with pytest.raises(ArgumentError, match="the first one has"):
        _curves(_curve(), _curve(objective="b", costs=np.ones((3, 2, 3))))
    with pytest.raises(ArgumentError, match="first span is 256"):
        _curves(_curve(spans=np.array([256, 512, 1024])))
    with pytest.raises(ArgumentError, match="got none"):
        CostCurves("f", "m", "t", 64, ())


def test_E17_other_model(config: ModelConfig, tmp_path: Path) -> None:
    curves = make_curves(config)
    dataclasses.replace(curves, fingerprint="0" * 64).save(tmp_path / "a")
    with pytest.raises(MismatchError, match=r"a\.json: fingerprint"):
        CostCurves.load(tmp_path / "a", config)
    _curves(_curve(costs=np.ones((3, 2, 3)))).save(tmp_path / "b")
    with pytest.raises(MismatchError, match="curves 3x2 vs model 2x2"):
        CostCurves.load(tmp_path / "b", config)
    long = make_curves(config, lengths=(131072,))
    with pytest.raises(MismatchError, match="the model ends at 65536"):
        long.check_model(config)


def _edited(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(base: Path) -> None:
        path = base.with_suffix(".json")
        fields = json.loads(path.read_text())
        change(fields)
        path.write_text(json.dumps(fields))

    return edit


def _pickled(base: Path) -> None:
    base.with_suffix(".json").write_bytes(pickle.dumps({"curves": []}))


def _zip(base: Path) -> None:
    base.with_suffix(".json").write_bytes(b"PK\x03\x04 what torch.save writes")


def _other_tensors(base: Path) -> None:
    path = base.with_suffix(".safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "error", "text"),
    [
        (_pickled, FormatError, "pickle"),
        (_zip, FormatError, "pickle or an archive"),
        (_other_tensors, FormatError, "not of one piece"),
        (lambda b: b.with_suffix(".safetensors").unlink(), IoError, "a.safetensors"),
        (lambda b: b.with_suffix(".json").write_text("[]"), FormatError, "want an object"),
        (_edited(lambda f: f.update(version=2)), UnsupportedError, "version 2, this build reads"),
        (_edited(lambda f: f.update(version="1")), FormatError, "version"),
        (_edited(lambda f: f.update(format="x")), FormatError, "format"),
        (_edited(lambda f: f.update(extra=1)), FormatError, "unknown keys"),
        (_edited(lambda f: f.pop("method")), FormatError, "missing keys"),
        (_edited(lambda f: f.update(layers="2")), FormatError, "layers"),
        (_edited(lambda f: f.update(layers=3)), FormatError, "want .'F64'"),
        (_edited(lambda f: f.update(provenance={"a": 1})), FormatError, "provenance"),
        (_edited(lambda f: f["curves"].pop()), FormatError, "got tensors"),
        (_edited(lambda f: f["curves"][0].update(length=4096)), FormatError, "want the length"),
        (_edited(lambda f: f["curves"][0].update(spans=[1] * 6)), FormatError, "ascending"),
        (_edited(lambda f: f["curves"][0].update(spans=[2**70] * 6)), FormatError, "spans"),
        (_edited(lambda f: f["curves"][0].update(spans=[0.5] * 6)), FormatError, "spans"),
    ],
)
def test_E17_damaged_file(
    config: ModelConfig,
    tmp_path: Path,
    damage: Callable[[Path], None],
    error: type[Exception],
    text: str,
) -> None:
    make_curves(config).save(tmp_path / "a")
    damage(tmp_path / "a")
    with pytest.raises(error, match=text):
        CostCurves.load(tmp_path / "a")
