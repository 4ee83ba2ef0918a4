"""What of a model runs fused, what does not, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from weebill import _C
from weebill.fusion import cost
from weebill.fusion.module import FusedModule, why_not
from weebill.fusion.packed import Packed
from weebill.fusion.split import Split
from weebill.fusion.switch import unfused


@dataclass(frozen=True)
class Entry:
    """One fused block, or one part that was left.

    Attributes:
        path: Name of the module in the model; "" is the model itself.
        fused: Whether it runs fused.
        what: The block, or the class of the module.
        reason: Why it was left; for a fused block how it will run, if the input shape is known.
        multiply_adds: For the input shape; None if that is not known.
    """

    path: str
    fused: bool
    what: str
    reason: str = ""
    multiply_adds: int | None = None


@dataclass(frozen=True)
class Report:
    """What `report` found; `str()` is a table.

    Attributes:
        model: Class of the model.
        entries: Fused blocks and parts left, in the order of the model's modules.
        calls: Number of fused calls that the entries make together.
        fused_share: Share of all multiply-adds that run fused; None without an input shape.
    """

    model: str
    entries: tuple[Entry, ...]
    calls: int
    fused_share: float | None = field(default=None)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain dicts, lists, strings and numbers, for JSON."""
        return {
            "model": self.model,
            "calls": self.calls,
            "fused_share": self.fused_share,
            "entries": [
                {
                    "path": entry.path,
                    "fused": entry.fused,
                    "what": entry.what,
                    "reason": entry.reason,
                    "multiply_adds": entry.multiply_adds,
                }
                for entry in self.entries
            ],
        }

    def __str__(self) -> str:
        fused = [entry for entry in self.entries if entry.fused]
        head = f"{self.model}: {len(fused)} blocks fused into {self.calls} call"
        head += "" if self.calls == 1 else "s"
        if self.fused_share is not None:
            head += f", {100 * self.fused_share:.1f} % of the multiply-adds"
        left = len(self.entries) - len(fused)
        head += f"; {left} parts left" if left else "; nothing left"
        rows = [("module", "", "what", "MMAdds", "why / how")]
        for entry in self.entries:
            count = entry.multiply_adds
            rows.append(
                (
                    entry.path or "(model)",
                    "fused" if entry.fused else "left",
                    entry.what,
                    "" if count is None else f"{count / 1e6:.1f}",
                    entry.reason,
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            "  ".join([*(text.ljust(w) for text, w in zip(row, widths, strict=False)), row[4]])
            for row in rows
        ]
        return "\n".join([head, *(line.rstrip() for line in lines)])


def report(
    model: nn.Module, input_shape: Sequence[int] | None = None, *, threads: int | None = None
) -> Report:
    """What of the model runs fused in evaluation, what does not, and why.

    Args:
        model: A converted model, or one of fused modules.
        input_shape: (N, C, H, W) or (N, C) of the model's input. With it, the report counts
            multiply-adds and tells how every fused block will run. The model is run once on zeros.
        threads: For how many threads the plan is told. Default: torch's number.

    Raises:
        TypeError: `model` is no module, `input_shape` no sequence, `threads` no integer.
        ValueError: `input_shape` or `threads` holds what is no size or number.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"report: model must be a torch.nn.Module, got {type(model).__name__}")
    _check_arguments(input_shape, threads)
    with torch.inference_mode(False), torch.no_grad():
        shapes, plain_work = ({}, {}) if input_shape is None else _observe(model, input_shape)
        entries: list[Entry] = []
        calls = 0
        for path, module in _top_parts(model):
            if isinstance(module, FusedModule) and module.fusion.prepare(module):
                if isinstance(module.fusion.packed, Split):
                    found = list(_split_entries(path, module, shapes.get(module), threads))
                    calls += len(module.fusion.packed.packed)
                    entries += found
                    continue
                calls += 1
                entries += _fused_entries(path, module, shapes.get(module), threads)
            else:
                reason = _why(model, path, module)
                count = None if input_shape is None else plain_work.get(module, 0)
                entries.append(Entry(path, False, type(module).__name__, reason, count))
    share = None
    if input_shape is not None:
        total = sum(entry.multiply_adds or 0 for entry in entries)
        fused = sum(entry.multiply_adds or 0 for entry in entries if entry.fused)
        share = fused / total if total else 0.0
    return Report(type(model).__name__.removeprefix("Fused"), tuple(entries), calls, share)


def _check_arguments(input_shape: object, threads: object) -> None:
    if input_shape is not None:
        if isinstance(input_shape, str) or not isinstance(input_shape, Sequence):
            raise TypeError(
                f"report: input_shape must be a sequence of integers, got {input_shape!r}"
            )
        shape = tuple(input_shape)
        if len(shape) not in (2, 4) or any(type(n) is not int or n < 1 for n in shape):
            raise ValueError(
                f"report: input_shape must be (N, C, H, W) or (N, C), all positive, got {shape}"
            )
    if threads is None:
        return
    if type(threads) is not int:
        raise TypeError(f"report: threads must be an integer, got {threads!r}")
    if threads < 1:
        raise ValueError(f"report: threads must be at least 1, got {threads}")


def _top_parts(model: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The outermost fused modules, and the leaf modules outside of them that compute something."""
    if isinstance(model, FusedModule) and model.fusion.prepare(model):
        yield path, model
    elif not any(True for _ in model.children()):
        if _computes(model):
            yield path, model
    else:
        for name, child in model.named_children():
            yield from _top_parts(child, f"{path}.{name}" if path else name)


def _fused_entries(
    path: str, module: FusedModule, shape: tuple[int, ...] | None, threads: int | None
) -> Iterator[Entry]:
    packed = module.fusion.packed
    assert isinstance(packed, Packed)
    return _packed_entries(path, packed, shape, threads)


def _split_entries(
    path: str, module: FusedModule, shape: tuple[int, ...] | None, threads: int | None
) -> Iterator[Entry]:
    """Of a forward that runs in parts: blocks of the parts, and the steps that torch runs."""
    split = module.fusion.packed
    assert isinstance(split, Split)
    recipe = split.recipe
    shapes: dict[fx.Node, tuple[int, ...]] = {}
    if shape is not None:
        with unfused():
            shapes = recipe.graph.shapes_for(shape)
    for node in recipe.order:
        part = recipe.parts.get(node)
        layer = part.torchs if part else None
        leaf = recipe.graph.module(node)
        if part is not None and layer is None:
            entry_shape = shapes.get(part.entry)
            yield from _packed_entries(path, split.packed[node], entry_shape, threads)
        elif layer is not None or (leaf is not None and _computes(leaf)):
            inner = layer.path if layer else str(node.target)
            name = ".".join(text for text in (path, inner) if text)
            held = module.get_submodule(inner)
            count = _work(held, shapes.get(node)) if shapes else None
            reason = f"{cost.DENSE}; folded" if layer else recipe.reasons.get(node, "")
            what = part.program.blocks[0].describe() if part else type(held).__name__
            yield Entry(name, False, what, reason or "between parts that are fused", count)


def _computes(module: nn.Module) -> bool:
    return not isinstance(module, (nn.Identity, nn.Dropout))


def _packed_entries(
    path: str, packed: Packed, shape: tuple[int, ...] | None, threads: int | None
) -> Iterator[Entry]:
    size = None if shape is None else [*shape, 1, 1][:4]
    how = [""] * len(packed.separate)
    if size is not None:
        # All at once: how a block is cut depends on the call that it is part of.
        text = _C.explain(size, _C.join(packed.separate), threads or torch.get_num_threads())
        how = text.splitlines()
    for block, record, line in zip(packed.program.blocks, packed.separate, how, strict=True):
        what = block.describe()
        layers = block.layers()
        inner = _common_prefix([layer.path for layer in layers]) if layers else ""
        name = ".".join(part for part in (path, inner) if part)
        if size is None:
            yield Entry(name, True, what)
            continue
        yield Entry(name, True, what, line, _C.multiply_adds(size, record))
        size = list(_C.output_shape(size, record))


def _common_prefix(paths: list[str]) -> str:
    """The innermost module that holds all the paths; the path itself if there is one only."""
    if len(paths) == 1:
        return paths[0]
    split = [path.split(".") for path in paths]
    common = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def _why(model: nn.Module, path: str, module: nn.Module) -> str:
    """Why a part is not fused: what stops the smallest module around it, or that nobody tried."""
    parts = path.split(".") if path else []
    around = [model.get_submodule(".".join(parts[:i])) for i in range(len(parts))]
    if not around:
        return "a single layer"
    owner = around[-1]
    if isinstance(owner, FusedModule):
        return owner.fusion.reason or "inside a module that runs plain"
    if owner.training:
        return "in training mode: weebill.convert makes a copy for evaluation"
    return why_not(owner) or "not converted: see weebill.convert"


def _observe(
    model: nn.Module, input_shape: Sequence[int]
) -> tuple[dict[nn.Module, tuple[int, ...]], dict[nn.Module, int]]:
    """Input shapes of fused modules, and multiply-adds of layers outside, in one run on zeros."""
    shapes: dict[nn.Module, tuple[int, ...]] = {}
    work: dict[nn.Module, int] = {}

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            shapes.setdefault(module, tuple(inputs[0].shape))
        if isinstance(output, Tensor):
            work[module] = work.get(module, 0) + _work(module, output.shape)

    handles = [module.register_forward_hook(hook) for _, module in _top_parts(model)]
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()(torch.zeros(tuple(input_shape)))
    finally:
        for handle in handles:
            handle.remove()
        # one by one: a BatchNorm may be frozen in a model that trains
        for module, training in modes.items():
            module.training = training
    return shapes, work


def _work(module: nn.Module, output: Sequence[int] | None) -> int:
    """Multiply-adds of a layer whose result has this shape."""
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)) and output is not None:
        return math.prod(output) * module.weight[0].numel()
    return 0
