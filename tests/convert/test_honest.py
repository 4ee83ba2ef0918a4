"""A converted model does what the model did, also where that is more than its result."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import weebill
from weebill.nn import FusedModule, unfused


def block() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1),
    )


class Net(nn.Module):
    """Two blocks that forwards of the tests put together."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.steps = forward
        self.first, self.second = block(), block()
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(self, x)


def converted(forward: Callable[[Any, Tensor], Tensor]) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = Net(forward).eval()
    return model, weebill.convert(model)


def fused(module: nn.Module) -> bool:
    return isinstance(module, FusedModule) and module.fusion.prepare(module)


def assert_same(fast: nn.Module, model: nn.Module, x: Tensor) -> None:
    found, expected = fast(x), model(x)
    assert found.dtype == expected.dtype
    assert found.requires_grad == expected.requires_grad
    scale = max(1.0, float(expected.detach().nan_to_num(0).abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * scale, equal_nan=True)


def branch_on_class(m: Any, x: Tensor) -> Tensor:
    return m.first(m.second(x) if isinstance(x, Tensor) else x)  # type: ignore[no-any-return]


def teacher(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return m.second(m.first(x))  # type: ignore[no-any-return]


def half(m: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return m.second(m.first(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("forward", [branch_on_class, teacher, half], ids=lambda f: f.__name__)
def test_what_tracing_does_not_see_stays(forward: Any) -> None:
    model, fast = converted(forward)
    assert_same(fast, model, torch.randn(2, 8, 9, 9))
    assert not fused(fast)
    assert fused(fast.first)
    assert fused(fast.second)


def squeezed(m: Any, x: Tensor) -> Tensor:
    return m.second(m.first(x)).mean((2, 3), keepdim=True).squeeze()  # type: ignore[no-any-return]


def squeezed_inside(m: Any, x: Tensor) -> Tensor:
    return m.head(squeezed(m, x))  # type: ignore[no-any-return]


def squeezed_scores(m: Any, x: Tensor) -> Tensor:
    return m.head(m.second(m.first(x)).mean((2, 3))).squeeze()  # type: ignore[no-any-return]


def squeezed_image(m: Any, x: Tensor) -> Tensor:
    return m.second(m.first(x)).squeeze()  # type: ignore[no-any-return]


def squeezed_by_name(m: Any, x: Tensor) -> Tensor:
    y: Tensor = m.second(m.first(x)).mean((2, 3), keepdim=True)
    return m.head(torch.squeeze(y, dim=(2, -1)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "forward",
    [squeezed, squeezed_inside, squeezed_scores, squeezed_image, squeezed_by_name],
    ids=lambda f: f.__name__,
)
def test_squeezes_of_one_image(forward: Any, batch: int) -> None:
    model, fast = converted(forward)
    assert_same(fast, model, torch.randn(batch, 8, 9, 9))
    if forward is squeezed_by_name:
        assert fused(fast)
        assert fast.fusion.program is not None


def without_nan(m: Any, x: Tensor) -> Tensor:
    return m.second(m.first(torch.nan_to_num(x)))  # type: ignore[no-any-return]


def in_the_range_of_halves(m: Any, x: Tensor) -> Tensor:
    return m.second(m.first(x)).clamp(-65504, 65504)  # type: ignore[no-any-return]


def first_thousand(m: Any, x: Tensor) -> Tensor:
    return m.second(m.first(x))[:1000]  # type: ignore[no-any-return]


def float_first(m: Any, x: Tensor) -> Tensor:
    return m.second(m.first(x.float()))  # type: ignore[no-any-return]


def cast_first(m: Any, x: Tensor) -> Tensor:
    return m.second(m.first(x.to(torch.float32)))  # type: ignore[no-any-return]


def double_last(m: Any, x: Tensor) -> Tensor:
    return m.second(m.first(x)).double()  # type: ignore[no-any-return]


NOTHINGS: dict[Any, Tensor] = {
    without_nan: torch.full((1, 8, 9, 9), torch.nan),
    in_the_range_of_halves: torch.full((1, 8, 9, 9), 1e7),
    first_thousand: torch.ones(1001, 8, 2, 2),
    float_first: torch.ones(1, 8, 9, 9, dtype=torch.uint8),
    cast_first: torch.ones(1, 8, 9, 9, dtype=torch.float64),
    double_last: torch.ones(1, 8, 9, 9),
}


@pytest.mark.parametrize("forward", NOTHINGS, ids=lambda f: f.__name__)
def test_what_changes_few_values_is_a_step(forward: Any) -> None:
    model, fast = converted(forward)
    assert_same(fast, model, NOTHINGS[forward])
    assert fused(fast)


def test_casts_to_float_are_saved(tmp_path: Path) -> None:
    for forward in (float_first, cast_first):
        _, fast = converted(forward)
        weebill.save(fast, tmp_path / "cast.weebill", input_shape=(1, 8, 9, 9))
    _, fast = converted(double_last)
    with pytest.raises(NotImplementedError, match="double"):
        weebill.save(fast, tmp_path / "cast.weebill", input_shape=(1, 8, 9, 9))


def test_report_leaves_modes_alone() -> None:
    _, fast = converted(float_first)
    fast.train()
    fast.first[1].eval()
    modes = [module.training for module in fast.modules()]
    weebill.report(fast, (1, 8, 9, 9))
    assert [module.training for module in fast.modules()] == modes


def test_hooks_for_all_modules_see_what_is_called() -> None:
    model, fast = converted(float_first)
    called: list[nn.Module] = []

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        called.append(module)

    handle = torch.nn.modules.module.register_module_forward_hook(hook)
    try:
        x = torch.randn(1, 8, 9, 9)
        fast(x)
        assert called == [fast]
        called.clear()
        with unfused():
            fast(x)
        assert fast.first[0] in called
    finally:
        handle.remove()
    assert_same(fast, model, x)


@pytest.mark.parametrize(
    ("shape", "error"),
    [
        ("abc", TypeError),
        (5, TypeError),
        ((1, 8, 9), ValueError),
        ((1, 8, -1, 9), ValueError),
        ((0, 8, 9, 9), ValueError),
        ((1.5, 8, 9, 9), ValueError),
        ((True, 8, 9, 9), ValueError),
    ],
)
def test_report_names_a_wrong_shape(shape: Any, error: type[Exception]) -> None:
    rule = "a sequence of integers" if error is TypeError else r"\(N, C, H, W\) or \(N, C\), all"
    told = f"^report: input_shape must be {rule}.*, got {re.escape(repr(shape))}$"
    with pytest.raises(error, match=told):
        weebill.report(block().eval(), shape)


@pytest.mark.parametrize(
    ("threads", "error"), [(0, ValueError), (-3, ValueError), ("x", TypeError), (1.0, TypeError)]
)
def test_report_names_wrong_threads(threads: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"^report: threads must be .*, got {threads!r}$"):
        weebill.report(block().eval(), (1, 8, 9, 9), threads=threads)


def test_convert_names_a_wrong_inplace() -> None:
    with pytest.raises(TypeError, match=r"^convert: inplace must be a bool, got 'no'$"):
        weebill.convert(block(), inplace="no")  # type: ignore[arg-type]
