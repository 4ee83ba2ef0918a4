"""The native guard: every change of what it watches is seen, other changes are not."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from weebill import _C
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
    guard.watch(tensor, CODE)
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
