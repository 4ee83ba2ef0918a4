"""Channel shuffle and the units of ShuffleNetV2 and V1 as torch modules.

That of V2 has torchvision's state dict.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weebill import ops
from weebill.fusion.module import FusedModule
from weebill.nn import _nodes, _training


class ChannelShuffle(nn.Module):
    """Deals the channels of `groups` groups out in turn.

        y[n, i * groups + j] = x[n, j * (C / groups) + i]

    In evaluation `weebill.ops.channel_shuffle`; in training, for tensors that are not on the CPU
    and while a graph is traced, plain torch. Inside a network `weebill.convert` fuses it.

    Args:
        groups: Divides the channels.

    Shapes: (N, C, H, W) -> (N, C, H, W).

    Raises:
        ValueError: `groups` is not positive, or does not divide C.

    Source: ShuffleNet, arXiv:1707.01083, section 3.1.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        if groups < 1:
            raise ValueError(f"ChannelShuffle: groups must be >= 1, got {groups}")
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        fused = (
            not self.training
            and isinstance(x, Tensor)
            and x.device.type == "cpu"
            and x.dim() == 4
            and not torch.compiler.is_compiling()
        )
        return ops.channel_shuffle(x, self.groups) if fused else _shuffle(x, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


def _shuffle(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleUnit(FusedModule):
    """ShuffleNetV2's unit, torchvision's `InvertedResidual` of `shufflenetv2`.

        stride 1:  y = channel_shuffle(concat(x1, branch2(x2)), 2),  x1 and x2 the halves of x
        stride 2:  y = channel_shuffle(concat(branch1(x), branch2(x)), 2)

    branch1 is depthwise 3 x 3, 1 x 1; branch2 is 1 x 1, depthwise 3 x 3, 1 x 1; BatchNorm after
    each, ReLU after the 1 x 1s.

    Args:
        in_channels, out_channels: C, O.
        stride: Of the depthwise convolutions. 1: C == O.

    Shapes: (N, C, H, W) -> (N, O, ceil(H / stride), ceil(W / stride)).

    Raises:
        ValueError: A number does not fit.

    State dict: `branch1.0` ... `branch1.4` (stride > 1), `branch2.0` ... `branch2.7`.

    Source: ShuffleNet V2, arXiv:1807.11164, figure 3 (c) and (d).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        if not 1 <= stride <= 3:
            raise ValueError(f"ShuffleUnit: stride must be from 1 to 3, got {stride}")
        if out_channels < 2 or out_channels % 2:
            raise ValueError(f"ShuffleUnit: out_channels must be even, got {out_channels}")
        if stride == 1 and in_channels != out_channels:
            raise ValueError(
                f"ShuffleUnit: in_channels must be {out_channels} (out_channels) with stride 1, "
                f"got {in_channels}"
            )
        half = out_channels // 2
        self.stride = stride
        self.branch1 = nn.Sequential()
        if stride > 1:
            self.branch1 = nn.Sequential(
                *_depthwise(in_channels, stride), *_pointwise(in_channels, half)
            )
        self.branch2 = nn.Sequential(
            *_pointwise(in_channels if stride > 1 else half, half),
            *_depthwise(half, stride),
            *_pointwise(half, half),
        )

    def forward(self, x: Tensor) -> Tensor:
        if (
            self.training
            and _training.is_active(x)
            and _training.is_plain(self.branch1, self.branch2)
        ):
            return self._on_kernels(x)
        if self.stride == 1:
            x1, x2 = x.chunk(2, dim=1)
            y = torch.cat((x1, self.branch2(x2)), dim=1)
        else:
            y = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return _shuffle(y, 2)

    def _on_kernels(self, x: Tensor) -> Tensor:
        """The same in training, pixels of all channels side by side throughout."""
        x = x.contiguous(memory_format=torch.channels_last)
        rest = x if self.stride > 1 else x[:, x.shape[1] // 2 :]
        runs = _training.nodes_of(self.branch1, x), _training.nodes_of(self.branch2, rest)
        if runs[0] is not None and runs[1] is not None:
            return _nodes.shuffled(runs[0], runs[1], x)
        if self.stride == 1:
            first, rest = (
                half.permute(0, 3, 1, 2) for half in x.permute(0, 2, 3, 1).chunk(2, dim=-1)
            )
        else:
            first, rest = _training.run(self.branch1, x), x
        halves = first, _training.run(self.branch2, rest)
        y = torch.cat([half.permute(0, 2, 3, 1) for half in halves], dim=-1)
        return ops.channel_shuffle(y.permute(0, 3, 1, 2), 2)


class ShuffleUnitV1(FusedModule):
    """ShuffleNetV1's unit.

        stride 1:  y = relu(x + branch(x))
        stride 2:  y = relu(concat(average_pool(x), branch(x)))

    The branch is 1 x 1 in groups to O / 4 channels, ReLU, channel shuffle, depthwise 3 x 3, 1 x 1
    in groups; BatchNorm after each convolution. The average pool is 3 x 3 and counts the zeros of
    its padding.

    Args:
        in_channels, out_channels: C, O.
        groups: Of the shuffle and the 1 x 1 convolutions; divides O / 4 and the branch's channels.
        stride: Of the depthwise convolution and the pool. 1: C == O; else C < O.
        expand_groups: Of the first 1 x 1 convolution. Default: `groups`. The first unit of a
            ShuffleNetV1 has 1.

    Shapes: (N, C, H, W) -> (N, O, ceil(H / stride), ceil(W / stride)).

    Raises:
        ValueError: A number does not fit.

    State dict: `branch.0` ... `branch.7`.

    Source: ShuffleNet, arXiv:1707.01083, figure 2 (b) and (c).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        groups: int = 3,
        stride: int = 1,
        expand_groups: int | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= stride <= 3:
            raise ValueError(f"ShuffleUnitV1: stride must be from 1 to 3, got {stride}")
        if groups < 1:
            raise ValueError(f"ShuffleUnitV1: groups must be >= 1, got {groups}")
        if out_channels < 4 or out_channels % (4 * groups):
            raise ValueError(
                f"ShuffleUnitV1: out_channels must be a multiple of {4 * groups} (4 * groups), "
                f"got {out_channels}"
            )
        if stride == 1 and in_channels != out_channels:
            raise ValueError(
                f"ShuffleUnitV1: in_channels must be {out_channels} (out_channels) with stride 1, "
                f"got {in_channels}"
            )
        width = out_channels - (in_channels if stride > 1 else 0)
        if width < 1 or width % groups:
            raise ValueError(
                f"ShuffleUnitV1: out_channels - in_channels must be a positive multiple of "
                f"{groups} (groups) with stride {stride}, got {width}"
            )
        first = groups if expand_groups is None else expand_groups
        middle = out_channels // 4
        if first < 1 or in_channels % first or middle % first:
            raise ValueError(
                f"ShuffleUnitV1: expand_groups must divide {in_channels} and {middle}, got {first}"
            )
        self.stride = stride
        self.branch = nn.Sequential(
            *_pointwise(in_channels, middle, first),
            ChannelShuffle(groups) if 1 < groups < middle else nn.Identity(),  # else no move
            *_depthwise(middle, stride),
            *_pointwise(middle, width, groups)[:2],
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        if self.stride == 1:
            return F.relu(x + y)
        return F.relu(torch.cat((F.avg_pool2d(x, 3, self.stride, 1), y), dim=1))


def _pointwise(c_in: int, c_out: int, groups: int = 1) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(c_in, c_out, 1, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)


def _depthwise(channels: int, stride: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
    return conv, nn.BatchNorm2d(channels)
