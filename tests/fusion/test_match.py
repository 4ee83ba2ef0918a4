"""Patterns on minimal graphs, and near misses, which must not be taken for them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weebill.fusion import activations
from weebill.fusion.fold import fold
from weebill.fusion.layers import NotFusable, conv_layer, linear_layer
from weebill.fusion.match import graph_of, match
from weebill.fusion.packed import Packed
from weebill.fusion.spec import BlockSpec, Sum

Forward = Callable[[Any, Tensor], Tensor]


class Net(nn.Module):
    """Layers that forwards of the tests put together."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.steps = forward
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.strided = nn.Conv2d(8, 8, 3, 2, 1, groups=8)
        self.point = nn.Conv2d(8, 8, 1)
        self.second = nn.Conv2d(8, 8, 1)
        self.half_point = nn.Conv2d(4, 4, 1)
        self.half_depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.other_norm = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 5)
        self.reduce = nn.Conv2d(8, 4, 1)
        self.expand = nn.Conv2d(4, 8, 1)
        self.narrow = nn.Conv2d(8, 1, 1)
        self.one = nn.Conv2d(4, 1, 1)
        self.dropout = nn.Dropout2d()
        for norm in (self.norm, self.other_norm):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
            nn.init.normal_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(self, x)


def blocks(forward: Forward) -> tuple[BlockSpec, ...]:
    """Of the forward, which computes what its program does."""
    torch.manual_seed(0)
    net = Net(forward).eval()
    graph = graph_of(net)
    program = match(graph)
    with torch.no_grad():
        y = Packed(net, program).run(graph.trial_input)
    torch.testing.assert_close(y, graph.trial_output, rtol=1e-4, atol=1e-5)
    return program.blocks


def gate(m: Any, y: Tensor) -> Tensor:
    return F.hardsigmoid(m.expand(F.relu(m.reduce(F.adaptive_avg_pool2d(y, 1)))))


