"""`copied` makes what `copy.deepcopy` makes, of ordinary modules and of odd ones."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations

import weebill
from weebill.convert.copying import copied


class Tied(nn.Module):
    """Modules, parameters and memory that occur more than once."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.again = self.first
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("whole", torch.arange(6.0))
        self.register_buffer("part", self.whole[2:4])
        self.register_buffer("same", self.whole.view(2, 3))
        self.register_buffer("unsaved", torch.ones(2), persistent=False)
        self.register_buffer("missing", None)
        self.listed = [self.first, {"again": self.first}]
        self.table = {"part": self.part, 3: (1, "a"), "deep": (self.first,)}
        self.ordered = OrderedDict(a=self.whole)
        self.ordered.note = [1]  # type: ignore[attr-defined]


class Own(nn.Module):
    """Says itself how it is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def __deepcopy__(self, memo: dict[int, Any]) -> Own:
        made = Own()
        made.layer = self.layer  # shared on purpose
        return made


def odd_tensors() -> nn.Module:
    module = nn.Module()
    module.register_buffer("strided", torch.rand(3, 4).t())
    module.register_buffer(
        "last", torch.rand(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    )
    module.register_buffer("expanded", torch.rand(1, 4).expand(3, 4))
    module.register_buffer("empty", torch.empty(0, 3))
    module.register_buffer("count", torch.tensor(7))
    module.register_buffer("conjugate", torch.rand(2, dtype=torch.complex64).conj())
    module.register_buffer("sparse", torch.eye(3).to_sparse())
    module.register_buffer("meta", torch.empty(2, device="meta"))
    module.register_buffer("wanted", torch.rand(2, requires_grad=True))
    noted = torch.rand(2)
    noted.note = "kept"  # type: ignore[attr-defined]
    module.register_buffer("noted", noted)
    module.weight = nn.Parameter(torch.rand(2, 3).t(), requires_grad=False)
    graded = torch.rand(2, requires_grad=True)
    graded.sum().backward()
    module.register_buffer("graded", graded)
    return module


def hooked() -> nn.Module:
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    module[0].register_forward_hook(lambda *_: None)
    module.note = {"shape": torch.Size([1]), "type": torch.float32, "function": len}  # type: ignore[assignment]
    return module


MODULES = {
    "tied": Tied,
    "own": lambda: nn.Sequential(Own(), nn.ReLU()),
    "tensors": odd_tensors,
    "hooked": hooked,
    "traced": lambda: nn.Sequential(fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))),
    "parametrized": lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 3))),
    "lazy": lambda: nn.Sequential(nn.LazyLinear(3)),
    "converted": lambda: weebill.convert(weebill.models.mobilenet_v3_small(num_classes=4)),
}


def same(a: Any, b: Any, pairs: dict[int, int], path: str = "") -> None:
    """Raises unless b is built like a, with the same objects at the same places."""
    if id(a) in pairs:
        assert pairs[id(a)] == id(b), f"{path}: shared in one copy only"
        return
    assert type(a).__qualname__ == type(b).__qualname__, path  # a traced module has its own class
    if isinstance(a, (Tensor, nn.Module, dict, list, set)):
        pairs[id(a)] = id(b)
    if isinstance(a, Tensor) and not nn.parameter.is_lazy(a):
        assert (a.shape, a.dtype, a.layout, a.device) == (b.shape, b.dtype, b.layout, b.device), (
            path
        )
        assert (a.requires_grad, a.is_leaf) == (b.requires_grad, b.is_leaf), path
        if a.device.type == "meta":
            return
        if a.layout == torch.strided:
            assert (a.stride(), a.storage_offset()) == (b.stride(), b.storage_offset()), path
        assert torch.equal(a.to_dense(), b.to_dense()), path
        same(vars(a), vars(b), pairs, f"{path}.__dict__")
        same(a.grad, b.grad, pairs, f"{path}.grad")
    elif isinstance(a, dict):
        assert list(a) == list(b), path
        for key in a:
            same(a[key], b[key], pairs, f"{path}[{key!r}]")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (left, right) in enumerate(zip(a, b, strict=True)):
            same(left, right, pairs, f"{path}[{i}]")
    elif isinstance(a, nn.Module):
        same(vars(a), vars(b), pairs, path or type(a).__name__)


@pytest.mark.parametrize("name", MODULES)
def test_as_deepcopy(name: str) -> None:
    module = MODULES[name]()
    same(copy.deepcopy(module), copied(module), {})


def test_nothing_is_shared_with_the_original() -> None:
    module = Tied()
    made = copied(module)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with torch.no_grad():
        for tensor in (*made.parameters(), *made.buffers()):
            tensor.add_(1)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert made.part.untyped_storage().data_ptr() == made.whole.untyped_storage().data_ptr()
    assert made.second.weight is made.first.weight
    assert made.listed[0] is made.first
    assert made.listed is not module.listed
    assert made.table["deep"][0] is made.first


def test_what_deepcopy_refuses_is_refused() -> None:
    module = nn.Linear(2, 2)
    module.register_buffer("computed", module.weight * 2)
    with pytest.raises(RuntimeError, match="graph leaves"):
        copied(module)
