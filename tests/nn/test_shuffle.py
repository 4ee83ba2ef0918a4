"""ChannelShuffle and the units: plain in training, fused in evaluation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import weebill
from weebill.nn import ChannelShuffle, ShuffleUnit, ShuffleUnitV1, unfused


@pytest.mark.parametrize("training", [False, True])
def test_channel_shuffle(training: bool) -> None:
    module = ChannelShuffle(3).train(training)
    x = torch.randn(2, 12, 5, 4, requires_grad=True)
    y = module(x)
    assert torch.equal(y, F.channel_shuffle(x, 3))
    (gradient,) = torch.autograd.grad((y * y.detach()).sum(), x)
    assert torch.equal(gradient, x)
    with pytest.raises(ValueError, match="groups must be >= 1, got 0"):
        ChannelShuffle(0)


@pytest.mark.parametrize(("channels", "stride"), [((24, 58), 2), ((58, 58), 1), ((4, 6), 3)])
def test_unit_is_fused_in_evaluation(channels: tuple[int, int], stride: int) -> None:
    torch.manual_seed(0)
    unit = ShuffleUnit(*channels, stride)
    unit.train()(torch.randn(4, channels[0], 9, 7))
    unit.eval()
    x = torch.randn(2, channels[0], 11, 6)
    with torch.inference_mode():
        y = unit(x)
        with unfused():
            expected = unit(x)
    assert (y - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert weebill.report(unit).calls == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"in_channels": 24, "out_channels": 240, "stride": 2, "expand_groups": 1},
        {"in_channels": 240, "out_channels": 240},
        {"in_channels": 24, "out_channels": 144, "groups": 1, "stride": 2},
        {"in_channels": 64, "out_channels": 64, "groups": 8},
        {"in_channels": 4, "out_channels": 48, "groups": 4, "stride": 3},
        {"in_channels": 8, "out_channels": 8, "groups": 1},
        {"in_channels": 12, "out_channels": 12, "groups": 3},
    ],
    ids=str,
)
def test_unit_v1_is_fused_in_evaluation(arguments: dict[str, int]) -> None:
    torch.manual_seed(0)
    unit = ShuffleUnitV1(**arguments)
    unit.train()(torch.randn(4, arguments["in_channels"], 9, 7))
    unit.eval()
    x = torch.randn(2, arguments["in_channels"], 11, 6)
    with torch.inference_mode():
        y = unit(x)
        with unfused():
            expected = unit(x)
    assert y.shape == expected.shape
    assert (y - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert weebill.report(unit).calls == 1


@pytest.mark.parametrize(
    "unit", [ShuffleUnit(8, 8), ShuffleUnitV1(8, 8, groups=2)], ids=["v2", "v1"]
)
def test_unit_trains(unit: torch.nn.Module) -> None:
    unit.train()
    unit(torch.randn(2, 8, 5, 5)).sum().backward()
    assert all(p.grad is not None for p in unit.parameters())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((8, 10), r"in_channels must be 10 \(out_channels\) with stride 1, got 8"),
        ((8, 7, 2), "out_channels must be even, got 7"),
        ((8, 8, 0), "stride must be from 1 to 3, got 0"),
    ],
)
def test_wrong_arguments(arguments: tuple[int, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ShuffleUnit(*arguments)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((8, 16, 2), r"in_channels must be 16 \(out_channels\) with stride 1, got 8"),
        ((8, 12, 2), r"out_channels must be a multiple of 8 \(4 \* groups\), got 12"),
        ((16, 16, 2, 2), r"out_channels - in_channels must be a positive multiple of 2 .*, got 0"),
        ((7, 16, 2, 2), r"out_channels - in_channels must be a positive multiple of 2 .*, got 9"),
        ((8, 8, 0), "groups must be >= 1, got 0"),
        ((8, 8, 2, 4), "stride must be from 1 to 3, got 4"),
        ((8, 8, 2, 1, 3), "expand_groups must divide 8 and 2, got 3"),
    ],
)
def test_wrong_arguments_v1(arguments: tuple[int, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ShuffleUnitV1(*arguments)
