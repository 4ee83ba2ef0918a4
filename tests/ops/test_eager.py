"""Calls of the ops past the dispatcher's key for autograd: the same results as the op's, and the op
itself where somebody looks in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from tests.ops.cases import PLAIN_OPS, arguments, call, op
from weebill import _eager, _ops

Function = Callable[..., Tensor]

REST = ([1, 1], [1, 1, 1, 1], [1, 1], "silu")


def x_weight_bias() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 4, 5, 5), torch.randn(4, 1, 3, 3), torch.randn(4)


def saved_hooks(f: Function) -> Any:
    x, weight, bias = x_weight_bias()
    weight.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: 2 * t):
        y = f(x, weight, bias, *REST)
    y.sum().backward()
    return weight.grad


def recomputed(f: Function) -> Any:
    x, weight, bias = x_weight_bias()
    weight.requires_grad_()
    y = checkpoint(lambda w: f(x, w, bias, *REST), weight, use_reentrant=False)
    y.sum().backward()
    return weight.grad


def changed_before_backward(f: Function) -> Any:
    x, weight, bias = x_weight_bias()
    y = f(x, weight.requires_grad_(), bias, *REST)
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def changed_in_place(f: Function) -> Any:
    x, weight, bias = x_weight_bias()
    y = f(x, weight.requires_grad_(), bias, *REST)
    y.mul_(3).sum().backward()
    return weight.grad


def in_another_thread(f: Function) -> Any:
    x, weight, bias = x_weight_bias()
    y = f(x, weight.requires_grad_(), bias, *REST)
    thread = threading.Thread(target=y.sum().backward)
    thread.start()
    thread.join()
    return weight.grad


def autocast(f: Function) -> Any:
    x, weight, bias = x_weight_bias()
    with torch.autocast("cpu", torch.bfloat16):
        y = f(x.bfloat16(), weight.requires_grad_(), bias, *REST)
    y.sum().backward()
    return y, weight.grad


def vmap(f: Function) -> Any:
    x, weight, bias = x_weight_bias()
    return torch.func.vmap(lambda x: f(x[None], weight, bias, *REST))(x)


def left_over_from_a_transform(f: Function) -> Any:
    x, weight, bias = x_weight_bias()
    kept: list[Tensor] = []

    def keep(w: Tensor) -> Tensor:
        kept.append(w)
        return w.sum()

    torch.func.grad(keep)(weight)
    y = f(x.requires_grad_(), kept[0], bias, *REST)
    y.sum().backward()
    return y, x.grad


def symbolic_trace(f: Function) -> Any:
    x, weight, bias = x_weight_bias()
    return torch.fx.symbolic_trace(lambda x: f(x, weight, bias, *REST))(x)


def jit_trace(f: Function) -> Any:
    x, weight, bias = x_weight_bias()
    traced = torch.jit.trace(lambda x: f(x, weight, bias, *REST), x)
    assert "weebill::depthwise_conv2d" in str(traced.graph)
    return traced(x)


def compiled(f: Function) -> Any:
    x, weight, bias = x_weight_bias()
    torch.compiler.reset()
    fast = torch.compile(f, fullgraph=True, backend="aot_eager")
    fast(x, weight.requires_grad_(), bias, *REST).sum().backward()
    return weight.grad


#: Differentiate what they computed.
NEED_GRADIENTS = [
    saved_hooks,
    recomputed,
    changed_before_backward,
    changed_in_place,
    in_another_thread,
    autocast,
    left_over_from_a_transform,
    compiled,
]

SITUATIONS = [
    *NEED_GRADIENTS,
    vmap,
    symbolic_trace,
    jit_trace,
]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("situation", "grad"),
    [(f, True) for f in SITUATIONS] + [(f, False) for f in SITUATIONS if f not in NEED_GRADIENTS],
)
def test_it_is_as_the_op(situation: Callable[[Function], Any], grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        expected = situation(op("depthwise_conv2d"))
        found = situation(_ops.depthwise_conv2d)
    if expected is None:  # the situation has asserted what there is to assert
        assert found is None
    else:
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_gradients_have_a_node_of_ours() -> None:
    x, weight, bias = x_weight_bias()
    weight.requires_grad_()
    y = _ops.depthwise_conv2d(x, weight, bias, *REST)
    assert y.grad_fn is not None
    assert y.grad_fn.name() == "depthwise_conv2dBackward"
    with torch.no_grad():
        assert not _ops.depthwise_conv2d(x, weight, bias, *REST).requires_grad
    assert not _ops.depthwise_conv2d(x, weight.detach(), bias, *REST).requires_grad
    with torch.inference_mode():
        assert _ops.depthwise_conv2d(x, weight, bias, *REST).is_inference()


class Seeing:
    """Keeps what is called in it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []


class Functions(Seeing, TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class Dispatches(Seeing, TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("mode", [Functions, Dispatches])
@pytest.mark.parametrize("name", PLAIN_OPS)
def test_modes_see_the_op(name: str, mode: type[Any], requires_grad: bool) -> None:
    values = arguments(name, requires_grad)
    with mode() as seeing:
        y = call(name)(*values)
    assert seeing.seen.count(op(name)) == 1
    assert y.requires_grad == requires_grad


class Own(Tensor):
    pass


@pytest.mark.parametrize("name", PLAIN_OPS)
def test_tensors_of_other_types(name: str) -> None:
    x, weight, *rest = arguments(name)
    assert type(call(name)(x.as_subclass(Own), weight, *rest)) is Own
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = mode.from_tensor(x)
    assert isinstance(call(name)(fake, weight, *rest), FakeTensor)


def test_a_torch_that_does_not_tell_who_looks_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_eager, "_KNOWN", False)
    overload = op("pointwise_conv2d")
    assert _eager.route(overload, lambda *_: None, lambda *_: (), overload) is overload
