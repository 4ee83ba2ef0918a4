"""weebill.convert on networks of all origins, and weebill.report about them."""

from __future__ import annotations

import copy
import gc
import json
import pickle
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import weebill
from tests.convert.foreign import foreign_model, settle
from weebill import _C
from weebill.fusion import cost
from weebill.models import efficientnet_lite0, mobilenet_v3_large, mobilenet_v3_small
from weebill.nn import FusedModule, InvertedResidual

FOREIGN = [
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/mobilenet_v3_small",
    "torchvision/mobilenet_v3_large",
    "torchvision/mobilenet_v2",
    "torchvision/mnasnet0_5",
    "torchvision/efficientnet_b0",
    "timm/mobilenetv3_small_100",
    "timm/mobilenetv3_large_100",
    "timm/tf_mobilenetv3_large_100",
    "timm/mobilenetv2_100",
    "timm/efficientnet_lite0",
    "timm/tf_efficientnet_lite0",
    "timm/mobilenetv1_100",
]


def distance(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def assert_near(found: Tensor, model: nn.Module, x: Tensor) -> None:
    """No further from the exact result than 1e-5, or twice what plain torch is, if that is more."""
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(x.double())
        own = distance(model(x).double(), exact)
    error = distance(found.double(), exact)
    assert error <= max(1e-5, 2 * own)


def small() -> nn.Module:
    torch.manual_seed(0)
    return settle(mobilenet_v3_small(num_classes=10), torch.randn(8, 3, 64, 64))


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_networks_become_one_call(name: str) -> None:
    model = settle(foreign_model(name), torch.randn(4, 3, 96, 96))
    fast = weebill.convert(model)
    x = torch.randn(2, 3, 96, 80)
    with torch.inference_mode():
        assert_near(fast(x), model, x)
    found = weebill.report(fast, (1, 3, 96, 96))
    assert found.calls == 1
    assert found.fused_share == 1.0
    assert all(entry.fused for entry in found.entries)
    assert list(fast.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize(
    "make", [mobilenet_v3_small, mobilenet_v3_large, efficientnet_lite0], ids=lambda f: f.__name__
)
def test_own_networks_become_one_call(make: Any) -> None:
    torch.manual_seed(0)
    model = settle(make(), torch.randn(4, 3, 96, 96))
    plain = copy.deepcopy(model).double()  # fused modules run plain in float64
    x = torch.randn(2, 3, 96, 80)
    with torch.inference_mode():
        fast = weebill.convert(model)  # also from within inference mode
        expected = plain(x.double())
        assert distance(fast(x).double(), expected) <= 1e-5
        assert distance(model(x).double(), expected) <= 1e-5  # a call per block
    assert weebill.report(fast).calls == 1
    assert weebill.report(model).calls > 10


@pytest.mark.parametrize("name", ["timm/mobilenetv4_conv_small", "timm/ghostnet_050"])
def test_fused_in_parts(name: str) -> None:
    model = settle(foreign_model(name), torch.randn(4, 3, 96, 96))
    fast = weebill.convert(model)
    x = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        assert_near(fast(x), model, x)
    found = weebill.report(fast, (1, 3, 96, 96))
    assert found.calls > 1
    assert found.fused_share is not None
    assert found.fused_share > 0.99
    assert all(entry.reason for entry in found.entries if not entry.fused)


def test_the_original_is_untouched() -> None:
    model = foreign_like()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    fast = weebill.convert(model)
    assert type(model) is Foreign
    assert model.training
    assert not fast.training
    assert isinstance(fast, Foreign)
    assert isinstance(fast, FusedModule)
    for key, value in fast.state_dict().items():
        assert torch.equal(value, before[key])
        assert value.data_ptr() != model.state_dict()[key].data_ptr()


def test_in_place_and_twice() -> None:
    model = foreign_like()
    assert weebill.convert(model, inplace=True) is model
    assert isinstance(model, FusedModule)
    cls = type(model)
    again = weebill.convert(model)
    assert type(again) is cls
    assert weebill.report(again).to_dict() == weebill.report(model).to_dict()


def test_copies_pickles_and_state_dicts() -> None:
    fast = weebill.convert(small())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = fast(x)
        for twin in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
            assert torch.equal(twin(x), expected)
            assert weebill.report(twin).calls == 1
        fresh = mobilenet_v3_small(num_classes=10).eval()
        fresh.load_state_dict(fast.state_dict())
        assert distance(fresh(x), expected) <= 1e-5
        other = weebill.convert(mobilenet_v3_small(num_classes=10))
        other(x)
        other.load_state_dict(fast.state_dict())
        assert torch.equal(other(x), expected)


def test_parts_of_a_converted_network_are_fused_too() -> None:
    model = foreign_like()
    fast = weebill.convert(model)
    x = torch.randn(1, 3, 16, 16)
    with torch.inference_mode():
        assert distance(fast.features(x), model.features(x)) <= 1e-5
    assert fast.features.fusion.program is not None


def test_a_converted_network_trains() -> None:
    model = foreign_like()
    fast = weebill.convert(model)
    x = torch.randn(4, 3, 16, 16)
    twins = (model.train(), fast.train())
    outputs = []
    for twin in twins:
        optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
        twin(x).square().mean().backward()
        optimizer.step()
        outputs.append(twin(x))
    assert torch.equal(*outputs)
    with torch.inference_mode():
        assert distance(fast.eval()(x), model.eval()(x)) <= 1e-5


class Block(nn.Module):
    """Squeeze-excite by views and linear layers, activations by hand, as some codes have them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 3 * channels
        self.expand = nn.Conv2d(channels, wide, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(wide)
        self.depthwise = nn.Conv2d(wide, wide, 5, padding=2, groups=wide, bias=False)
        self.norm2 = nn.BatchNorm2d(wide)
        self.fc = nn.Sequential(nn.Linear(wide, 10), nn.ReLU(), nn.Linear(10, wide), nn.Sigmoid())
        self.project = nn.Conv2d(wide, channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.expand(x))
        y = y * nn.functional.relu6(y + 3) / 6
        y = self.norm2(self.depthwise(y))
        y = y * torch.clamp(y + 3, 0, 6) / 6
        n, c, _, _ = y.size()
        gate = self.fc(nn.functional.adaptive_avg_pool2d(y, 1).view(n, c)).view(n, c, 1, 1)
        y = y * gate.expand_as(y)
        return x + self.norm3(self.project(y))  # type: ignore[no-any-return]


class Foreign(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6(), Block(8), Block(8)
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean([2, 3]))  # type: ignore[no-any-return]


def foreign_like() -> Any:
    torch.manual_seed(0)
    return settle(Foreign(), torch.randn(8, 3, 16, 16))


def test_structure_counts_and_not_names() -> None:
    model = foreign_like()
    fast = weebill.convert(model)
    x = torch.randn(2, 3, 15, 18)
    with torch.inference_mode():
        assert_near(fast(x), model, x)
    whats = [entry.what for entry in weebill.report(fast).entries]
    assert whats == [
        "convolution 3-8, 3x3, stride 2, relu6",
        "inverted residual 8-24-8, 5x5, hardswish, SE, residual",
        "inverted residual 8-24-8, 5x5, hardswish, SE, residual",
        "global average pool 8",
        "pointwise 8-5",
    ]


class Two(nn.Module):
    """Tuple out, a dictionary in, and a block inside."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        y = self.inner(batch["image"])
        return y, {"double": 2 * y}


def block() -> nn.Module:
    torch.manual_seed(0)
    return settle(
        nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.Conv2d(8, 16, 1)),
        torch.randn(4, 8, 9, 9),
    )


def test_tuples_and_dictionaries() -> None:
    model = Two(block())
    fast = weebill.convert(model)
    batch = {"image": torch.randn(1, 8, 9, 9)}
    with torch.inference_mode():
        y, extra = fast(batch)
        assert distance(y, model(batch)[0]) <= 1e-5
        assert torch.equal(extra["double"], 2 * y)
    assert isinstance(fast.inner, FusedModule)
    assert not isinstance(fast, FusedModule)


def reasons(model: nn.Module) -> str:
    return "\n".join(entry.reason for entry in weebill.report(weebill.convert(model)).entries)


class Scaled(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        y: Tensor = self._conv_forward(input, self.weight / self.weight.norm(), self.bias)
        return y


def two(first: nn.Module) -> nn.Module:
    return nn.Sequential(first, nn.Conv2d(8, 8, 1))


LEFT: dict[str, tuple[nn.Module, str]] = {
    "reflect": (two(nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")), "padding_mode"),
    "no statistics": (
        nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, track_running_stats=False)),
        "no running statistics",
    ),
    "group norm": (nn.Sequential(nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8)), "GroupNorm"),
    "gelu": (nn.Sequential(nn.Conv2d(8, 8, 1), nn.GELU()), "GELU"),
    "parametrized": (
        two(nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3))),
        "its weight is computed",
    ),
    "own forward": (two(Scaled(8, 8, 3)), "no plain convolution"),
    "norm first": (nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)), "follows no convolution"),
    "float64": (nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()).double(), "float64"),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_has_no_fused_form_is_left_exact_and_told(name: str) -> None:
    model, reason = LEFT[name]
    model.eval()
    fast = weebill.convert(model)
    x = torch.randn(2, 8, 9, 9, dtype=next(model.parameters()).dtype)
    with torch.inference_mode():
        assert torch.equal(fast(x), model(x))
    assert type(fast) is type(model)
    assert reason in reasons(model)


