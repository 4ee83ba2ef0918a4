"""The native guard: every change of what it watches is seen, other changes are not."""

from __future__ import annotations

import copy
import gc
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weebill import _C
from weebill.fusion import memory
from weebill.fusion.guard import FRESH, STALE, Guard

CODE = 7


def _guard() -> _C.Guard:
    return _C.Guard(torch.Tensor._version, torch.Tensor.data_ptr)


def _update(table: dict[str, Any]) -> None:
    table.update(watched=object())


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "other object": lambda table: table.__setitem__("watched", object()),
    "update": _update,
    "deleted": lambda table: table.pop("watched"),
    "cleared": lambda table: table.clear(),
    "deleted and set": lambda table: (table.pop("watched"), table.setdefault("watched", 1.5)),
}


@pytest.mark.parametrize("kind", [dict, OrderedDict])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_entry(kind: type[dict[str, Any]], change: Callable[[dict[str, Any]], Any]) -> None:
    table = kind(other=1, watched=object())
    guard = _guard()
    guard.expect_entry(table, "watched", CODE)
    assert [guard.state(), guard.state()] == [FRESH, FRESH]
    # none of these is the watched entry's affair; each makes the guard look again
    table["other"] = 2
    assert guard.state() == FRESH
    table["new"] = 3
    assert guard.state() == FRESH
    table["watched"] = table["watched"]
    assert guard.state() == FRESH
    change(table)
    assert [guard.state(), guard.state()] == [CODE, CODE]


def test_entry_put_back() -> None:
    watched = object()
    table: dict[str, Any] = {"watched": watched}
    guard = _guard()
    guard.expect_entry(table, "watched", CODE)
    table["watched"] = 1
    assert guard.state() == CODE
    table["watched"] = watched
    assert guard.state() == FRESH


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_size(kind: type[dict[str, Any]]) -> None:
    table, empty = kind(a=1, b=2), kind()
    guard = _guard()
    guard.expect_size(table, CODE)
    guard.expect_empty(empty, CODE + 1)
    table["a"] = 3
    assert guard.state() == FRESH
    empty["hook"] = print
    assert guard.state() == CODE + 1
    del empty["hook"]
    assert guard.state() == FRESH
    table["c"] = 4
    assert guard.state() == CODE
    del table["b"]  # as many as before, not the same
    assert guard.state() == FRESH


def test_attribute_of_a_module_written_by_hot_code() -> None:
    # the interpreter replaces an attribute's store by faster ones once it has run a few times
    module = nn.Conv2d(1, 1, 1)
    guard = _guard()
    guard.expect_entry(module.__dict__, "stride", CODE)
    stride = module.stride

    def write(value: tuple[int, ...]) -> None:
        object.__setattr__(module, "stride", value)
        module.stride = value

    for _ in range(100):
        write(stride)
        assert guard.state() == FRESH
    write((2, 2))
    assert guard.state() == CODE


def test_attribute_of_a_plain_object_written_by_hot_code() -> None:
    class Plain:
        def __init__(self) -> None:
            self.a, self.watched = 1, 2

    plain = Plain()
    guard = _guard()
    guard.expect_entry(plain.__dict__, "watched", CODE)

    def write(a: int, watched: int) -> None:
        plain.a = a
        plain.watched = watched

    for i in range(100):
        write(i, 2)
        assert guard.state() == FRESH
    write(0, 3)
    assert guard.state() == CODE


def test_tables_come_before_tensors() -> None:
    tensor, table = torch.zeros(1), {"watched": 1}
    guard = _guard()
    guard.watch(tensor, tensor.detach(), CODE)
    guard.expect_entry(table, "watched", CODE + 1)
    tensor.add_(1)
    assert guard.state() == CODE
    table["watched"] = 2
    assert guard.state() == CODE + 1


def test_missing_entry() -> None:
    with pytest.raises(KeyError, match="watched"):
        _guard().expect_entry({}, "watched", CODE)


def test_parameter_replaced_by_an_equal_one() -> None:
    module = nn.Sequential(nn.Conv2d(1, 1, 1))
    guard = Guard(module, [("0", "weight")])
    assert guard.state() == FRESH
    module[0].weight = nn.Parameter(module[0].weight.detach().clone())
    assert guard.state() == STALE


def test_the_layout_of_this_torch_is_found() -> None:
    # without it all works, slower: then memory.py has to learn what torch has changed
    found = memory.layout()
    assert found is not None
    assert len(set(found)) > 3
    assert found.geometry < found.geometry_end


def _resize(tensor: Tensor) -> None:
    tensor.untyped_storage().resize_(1 << 20)


