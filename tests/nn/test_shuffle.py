"""ChannelShuffle and ShuffleUnit: plain in training, fused in evaluation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import weebill
from weebill.nn import ChannelShuffle, ShuffleUnit, unfused


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


def test_unit_trains() -> None:
    unit = ShuffleUnit(8, 8).train()
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
