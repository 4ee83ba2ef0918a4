"""Training mode inside torch.compile: one graph, and the results of the kernels outside."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import weebill
from tests.nn.test_training import BLOCKS, smooth


def compile_whole(module: nn.Module, dynamic: bool) -> Callable[[Tensor], Tensor]:
    torch._dynamo.reset()
    compiled: Callable[[Tensor], Tensor] = torch.compile(
        module, fullgraph=True, dynamic=dynamic, backend="aot_eager"
    )
    return compiled


def check_same(one: nn.Module, other: nn.Module) -> None:
    """Gradients of the parameters, and running statistics."""
    for (key, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), key
        if p.grad is not None and q.grad is not None:
            bound = 1e-4 * float(q.grad.abs().max()) + 1e-5
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=bound, msg=key)
    for (key, buffer), wanted in zip(one.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(buffer, wanted, rtol=1e-5, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_of_any_size(name: str) -> None:
    torch.manual_seed(0)
    make, channels = BLOCKS[name]
    eager = smooth(make()).train()
    module = copy.deepcopy(eager)
    compiled = compile_whole(module, dynamic=True)
    for size in ((3, channels, 9, 7), (2, channels, 12, 8)):
        x = torch.randn(size, requires_grad=True)
        z = x.detach().clone().requires_grad_()
        y, wanted = compiled(x), eager(z)
        torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-4)
        seed = torch.randn(y.shape)
        y.backward(seed)
        wanted.backward(seed)
        torch.testing.assert_close(x.grad, z.grad, rtol=1e-4, atol=1e-4)
        check_same(module, eager)


def test_a_network() -> None:
    """With frozen weights, which get no gradient."""
    torch.manual_seed(0)
    eager = smooth(weebill.models.shufflenet_v2_x0_5(num_classes=5)).train()
    for parameter in eager.conv1.parameters():
        parameter.requires_grad_(False)
    module = copy.deepcopy(eager)
    x, target = torch.randn(8, 3, 64, 64), torch.arange(8) % 5
    for forward in (compile_whole(module, dynamic=False), eager):
        F.cross_entropy(forward(x), target).backward()
    assert next(module.parameters()).grad is None
    check_same(module, eager)
