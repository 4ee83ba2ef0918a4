"""Forward mode and the transforms of torch.func through the ops, against plain torch in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from tests.ops.cases import PLAIN_OPS, arguments, call, in_double, network, reference
from weebill import _reference, ops

#: torch compiles formulas of its own for forward mode.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


def near(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def of_tensors(
    function: Callable[..., Any], values: tuple[Any, ...]
) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The function of its tensor arguments alone, and these."""
    places = [i for i, value in enumerate(values) if isinstance(value, Tensor)]

    def of_them(*tensors: Tensor) -> Tensor:
        full = list(values)
        for place, tensor in zip(places, tensors, strict=True):
            full[place] = tensor
        y: Tensor = function(*full)
        return y

    return of_them, tuple(values[place] for place in places)


def both(name: str) -> tuple[Any, Any]:
    """The op and its formula in float64, each of tensors alone, with the tensors."""
    values = arguments(name)
    return of_tensors(call(name), values), of_tensors(reference(name), in_double(values))


def dual(f: Callable[..., Tensor], x: Tensor, tangent: Tensor) -> Tensor | None:
    with forward_ad.dual_level():
        found: Tensor | None = forward_ad.unpack_dual(f(forward_ad.make_dual(x, tangent))).tangent
        return found


@pytest.mark.parametrize("name", PLAIN_OPS)
def test_forward_mode(name: str) -> None:
    torch.manual_seed(0)
    (f, tensors), (exact, doubles) = both(name)
    tangents = tuple(torch.randn_like(tensor) for tensor in tensors)
    expected = torch.func.jvp(exact, doubles, tuple(t.double() for t in tangents))
    assert expected[1].abs().max() > 0.01
    for found, wanted in zip(torch.func.jvp(f, tensors, tangents), expected, strict=True):
        near(found, wanted)
    (x, *rest), (exact_x, *exact_rest) = tensors, doubles
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            found = dual(lambda x: f(x, *rest), x, tangents[0])
            near(found, dual(lambda x: exact(x, *exact_rest), exact_x, tangents[0].double()))


@pytest.mark.parametrize("name", PLAIN_OPS)
def test_gradients_by_transforms(name: str) -> None:
    (f, tensors), (exact, doubles) = both(name)
    every = tuple(range(len(tensors)))
    found = torch.func.grad(lambda *t: f(*t).square().sum(), every)(*tensors)
    wanted = torch.func.grad(lambda *t: exact(*t).square().sum(), every)(*doubles)
    for gradient, expected in zip(found, wanted, strict=True):
        near(gradient, expected)


@pytest.mark.parametrize("transform", [torch.func.jacfwd, torch.func.jacrev, torch.func.hessian])
def test_jacobians(transform: Any) -> None:
    weight = torch.randn(2, 3, 1, 1)
    x = torch.randn(1, 3, 2, 2)

    def f(x: Tensor) -> Tensor:
        return ops.pointwise_conv2d(x, weight, activation="silu").sum((2, 3))

    def exact(x: Tensor) -> Tensor:
        y = _reference.pointwise_conv2d(x, weight.double(), None, "silu")
        return y.sum((2, 3))

    near(transform(f)(x), transform(exact)(x.double()))


@pytest.mark.parametrize("name", ["depthwise_conv2d", "inverted_residual"])
def test_a_tangent_that_comes_in_the_backward(name: str) -> None:
    """The forward has run before the level of forward mode began."""
    # torch has no forward mode for silu's gradient
    values = tuple(
        "sigmoid" if isinstance(value, str) and value == "silu" else value
        for value in arguments(name, requires_grad=True)
    )
    doubles = in_double(values)
    found = []
    for function, arguments_ in ((call(name), values), (reference(name), doubles)):
        y = function(*arguments_)
        backward = functools.partial(torch.autograd.grad, y, arguments_[0])
        ones = torch.ones_like(y)
        found.append(dual(lambda g, backward=backward: backward(g)[0], ones, ones))
    assert found[0] is not None
    near(found[0], found[1])


