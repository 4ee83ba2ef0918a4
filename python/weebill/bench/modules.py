"""The suites' blocks as plain torch modules: what every other engine is made from.

Written as torchvision writes its networks: convolution, BatchNorm, activation in a Sequential, a
residual block that adds its input, a squeeze-and-excitation that multiplies by its gate.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from weebill.bench.suites import Block
from weebill.bench.weights import NORM_EPS, Weights

__all__ = ["make_module"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardswish": nn.Hardswish,
}


def make_module(blocks: Sequence[Block], weights: Sequence[Weights]) -> nn.Module:
    """The blocks in evaluation mode; after a pool the images are vectors."""
    layers: list[nn.Module] = []
    pooled = False
    for block, own in zip(blocks, weights, strict=True):
        if block.kind == "pool":
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
            pooled = True
        elif pooled:
            layers += _linear(own, block.activation)
        else:
            layers.append(_block(block, own))
    return nn.Sequential(*layers).eval()


class Separable(nn.Module):
    """[expansion,] depthwise, [squeeze-and-excitation,] projection [+ input]."""

    def __init__(self, block: Block, weights: Weights) -> None:
        super().__init__()
        self.block = nn.Sequential(*_main(block, weights, block.activation))
        self.use_res_connect = bool(block.residual)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H', W')."""
        y: Tensor = self.block(x)
        if self.use_res_connect:
            y = y + x
        return y


class SqueezeExcitation(nn.Module):
    """x * hardsigmoid(excite(relu(squeeze(mean(x)))))."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = _conv(weights, "squeeze", None)
        self.fc2 = _conv(weights, "excite", None)
        self.activation = nn.ReLU()
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        scale = self.activation(self.fc1(self.avgpool(x)))
        gate: Tensor = self.scale_activation(self.fc2(scale))
        return gate * x


class ShuffleUnit(nn.Module):
    """ShuffleNetV2's unit: split or copy, a branch, concatenation, channel shuffle by two."""

    def __init__(self, block: Block, weights: Weights) -> None:
        super().__init__()
        self.stride = block.s
        side: list[nn.Module] = []
        if block.s > 1:
            side += _layer(weights, "side_depthwise", block, "none")
            side += _layer(weights, "side_project", None, block.project)
        self.branch1 = nn.Sequential(*side)
        self.branch2 = nn.Sequential(*_main(block, weights, "none"))

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H', W')."""
        if self.stride == 1:
            x1, x2 = x.chunk(2, dim=1)
            y = torch.cat((x1, self.branch2(x2)), dim=1)
        else:
            y = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        n, c, h, w = y.size()
        y = y.view(n, 2, c // 2, h, w)
        y = torch.transpose(y, 1, 2).contiguous()
        return y.view(n, c, h, w)


def _block(block: Block, weights: Weights) -> nn.Module:
    if block.kind in ("conv2d", "depthwise"):
        return nn.Sequential(*_layer(weights, "conv", block, block.activation))
    if block.kind == "max_pool":
        return nn.MaxPool2d(block.k, block.s, block.pad)
    if block.kind == "squeeze_excite":
        return SqueezeExcitation(weights)
    if block.kind == "shuffle_unit":
        return ShuffleUnit(block, weights)
    return Separable(block, weights)


def _main(block: Block, weights: Weights, depthwise_activation: str) -> list[nn.Module]:
    """Expansion, depthwise, squeeze-and-excitation, projection."""
    layers: list[nn.Module] = []
    if block.expand:
        layers += _layer(weights, "expand", None, block.activation)
    layers += _layer(weights, "depthwise", block, depthwise_activation)
    if block.c_se:
        layers.append(SqueezeExcitation(weights))
    return [*layers, *_layer(weights, "project", None, block.project)]


def _layer(weights: Weights, name: str, window: Block | None, activation: str) -> list[nn.Module]:
    """Convolution, its BatchNorm if it has one, its activation if it has one."""
    layers: list[nn.Module] = [_conv(weights, name, window)]
    if f"{name}.norm" in weights:
        layers.append(_norm(weights[f"{name}.norm"]))
    if activation != "none":
        layers.append(ACTIVATIONS[activation]())
    return layers


def _conv(weights: Weights, name: str, window: Block | None) -> nn.Conv2d:
    weight = torch.from_numpy(weights[f"{name}.weight"].copy())
    bias = weights.get(f"{name}.bias")
    stride, pad = (window.s, window.pad) if window else (1, 0)
    depthwise = name.endswith("depthwise") or (window is not None and window.kind == "depthwise")
    groups = weight.shape[0] if depthwise else 1
    conv = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        weight.shape[2],
        stride,
        pad,
        groups=groups,
        bias=bias is not None,
    )
    conv.weight.data = weight
    if bias is not None and conv.bias is not None:
        conv.bias.data = torch.from_numpy(bias.copy())
    return conv


def _norm(rows: npt.NDArray[np.float32]) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(rows.shape[1], eps=NORM_EPS)
    gamma, beta, mean, variance = (torch.from_numpy(row.copy()) for row in rows)
    norm.weight.data, norm.bias.data = gamma, beta
    norm.running_mean, norm.running_var = mean, variance
    return norm


def _linear(weights: Weights, activation: str) -> list[nn.Module]:
    weight = torch.from_numpy(weights["conv.weight"][:, :, 0, 0].copy())
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data = weight
    layer.bias.data = torch.from_numpy(weights["conv.bias"].copy())
    return [layer] if activation == "none" else [layer, ACTIVATIONS[activation]()]
