"""The answer in float64, by numpy alone: what every engine's output is compared with.

Written for being right and readable. A convolution is a sum over its taps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from weebill.bench.suites import Block
from weebill.bench.weights import Weights, folded

__all__ = ["forward", "relative_error"]

Doubles = npt.NDArray[np.float64]


def _hardsigmoid(x: Doubles) -> Doubles:
    return np.clip(x / 6.0 + 0.5, 0.0, 1.0)


ACTIVATIONS: dict[str, Callable[[Doubles], Doubles]] = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0.0),
    "relu6": lambda x: np.clip(x, 0.0, 6.0),
    "hardsigmoid": _hardsigmoid,
    "hardswish": lambda x: x * _hardsigmoid(x),
}


def forward(blocks: Sequence[Block], weights: Sequence[Weights], x: npt.NDArray[Any]) -> Doubles:
    """Output of the blocks, run one after another.

    Args:
        blocks: Each with count 1.
        weights: Of each block.
        x: (N, C, H, W).

    Returns:
        (N, C, H, W); (N, C) if a pool is among the blocks.
    """
    y = x.astype(np.float64)
    for block, own in zip(blocks, weights, strict=True):
        y = _run(block, own, y)
    return y[:, :, 0, 0] if any(block.kind == "pool" for block in blocks) else y


def _run(block: Block, weights: Weights, x: Doubles) -> Doubles:
    if block.kind == "pool":
        return np.asarray(x.mean(axis=(2, 3), keepdims=True))
    if block.kind == "max_pool":
        return _max_pool(x, block)
    if block.kind in ("conv2d", "depthwise"):
        return _layer(x, weights, "conv", block, block.activation)
    if block.kind == "squeeze_excite":
        return x * _gate(x, weights)
    if block.kind == "separable":
        y = _main(x, weights, block, block.activation)
        return x + y if block.residual else y
    if block.s > 1:
        side = _layer(x, weights, "side_depthwise", block, "none")
        first = _layer(side, weights, "side_project", None, block.project)
        second = _main(x, weights, block, "none")
    else:
        first, half = np.split(x, 2, axis=1)
        second = _main(half, weights, block, "none")
    n, c, h, w = first.shape
    return np.stack([first, second], axis=2).reshape(n, 2 * c, h, w)


def _main(x: Doubles, weights: Weights, block: Block, depthwise_activation: str) -> Doubles:
    """Expansion, depthwise, squeeze-and-excitation, projection."""
    if "expand.weight" in weights:
        x = _layer(x, weights, "expand", None, block.activation)
    x = _layer(x, weights, "depthwise", block, depthwise_activation)
    if block.c_se:
        x = x * _gate(x, weights)
    return _layer(x, weights, "project", None, block.project)


def _gate(x: Doubles, weights: Weights) -> Doubles:
    mean = x.mean(axis=(2, 3), keepdims=True)
    squeezed = _layer(mean, weights, "squeeze", None, "relu")
    return _layer(squeezed, weights, "excite", None, "hardsigmoid")


def _layer(
    x: Doubles, weights: Weights, name: str, window: Block | None, activation: str
) -> Doubles:
    """activation(convolution + bias); 1 x 1 without a `window`."""
    weight, bias = folded(weights, name)
    stride, pad = (window.s, window.pad) if window else (1, 0)
    k = weight.shape[2]
    n, c, h, w = x.shape
    oh, ow = (h + 2 * pad - k) // stride + 1, (w + 2 * pad - k) // stride + 1
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    depthwise = weight.shape[1] == 1 and c == weight.shape[0]
    y = np.zeros((n, weight.shape[0], oh, ow))
    for u in range(k):
        for v in range(k):
            tap = padded[
                :, :, u : u + stride * (oh - 1) + 1 : stride, v : v + stride * (ow - 1) + 1 : stride
            ]
            if depthwise:
                y += tap * weight[:, 0, u, v][:, None, None]
            else:
                y += (weight[:, :, u, v] @ tap.reshape(n, c, oh * ow)).reshape(y.shape)
    return ACTIVATIONS[activation](y + bias[:, None, None])


def _max_pool(x: Doubles, block: Block) -> Doubles:
    pads = ((0, 0), (0, 0), (block.pad, block.pad), (block.pad, block.pad))
    padded = np.pad(x, pads, constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (block.k, block.k), axis=(2, 3))
    return np.asarray(windows[:, :, :: block.s, :: block.s].max(axis=(4, 5)))


def relative_error(output: npt.NDArray[Any], reference: Doubles) -> float:
    """Largest absolute difference over the largest absolute reference value.

    A wrong shape or a NaN counts as infinitely wrong.
    """
    if output.shape != reference.shape:
        return float("inf")
    error = float(np.max(np.abs(output.astype(np.float64) - reference), initial=0.0))
    scale = float(np.max(np.abs(reference), initial=0.0))
    if not np.isfinite(error):
        return float("inf")
    return error / scale if scale > 0.0 else error
