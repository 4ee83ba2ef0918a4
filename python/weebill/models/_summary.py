"""What a network costs: parameters, multiply-adds and activation bytes, per layer and per block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.flop_counter import FlopCounterMode

from weebill.nn import unfused

_COLUMNS = ("", "kind", "output", "parameters", "multiply-adds", "activation bytes")
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class SeparableComparison:
    """A depthwise separable convolution and the standard one that it stands for.

        standard = H W C K^2 L        separable = H W C K^2 + H W C L

    in multiply-adds, of which the separable one needs 1/L + 1/K^2.

    Attributes:
        height, width: H, W, of the output.
        channels, out_channels: C, L.
        kernel: K^2, the number of the window's taps.

    Source: MobileNets, arXiv:1704.04861, section 3.1.

    Example:
        >>> SeparableComparison(112, 112, 32, 64, kernel=9).ratio  # 1/64 + 1/9 of it: 7.9 times
    """

    height: int
    width: int
    channels: int
    out_channels: int
    kernel: int = 9

    @property
    def standard(self) -> int:
        """Multiply-adds of the standard convolution."""
        return self.height * self.width * self.channels * self.kernel * self.out_channels

    @property
    def separable(self) -> int:
        """Multiply-adds of the depthwise and the pointwise convolution."""
        pixels = self.height * self.width
        return pixels * self.channels * self.kernel + pixels * self.channels * self.out_channels

    @property
    def ratio(self) -> float:
        """standard / separable."""
        return self.standard / self.separable


@dataclass(frozen=True)
class Cost:
    """A row of a `Summary`.

    Attributes:
        name: Path of the module; empty for the whole network.
        kind: Its class.
        output: Shape of its (last) result; () if that is no tensor.
        parameters: Trainable or not, without buffers.
        multiply_adds: Of convolutions and matrix products; biases, activations and pools are not
            counted, as everywhere in the literature.
        activation_bytes: What its layers write when they run one after another; a layer that
            passes its input on (flatten, dropout in evaluation) writes nothing.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    activation_bytes: int


@dataclass(frozen=True)
class Summary:
    """What `summary` found. `str()` is a table of the blocks with their layers.

    Attributes:
        total: Of the network.
        blocks: Of the parts that a network is made of, in the order of their first call.
        layers: Of the modules without children, in the order of their first call.
        separable: A comparison for each depthwise convolution and the pointwise one that follows
            it in the same block.
    """

    total: Cost
    blocks: tuple[Cost, ...]
    layers: tuple[Cost, ...]
    separable: tuple[SeparableComparison, ...]

    def table(self, *, layers: bool = True) -> str:
        """The table, with a line per block and, if wanted, per layer."""
        lines: list[tuple[str, ...]] = [
            ("", "kind", "output", "parameters", "multiply-adds", "activation bytes")
        ]
        for block in self.blocks:
            lines.append(_cells(block, ""))
            inner = [x for x in self.layers if x.name.startswith(f"{block.name}.")]
            if layers:
                lines += [_cells(layer, "  ") for layer in inner]
        lines.append(_cells(self.total, "", "total"))
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        text = []
        for line in lines:
            left = [cell.ljust(width) for cell, width in zip(line[:3], widths[:3], strict=True)]
            right = [cell.rjust(width) for cell, width in zip(line[3:], widths[3:], strict=True)]
            text.append("  ".join(left + right).rstrip())
        if self.separable:
            standard = sum(pair.standard for pair in self.separable)
            separable = sum(pair.separable for pair in self.separable)
            text.append(
                f"{len(self.separable)} separable convolutions: {separable:,} multiply-adds; "
                f"as standard ones {standard:,}, {standard / separable:.1f} times as many"
            )
        return "\n".join(text)

    def __str__(self) -> str:
        return self.table()


def _cells(cost: Cost, indent: str, name: str | None = None) -> tuple[str, ...]:
    return (
        indent + (cost.name if name is None else name),
        cost.kind,
        " x ".join(map(str, cost.output)),
        f"{cost.parameters:,}",
        f"{cost.multiply_adds:,}",
        f"{cost.activation_bytes:,}",
    )


