"""What fused modules owe to the program around them: changes, modes, threads, ends, pickles."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import weebill
from tests.fusion.test_replay import Seen, block, made
from weebill.nn import FusedModule, unfused


class Scored(nn.Module):
    """A network whose forward reads attributes, its own and those of a module inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Scaled()
        self.features = block()
        self.residual = True
        self.limit: Any = None
        self.size = 0

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.features(self.inner(x))
        if self.limit is not None:
            y = torch.minimum(y, self.limit)
        return y + x if self.residual else y


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(8, 8, 1)
        self.limit = 6.0

    def forward(self, x: Tensor) -> Tensor:
        return F.hardtanh(self.layer(x), 0.0, self.limit)


def turn_residual_off(model: Any) -> None:
    model.residual = False


def lower_limit(model: Any) -> None:
    model.inner.limit = 0.5


def set_a_tensor(model: Any) -> None:
    model.limit = torch.tensor(-0.5)


def pad_around(model: Any) -> None:
    model.features[0].padding_mode = "circular"


def patch_layer(model: Any) -> None:
    layer = model.features[3]
    plain = layer.forward
    layer.forward = lambda x: plain(x) + 1


def patch_container(model: Any) -> None:
    plain = model.features.forward
    model.features.forward = lambda x: plain(x) + 1


@pytest.mark.parametrize(
    "change",
    [
        turn_residual_off,
        lower_limit,
        set_a_tensor,
        pad_around,
        patch_layer,
        patch_container,
    ],
)
def test_attributes_are_followed(change: Callable[[Any], None]) -> None:
    torch.manual_seed(0)
    fast: Any = weebill.convert(Scored().eval())
    x = torch.randn(1, 8, 9, 9)
    with torch.inference_mode():
        before = fast(x)
        change(fast)
        after = fast(x)
        with unfused():
            expected = fast(x)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, expected)


def test_attributes_that_no_forward_reads_change_nothing() -> None:
    torch.manual_seed(0)
    fast: Any = weebill.convert(Scored().eval())
    x = torch.randn(1, 8, 9, 9)
    with torch.inference_mode():
        fast(x)
        records = fast.fusion.packed
        for size in range(3):
            fast.size = fast.inner.size = size  # the name is new once
            fast.residual = fast.inner.limit > 0  # as it was
            fast(x)
            if size == 0:
                records = fast.fusion.packed
    assert records is not None
    assert fast.fusion.packed is records


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("fused", [True, False])
def test_steps_of_optimizers_in_evaluation(make: Any, fused: bool) -> None:
    fast = made()
    other = made()
    x = torch.randn(2, 8, 9, 9)
    with torch.no_grad():
        other(x)
    records = other.fusion.packed
    optimizer = make(fast.parameters(), lr=0.01, fused=fused)
    for _ in range(3):
        fast(x).square().mean().backward()
        optimizer.step()
        with torch.inference_mode(), unfused():
            expected = fast(x)
        with torch.inference_mode():
            torch.testing.assert_close(fast(x), expected)
    assert other.fusion.packed is records


def first_call(model: Any, mode: Any) -> Any:
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad(), mode:
        model(x)
    return mode


def test_modes_see_the_call_and_not_the_packing() -> None:
    model = weebill.models.mobilenet_v3_small(num_classes=4).eval()
    counts = []
    for _ in range(2):
        counts.append(first_call(model, FlopCounterMode(display=False)).get_total_flops())
    assert counts[0] == counts[1] > 0
    names = [first_call(copy.deepcopy(model), Seen()).names for _ in range(2)]
    assert names[0] == names[1]
    assert any(name.startswith("weebill") for name in names[0])
    assert not any("convolution" in name for name in names[0])


def test_a_new_model_under_fake_tensors_and_traced() -> None:
    model = weebill.models.mobilenet_v3_small(num_classes=4).eval()
    with torch.no_grad():
        graph = make_fx(copy.deepcopy(model))(torch.randn(1, 3, 32, 32))
    assert not any("convolution" in str(node.target) for node in graph.graph.nodes)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        assert model(torch.empty(2, 3, 32, 32)).shape == (2, 4)


def test_threads_change_modes_and_weights_while_others_run() -> None:
    fast = made()
    x = torch.randn(1, 8, 9, 9)
    done = threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            while not done.is_set():
                fast(x).sum().backward()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(300):
        fast.eval()
        fast(x)
    done.set()
    for thread in threads:
        thread.join()
    assert errors == []


class InParts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = block()
        self.register_buffer("factor", torch.full((1, 8, 1, 1), 2.0))
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.features(x)
        return torch.cumsum(y, 1) * self.factor


@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("in_parts", [False, True])
def test_a_model_ends_with_its_last_reference(in_parts: bool, wanted: bool) -> None:
    fast: Any = weebill.convert(InParts().eval()) if in_parts else made()
    y = fast(torch.randn(1, 8, 9, 9, requires_grad=wanted))
    assert (fast.fusion.recipe is not None) == in_parts
    del y
    gone = weakref.ref(fast)
    gc.disable()
    try:
        del fast
        assert gone() is None
    finally:
        gc.enable()


def test_gradients_in_parts_follow_buffers_and_leave_the_unused_out() -> None:
    fast: Any = weebill.convert(InParts().eval())
    x = torch.randn(1, 8, 9, 9, requires_grad=True)
    fast(x).sum().backward()
    fast.factor = torch.full((1, 8, 1, 1), -3.0)
    (found,) = torch.autograd.grad(fast(x).sum(), x)
    with unfused():
        (expected,) = torch.autograd.grad(fast(x).sum(), x)
    torch.testing.assert_close(found, expected)
    fast.features.requires_grad_(requires_grad=False)
    assert not fast(x.detach()).requires_grad
    fast.factor.requires_grad_()
    (found,) = torch.autograd.grad(fast(x.detach()).sum(), fast.factor)
    with unfused():
        (expected,) = torch.autograd.grad(fast(x.detach()).sum(), fast.factor)
    torch.testing.assert_close(found, expected)


class Locked(nn.Module):
    """Cannot be pickled but by its own state."""

    def __init__(self) -> None:
        super().__init__()
        self.features = block()
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.features(x)
        return y

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.lock = threading.Lock()


def test_a_state_of_its_own() -> None:
    fast: Any = weebill.convert(Locked().eval())
    x = torch.randn(1, 8, 9, 9)
    for again in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert again.lock is not fast.lock
        assert isinstance(again, FusedModule)
        with torch.inference_mode():
            assert torch.equal(again(x), fast(x))


def test_registries_of_subclasses_are_not_written_to() -> None:
    registry: dict[str, type] = {}

    class Registered(nn.Module):
        def __init_subclass__(cls, **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            registry[cls.__name__] = cls

    class Network(Registered):
        def __init__(self) -> None:
            super().__init__()
            self.features = block()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.features(x)
            return y

    before = dict(registry)
    fast: Any = weebill.convert(Network().eval())
    assert isinstance(fast, FusedModule)
    assert {name: cls for name, cls in registry.items() if issubclass(cls, FusedModule)} == {}
    assert list(registry) == list(before)
