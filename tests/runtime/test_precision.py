"""weebill.runtime.load(..., precision=...): float16 where the instruction set computes in it, an
error elsewhere. The instruction set "scalar" computes in float16 on any machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.files import tensors, write_file
from weebill import _C, config, runtime

X = np.random.default_rng(1).standard_normal((2, 3, 16, 12), dtype=np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_file(tmp_path / "a.weebill")


def test_float16_is_float32_but_for_its_roundings(path: Path) -> None:
    expected: Any = runtime.load(path)(X)
    with config.use_isa("scalar"):
        model = runtime.load(path, precision="float16")
        assert model.precision == "float16"
        found: Any = model(X)
        assert runtime.load(path, precision="auto").precision == "float32"
    for name, y in expected.items():
        assert found[name].dtype == np.float32
        assert found[name].shape == y.shape
        error = np.abs(found[name] - y).max() / np.abs(y).max()
        # Some ten layers, each with roundings of 2^-11, most of which cancel.
        assert 0 < error < 10 * 2.0**-11, name


def test_float16_does_not_depend_on_layout_or_threads(path: Path) -> None:
    with config.use_isa("scalar"):
        model = runtime.load(path, precision="float16")
        expected: Any = model(X)
        channels_last = np.ascontiguousarray(X.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        wider = np.zeros((2, 5, 16, 12), np.float32)
        wider[:, 1:4] = X
        try:
            config.set_threads(2)
            for x in (X, channels_last, wider[:, 1:4]):
                found: Any = model(x)
                for name, y in expected.items():
                    np.testing.assert_array_equal(found[name], y)
        finally:
            config.set_threads(None)


@pytest.mark.skipif(_C.has_float16(), reason="a processor with float16 arithmetic")
def test_never_silently(path: Path) -> None:
    text = f"^load: precision must be 'float32' with the instruction set '{config.isa()}'"
    with pytest.raises(NotImplementedError, match=text):
        runtime.load(path, precision="float16")
    assert runtime.load(path, precision="auto").precision == "float32"
    with config.use_isa("scalar"):
        model = runtime.load(path, precision="float16")
    with pytest.raises(NotImplementedError, match="^run: records must be of float32 on"):
        model(X)


@pytest.mark.parametrize("precision", ["bfloat16", None, 16])
def test_no_such_precision(path: Path, precision: Any) -> None:
    with pytest.raises(ValueError, match="load: precision must be one of 'float32', 'float16', 'a"):
        runtime.load(path, precision=precision)


def test_weights_beyond_float16(tmp_path: Path) -> None:
    weight = tensors()["stem.weight"].copy()
    weight[0, 0, 0, 0] = 7e4
    path = write_file(tmp_path / "a.weebill", **{"stem.weight": weight})
    runtime.load(path)
    with config.use_isa("scalar"), pytest.raises(ValueError, match="weights must be at most 65504"):
        runtime.load(path, precision="float16")
