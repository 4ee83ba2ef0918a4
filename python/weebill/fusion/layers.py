"""Leaf modules as layers: the geometry of convolutions, and why one has no fused form."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weebill.fusion.effects import random_numbers_kept
from weebill.fusion.spec import Layer, Padding, Window
from weebill.fusion.trace import has_hooks, is_norm


class NotFusable(Exception):
    """A module without a fused form; the text says why."""


def conv_layer(module: nn.Conv2d, path: str) -> Layer:
    """The layer of a convolution. Raises NotFusable."""
    _check_weight(module)
    kernel, stride, dilation = (
        _pair(module.kernel_size),
        _pair(module.stride),
        _pair(module.dilation),
    )
    padding: Padding = _padding(module)
    if padding == "same" and stride == (1, 1):
        padding = _same_padding(kernel, dilation)  # does not depend on the size: the fixed kind
    return Layer(
        path=path,
        in_channels=module.in_channels,
        out_channels=module.out_channels,
        groups=module.groups,
        window=Window(kernel, stride, padding, dilation),
    )


def linear_layer(module: nn.Linear, path: str) -> Layer:
    """The layer of a linear module: a 1 x 1 convolution of a 1 x 1 image. Raises NotFusable."""
    _check_weight(module)
    if type(module).forward is not nn.Linear.forward or "forward" in module.__dict__:
        _probe_linear(module)
    return Layer(path=path, in_channels=module.in_features, out_channels=module.out_features)


def check_norm(module: nn.Module) -> None:
    """Raises NotFusable unless the module is an affine map of fixed statistics in evaluation."""
    if not is_norm(module):
        raise NotFusable(f"{type(module).__name__} is no BatchNorm")
    if has_hooks(module):
        raise NotFusable("it has hooks")
    if module.running_mean is None or module.running_var is None:
        raise NotFusable(
            f"{type(module).__name__} has no running statistics (track_running_stats=False)"
        )
    _check_tensors(module)


def _check_weight(module: nn.Module) -> None:
    if has_hooks(module):
        raise NotFusable("it has hooks")
    if not isinstance(module._parameters.get("weight"), Tensor):
        raise NotFusable("its weight is computed (parametrization or weight norm)")
    _check_tensors(module)


def _check_tensors(module: nn.Module) -> None:
    for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
        if tensor is None or name == "num_batches_tracked":
            continue
        if nn.parameter.is_lazy(tensor):
            raise NotFusable(f"its {name} is not initialised")
        if tensor.dtype != torch.float32:
            raise NotFusable(f"its {name} is {str(tensor.dtype).removeprefix('torch.')}")
        if tensor.device.type != "cpu":
            raise NotFusable(f"its {name} is on {tensor.device}")
        if tensor.layout != torch.strided:
            raise NotFusable(f"its {name} is {tensor.layout}")


def _padding(module: nn.Conv2d) -> Padding:
    plain = (
        type(module).forward is nn.Conv2d.forward
        and type(module)._conv_forward is nn.Conv2d._conv_forward
        and "forward" not in module.__dict__
    )
    if not plain:
        if getattr(type(module), "same_padding", False):
            return "same"
        return _probed_padding(module)
    padding = _declared_padding(module)
    if padding != (0, 0, 0, 0) and module.padding_mode != "zeros":
        raise NotFusable(f"padding_mode={module.padding_mode!r}")
    return padding


def _declared_padding(module: nn.Conv2d) -> tuple[int, int, int, int]:
    if module.padding == "same":
        return _same_padding(_pair(module.kernel_size), _pair(module.dilation))
    if isinstance(module.padding, str):  # "valid"
        return (0, 0, 0, 0)
    top, left = _pair(module.padding)
    return (top, left, top, left)


def _same_padding(kernel: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int, int, int]:
    """Padding that keeps the size at stride 1; the odd pixel at the bottom and right."""
    total_h, total_w = (d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
    return (total_h // 2, total_w // 2, total_h - total_h // 2, total_w - total_w // 2)


def _probed_padding(module: nn.Conv2d) -> Padding:
    """What a convolution with a forward of its own does, found by trying it on random weights."""
    probe = copy.deepcopy(module)
    name = type(module).__name__
    generator = torch.Generator().manual_seed(0)
    candidates: list[Padding] = ["same", _declared_padding(module)]
    with torch.no_grad(), random_numbers_kept():
        _randomise(probe, generator)
        for extra in (0, 1, 2, 3):  # sizes of every remainder: SAME depends on them
            size = [
                d * (k - 1) + 4 + extra + axis
                for axis, (k, d) in enumerate(
                    zip(_pair(module.kernel_size), _pair(module.dilation), strict=True)
                )
            ]
            x = torch.randn((1, module.in_channels, *size), generator=generator)
            try:
                y = probe(x)
            except Exception as error:  # foreign code
                raise NotFusable(f"{name} fails on a trial input ({error})") from error
            candidates = [c for c in candidates if _agrees(y, probe, x, c)]
    if not candidates:
        raise NotFusable(f"{name} has a forward of its own that is no plain convolution")
    return candidates[0]


def _probe_linear(module: nn.Linear) -> None:
    """Raises NotFusable unless a linear module with a forward of its own is plain in evaluation."""
    probe = copy.deepcopy(module)
    name = type(module).__name__
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad(), random_numbers_kept():
        _randomise(probe, generator)
        x = torch.randn((3, module.in_features), generator=generator)
        try:
            y = probe(x)
        except Exception as error:  # foreign code
            raise NotFusable(f"{name} fails on a trial input ({error})") from error
        expected = F.linear(x, probe.weight, probe.bias)
    if y.shape != expected.shape or not torch.allclose(y, expected, rtol=1e-4, atol=1e-4):
        raise NotFusable(f"{name} has a forward of its own that is no plain linear map")


def _randomise(module: nn.Module, generator: torch.Generator) -> None:
    """Buffers too: a mask of ones shows only when it is none."""
    for parameter in module.parameters():
        parameter.normal_(generator=generator)
    for buffer in module.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2, generator=generator)


def _agrees(y: Tensor, module: nn.Conv2d, x: Tensor, padding: Padding) -> bool:
    stride, dilation = _pair(module.stride), _pair(module.dilation)
    kernel = _pair(module.kernel_size)
    if padding == "same":
        totals = [
            max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
            for size, s, d, k in zip(x.shape[2:], stride, dilation, kernel, strict=True)
        ]
        top, left = totals[0] // 2, totals[1] // 2
        padding = (top, left, totals[0] - top, totals[1] - left)
    top, left, bottom, right = padding
    padded = F.pad(x, (left, right, top, bottom))
    expected = F.conv2d(padded, module.weight, module.bias, stride, 0, dilation, module.groups)
    return y.shape == expected.shape and torch.allclose(y, expected, rtol=1e-4, atol=1e-4)


def _pair(value: object) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    assert isinstance(value, (tuple, list))
    return int(value[0]), int(value[1])
