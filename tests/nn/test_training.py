"""Training mode: the blocks' layers on kernels, the same results as plain torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import weebill
from weebill.nn import (
    Conv2dNormActivation,
    DepthwisePointwise,
    InvertedResidual,
    ShuffleUnit,
    SqueezeExcite,
    unfused,
)

BLOCKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "depthwise": (lambda: Conv2dNormActivation(12, 12, 5, 2, groups=12, padding="same"), 12),
    "separable": (lambda: DepthwisePointwise(9, 14, activation_layer=nn.SiLU), 9),
    "inverted": (
        lambda: InvertedResidual(
            8, 20, 8, 5, squeeze_channels=4, activation_layer=partial(nn.SiLU, inplace=True)
        ),
        8,
    ),
    "squeeze": (lambda: SqueezeExcite(10, 4, activation=nn.SiLU), 10),
    "shuffle": (lambda: ShuffleUnit(12, 12), 12),
    "shuffle down": (lambda: ShuffleUnit(12, 20, 2), 12),
}


def smooth(module: nn.Module) -> nn.Module:
    """With SiLU for ReLU: gradients that are the same on both sides of a rounding."""
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU):
            setattr(module, name, nn.SiLU())
        else:
            smooth(child)
    return module


def ops_of(module: Callable[[Tensor], Tensor], x: Tensor) -> set[str]:
    with profile(activities=[ProfilerActivity.CPU]) as found:
        module(x)
    names = {event.key for event in found.key_averages()}
    return {name.removeprefix("weebill::") for name in names if name.startswith("weebill::")}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_values_and_gradients(name: str, channels_last: bool) -> None:
    """Against the plain forward in float64; twice, so that buffers move."""
    torch.manual_seed(0)
    make, channels = BLOCKS[name]
    module = smooth(make()).train()
    if channels_last:
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    exact = copy.deepcopy(module).double()
    for _ in range(2):
        x = torch.randn(3, channels, 9, 7, requires_grad=True)
        z = x.detach().double().requires_grad_()
        y, wanted = module(x), exact(z)
        torch.testing.assert_close(y.double(), wanted, rtol=1e-4, atol=1e-4)
        seed = torch.randn(y.shape)
        got = torch.autograd.grad(y, [x, *module.parameters()], seed)
        expected = torch.autograd.grad(wanted, [z, *exact.parameters()], seed.double())
        for have, want in zip(got, expected, strict=True):
            scale = float(want.abs().max())
            torch.testing.assert_close(have.double(), want, rtol=1e-4, atol=1e-4 * scale + 1e-5)
    for (key, have), want in zip(module.named_buffers(), exact.buffers(), strict=True):
        torch.testing.assert_close(have.double(), want.double(), rtol=1e-5, atol=1e-5, msg=key)


def test_gradcheck_in_double() -> None:
    torch.manual_seed(0)
    block = smooth(InvertedResidual(3, 6, 3, squeeze_channels=2)).double().train()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, (x,))


@pytest.mark.parametrize(
    "make",
    [
        lambda: DepthwisePointwise(4, 4),
        lambda: ShuffleUnit(4, 4),
        lambda: ShuffleUnit(4, 6, 2),
        lambda: SqueezeExcite(4, 2),
    ],
)
def test_second_derivatives(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    block = smooth(make()).train()
    exact = copy.deepcopy(block).double()
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    z = x.detach().double().requires_grad_()
    found = []
    for module, source in ((block, x), (exact, z)):
        (first,) = torch.autograd.grad(module(source).square().sum(), source, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), source)
        found.append(second.double())
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)


def train(model: nn.Module, steps: int) -> list[float]:
    generator = torch.Generator().manual_seed(3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9)
    losses = []
    for _ in range(steps):
        x = torch.randn(8, 3, 64, 64, generator=generator)
        target = torch.randint(0, 5, (8,), generator=generator)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_a_network_trains_as_in_torch(name: str) -> None:
    """And evaluates, fused, with the weights of the last step. Without the kink of ReLU, from whose
    sides roundings part by a percent within three steps, in torch as here."""
    torch.manual_seed(0)
    model = smooth(weebill.models.create_model(name, num_classes=5)).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    plain = copy.deepcopy(model)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = model.eval()(x)
    ours = train(model.train(), 3)
    with unfused():
        torchs = train(plain, 3)
    assert ours == pytest.approx(torchs, rel=1e-3)
    with torch.no_grad():
        after = model.eval()(x)
        with unfused():
            expected = model(x)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)


def test_where_kernels_run() -> None:
    block = InvertedResidual(8, 16, 8).train()
    x = torch.randn(2, 8, 6, 6)
    assert ops_of(block, x) == {"normalized_convolution", "normalize"}
    with unfused():
        assert ops_of(block, x) == set()
    with torch.autocast("cpu", torch.bfloat16):
        assert ops_of(block, x) == set()
    assert ops_of(copy.deepcopy(block).double(), x.double()) == set()
    frozen = copy.deepcopy(block)
    for module in frozen.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    convolutions = {"pointwise_conv2d", "depthwise_conv2d"}
    assert ops_of(frozen, x) == convolutions
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(block))
    assert not any(type(m) is nn.BatchNorm2d for m in synchronised.modules())
    assert ops_of(synchronised, x) == convolutions
    biased = Conv2dNormActivation(8, 8, 1, bias=True).train()
    assert ops_of(biased, x) == {"pointwise_conv2d", "batch_norm_activation"}


def test_where_kernels_run_in_units() -> None:
    x = torch.randn(2, 8, 6, 6)
    unit = {"normalized_convolution", "normalize_shuffle"}
    assert ops_of(ShuffleUnit(8, 8).train(), x) == unit
    assert ops_of(ShuffleUnit(8, 12, 2).train(), x) == unit | {"normalize"}
    excited = {"channel_means", "pointwise_conv2d", "scale_channels"}
    assert ops_of(SqueezeExcite(8, 4).train(), x) == excited
    trained_gate = SqueezeExcite(8, 4, activation=nn.PReLU).train()
    assert ops_of(trained_gate, x) == set()
    trained_gate(x).square().sum().backward()
    assert trained_gate.activation.weight.grad is not None


def test_no_gradient_by_what_is_frozen() -> None:
    """Frozen weights and inputs get none; the others get theirs as before."""
    for make in (lambda: InvertedResidual(8, 20, 8, squeeze_channels=4), lambda: ShuffleUnit(8, 8)):
        block = smooth(make()).train()
        x = torch.randn(2, 8, 6, 6)
        names = [name for name, _ in block.named_parameters()]
        seed = torch.randn(2, 8, 6, 6)
        block(x).backward(seed)
        full = {name: p.grad for name, p in block.named_parameters()}
        for frozen in names:
            block.zero_grad()
            for name, parameter in block.named_parameters():
                parameter.requires_grad_(name != frozen)
            block(x).backward(seed)
            for name, parameter in block.named_parameters():
                if name == frozen:
                    assert parameter.grad is None
                else:
                    torch.testing.assert_close(parameter.grad, full[name])


def test_hooks_of_layers_are_called() -> None:
    block = Conv2dNormActivation(4, 4, 3, groups=4).train()
    called = []
    block[1].register_forward_hook(lambda *_: called.append("norm"))
    block[0].register_forward_pre_hook(lambda *_: called.append("conv"))
    assert ops_of(block, torch.randn(2, 4, 5, 5)) == set()
    assert called == ["conv", "norm"]


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics(momentum: float | None) -> None:
    block = Conv2dNormActivation(4, 4, 1, norm_layer=partial(nn.BatchNorm2d, momentum=momentum))
    plain = copy.deepcopy(block)
    for _ in range(3):
        x = 3 + torch.randn(2, 4, 5, 5)
        block.train()(x)
        with unfused():
            plain.train()(x)
    for have, want in zip(block.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(have, want, rtol=1e-5, atol=1e-6)


def test_one_value_per_channel_is_refused_as_in_torch() -> None:
    block = Conv2dNormActivation(4, 4, 1).train()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        block(torch.randn(1, 4, 1, 1))


def test_compiling_sees_plain_torch() -> None:
    block = Conv2dNormActivation(4, 4, 3, groups=4).train()
    x = torch.randn(2, 4, 5, 5)
    compiled = torch.compile(copy.deepcopy(block), backend="eager", fullgraph=True)
    assert ops_of(compiled, x) == set()
    torch.testing.assert_close(compiled(x), block(x), rtol=1e-5, atol=1e-5)
