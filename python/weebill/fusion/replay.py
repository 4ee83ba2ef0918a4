"""A module's forward once more, as it was when its weights were packed: what a backward computes.

Between a fused forward and its backward everything about the module can change: its mode, its
hooks, the tensors under its names. So the backward runs shells of the modules, made from what they
were: in evaluation, without hooks, with other tensors in the places of those that a gradient is
wanted for. Nothing that belongs to the user is touched, and threads do not meet.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from weebill.fusion.effects import TABLES, TORCHS, own_names
from weebill.fusion.switch import unfused

_HOOKS = tuple(name for name in TORCHS if "hooks" in name)


class _Part(NamedTuple):
    """One module: its class, attributes and tensors, and the places of its children."""

    kind: type[nn.Module]
    attributes: dict[str, Any]
    parameters: dict[str, Tensor | None]
    buffers: dict[str, Tensor | None]
    children: dict[str, int | None]


class Replay:
    """The forward of `owner` and of all modules inside, as they are now.

    Attributes:
        leads_back: Whether an attribute leads to the modules themselves past their names: a list
            of them, a reference to a parent, a method of one. A shell would run those.
    """

    def __init__(self, owner: nn.Module) -> None:
        places = {module: place for place, module in enumerate(owner.modules())}
        self._parts = [
            _Part(
                type(module),
                {name: value for name, value in module.__dict__.items() if name not in _LEFT_OUT},
                dict(module._parameters),
                dict(module._buffers),
                {n: None if m is None else places[m] for n, m in module._modules.items()},
            )
            for module in places
        ]
        seen: dict[int, Any] = {}
        self.leads_back = any(
            _leads_to(module.__dict__[name], places.keys(), seen)
            for module in places
            for name in own_names(module)
        )

    def __call__(self, x: Tensor, others: Mapping[Tensor, Tensor]) -> Tensor:
        """The forward on x, in which tensors that `others` names are those that it gives."""
        shells: list[nn.Module] = [object.__new__(part.kind) for part in self._parts]
        for shell, part in zip(shells, self._parts, strict=True):
            shell.__dict__.update(
                part.attributes,
                training=False,
                _parameters=_replaced(part.parameters, others),
                _buffers=_replaced(part.buffers, others),
                _modules={n: None if i is None else shells[i] for n, i in part.children.items()},
                **{name: {} for name in _HOOKS},
            )
        with unfused(), torch.autocast("cpu", enabled=False):
            y: Tensor = shells[0].forward(x)
        return y

    def gradients(
        self,
        x: Tensor,
        others: Mapping[Tensor, Tensor],
        needed: Sequence[bool],
        gradient: Tensor,
        *,
        higher: bool = False,
    ) -> list[Tensor | None]:
        """Those by x and by the tensors in the others' places.

        Views of them are what is differentiated: what has made x, or a weight, is no part of this
        forward, though the same weights may have, and tensors' hooks run where the gradients go.

        Args:
            x: The input of the forward.
            others: As in the forward.
            needed: Of x, and of each of the others, whether its gradient is wanted.
            gradient: That of the result.
            higher: Whether the gradients will be differentiated.
        """
        sources = (x, *others.values())
        with torch.enable_grad():
            views = [
                tensor.view_as(tensor)
                if higher and tensor.requires_grad
                else tensor.detach().requires_grad_(wanted)
                for tensor, wanted in zip(sources, needed, strict=True)
            ]
            y = self(views[0], dict(zip(others, views[1:], strict=True)))
        # the gradient, not y: behind a view of it, torch's BatchNorm misreads channels_last
        if gradient.shape != y.shape:
            gradient = gradient.reshape(y.shape)
        result: list[Tensor | None] = [None] * len(sources)
        wanted = [place for place, is_needed in enumerate(needed) if is_needed]
        if y.requires_grad:
            found = torch.autograd.grad(
                y,
                [views[place] for place in wanted],
                gradient,
                create_graph=higher,
                allow_unused=True,
            )
            for place, tensor in zip(wanted, found, strict=True):
                result[place] = tensor
        return result


_LEFT_OUT = frozenset({"training", "_fusion", *TABLES, *_HOOKS})


def _leads_to(value: Any, modules: Collection[nn.Module], seen: dict[int, Any]) -> bool:
    """Whether any of the modules, or a parameter, is reached; `seen` has what has been looked at,
    by its id."""
    if isinstance(value, nn.Module):
        return value in modules
    if isinstance(value, nn.Parameter):
        return True
    if id(value) in seen:
        return False
    seen[id(value)] = value
    return any(_leads_to(inner, modules, seen) for inner in _inside(value))


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    if isinstance(value, functools.partial):
        return (value.func, *value.args, *value.keywords.values())
    if isinstance(value, types.MethodType):
        return (value.__self__,)
    if isinstance(value, types.FunctionType):
        return (*map(_contents, value.__closure__ or ()), *(value.__defaults__ or ()))
    return ()


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing has been assigned yet
        return None


def _replaced(
    table: Mapping[str, Tensor | None], others: Mapping[Tensor, Tensor]
) -> dict[str, Tensor | None]:
    return {name: None if t is None else others.get(t, t) for name, t in table.items()}