#: In place, other memory, other places in the same memory, other contents of the object.
TENSOR_CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "add_": lambda t: t.add_(1),
    "copy_ of the same": lambda t: t.copy_(t.clone()),
    "through an alias": lambda t: t.detach().zero_(),
    "through a view": lambda t: t[0].zero_(),
    "data": lambda t: setattr(t, "data", torch.zeros(4, 4)),
    "equal data": lambda t: setattr(t, "data", t.detach().clone()),
    "set_": lambda t: t.set_(torch.ones(4, 4).untyped_storage(), 0, (4, 4), (4, 1)),
    "moved memory": _resize,
    "shared memory": lambda t: t.share_memory_(),
    "data further on": lambda t: setattr(t, "data", torch.as_strided(t, (4, 3), (4, 1), 1)),
    "swapped": lambda t: torch.utils.swap_tensors(t, torch.nn.Parameter(torch.zeros(4, 4))),
    "out=": lambda t: torch.add(torch.ones(4, 4), 1, out=t),
    "sgd": lambda t: torch._foreach_add_([t], 1),
}
#: Seen where torch's memory is known.
GEOMETRY_CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "transposed data": lambda t: setattr(t, "data", t.detach().t()),
    "less data": lambda t: setattr(t, "data", t.detach()[:2]),
}
READS: dict[str, Callable[[Tensor], Any]] = {
    "sum": lambda t: t.sum(),
    "alias": lambda t: [t.detach(), t.view(16), t.t()],
    "gradient": lambda t: t.requires_grad_().sum().backward() or t.grad,
    "frozen": lambda t: t.requires_grad_(False),
    "numpy": lambda t: t.detach().numpy(),
    "own data": lambda t: setattr(t, "data", t.data),
    "saved": lambda t: copy.deepcopy(t),
    "named": lambda t: setattr(t, "note", 1),
    "storage": lambda t: t.untyped_storage().data_ptr(),
}


def _watching(tensor: Tensor, layout: memory.Layout | None) -> _C.Guard:
    guard = _C.Guard(torch.Tensor._version, torch.Tensor.data_ptr, layout)
    guard.watch(tensor, tensor.detach(), CODE)
    return guard


def _parameter(kind: str) -> Tensor:
    tensor = torch.rand(4, 4)
    return nn.Parameter(tensor, requires_grad=kind == "trained") if kind != "buffer" else tensor


@pytest.mark.parametrize("kind", ["trained", "frozen", "buffer"])
@pytest.mark.parametrize("change", TENSOR_CHANGES.values(), ids=TENSOR_CHANGES)
def test_changes_of_a_tensor(kind: str, change: Callable[[Tensor], Any]) -> None:
    for layout in (None, memory.layout()):
        tensor = _parameter(kind)
        guard, other = _watching(tensor, layout), _watching(torch.zeros(3), layout)
        assert guard.state() == FRESH
        with torch.no_grad():
            change(tensor)
        assert guard.state() == CODE
        assert other.state() == FRESH


@pytest.mark.parametrize("change", GEOMETRY_CHANGES.values(), ids=GEOMETRY_CHANGES)
def test_changes_of_how_a_tensor_lies(change: Callable[[Tensor], Any]) -> None:
    tensor = _parameter("trained")
    guard = _watching(tensor, memory.layout())
    change(tensor)
    assert guard.state() == CODE


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_what_is_no_change_of_a_tensor(read: Callable[[Tensor], Any]) -> None:
    for layout in (None, memory.layout()):
        tensor = _parameter("trained")
        guard = _watching(tensor, layout)
        read(tensor)
        assert guard.state() == FRESH


def test_a_layout_that_does_not_fit_is_not_used() -> None:
    right = memory.layout()
    assert right is not None
    for wrong in (
        right._replace(object_tensor=right.object_tensor + 8),
        right._replace(counter=right.storage, version=right.data),
    ):
        tensor = torch.zeros(3)
        tensor.add_(1)
        guard = _watching(tensor, wrong)
        assert guard.state() == FRESH
        tensor.add_(1)
        assert guard.state() == CODE


def test_many_tensors_that_are_dropped_one_after_another() -> None:
    # memory that is used again must not be taken for what it was
    for _ in range(50):
        tensors = [torch.rand(8) for _ in range(20)]
        guard = _C.Guard(torch.Tensor._version, torch.Tensor.data_ptr, memory.layout())
        for tensor in tensors:
            guard.watch(tensor, tensor.detach(), CODE)
        tensors[7].data = torch.rand(8)
        assert guard.state() == CODE
        del tensors, tensor
        assert guard.state() == CODE


def test_a_cycle_through_a_watched_tensor_is_collected() -> None:
    class Marked:
        pass

    for layout in (None, memory.layout()):
        tensor, mark = torch.zeros(1), Marked()
        guard = _watching(tensor, layout)
        mark.guard = guard  # type: ignore[attr-defined]
        tensor.mark = mark  # type: ignore[attr-defined]
        gone = weakref.ref(mark)
        del tensor, mark, guard
        gc.collect()
        assert gone() is None
