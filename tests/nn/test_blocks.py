"""weebill.nn: plain torch in training, one fused call in evaluation, the same numbers in both."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from weebill.nn import (
    Conv2dNormActivation,
    Conv2dSame,
    DepthwisePointwise,
    FusedModule,
    InvertedResidual,
    SqueezeExcite,
)

Make = Callable[[], FusedModule]


def settle(module: nn.Module) -> None:
    """BatchNorm statistics and weights as a trained network has them, not zeros and ones."""
    generator = torch.Generator().manual_seed(1)
    for inner in module.modules():
        if isinstance(inner, nn.BatchNorm2d):
            assert inner.running_mean is not None
            assert inner.running_var is not None
            inner.running_mean.normal_(0, 0.3, generator=generator)
            inner.running_var.uniform_(0.5, 2.0, generator=generator)
            with torch.no_grad():
                inner.weight.uniform_(0.5, 1.5, generator=generator)
                inner.bias.normal_(0, 0.3, generator=generator)


def made(make: Make) -> FusedModule:
    torch.manual_seed(0)
    module = make()
    settle(module)
    return module.eval()


def plain(module: FusedModule, x: Tensor) -> Tensor:
    """The forward as written, never fused: training mode keeps the statistics out of reach."""
    with torch.no_grad():
        y = type(module).forward.__wrapped__(module, x)  # type: ignore[attr-defined]
    assert isinstance(y, Tensor)
    return y


def distance(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


BLOCKS: dict[str, tuple[Make, int]] = {
    "dense stem": (lambda: Conv2dNormActivation(3, 10, 3, 2, activation_layer=nn.Hardswish), 3),
    "grouped": (lambda: Conv2dNormActivation(12, 18, 3, groups=3), 12),
    "pointwise": (lambda: Conv2dNormActivation(18, 22, 1, activation_layer=nn.SiLU), 18),
    "depthwise k5 s2": (lambda: Conv2dNormActivation(26, 26, 5, 2, groups=26), 26),
    "depthwise k7": (lambda: Conv2dNormActivation(10, 10, 7, groups=10), 10),
    "stride per axis": (lambda: Conv2dNormActivation(10, 10, 3, (2, 1), groups=10), 10),
    "same": (lambda: Conv2dNormActivation(8, 8, 3, 2, "same", groups=8), 8),
    "no norm": (lambda: Conv2dNormActivation(8, 9, 3, norm_layer=None), 8),
    "dilated": (lambda: Conv2dNormActivation(8, 8, 3, dilation=2, groups=8), 8),
    "depthwise-pointwise": (lambda: DepthwisePointwise(16, 24, 3, 2), 16),
    "depthwise-pointwise residual": (
        lambda: DepthwisePointwise(16, 16, residual=True, pointwise_activation_layer=nn.Identity),
        16,
    ),
    "inverted residual": (lambda: InvertedResidual(24, 72, 24), 24),
    "inverted residual s2": (lambda: InvertedResidual(24, 72, 40, 5, 2), 24),
    "no expansion": (lambda: InvertedResidual(16, 16, 16), 16),
    "expansion of the same width": (lambda: InvertedResidual(16, 16, 18, expand=True), 16),
    "squeeze": (
        lambda: InvertedResidual(18, 50, 18, 5, squeeze_channels=10, activation_layer=nn.Hardswish),
        18,
    ),
    "squeeze, silu, sigmoid": (
        lambda: InvertedResidual(
            12,
            26,
            12,
            squeeze_channels=2,
            activation_layer=nn.SiLU,
            se_layer=lambda c, s: SqueezeExcite(c, s, nn.SiLU, nn.Sigmoid),
        ),
        12,
    ),
    "same and relu6": (
        lambda: InvertedResidual(16, 48, 24, 5, 2, padding="same", activation_layer=nn.ReLU6),
        16,
    ),
    "squeeze-excite": (lambda: SqueezeExcite(22, 6, scale_activation=nn.Hardsigmoid), 22),
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("size", [(1, 14, 14), (3, 9, 12)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_evaluation_is_fused_and_right(
    name: str, size: tuple[int, int, int], memory_format: torch.memory_format
) -> None:
    make, channels = BLOCKS[name]
    module = made(make)
    x = torch.randn(size[0], channels, *size[1:]).contiguous(memory_format=memory_format)
    with torch.no_grad():
        y = module(x)
    assert module.fusion.program is not None, module.fusion.reason
    assert distance(y, plain(module, x)) <= 1e-5
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", BLOCKS)
def test_training_is_plain_torch_bit_for_bit(name: str) -> None:
    make, channels = BLOCKS[name]
    module = made(make).train()
    reference = copy.deepcopy(module)
    x = torch.randn(2, channels, 9, 9)
    y = module(x)
    expected = type(reference).forward.__wrapped__(reference, x)  # type: ignore[attr-defined]
    assert torch.equal(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for (key, a), b in zip(module.named_parameters(), reference.parameters(), strict=True):
        assert a.grad is not None, key
        assert b.grad is not None, key
        assert torch.equal(a.grad, b.grad), key
    for buffer, other in zip(module.buffers(), reference.buffers(), strict=True):
        assert torch.equal(buffer, other)


@pytest.mark.parametrize("name", ["inverted residual", "squeeze", "dense stem"])
def test_gradients_in_evaluation(name: str) -> None:
    make, channels = BLOCKS[name]
    module = made(make)
    x = torch.randn(2, channels, 9, 9, requires_grad=True)
    y = module(x)
    assert module.fusion.program is not None
    expected = type(module).forward.__wrapped__(module, x)  # type: ignore[attr-defined]
    assert distance(y.detach(), expected.detach()) <= 1e-5
    sources = [x, *module.parameters()]
    weight = torch.randn_like(expected)
    found = torch.autograd.grad(y, sources, weight)
    for a, b in zip(found, torch.autograd.grad(expected, sources, weight), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_second_derivatives_in_evaluation() -> None:
    module = made(BLOCKS["squeeze, silu, sigmoid"][0])
    x = torch.randn(1, 12, 6, 6, requires_grad=True)
    results = []
    for forward in (module, lambda x: type(module).forward.__wrapped__(module, x)):  # type: ignore[attr-defined]
        (first,) = torch.autograd.grad(forward(x).square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        results.append(second)
    torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=1e-3)


def changes() -> dict[str, Callable[[FusedModule], None]]:
    """Every way in which a weight can change."""

    def in_place(module: FusedModule) -> None:
        with torch.no_grad():
            next(module.parameters()).mul_(1.5)

    def running_mean(module: FusedModule) -> None:
        next(iter(module.buffers())).add_(0.5)

    def new_parameter(module: FusedModule) -> None:
        conv = next(m for m in module.modules() if isinstance(m, nn.Conv2d))
        conv.weight = nn.Parameter(conv.weight.detach() * 0.5)

    def set_data(module: FusedModule) -> None:
        parameter = next(module.parameters())
        parameter.data = parameter.data * 2
        parameter.data = parameter.data * 0.75

    def data_and_eval(module: FusedModule) -> None:
        next(module.parameters()).data.mul_(1.5)
        module.eval()

    def load(module: FusedModule) -> None:
        state = {
            k: v * 1.25 if v.is_floating_point() else v for k, v in module.state_dict().items()
        }
        module.load_state_dict(state)

    def load_assign(module: FusedModule) -> None:
        state = {
            k: v * 1.25 if v.is_floating_point() else v for k, v in module.state_dict().items()
        }
        module.load_state_dict(state, assign=True)

    def step(module: FusedModule) -> None:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, foreach=True)
        module(torch.randn(1, 24, 8, 8)).square().mean().backward()
        optimizer.step()

    def double_and_back(module: FusedModule) -> None:
        module.double()
        in_place(module)
        module.float()

    def channels_last(module: FusedModule) -> None:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        in_place(module)

    def eps(module: FusedModule) -> None:
        for inner in module.modules():
            if isinstance(inner, nn.BatchNorm2d):
                inner.eps = 0.5

    def module_replaced(module: FusedModule) -> None:
        block = module.get_submodule("block.0")
        assert isinstance(block, nn.Sequential)
        block[2] = nn.SiLU().eval()

    def training_and_back(module: FusedModule) -> None:
        module.train()
        module(torch.randn(4, 24, 8, 8))
        module.eval()

    return {name: change for name, change in locals().items() if callable(change)}


@pytest.mark.parametrize("name", changes())
def test_changes_are_packed_again(name: str) -> None:
    module = made(BLOCKS["inverted residual"][0])
    x = torch.randn(2, 24, 8, 8)
    with torch.no_grad():
        before = module(x)
    changes()[name](module)
    with torch.no_grad():
        after = module(x)
        assert torch.equal(module(x), after)
    assert module.fusion.program is not None
    assert distance(after, plain(module, x)) <= 1e-5
    assert not torch.allclose(after, before)


def test_nothing_is_packed_again_without_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    module = made(BLOCKS["squeeze"][0])
    x = torch.randn(1, 18, 8, 8)
    with torch.inference_mode():
        module(x)
        monkeypatch.setattr("weebill.fusion.packed.pack_all", lambda *_: pytest.fail("again"))
        for _ in range(3):
            module(x)


def test_hooks_inside_fire() -> None:
    module = made(BLOCKS["inverted residual"][0])
    x = torch.randn(1, 24, 8, 8)
    calls: list[str] = []
    with torch.no_grad():
        expected = module(x)
        handle = module.get_submodule("block.1").register_forward_hook(
            lambda *_: calls.append("inner")
        )
        module.register_forward_pre_hook(lambda *_: calls.append("own"))
        assert distance(module(x), expected) <= 1e-5
        assert calls == ["own", "inner"]
        handle.remove()
        assert torch.equal(module(x), expected)
        assert calls == ["own", "inner", "own"]


def test_backward_hooks_inside_fire() -> None:
    module = made(BLOCKS["inverted residual"][0])
    x = torch.randn(1, 24, 8, 8)
    module(x)
    calls: list[str] = []
    module.get_submodule("block.1").register_full_backward_hook(lambda *_: calls.append("inner"))
    module(x).sum().backward()
    assert calls == ["inner"]


def test_one_module_in_training_keeps_the_whole_plain() -> None:
    module = made(BLOCKS["inverted residual"][0])
    x = torch.randn(4, 24, 8, 8)
    with torch.no_grad():
        module(x)
        norm = module.get_submodule("block.1.1")
        norm.train()
        before = copy.deepcopy(norm.state_dict())
        module(x)
    assert not torch.equal(before["running_mean"], norm.state_dict()["running_mean"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_types(dtype: torch.dtype) -> None:
    module = made(BLOCKS["pointwise"][0])
    x = torch.randn(1, 18, 4, 4)
    with torch.no_grad():
        module(x)
        with pytest.raises(TypeError, match=r"x must be float32, got float"):
            module(x.to(dtype))
        module.to(dtype)
        assert module(x.to(dtype)).dtype == dtype


def test_autocast_runs_plain() -> None:
    module = made(BLOCKS["pointwise"][0])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert module(torch.randn(1, 18, 4, 4)).dtype == torch.bfloat16


def test_inference_tensors_run_plain() -> None:
    with torch.inference_mode():
        module = made(BLOCKS["pointwise"][0])
        x = torch.randn(1, 18, 4, 4)
        first = module(x)
        next(module.parameters()).mul_(2)
        assert not torch.allclose(module(x), first)


def test_transforms_of_torch_func() -> None:
    module = made(BLOCKS["squeeze-excite"][0]).requires_grad_(False)
    x = torch.randn(3, 1, 22, 5, 5)
    mapped = torch.func.vmap(module)(x)
    for a, b in zip(mapped, x, strict=True):
        torch.testing.assert_close(a, module(b), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_have_records_of_their_own(copied: Callable[[FusedModule], FusedModule]) -> None:
    module = made(lambda: DepthwisePointwise(16, 24))
    x = torch.randn(1, 16, 8, 8)
    with torch.no_grad():
        expected = module(x)
        twin = copied(module)
        assert torch.equal(twin(x), expected)
        next(twin.parameters()).mul_(2)
        assert not torch.allclose(twin(x), expected)
        assert torch.equal(module(x), expected)
    assert list(twin.state_dict()) == list(module.state_dict())


def test_state_dict_has_plain_names_only() -> None:
    module = made(BLOCKS["squeeze"][0])
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with torch.no_grad():
        module(torch.randn(1, 18, 4, 4))
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert "block.0.0.weight" in after
    assert "block.2.fc1.weight" in after


def test_calls_that_are_not_fused_still_work() -> None:
    module = made(BLOCKS["no norm"][0])
    with torch.no_grad():
        assert module(torch.randn(8, 4, 4)).shape == (9, 4, 4)  # no batch
        assert module(input=torch.randn(1, 8, 4, 4)).shape == (1, 9, 4, 4)


def test_subclass_that_calls_super() -> None:
    class Doubled(InvertedResidual):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    module = made(lambda: Doubled(16, 32, 16))
    x = torch.randn(1, 16, 8, 8)
    with torch.no_grad():
        y = module(x)
        assert module.fusion.program is None
        torch.testing.assert_close(y, plain(module, x))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: InvertedResidual(16, 32, 24, residual=True), "residual must be False"),
        (lambda: InvertedResidual(16, 32, 24, expand=False), "expanded_channels must be 16"),
        (lambda: InvertedResidual(0, 32, 24), "in_channels must be >= 1, got 0"),
        (lambda: DepthwisePointwise(8, 9, residual=True), "residual must be False"),
        (lambda: Conv2dNormActivation(8, 8, padding="valid"), "padding must be"),
        (lambda: Conv2dSame(8, 8, 3, stride=(1, 2, 3)), "stride must be"),  # type: ignore[arg-type]
        (lambda: SqueezeExcite(8, 0), "squeeze_channels must be >= 1, got 0"),
    ],
)
def test_wrong_arguments(make: Callable[[], nn.Module], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize("size", [(7, 8), (8, 9), (5, 5)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_padding_is_tensorflows(size: tuple[int, int], stride: int) -> None:
    conv = Conv2dSame(2, 3, 3, stride)
    y = conv(torch.randn(1, 2, *size))
    assert y.shape[2:] == tuple(-(-s // stride) for s in size)