def summary(model: nn.Module, input: Any) -> Summary:
    """Counts what one forward of a network takes, per layer and per block.

    The network runs once, in evaluation, without gradients and in plain torch; it is left as it
    was. A network that `convert` has fused has the same counts: fusing saves traffic, not
    arithmetic. A block is the outermost module inside a Sequential, ModuleList or ModuleDict
    (a bottleneck, or a single layer), or a layer beside them.

    Args:
        model: Any network of torch modules.
        input: What it is called with: a tensor, or a shape such as (1, 3, 224, 224), or, for
            detectors, a list of tensors.

    Raises:
        TypeError: the model is no module, or the input neither tensor(s) nor a shape.

    Example:
        >>> costs = summary(mobilenet_v3_large(), (1, 3, 224, 224))
        >>> costs.total.multiply_adds
        216589760
        >>> print(costs)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"summary: model must be a torch.nn.Module, got {type(model).__name__}")
    value = _input(model, input)
    recorder = _Recorder(model)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), unfused(), recorder:
            model(value)
    finally:
        for module, training in modes:
            module.training = training
    names = [name for name in recorder.order if name]
    blocks = {name for name, _ in _blocks(model, "", nested=False)}
    return Summary(
        total=recorder.cost(""),
        blocks=tuple(recorder.cost(name) for name in names if name in blocks),
        layers=tuple(
            recorder.cost(name) for name in names if not model.get_submodule(name)._modules
        ),
        separable=tuple(_separable(model, recorder, sorted(blocks, key=recorder.position))),
    )


def _input(model: nn.Module, input: Any) -> Any:
    if isinstance(input, Tensor):
        return input
    if isinstance(input, Sequence) and not isinstance(input, str) and len(input):
        if all(isinstance(item, Tensor) for item in input):
            return input
        if all(isinstance(item, int) for item in input):
            like = next(model.parameters(), torch.empty(0))
            return torch.zeros(*input, dtype=like.dtype, device=like.device)
    raise TypeError(f"summary: input must be a tensor, a shape or a list of tensors, got {input!r}")


def _blocks(module: nn.Module, path: str, *, nested: bool) -> Iterator[tuple[str, nn.Module]]:
    """The blocks below a module; `nested` tells that it is an element of a container."""
    plain = type(module) in _CONTAINERS
    if path and (not module._modules or (nested and not plain)):
        yield path, module
        return
    for name, child in module.named_children():
        yield from _blocks(child, f"{path}.{name}".lstrip("."), nested=plain)


class _Recorder:
    """Hooks on every module that note results and counts while the network runs."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.order: list[str] = []
        self._counter = FlopCounterMode(display=False)
        self._bytes = 0
        self._found: dict[str, list[int]] = {}
        self._outputs: dict[str, tuple[int, ...]] = {}
        self._started: list[tuple[int, int]] = []
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        for name, module in self.model.named_modules():
            self._handles += [
                module.register_forward_pre_hook(self._before(name)),
                module.register_forward_hook(self._after(name)),
            ]
        self._counter.__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        self._counter.__exit__(*error)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    def _before(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            if name not in self._found:
                self._found[name] = [0, 0]
                self.order.append(name)
            self._started.append((self._counter.get_total_flops(), self._bytes))

        return hook

    def _after(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, result: Any) -> None:
            if not module._modules:
                self._bytes += _written(module, args, result)
            flops, size = self._started.pop()
            self._found[name][0] += self._counter.get_total_flops() - flops
            self._found[name][1] += self._bytes - size
            self._outputs[name] = tuple(result.shape) if isinstance(result, Tensor) else ()

        return hook

    def position(self, name: str) -> int:
        """Place in the order of first calls; behind all for what was not called."""
        return self.order.index(name) if name in self._found else len(self.order)

    def output(self, name: str) -> tuple[int, ...]:
        return self._outputs.get(name, ())

    def cost(self, name: str) -> Cost:
        module = self.model.get_submodule(name)
        flops, size = self._found[name]
        return Cost(
            name,
            type(module).__name__,
            self.output(name),
            sum(parameter.numel() for parameter in module.parameters()),
            flops // 2,
            size,
        )


def _written(module: nn.Module, args: Any, result: Any) -> int:
    """Bytes of a layer's result, 0 if it is the input or a view of it."""
    if not isinstance(result, Tensor):
        return 0
    passed_on = any(result is arg or result._base is arg for arg in args)
    idle = isinstance(module, _DropoutNd) or not getattr(module, "inplace", False)
    if passed_on and idle:
        return 0
    return result.numel() * result.element_size()


def _gates(model: nn.Module, name: str) -> bool:
    """Whether a layer stands beside a global pool: it belongs to a squeeze-excite."""
    parent = model.get_submodule(name.rpartition(".")[0])
    return any(isinstance(child, nn.AdaptiveAvgPool2d) for child in parent.children())


def _separable(
    model: nn.Module, recorder: _Recorder, blocks: Sequence[str]
) -> Iterator[SeparableComparison]:
    for block in blocks:
        depthwise: nn.Conv2d | None = None
        for name in recorder.order:
            module = model.get_submodule(name)
            if not f"{name}.".startswith(f"{block}.") or not isinstance(module, nn.Conv2d):
                continue
            height, width = recorder.output(name)[2:]
            if module.groups == module.in_channels == module.out_channels > 1:
                depthwise, size = module, (height, width)
            elif (
                depthwise is not None
                and size == (height, width)  # a squeeze-excite's are 1 x 1
                and not _gates(model, name)
                and module.groups == 1
                and module.kernel_size == (1, 1)
            ):
                kernel = depthwise.kernel_size[0] * depthwise.kernel_size[1]
                channels = module.in_channels
                yield SeparableComparison(height, width, channels, module.out_channels, kernel)
                depthwise = None
