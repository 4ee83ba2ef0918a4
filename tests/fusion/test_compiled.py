"""Fused modules inside the graphs of torch.compile."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._dynamo.backends.debugging import aot_eager
from torch.utils.flop_counter import FlopCounterMode

import weebill
from tests.fusion.networks import Net
from weebill.fusion.compiled import Form, form_key, number
from weebill.nn import InvertedResidual, unfused


class Capture:
    """A backend that remembers the ops of every graph."""

    def __init__(self) -> None:
        self.graphs: list[list[str]] = []

    def __call__(self, module: fx.GraphModule, inputs: list[Any]) -> Any:
        self.graphs.append(
            [str(node.target) for node in module.graph.nodes if node.op.startswith("call")]
        )
        return aot_eager(module, inputs)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch.compiler.reset()


def converted() -> Any:
    return weebill.convert(Net())


def compiled(model: Any, **options: Any) -> tuple[Any, Capture]:
    capture = Capture()
    return torch.compile(model, fullgraph=True, backend=capture, **options), capture


def plain(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad(), unfused():
        y: Tensor = copy.deepcopy(model).double()(x.double())
    return y


def assert_right(found: Tensor, model: nn.Module, x: Tensor) -> None:
    torch.testing.assert_close(found.double(), plain(model, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dynamic", [None, True, False])
def test_one_op_in_one_graph(dynamic: bool | None) -> None:
    model = converted()
    fast, capture = compiled(model, dynamic=dynamic)
    with torch.no_grad():
        for shape in ((2, 3, 21, 17), (1, 3, 32, 32), (3, 3, 13, 40)):
            x = torch.randn(shape)
            assert torch.equal(fast(x), model(x))
    for graph in capture.graphs:
        assert graph == ["weebill.run_module.default"]
    assert len(capture.graphs) == {None: 3, True: 2, False: 3}[dynamic]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_inductor_runs_it() -> None:
    model = converted()
    x = torch.randn(2, 3, 16, 16)
    fast = torch.compile(nn.Sequential(model, nn.Softmax(1)), fullgraph=True)
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), model(x).softmax(1))
        model.head.bias.mul_(2)
        torch.testing.assert_close(fast(x), model(x).softmax(1))


@pytest.mark.parametrize("grad", [False, True])
def test_flops_of_the_op(grad: bool) -> None:
    model = converted()
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad(), FlopCounterMode(display=False) as eager:
        model(x)
    key = form_key(Form(model.fusion.packed.geometry, True))
    with torch.set_grad_enabled(grad), FlopCounterMode(display=False) as counter:
        if grad:
            torch.ops.weebill.run_differentiable(x, [], number(model), key)
        else:
            torch.ops.weebill.run_module(x, number(model), key)
    assert counter.get_total_flops() == eager.get_total_flops() > 0


def test_own_blocks_need_no_conversion() -> None:
    model = Net().eval()
    fast, capture = compiled(model)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x))
    assert capture.graphs[0].count("weebill.run_module.default") == 1


def optimizer_step(model: Any) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def trained(model: Any) -> None:
    model.train()(torch.randn(4, 3, 16, 16))
    model.eval()


def through_data(model: Any) -> None:
    model.train()
    model.stem.weight.data.mul_(3)
    model.eval()


def new_parameter(model: Any) -> None:
    model.stem.weight = nn.Parameter(torch.randn(8, 3, 3, 3))


def new_module(model: Any) -> None:
    model.head = nn.Linear(8, 5)


def other_attribute(model: Any) -> None:
    model.norm.eps = 0.5


def other_structure(model: Any) -> None:
    model.norm = nn.GroupNorm(2, 8)  # no fused form: runs plain


def other_network(model: Any) -> None:
    model.block = InvertedResidual(8, 24, 8, kernel_size=5).eval()


def block_trains(model: Any) -> None:
    model.norm.momentum = 0.0
    model.norm.train()


def hook_inside(model: Any) -> None:
    model.stem.register_forward_hook(lambda module, inputs, y: y + 1)


CHANGES: list[Callable[[Any], Any]] = [
    lambda model: model.stem.weight.mul_(1.5),
    lambda model: model.head.bias.copy_(torch.randn(5)),
    lambda model: model.norm.running_mean.add_(1),
    lambda model: model.load_state_dict(Net().state_dict()),
    lambda model: model.load_state_dict(Net().state_dict(), assign=True),
    lambda model: model.to(memory_format=torch.channels_last).stem.weight.add_(0.1),
    lambda model: model.double().float().stem.bias.add_(1),
    optimizer_step,
    trained,
    through_data,
    new_parameter,
    new_module,
    other_attribute,
    other_structure,
    other_network,
    hook_inside,
]


@pytest.mark.parametrize("index", range(len(CHANGES)))
def test_every_way_a_weight_can_change(index: int) -> None:
    model = converted()
    fast, _ = compiled(model)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        before = fast(x)
        CHANGES[index](model)
        after = fast(x)
        assert not torch.allclose(after, before)
        assert_right(after, model, x)


def test_a_part_in_training_mode() -> None:
    model = converted()
    fast, _ = compiled(model)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        fast(x)
        block_trains(model)
        y = fast(x)
        with unfused():
            torch.testing.assert_close(y, model(x))


def test_a_changed_result_shape_is_refused() -> None:
    model = converted()
    fast, _ = compiled(model)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        fast(x)
        model.head = nn.Linear(8, 6)
        with pytest.raises(RuntimeError, match=r"run: the module must give .*compile it again"):
            fast(x)
        torch.compiler.reset()
        assert_right(fast(x), model, x)


def test_gradients_are_those_of_the_plain_forward() -> None:
    model = converted()
    fast, capture = compiled(model)
    frozen = model.head.weight.requires_grad_(False)
    x = torch.randn(2, 3, 16, 16, requires_grad=True)
    fast(x).square().sum().backward()
    assert [name for name in capture.graphs[0] if "weebill" in name] == [
        "weebill.run_differentiable.default"
    ]
    exact = copy.deepcopy(model).double()
    x_exact = x.detach().double().requires_grad_()
    exact.zero_grad()
    with unfused():
        exact(x_exact).square().sum().backward()
    assert frozen.grad is None
    pairs = zip((x, *model.parameters()), (x_exact, *exact.parameters()), strict=True)
    for found, expected in pairs:
        if expected.grad is not None:
            scale = float(expected.grad.abs().max())
            torch.testing.assert_close(
                found.grad.double(), expected.grad, rtol=1e-4, atol=1e-5 * scale
            )


def test_fine_tuning_in_evaluation_mode() -> None:
    model = converted()
    fast, _ = compiled(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x = torch.randn(4, 3, 16, 16)
    for _ in range(3):
        optimizer.zero_grad()
        y = fast(x)
        assert_right(y.detach(), model, x)
        y.square().mean().backward()
        optimizer.step()


def test_training_compiles_the_plain_forward() -> None:
    model = converted().train()
    fast, capture = compiled(model)
    fast(torch.randn(2, 3, 16, 16)).sum().backward()
    assert not [name for name in capture.graphs[0] if "weebill" in name]
    assert model.stem.weight.grad is not None


def test_autocast_and_transforms_run_plain() -> None:
    model = converted()
    fast, capture = compiled(model)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert fast(x).dtype == torch.bfloat16
    mapped, other = compiled(lambda x: torch.vmap(lambda y: model(y))(x))
    with torch.no_grad():
        torch.testing.assert_close(mapped(x[:, None]), model(x)[:, None], rtol=1e-4, atol=1e-5)
    for graph in (*capture.graphs, *other.graphs):
        assert not [name for name in graph if "weebill" in name]


def test_unfused_counts_at_the_call() -> None:
    model = converted()
    fast, capture = compiled(model)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        fast(x)
        with unfused():
            assert torch.equal(fast(x), model(x))
    assert len(capture.graphs) == 1


def test_copies_are_modules_of_their_own() -> None:
    model = converted()
    fast, _ = compiled(model)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = fast(x)
        twin = copy.deepcopy(model)
        twin.stem.weight.mul_(2)
        other, _ = compiled(twin)
        assert torch.equal(other(x), twin(x))
        assert torch.equal(fast(x), expected)
