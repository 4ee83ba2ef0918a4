"""Programs of torch.export without weebill's ops, for converters that know torch's only.

A fused model exports with its fused calls by itself: `torch.export.export(model, ...)`. ONNX,
ExecuTorch and LiteRT have kernels of their own and want standard ops: that is what this module
makes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

import weebill._ops  # noqa: F401  (registers the ops)
from weebill import _fake, _reference
from weebill.fusion.switch import unfused

__all__ = ["decompositions", "standard_program"]


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Weebill's ops in standard ones, a table for `ExportedProgram.run_decompositions`.

    `weebill::run` is not in it: its packed weights can't be read by other ops. Models whose calls
    became that one are exported by `standard_program`, which runs their plain forward.

    Example:
        >>> table = torch.export.default_decompositions() | weebill.export.decompositions()
        >>> program = program.run_decompositions(table)
    """
    return {
        getattr(torch.ops.weebill, name).default: getattr(_reference, name)
        for name in _fake.KERNELS
        if hasattr(_reference, name)
    }


def standard_program(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
) -> ExportedProgram:
    """`torch.export.export` of the model in evaluation with standard ops alone.

    Fused modules give their plain forward, and calls of `weebill.ops` are decomposed. The program
    is what `torch.onnx.export`, ExecuTorch's `to_edge_transform_and_lower` and others take.

    Args:
        model: Any module, converted or not. Parts in training mode are refused.
        args, kwargs: Example inputs.
        dynamic_shapes: As for `torch.export.export`.

    Raises:
        TypeError: `model` is no module.
        ValueError: The model is in training mode.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"standard_program: model must be a torch.nn.Module, got {type(model).__name__}"
        )
    if model.training:
        raise ValueError(
            "standard_program: model must be in evaluation mode, got training; call model.eval()"
        )
    with torch.no_grad(), unfused():
        program = torch.export.export(
            model, args, dict(kwargs or {}), dynamic_shapes=dynamic_shapes
        )
    if any("weebill." in str(node.target) for node in program.graph.nodes):
        # only ours: what else is broken up is up to the converter
        program = program.run_decompositions(decompositions())
    return program