def halves(m: Any, x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    y = torch.cat([a, m.half_point(m.half_depthwise(b))], 1)
    return F.channel_shuffle(y, 2)


def shuffled(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


#: Forward, and what its blocks are called.
PATTERNS: dict[str, tuple[Forward, list[str]]] = {
    "layer": (lambda m, x: m.conv(x), ["conv2d"]),
    "norm": (lambda m, x: m.norm(m.conv(x)), ["conv2d"]),
    "two norms": (lambda m, x: m.other_norm(m.norm(m.conv(x))), ["conv2d"]),
    "functional norm": (
        lambda m, x: F.batch_norm(
            m.conv(x),
            m.norm.running_mean,
            m.norm.running_var,
            m.norm.weight,
            m.norm.bias,
            False,
            0.1,
            m.norm.eps,
        ),
        ["conv2d"],
    ),
    "activation": (lambda m, x: torch.relu(m.norm(m.conv(x))), ["conv2d"]),
    "dropout": (lambda m, x: m.dropout(m.conv(x)).relu(), ["conv2d"]),
    "depthwise alone": (lambda m, x: m.depthwise(x), ["conv2d"]),
    "depthwise, pointwise": (lambda m, x: m.point(m.depthwise(x).relu()), ["separable"]),
    "pointwise, depthwise": (lambda m, x: m.depthwise(m.point(x).relu()), ["separable"]),
    "inverted residual": (
        lambda m, x: x + m.second(m.depthwise(m.point(x).relu()).relu()),
        ["separable"],
    ),
    "residual, other order": (lambda m, x: m.second(m.depthwise(x)) + x, ["separable"]),
    "residual in place": (
        lambda m, x: operator.iadd(m.second(m.depthwise(x)), x),
        ["separable"],
    ),
    "squeeze": (lambda m, x: x * gate(m, x), ["squeeze_excite"]),
    "squeeze, expanded gate": (lambda m, x: x * gate(m, x).expand_as(x), ["squeeze_excite"]),
    "squeeze inside": (
        lambda m, x: m.second((y := m.depthwise(m.point(x)).relu()) * gate(m, y)),
        ["separable"],
    ),
    "pool": (lambda m, x: m.point(x).mean((2, 3), keepdim=True), ["conv2d", "global_avg_pool2d"]),
    "head": (
        lambda m, x: m.linear(F.adaptive_avg_pool2d(x, 1).flatten(1)),
        ["global_avg_pool2d", "conv2d"],
    ),
    "head by mean": (lambda m, x: m.linear(x.mean([-2, -1])), ["global_avg_pool2d", "conv2d"]),
    "shuffle": (lambda m, x: shuffled(m.point(x), 4), ["conv2d", "channel_shuffle"]),
    "unit": (halves, ["shuffle_unit"]),
    "unit, two branches": (
        lambda m, x: F.channel_shuffle(
            torch.cat([m.point(m.strided(x)), m.second(m.strided(x))], 1), 2
        ),
        ["shuffle_unit"],
    ),
    "unit of version 1": (
        lambda m, x: torch.relu(
            x + m.grouped(m.depthwise(F.channel_shuffle(m.grouped(x).relu(), 2)))
        ),
        ["shuffle_unit_v1"],
    ),
    "sum": (lambda m, x: (m.conv(x) + m.point(x)).relu(), ["conv2d"]),
    "sum of three": (
        lambda m, x: m.norm(x) + (m.point(x) + m.other_norm(m.conv(x))),
        ["conv2d"],
    ),
    "sum with what changes nothing": (
        lambda m, x: m.norm(x) + m.dropout(m.conv(x) + m.point(x)),
        ["conv2d"],
    ),
    "sum with zero": (lambda m, x: 0 + m.conv(x) + m.point(x), ["conv2d"]),
    "sum, depthwise": (lambda m, x: m.norm(x) + m.depthwise(x), ["conv2d"]),
    "sum, in groups": (lambda m, x: m.grouped(x) + m.norm(x), ["conv2d"]),
}

#: Forward, and why it is none of them.
NEAR_MISSES: dict[str, tuple[Forward, str]] = {
    "norm first": (lambda m, x: m.conv(m.norm(x)), "follows no convolution"),
    "norm after activation": (lambda m, x: m.norm(m.conv(x).relu()), "follows no convolution"),
    "norm in training": (
        lambda m, x: F.batch_norm(
            m.conv(x), m.norm.running_mean, m.norm.running_var, m.norm.weight, m.norm.bias, True
        ),
        "changes norm.running_mean",
    ),
    "norm with an eps of its own": (
        lambda m, x: F.batch_norm(
            m.conv(x),
            m.norm.running_mean,
            m.norm.running_var,
            m.norm.weight,
            m.norm.bias,
            eps=1e-2,
        ),
        "eps or mode",
    ),
    "another norm's bias": (
        lambda m, x: F.batch_norm(
            m.conv(x),
            m.norm.running_mean,
            m.norm.running_var,
            m.norm.weight,
            m.other_norm.bias,
        ),
        "bias that is not its module's",
    ),
    "two activations": (lambda m, x: torch.sigmoid(m.conv(x).relu()), "follows no convolution"),
    "leaky": (lambda m, x: F.leaky_relu(m.conv(x)), "leaky_relu has no fused form"),
    "residual subtracted": (lambda m, x: m.second(m.depthwise(x)) - x, "no form that is fused"),
    "residual scaled": (
        lambda m, x: torch.add(x, m.second(m.depthwise(x)), alpha=2),
        "no form that is fused",
    ),
    "residual of something else": (
        lambda m, x: m.second(m.depthwise(x)) + x.flip(1),
        "no form that is fused",
    ),
    "twice the input": (lambda m, x: m.conv(x + x), "no fused form"),
    "residual around a dense layer": (lambda m, x: x + m.conv(x), "something else"),
    "an inner value leaves": (
        lambda m, x: (y := m.depthwise(x)) + m.second(m.point(y).relu()),
        "something else",
    ),
    "gate added": (lambda m, x: x + gate(m, x), "something else"),
    "residual of one channel": (lambda m, x: x + m.narrow(m.depthwise(x)), "something else"),
    "gate of one channel": (
        lambda m, x: x * m.one(F.relu(m.reduce(F.adaptive_avg_pool2d(x, 1)))),
        "a gate of other channels",
    ),
    "sum with one channel": (lambda m, x: m.point(x) + m.narrow(x), "no form that is fused"),
    "gate on another value": (lambda m, x: m.point(x) * gate(m, x), "one value goes to"),
    "gate of one layer": (
        lambda m, x: x * m.point(F.adaptive_avg_pool2d(x, 1)).sigmoid(),
        "not pool, layer, layer, gate",
    ),
    "pool to 2 x 2": (lambda m, x: m.point(F.adaptive_avg_pool2d(x, 2)), "adaptive_avg_pool2d"),
    "mean of rows": (lambda m, x: m.point(x.mean((2,), keepdim=True)), "mean has no fused form"),
    "mean of channels": (lambda m, x: m.point(x).mean(1), "mean has no fused form"),
    "halves swapped": (
        lambda m, x: F.channel_shuffle(
            torch.cat([x.chunk(2, 1)[1], m.half_point(m.half_depthwise(x.chunk(2, 1)[1]))], 1), 2
        ),
        "no form that is fused",
    ),
    "concatenated, not shuffled": (
        lambda m, x: torch.cat([m.point(m.strided(x)), m.second(m.strided(x))], 1),
        "not shuffled by two",
    ),
    "concatenated along rows": (
        lambda m, x: torch.cat([m.point(m.strided(x)), m.second(m.strided(x))], 2),
        "no form that is fused",
    ),
    "shuffled by four": (
        lambda m, x: F.channel_shuffle(
            torch.cat([m.point(m.strided(x)), m.second(m.strided(x))], 1), 4
        ),
        "not shuffled by two",
    ),
    "rolled": (lambda m, x: m.point(x).roll(1, 1), "roll has no fused form"),
    "linear on the last axis": (lambda m, x: m.linear(m.point(x).permute(0, 2, 3, 1)), "permute"),
    "sum of strides": (lambda m, x: m.strided(x) + m.point(x)[..., ::2, ::2], "no form"),
    "sum of activations": (lambda m, x: m.conv(x).relu() + m.point(x), "no form that is fused"),
    "sum of two layers": (lambda m, x: m.point(m.conv(x)) + m.point(x), "more than one layer"),
    "sum without a layer": (lambda m, x: m.norm(x) + m.other_norm(x), "without a convolution"),
    "sum of groups": (lambda m, x: m.depthwise(x) + m.point(x), "different geometry"),
    "difference": (lambda m, x: m.conv(x) - m.point(x), "no form that is fused"),
    "depends on values": (lambda m, x: m.conv(x) if x.sum() > 0 else x, "cannot be traced"),
    "depends on sizes": (lambda m, x: m.conv(x) if x.shape[2] > 3 else x, "cannot be traced"),
    "writes its input": (lambda m, x: m.conv(x.relu_()), "in place"),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_pattern(name: str) -> None:
    forward, kinds = PATTERNS[name]
    assert [block.kind for block in blocks(forward)] == kinds


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_miss(name: str) -> None:
    forward, reason = NEAR_MISSES[name]
    with pytest.raises(NotFusable, match=reason):
        blocks(forward)


class MaskedConv(nn.Conv2d):
    def __init__(self, mask: Tensor) -> None:
        super().__init__(8, 8, 3)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias)


class MaskedLinear(nn.Linear):
    def __init__(self, mask: Tensor) -> None:
        super().__init__(8, 8)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.uint8], ids=str)
