"""Seeded weights that keep activations at a normal scale, so that nothing is denormal or NaN.

Speed does not depend on values otherwise, and no trained weights have to be downloaded. Every
convolution of a network is followed by a BatchNorm with statistics far from the neutral ones, as in
a trained network; linear layers, squeeze-and-excitation and single operators have biases.

A block's weights are a dictionary of arrays with torch's shapes: ``<layer>.weight`` and either
``<layer>.bias`` or ``<layer>.norm``, the rows of which are BatchNorm's weight, bias, running mean
and running variance. Layers: expand, depthwise, project, squeeze, excite, side_depthwise,
side_project; conv for a block of one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from weebill.bench.suites import Block

__all__ = ["NORM_EPS", "Weights", "folded", "make_input", "make_weights"]

SEED = 20240229
NORM_EPS = 1e-3

Floats = npt.NDArray[np.float32]
Weights = dict[str, Floats]


def make_input(shape: Sequence[int]) -> Floats:
    """Normal noise, what ImageNet's normalisation leads to; (N, C, H, W)."""
    return np.random.default_rng(SEED + 1).standard_normal(shape, dtype=np.float32)


def make_weights(blocks: Sequence[Block], *, norm: bool) -> list[Weights]:
    """Weights of every block.

    Args:
        blocks: A network's, or a single one.
        norm: Whether convolutions on images have a BatchNorm; otherwise they have a bias.
    """
    rng = np.random.default_rng(SEED)
    return [_block_weights(block, rng, norm and (block.h, block.w) != (1, 1)) for block in blocks]


def layers(block: Block) -> list[tuple[str, tuple[int, int, int, int], str]]:
    """Name, shape of the weight, and activation of every layer with weights."""
    k, mid, act = block.k, block.c_mid, block.activation
    found: list[tuple[str, tuple[int, int, int, int], str]] = []
    if block.kind == "conv2d":
        found.append(("conv", (block.c_out, block.c_in, k, k), act))
    elif block.kind == "depthwise":
        found.append(("conv", (block.c_out, 1, k, k), act))
    elif block.kind == "separable":
        if block.expand:
            found.append(("expand", (mid, block.c_in, 1, 1), act))
        found.append(("depthwise", (mid, 1, k, k), act))
        if block.c_se:
            found += _squeeze(mid, block.c_se)
        found.append(("project", (block.c_out, mid, 1, 1), block.project))
    elif block.kind == "squeeze_excite":
        found += _squeeze(block.c_in, block.c_se)
    elif block.kind == "shuffle_unit":
        c_in = block.c_in if block.s > 1 else block.c_in // 2
        if block.s > 1:
            found.append(("side_depthwise", (c_in, 1, k, k), "none"))
            found.append(("side_project", (block.c_out // 2, c_in, 1, 1), block.project))
        found.append(("expand", (mid, c_in, 1, 1), act))
        found.append(("depthwise", (mid, 1, k, k), "none"))
        found.append(("project", (block.c_out // 2, mid, 1, 1), block.project))
    return found


def _squeeze(channels: int, width: int) -> list[tuple[str, tuple[int, int, int, int], str]]:
    return [
        ("squeeze", (width, channels, 1, 1), "relu"),
        ("excite", (channels, width, 1, 1), "hardsigmoid"),
    ]


def _block_weights(block: Block, rng: np.random.Generator, norm: bool) -> Weights:
    found: Weights = {}
    for name, shape, activation in layers(block):
        # He et al., arXiv:1502.01852: variance 2 / fan-in before a rectifier.
        gain = 1.0 if activation in ("none", "hardsigmoid") else 2.0
        scale = np.float32(np.sqrt(gain / (shape[1] * shape[2] * shape[3])))
        found[f"{name}.weight"] = scale * rng.standard_normal(shape, dtype=np.float32)
        if norm and name not in ("squeeze", "excite"):
            rows = [
                rng.uniform(0.8, 1.2, shape[0]),
                rng.normal(0.0, 0.1, shape[0]),
                rng.normal(0.0, 0.1, shape[0]),
                rng.uniform(0.8, 1.2, shape[0]),
            ]
            found[f"{name}.norm"] = np.stack(rows).astype(np.float32)
        else:
            found[f"{name}.bias"] = rng.normal(0.0, 0.1, shape[0]).astype(np.float32)
    return found


def folded(weights: Weights, name: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Weight and bias of a layer with its BatchNorm folded in, in float64."""
    weight = weights[f"{name}.weight"].astype(np.float64)
    if f"{name}.bias" in weights:
        return weight, weights[f"{name}.bias"].astype(np.float64)
    gamma, beta, mean, variance = weights[f"{name}.norm"].astype(np.float64)
    scale = gamma / np.sqrt(variance + NORM_EPS)
    return weight * scale[:, None, None, None], beta - mean * scale
