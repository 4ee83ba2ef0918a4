"""The steps between fused blocks, against torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from weebill.runtime.nodes import NODES, make_node


def run(op: str, *tensors: Tensor, **fields: Any) -> Tensor:
    """The node on the tensors; its shape must be what it said."""
    node = make_node(op, inputs=list(range(len(tensors))), **fields)
    values = [tensor.numpy() for tensor in tensors]
    y = node.run(values, [])
    assert y.shape == node.shape([value.shape for value in values], [])
    assert y.dtype == np.float32
    return torch.from_numpy(np.array(y))


def images(*shape: int) -> Tensor:
    """Half of them as the fused blocks leave them."""
    x = torch.randn(*shape)
    return x.contiguous(memory_format=torch.channels_last) if shape[1] % 2 else x


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 1, 1, 1), (0, 2, 3, 3), (3, 17, 2, 7)])
def test_exact_steps(shape: tuple[int, ...]) -> None:
    x, y, gate = images(*shape), images(*shape), images(*shape[:2], 1, 1)
    assert torch.equal(run("add", x, y), x + y)
    assert torch.equal(run("mul", x, gate), x * gate)
    assert torch.equal(run("mul", gate, x), gate * x)
    for axis in range(4):
        assert torch.equal(run("concat", x, y, x, axis=axis), torch.cat([x, y, x], axis))
    assert torch.equal(run("permute", x, dims=[0, 2, 3, 1]), x.permute(0, 2, 3, 1))
    assert torch.equal(run("slice", x, axis=1, start=0, stop=1), x[:, :1])
    assert torch.equal(run("reshape", x, sizes=[[0, 0], [0, 1], 1, [0, 2], [0, 3]]), x.unsqueeze(2))
    assert torch.equal(run("reshape", x, sizes=[[0, 0], -1]), x.flatten(1))
    assert torch.equal(run("reshape", x, sizes=[[0, 0], -1, [0, 3]]), x.flatten(1, 2))


@pytest.mark.parametrize("rank", [2, 3, 5])
def test_other_ranks(rank: int) -> None:
    x, y = torch.randn((2, 3, 4, 2, 5)[:rank]), torch.randn((2, 3, 4, 2, 5)[:rank])
    assert torch.equal(run("concat", x, y, axis=1), torch.cat([x, y], 1))
    assert torch.equal(run("add", x, y), x + y)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (3, 7), (14, 18), (30, 5), (7, 9)])
def test_bilinear(size: tuple[int, int], align_corners: bool) -> None:
    for channels in (1, 3, 21):
        x = images(2, channels, 7, 9)
        expected = F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
        found = run("resize", x, mode="bilinear", size=list(size), align_corners=align_corners)
        # four products and three sums; the weights differ by the rounding of a coordinate below 16
        bound = 2**-24 * (8 + 16) * F.max_pool2d(x.abs(), (7, 9))
        assert bool(((found - expected).abs() <= bound).all())
        like = run(
            "resize", x, torch.zeros(1, 1, *size), mode="bilinear", align_corners=align_corners
        )
        assert torch.equal(like, found)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_a_resize_to_the_same_size_is_an_array_of_its_own(mode: str) -> None:
    x = np.ones((1, 3, 2, 2), np.float32)
    y = make_node("resize", inputs=[0], mode=mode, size=[2, 2]).run([x], [])
    assert np.array_equal(y, x)
    assert not np.shares_memory(y, x)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7, 2.0, 3.0])
def test_scales(scale: float) -> None:
    x = images(1, 5, 6, 9)
    for mode in ("nearest", "bilinear"):
        expected = F.interpolate(x, scale_factor=scale, mode=mode)
        found = run("resize", x, mode=mode, scale=[scale, scale])
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", [(1, 2), (5, 5), (12, 18), (13, 17)])
def test_nearest(size: tuple[int, int]) -> None:
    x = images(2, 3, 6, 9)
    assert torch.equal(run("resize", x, mode="nearest", size=list(size)), F.interpolate(x, size))


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((3, 3), (2, 2), (1, 1)),
        ((2, 2), (2, 2), (0, 0)),
        ((3, 1), (2, 3), (1, 0)),
        *[((5, 5), (1, 1), (2, 2))],
    ],
)
def test_pools(kernel: Any, stride: Any, padding: Any, ceil_mode: bool) -> None:
    for shape in ((2, 3, 7, 8), (1, 17, 5, 5), (1, 1, 6, 12)):
        x = images(*shape)
        window = {"kernel": list(kernel), "stride": list(stride), "padding": list(padding)}
        expected = F.max_pool2d(x, kernel, stride, padding, ceil_mode=ceil_mode)
        assert torch.equal(run("max_pool", x, **window, ceil_mode=ceil_mode), expected)
        for count in (True, False):
            expected = F.avg_pool2d(x, kernel, stride, padding, count_include_pad=count)
            found = run("avg_pool", x, **window, count_include_pad=count)
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_max_pool_keeps_nan() -> None:
    x = torch.full((1, 1, 3, 3), torch.nan)
    assert run("max_pool", x, kernel=[3, 3], stride=[1, 1]).isnan().all()


ACTIVATIONS = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "hardsigmoid_paddle": lambda x: (x / 5 + 0.5).clamp(0, 1),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
}


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_activations(name: str) -> None:
    x = torch.cat([torch.linspace(-9, 9, 999), torch.tensor([-1e4, 1e4, torch.nan, -0.0])])
    expected = ACTIVATIONS[name](x.double()).float()
    found = run("activation", x[None], name=name)[0]
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=1e-6, equal_nan=True)


BAD = [
    ("add", {}, [(1, 2, 3, 3), (1, 3, 3, 3)]),
    ("add", {}, [(1, 2, 3, 3), (1, 2)]),
    ("concat", {"axis": 4}, [(1, 2, 3, 3)]),
    ("concat", {"axis": -1}, [(1, 2, 3, 3)]),
    ("concat", {"axis": 1}, [(1, 2, 3, 3), (1, 2, 3, 4)]),
    ("slice", {"axis": 1, "start": 1, "stop": 1}, [(1, 2, 3, 3)]),
    ("slice", {"axis": 1, "start": -1, "stop": 1}, [(1, 2, 3, 3)]),
    ("slice", {"axis": 1, "start": 0, "stop": 3}, [(1, 2, 3, 3)]),
    ("permute", {"dims": [0, 1, 2, 2]}, [(1, 2, 3, 3)]),
    ("permute", {"dims": [0, 1]}, [(1, 2, 3, 3)]),
    ("reshape", {"sizes": [-1, -1]}, [(1, 2, 3, 3)]),
    ("reshape", {"sizes": [5, -1]}, [(1, 2, 3, 3)]),
    ("reshape", {"sizes": [[0, 0], 5, -1]}, [(0, 2, 3, 3)]),
    ("reshape", {"sizes": [[0, 0], -1, -1]}, [(0, 2, 3, 3)]),
    ("reshape", {"sizes": [0, -1]}, [(1, 2, 3, 3)]),
    ("reshape", {"sizes": [[1, 0], -1]}, [(1, 2, 3, 3)]),
    ("reshape", {"sizes": [[0, 4], -1]}, [(1, 2, 3, 3)]),
    ("reshape", {"sizes": [1] * 9}, [(1, 1)]),
    ("resize", {"mode": "nearest", "size": [0, 1]}, [(1, 2, 3, 3)]),
    ("resize", {"mode": "nearest", "size": [1 << 20, 1]}, [(1, 2, 3, 3)]),
    ("resize", {"mode": "nearest", "scale": [0.1, 0.1]}, [(1, 2, 3, 3)]),
    ("resize", {"mode": "nearest", "size": [4, 4]}, [(1, 2)]),
    ("max_pool", {"kernel": [4, 4], "stride": [1, 1]}, [(1, 2, 3, 3)]),
    ("max_pool", {"kernel": [3, 3], "stride": [0, 1]}, [(1, 2, 3, 3)]),
    ("max_pool", {"kernel": [3, 3], "stride": [1, 1], "padding": [2, 0]}, [(1, 2, 3, 3)]),
    ("max_pool", {"kernel": [65, 65], "stride": [1, 1]}, [(1, 2, 99, 99)]),
    ("avg_pool", {"kernel": [3, 3], "stride": [1, 1]}, [(1, 2)]),
]


@pytest.mark.parametrize(("op", "fields", "shapes"), BAD)
def test_what_does_not_fit(op: str, fields: dict[str, Any], shapes: list[tuple[int, ...]]) -> None:
    node = make_node(op, inputs=list(range(len(shapes))), **fields)
    with pytest.raises(ValueError):
        node.shape(shapes, [])


@pytest.mark.parametrize(
    ("op", "fields"),
    [
        ("add", {"inputs": [0]}),
        ("concat", {"inputs": [], "axis": 1}),
        ("resize", {"inputs": [0], "mode": "nearest"}),
        ("resize", {"inputs": [0, 1], "mode": "nearest", "size": [2, 2]}),
        ("resize", {"inputs": [0], "mode": "nearest", "scale": [0.0, 1.0]}),
        ("resize", {"inputs": [0], "mode": "nearest", "scale": [1e30, 1.0]}),
        ("avg_pool", {"inputs": [0], "kernel": [2, 2], "stride": [2, 2], "ceil_mode": True}),
        ("activation", {"inputs": [0], "name": "tanh"}),
    ],
)
def test_wrong_fields(op: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        make_node(op, **fields)


def test_all_nodes_are_tested() -> None:
    tested = {"run", "add", "mul", "concat", "slice", "permute", "reshape", "activation"}
    assert set(NODES) == tested | {"resize", "max_pool", "avg_pool"}
