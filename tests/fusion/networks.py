"""A small network for the tests of graphs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weebill.nn import InvertedResidual


class Net(nn.Module):
    """A stem, a block, a head: one fused call after conversion."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8)
        self.block = InvertedResidual(8, 16, 8, squeeze_channels=8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(torch.relu(self.norm(self.stem(x))))
        return self.head(y.mean((2, 3)))  # type: ignore[no-any-return]
