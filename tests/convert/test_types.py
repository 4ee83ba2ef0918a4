"""Types and devices of fused modules, whole and in parts: run as documented, or refused by name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import weebill
from tests.convert.foreign import settle
from tests.convert.test_convert import distance
from tests.convert.test_split import Mixed
from tests.fusion.networks import Net
from weebill.nn import FusedModule, unfused

TYPES = [torch.float64, torch.float16, torch.bfloat16]


@pytest.fixture(params=[Net, Mixed], ids=["whole", "parts"])
def fast(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    model = weebill.convert(settle(request.param(), torch.randn(8, 3, 33, 40)))
    assert isinstance(model, FusedModule)
    assert model.fusion.prepare(model)
    assert (model.fusion.program is None) == (request.param is Mixed)
    return model


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 21, 18)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_weights_of_another_type_run_plain(fast: Any, x: Tensor, dtype: torch.dtype) -> None:
    with torch.no_grad():
        expected = fast(x)
        moved = copy.deepcopy(fast).to(dtype)
        y = moved(x.to(dtype))
        with unfused():
            assert torch.equal(y, moved(x.to(dtype)))
        assert y.dtype == dtype
        back = moved.float()
        assert distance(back(x), expected) <= (1e-6 if dtype == torch.float64 else 0.1)
        assert back.fusion.prepare(back)


@pytest.mark.parametrize("dtype", [*TYPES, torch.int64, torch.complex64], ids=str)
def test_an_input_of_another_type_is_refused(fast: Any, x: Tensor, dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    with torch.no_grad(), pytest.raises(TypeError, match=f"^run: x must be float32, got {name}$"):
        fast(x.to(dtype))


def test_an_input_on_another_device_is_refused(fast: Any, x: Tensor) -> None:
    with torch.no_grad(), pytest.raises(TypeError, match="^run: x must be on the cpu, got meta$"):
        fast(x.to("meta"))


def test_a_model_on_another_device_runs_plain(fast: Any, x: Tensor) -> None:
    with torch.no_grad():
        y = fast.to("meta")(x.to("meta"))
    assert y.device.type == "meta"
    assert y.shape == (2, 5)


def test_autocast_runs_plain(fast: Any, x: Tensor) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = fast(x)
        with unfused():
            assert torch.equal(y, fast(x))
        assert y.dtype == torch.bfloat16


def test_fake_tensors_give_the_shape(fast: Any, x: Tensor) -> None:
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        y = fast(mode.from_tensor(x))
    assert isinstance(y, FakeTensor)
    assert y.shape == (2, 5)
    assert y.dtype == torch.float32
