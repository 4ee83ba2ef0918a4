"""The training forward of the blocks: layers on kernels of ours where they pay.

Depthwise and 1 x 1 convolutions, BatchNorm with batch statistics together with the activation after
it, and squeeze-and-excitation run on our kernels, forward and backward; convolutions that have such
a BatchNorm after them together with it (see `_nodes`). What runs otherwise is called as the module
it is: any layer of another class (SyncBatchNorm, a subclass), with hooks, in evaluation inside a
module in training (frozen BatchNorm), or with tensors that are not float32 on the CPU. So do all
layers under autocast, in torch.func transforms, while torch compiles, exports or traces, and inside
`unfused()`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from weebill import _ops
from weebill.fusion import activations, compiled
from weebill.fusion.switch import is_unfused
from weebill.fusion.trace import has_hooks
from weebill.nn import _nodes


def is_active(x: Tensor) -> bool:
    """Whether layers in training may run on kernels with this input."""
    return (
        _ops.native
        and type(x) in (Tensor, nn.Parameter)
        and _fits(x)
        and x.dim() == 4
        and x.numel() > 0
        and not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and not compiled.transformed()
        and not is_unfused()
    )


def run(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """What calling the layers one after the other gives."""
    queue = list(layers)
    while queue:
        if not is_active(x) or not is_plain(queue[0]):
            x = queue.pop(0)(x)
        elif nodes := _take_nodes(queue, x):
            x = _nodes.run(nodes, x.contiguous(memory_format=torch.channels_last))
        elif _is_convolution(layer := queue.pop(0)):
            x = _convolution(layer, x)
        elif _has_batch_statistics(layer, x.shape[1]) and _has_variance(x):
            x = _batch_norm(layer, x, _take_activation(queue) or "none")
        else:
            x = layer(x)
    return x


def nodes_of(layers: Iterable[nn.Module], x: Tensor) -> list[_nodes.Layer] | None:
    """The layers as a run of one node; None where some of them do not belong into one."""
    queue = list(layers)
    nodes = _take_nodes(queue, x)
    return None if queue else nodes


def _take_nodes(queue: list[nn.Module], x: Tensor) -> list[_nodes.Layer]:
    """Takes the convolutions in front that one node will do, each with its normalisation."""
    found: list[_nodes.Layer] = []
    shape: tuple[int, ...] = tuple(x.shape)
    while len(queue) >= 2 and is_plain(*queue[:2]) and _is_convolution(queue[0]):
        convolution, norm = queue[:2]
        assert isinstance(convolution, nn.Conv2d)
        if convolution.bias is not None or shape[1] != convolution.in_channels:
            break
        if not _has_batch_statistics(norm, convolution.out_channels):
            break
        shape = _nodes.output_shape(convolution, shape)
        if min(shape) < 1 or shape[0] * shape[2] * shape[3] == 1:
            break
        del queue[:2]
        assert isinstance(norm, nn.BatchNorm2d)
        found.append(_nodes.Layer(convolution, norm, _take_activation(queue) or "none"))
    return found


def _take_activation(queue: list[nn.Module]) -> str | None:
    activation = _activation(queue[0]) if queue else None
    if activation is not None:
        queue.pop(0)
    return activation


def is_plain(*layers: nn.Module) -> bool:
    """Whether calling them runs nothing but their class's forward."""
    return not any(has_hooks(layer) or "forward" in layer.__dict__ for layer in layers)


def _fits(tensor: Tensor | None) -> bool:
    return tensor is None or (tensor.dtype == torch.float32 and tensor.device.type == "cpu")


def _activation(layer: nn.Module) -> str | None:
    if isinstance(layer, nn.Dropout | nn.Dropout2d | nn.AlphaDropout) or not is_plain(layer):
        return None
    name = activations.of_module(layer)
    return None if name == "none" and type(layer) is not nn.Identity else name


def _is_convolution(layer: nn.Module) -> bool:
    """Whether it is a depthwise or 1 x 1 convolution, with zeros as padding."""
    same = "same_padding" in type(layer).__dict__  # Conv2dSame itself, and no subclass
    if type(layer) is not nn.Conv2d and not same:
        return False
    assert isinstance(layer, nn.Conv2d)
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return False
    if not _fits(layer.weight) or not _fits(layer.bias):
        return False
    return _nodes.is_depthwise(layer) or (
        layer.groups == 1
        and layer.kernel_size == (1, 1)
        and layer.stride == (1, 1)
        and layer.padding == (0, 0)
    )


def _convolution(layer: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(layer, nn.Conv2d)
    # The kernels would make a dense copy for themselves, forward and backward.
    x = x.contiguous(memory_format=torch.channels_last)
    if not _nodes.is_depthwise(layer):
        return _ops.pointwise_conv2d(x, layer.weight, layer.bias, "none")
    padding = [-1] if hasattr(layer, "same_padding") else [*layer.padding, *layer.padding]
    return _ops.depthwise_conv2d(
        x, layer.weight, layer.bias, layer.stride, padding, layer.dilation, "none"
    )


def _has_batch_statistics(layer: nn.Module, channels: int) -> bool:
    return (
        type(layer) is nn.BatchNorm2d
        and layer.training
        and _fits(layer.weight)
        and _fits(layer.running_mean)
        and layer.num_features == channels
    )


def _has_variance(x: Tensor) -> bool:
    return x.numel() > x.shape[1]  # of one value there is none: torch says so


def _batch_norm(layer: nn.Module, x: Tensor, activation: str) -> Tensor:
    assert isinstance(layer, nn.BatchNorm2d)
    y, mean, var = _ops.batch_norm_activation(x, layer.weight, layer.bias, layer.eps, activation)
    _nodes.move_statistics(layer, mean, var, x.numel() // x.shape[1])
    return y
