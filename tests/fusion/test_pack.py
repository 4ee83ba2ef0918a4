"""Records in one array, written in place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from weebill import _C
from weebill.fusion import pack as packing
from weebill.fusion.pack import Folded, pack, pack_all
from weebill.fusion.spec import BlockSpec, Layer, Squeeze, Window


def blocks() -> list[BlockSpec]:
    """One of each kind, with channels that fill no block of outputs."""
    window = Window((3, 3), padding=(1, 1, 1, 1))
    wide = Layer("depthwise", 22, 22, 22, window)
    reduce, expand = Layer("reduce", 22, 6), Layer("expand", 6, 22, activation="hardsigmoid")
    separable = BlockSpec(
        "separable",
        expand=Layer("in", 17, 22),
        depthwise=wide,
        squeeze=Squeeze(reduce, expand),
        project=Layer("out", 22, 17),
        residual=True,
    )
    branch = BlockSpec("separable", depthwise=wide, project=Layer("out", 22, 22))
    return [
        BlockSpec("conv2d", layer=Layer("dense", 3, 50, 1, window)),
        BlockSpec("conv2d", layer=Layer("grouped", 6, 4, 2, window)),
        BlockSpec("conv2d", layer=wide),
        separable,
        BlockSpec("squeeze_excite", squeeze=Squeeze(reduce, expand)),
        BlockSpec("global_avg_pool2d", channels=5),
        BlockSpec("max_pool2d", channels=5, window=Window((2, 2), (2, 2))),
        BlockSpec("channel_shuffle", channels=6, groups=3),
        BlockSpec("shuffle_unit", branch=branch),
        BlockSpec("shuffle_unit", branch=branch, shortcut=branch),
        BlockSpec(
            "shuffle_unit_v1",
            expand=Layer("in", 12, 6, 3),
            depthwise=replace(wide, in_channels=6, out_channels=6, groups=6),
            project=Layer("out", 6, 12, 3),
            groups=3,
            concat=True,
        ),
    ]


def weights(layer: Layer) -> Folded:
    shape = (layer.out_channels, layer.in_channels // layer.groups, *layer.window.kernel)
    numbers = np.random.default_rng(sum(shape))
    weight = numbers.standard_normal(shape, np.float32)
    return Folded(weight, numbers.standard_normal(shape[0], np.float32))


@pytest.mark.parametrize("reserved", [None, 0, 1000])
def test_all_records_in_one_array(monkeypatch: pytest.MonkeyPatch, reserved: int | None) -> None:
    if reserved is not None:  # less than it takes: the memory grows
        monkeypatch.setattr(packing, "_expected_size", lambda blocks: reserved)
    separate = [pack(block, weights) for block in blocks()]
    joined, sizes = pack_all(blocks(), weights)
    assert sizes == [len(record) for record in separate]
    np.testing.assert_array_equal(joined, _C.join(separate))
    assert joined.ctypes.data % 64 == 0
    assert len(_C.geometry(joined)) == 6 * len(sizes)


def test_the_expected_size_is_enough_and_not_much_more() -> None:
    for block in blocks():
        taken = len(pack(block, weights))
        assert taken <= packing._expected_size([block]) <= 2 * taken + 1024, block.describe()


def test_memory_that_is_given_is_checked() -> None:
    def refused(error: type[Exception], text: str, memory: Any) -> None:
        with pytest.raises(error, match=text):
            _C.pack_global_avg_pool2d(5, memory)

    aligned = packing._aligned
    size = len(_C.pack_global_avg_pool2d(5))
    record = _C.pack_global_avg_pool2d(5, aligned)
    assert record.ctypes.data % 64 == 0
    refused(TypeError, "must be a numpy array, got NoneType", lambda size: None)
    refused(TypeError, "must be uint8, got float32", lambda size: np.empty(size, np.float32))
    refused(
        ValueError, rf"shape \({size},\), got shape \({size - 1},\)", lambda size: aligned(size)[1:]
    )
    refused(ValueError, "contiguous", lambda size: aligned(2 * size)[::2])
    refused(ValueError, "remainder of 1", lambda size: aligned(size + 1)[1:])
    refused(ValueError, "writable", _read_only)
    with pytest.raises(ZeroDivisionError):  # what the function raises is passed on
        _C.pack_global_avg_pool2d(5, lambda size: aligned(size // 0))
    with pytest.raises(ValueError, match="channels must be from 1"):  # checked before it is asked
        _C.pack_global_avg_pool2d(0, lambda size: aligned(size // 0))


def _read_only(size: int) -> Any:
    memory = packing._aligned(size)
    memory.flags.writeable = False
    return memory