def test_autocast() -> None:
    x, weight = torch.randn(1, 3, 4, 4), torch.randn(2, 3, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        jvp: Any = torch.func.jvp
        y, tangent = jvp(
            lambda x: ops.pointwise_conv2d(x, weight), (x.bfloat16(),), (x.bfloat16(),)
        )
    assert y.dtype == tangent.dtype == torch.float32
    expected = torch.conv2d(x.bfloat16().double(), weight.double())
    near(y, expected)
    near(tangent, expected)


@pytest.mark.parametrize(
    ("x", "weight", "error", "text"),
    [
        (torch.ones(1, 3, 4, 4).double(), torch.ones(2, 3, 1, 1), TypeError, "x must be float32"),
        (torch.ones(1, 3, 4, 4), torch.ones(2, 3, 1, 1).double(), TypeError, "weight must be fl"),
        (torch.ones(1, 3, 4, 4), torch.ones(2, 3, 3, 3), ValueError, "weight must be"),
        (torch.ones(3, 4, 4), torch.ones(2, 3, 1, 1), ValueError, "x must have 4 dimensions"),
        (torch.ones(1, 3, 4, 4), torch.ones(2, 3, 1, 1, device="meta"), TypeError, "on the cpu"),
        (torch.ones(1, 3, 4, 4), torch.ones(2, 3, 1, 1).to_sparse(), TypeError, "strided"),
    ],
)
def test_the_checks_are_the_ops(x: Tensor, weight: Tensor, error: Any, text: str) -> None:
    with pytest.raises(error, match=f"pointwise_conv2d: .*{text}"):
        torch.func.jvp(lambda x: ops.pointwise_conv2d(x, weight), (x,), (x,))


def test_vmap_alone_takes_the_kernels() -> None:
    x, weight = torch.randn(3, 2, 4, 5, 5), torch.randn(3, 8, 4, 1, 1, requires_grad=True)
    y = torch.func.vmap(ops.pointwise_conv2d)(x, weight)
    one_by_one = torch.stack([ops.pointwise_conv2d(*pair) for pair in zip(x, weight, strict=True)])
    assert torch.equal(y, one_by_one)
    (found,) = torch.autograd.grad(y.sum(), weight)
    (expected,) = torch.autograd.grad(one_by_one.sum(), weight)
    assert torch.equal(found, expected)


def test_compiled() -> None:
    x, weight = torch.randn(1, 3, 4, 4), torch.randn(2, 3, 1, 1)

    def tangent(x: Tensor) -> Tensor:
        y: Tensor = torch.func.jvp(lambda x: ops.pointwise_conv2d(x, weight), (x,), (x,))[1]
        return y

    torch.compiler.reset()
    near(torch.compile(tangent, backend="eager")(x), torch.conv2d(x.double(), weight.double()))


class TestRun:
    """It has no derivatives."""

    def setup_method(self) -> None:
        self.x = torch.randn(2, 6, 7, 5)
        self.records, self.geometry = network()

    def run(self, x: Tensor) -> Tensor:
        return ops.run(x, self.records, self.geometry)

    @pytest.mark.parametrize("grad", [False, True])
    def test_forward_mode(self, grad: bool) -> None:
        with (
            torch.set_grad_enabled(grad),
            pytest.raises(NotImplementedError, match="run: x must not be differentiated by forw"),
        ):
            dual(self.run, self.x, self.x)

    @pytest.mark.parametrize("mapped", [False, True])
    @pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacfwd])
    def test_transforms(self, transform: Any, mapped: bool) -> None:
        f = torch.func.vmap(lambda x: self.run(x[None])) if mapped else self.run
        with pytest.raises(NotImplementedError, match="run: x must not "):
            transform(lambda x: f(x).sum())(self.x)

    def test_what_is_not_differentiated(self) -> None:
        expected = self.run(self.x)
        jvp: Any = torch.func.jvp
        (y, _) = jvp(lambda t: t * self.run(self.x), (expected,), (expected,))
        assert torch.equal(y, expected * expected)
        mapped = torch.func.vmap(lambda x: self.run(x[None])[0])(self.x)
        assert torch.equal(mapped, expected)