def test_hooks_are_kept_and_fire() -> None:
    model = block()
    calls: list[int] = []
    model[1].register_forward_hook(lambda *_: calls.append(1))
    fast = weebill.convert(model)
    assert calls == []
    with torch.inference_mode():
        fast(torch.randn(1, 8, 9, 9))
    assert calls == [1]
    assert "1 has hooks" in reasons(model)


def test_shared_modules() -> None:
    shared = InvertedResidual(8, 16, 8)
    model = settle(nn.Sequential(shared, shared), torch.randn(4, 8, 9, 9))
    fast = weebill.convert(model)
    x = torch.randn(1, 8, 9, 9)
    with torch.inference_mode():
        expected = shared.block(shared.block(x) + x) + shared.block(x) + x
        assert distance(fast(x), expected) <= 1e-5
    assert len(weebill.report(fast).entries) == 2


def test_a_head_alone() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5), nn.Hardswish())
    fast = weebill.convert(model.eval())
    x = torch.randn(2, 8, 7, 6)
    with torch.inference_mode():
        assert_near(fast(x), model, x)
    assert isinstance(fast, FusedModule)


class Frozen(nn.Module):
    """As detection networks have it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.eps = 1e-3
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


def test_frozen_batch_norm() -> None:
    model = nn.Sequential(
        nn.Conv2d(8, 8, 3, groups=8), Frozen(8), nn.ReLU(), nn.Conv2d(8, 6, 1), Frozen(6)
    ).eval()
    fast: Any = weebill.convert(model)
    assert isinstance(fast, FusedModule)
    x = torch.randn(2, 8, 9, 9)
    with torch.inference_mode():
        assert_near(fast(x), model, x)
        model[1].running_var.mul_(2)
        fast.load_state_dict(model.state_dict())
        assert_near(fast(x), model, x)
        for net in (fast, model):
            net[4].eps = 0.5
        assert_near(fast(x), model, x)


def dense(c_in: int, groups: int = 1) -> nn.Module:
    layers = nn.Sequential(nn.Conv2d(c_in, 32, 3, groups=groups), nn.BatchNorm2d(32), nn.ReLU())
    return layers.eval()


def test_dense_convolutions_are_left_to_torch_where_it_is_as_fast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cost, "FAST_DENSE", ())
    assert isinstance(weebill.convert(dense(3)), FusedModule)
    for layers in (dense(32), dense(16, groups=4)):
        left = weebill.convert(layers)
        assert type(left) is nn.Sequential
        assert "does not pay: 100 %" in weebill.report(left).entries[0].reason
    monkeypatch.setattr(cost, "FAST_DENSE", (_C.isa(),))
    for layers in (dense(32), dense(16, groups=4)):
        assert isinstance(weebill.convert(layers), FusedModule)
    assert type(weebill.convert(dense(64, groups=32))) is nn.Sequential


def test_a_data_parallel_wrapper() -> None:
    model = nn.DataParallel(block())
    fast = weebill.convert(model)
    assert isinstance(fast.module, FusedModule)
    x = torch.randn(1, 8, 9, 9)
    with torch.inference_mode():
        assert_near(fast(x), model, x)


def test_padding_same_of_torch_and_asymmetric_kernels() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, (4, 3), padding="same", groups=8), nn.Conv2d(8, 9, 1))
    model.eval()
    fast = weebill.convert(model)
    x = torch.randn(2, 8, 9, 9)
    with torch.inference_mode():
        assert_near(fast(x), model, x)
    assert isinstance(fast, FusedModule)


def test_a_wrong_fused_result_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from weebill.fusion.packed import Packed

    right = Packed.run
    monkeypatch.setattr(Packed, "run", lambda self, x: right(self, x) * 1.001)
    model = block()
    fast = weebill.convert(model)
    assert type(fast) is nn.Sequential
    assert "the fused result differs" in reasons(model)


def test_report_is_json_and_a_table() -> None:
    fast = weebill.convert(small())
    found = weebill.report(fast, (1, 3, 64, 64))
    data = json.loads(json.dumps(found.to_dict()))
    assert data["model"] == "MobileNetV3"
    assert data["fused_share"] == 1.0
    assert len(data["entries"]) == len(found.entries) == 16
    lines = str(found).splitlines()
    assert lines[0] == (
        "MobileNetV3: 16 blocks fused into 1 call, 100.0 % of the multiply-adds; nothing left"
    )
    assert len(lines) == 18
    assert "features.1.block" in lines[3]
    assert "depthwise-pointwise 16-16, 3x3, stride 2, relu, SE" in lines[3]


def test_report_before_conversion() -> None:
    entries = weebill.report(block()).entries
    assert [entry.fused for entry in entries] == [False] * 3
    assert all("not converted" in entry.reason for entry in entries)


@pytest.mark.parametrize("function", [weebill.convert, weebill.report])
def test_no_module(function: Any) -> None:
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got int"):
        function(3)


@pytest.mark.parametrize("collects", [True, False])
def test_garbage_collection_stays_as_it_was(collects: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        weebill.convert(small())
        assert gc.isenabled() == collects
        with pytest.raises(TypeError, match="model must be"):
            weebill.convert(cast(Any, None))
        computed = nn.Linear(2, 2)  # holds a tensor that can't be copied
        computed.register_buffer("twice", 2 * computed.weight)
        with pytest.raises(RuntimeError, match="graph leaves"):
            weebill.convert(computed)
        assert gc.isenabled() == collects
    finally:
        (gc.enable if before else gc.disable)()
