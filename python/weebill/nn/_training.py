"""The training forward of the blocks: layers on kernels of ours where they pay.

Depthwise and 1 x 1 convolutions, BatchNorm with batch statistics together with the activation after
it, and squeeze-and-excitation run on our kernels, forward and backward. What runs otherwise is
called as the module it is: any layer of another class (SyncBatchNorm, a subclass), with hooks, in
evaluation inside a module in training (frozen BatchNorm), or with tensors that are not float32 on
the CPU. So do all layers under autocast, in torch.func transforms, while torch compiles, exports or
traces, and inside `unfused()`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weebill import _ops
from weebill.fusion import activations, compiled
from weebill.fusion.module import is_unfused
from weebill.fusion.trace import has_hooks


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
        layer = queue.pop(0)
        if not is_active(x) or not is_plain(layer):
            x = layer(x)
        elif _is_convolution(layer):
            x = _convolution(layer, x)
        elif _has_batch_statistics(layer, x):
            activation = _activation(queue[0]) if queue else None
            if activation is not None:
                queue.pop(0)
            x = _batch_norm(layer, x, activation or "none")
        else:
            x = layer(x)
    return x


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
    return _is_depthwise(layer) or (
        layer.groups == 1
        and layer.kernel_size == (1, 1)
        and layer.stride == (1, 1)
        and layer.padding == (0, 0)
    )


def _is_depthwise(layer: nn.Conv2d) -> bool:
    return layer.groups == layer.in_channels == layer.out_channels


def _convolution(layer: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(layer, nn.Conv2d)
    # The kernels would make a dense copy for themselves, forward and backward.
    x = x.contiguous(memory_format=torch.channels_last)
    if not _is_depthwise(layer):
        return _ops.pointwise_conv2d(x, layer.weight, layer.bias, "none")
    padding = [-1] if hasattr(layer, "same_padding") else [*layer.padding, *layer.padding]
    return _ops.depthwise_conv2d(
        x, layer.weight, layer.bias, layer.stride, padding, layer.dilation, "none"
    )


def _has_batch_statistics(layer: nn.Module, x: Tensor) -> bool:
    return (
        type(layer) is nn.BatchNorm2d
        and layer.training
        and _fits(layer.weight)
        and _fits(layer.running_mean)
        and layer.num_features == x.shape[1]
        and x.numel() > x.shape[1]  # of one value there is no variance: torch says so
    )


def _batch_norm(layer: nn.Module, x: Tensor, activation: str) -> Tensor:
    assert isinstance(layer, nn.BatchNorm2d)
    y, mean, var = _ops.batch_norm_activation(x, layer.weight, layer.bias, layer.eps, activation)
    if layer.track_running_stats and layer.running_mean is not None:
        assert layer.running_var is not None
        momentum = layer.momentum
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked.add_(1)
            if momentum is None:  # the plain average of all batches
                momentum = 1.0 / float(layer.num_batches_tracked)
        momentum = momentum or 0.0
        count = x.numel() // x.shape[1]
        with torch.no_grad():
            layer.running_mean.lerp_(mean, momentum)
            layer.running_var.lerp_(var * (count / (count - 1)), momentum)
    return y


def squeeze_excite(
    x: Tensor,
    reduce: nn.Conv2d,
    expand: nn.Conv2d,
    activation: nn.Module,
    gate: nn.Module,
) -> Tensor:
    """x * gate(expand(activation(reduce(mean_hw(x))))), the layers on means as matrix products."""
    scale = F.linear(x.mean((2, 3)), reduce.weight.flatten(1), reduce.bias)
    scale = F.linear(activation(scale), expand.weight.flatten(1), expand.bias)
    y: Tensor = x * gate(scale)[:, :, None, None]
    return y