def test_masks_that_hide_nothing_yet(dtype: torch.dtype) -> None:
    with pytest.raises(NotFusable, match="no plain convolution|mask is"):
        conv_layer(MaskedConv(torch.ones(8, 8, 3, 3, dtype=dtype)), "")
    with pytest.raises(NotFusable, match="no plain linear map|mask is"):
        linear_layer(MaskedLinear(torch.ones(8, 8, dtype=dtype)), "")


def test_an_eps_that_is_an_integer() -> None:
    net = Net(lambda m, x: m.norm(m.conv(x))).eval()
    net.norm.eps = 0
    folded = fold(net, match(graph_of(net)).blocks[0].layers()[0])
    scale = net.norm.weight / net.norm.running_var.sqrt()
    assert torch.allclose(
        torch.from_numpy(folded.weight), net.conv.weight * scale[:, None, None, None]
    )


def test_a_sum_is_one_filter() -> None:
    net = Net(lambda m, x: m.norm(x) + m.other_norm(m.conv(x)) + m.point(x)).eval()
    layer = match(graph_of(net)).blocks[0].layer
    assert isinstance(layer, Sum)
    assert {other.path for other in layer.beside} == {"", "point"}
    folded = fold(net, layer)
    assert folded.weight.shape == (8, 8, 3, 3)
    assert folded.bias is not None


HARDSWISHES: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.Hardswish(),
    "function": F.hardswish,
    "relu6 / 6": lambda x: x * F.relu6(x + 3) / 6,
    "relu6 * (1 / 6)": lambda x: x * F.relu6(x + 3) * (1 / 6),
    "gate first": lambda x: x * (F.relu6(x + 3) / 6),
    "clamp": lambda x: x * (x + 3).clamp(0, 6).div(6),
    "hardsigmoid": lambda x: x * F.hardsigmoid(x),
    "1/6 in half precision": lambda x: x * F.relu6(x + 3) * 0.1666259765625,
    "1/6 to four digits": lambda x: x * F.relu6(x + 3) * 0.1667,
}


@pytest.mark.parametrize("name", HARDSWISHES)
def test_hard_swish_in_any_spelling(name: str) -> None:
    found = activations.of_function(HARDSWISHES[name])
    # a constant that is off gives another function: the kernels would be off by as much
    assert found == (None if "half" in name or "digits" in name else "hardswish")


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "padding_mode"),
        (nn.LazyConv2d(4, 3), "hooks"),
        (nn.Conv2d(4, 4, 3).double(), "weight is float64"),
        (nn.Conv2d(4, 4, 3, device="meta"), "weight is on meta"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), "is computed"),
    ],
)
def test_layers_that_have_no_fused_form(module: nn.Conv2d, reason: str) -> None:
    with pytest.raises(NotFusable, match=reason):
        conv_layer(module, "here")


def test_geometry_of_layers() -> None:
    layer = conv_layer(nn.Conv2d(6, 9, (4, 3), (2, 1), padding=(2, 1), groups=3), "here")
    assert (layer.path, layer.in_channels, layer.out_channels, layer.groups) == ("here", 6, 9, 3)
    assert layer.window.padding == (2, 1, 2, 1)
    assert not layer.depthwise
    assert not layer.pointwise
    same = conv_layer(nn.Conv2d(4, 4, 4, padding="same", groups=4), "here")
    assert same.window.padding == (1, 1, 2, 2)
    assert same.depthwise
    linear = linear_layer(nn.Linear(4, 3), "here")
    assert linear.pointwise
