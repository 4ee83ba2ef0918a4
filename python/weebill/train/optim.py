"""Optimizer, learning rate and moving average of a recipe."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from weebill.train.recipe import Recipe

__all__ = ["learning_rate", "make_average", "make_optimizer", "make_scheduler"]


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer, with weight decay for what has more than one dimension."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0
        )
    return torch.optim.AdamW(groups, lr=recipe.lr)


def learning_rate(step: int, *, warmup_steps: int, total_steps: int) -> float:
    """The factor of the peak learning rate at a step, counted from 0; see `Recipe`."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def make_scheduler(
    optimizer: torch.optim.Optimizer, *, warmup_steps: int, total_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Sets the learning rate of every step."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: learning_rate(step, warmup_steps=warmup_steps, total_steps=total_steps),
    )


def make_average(model: nn.Module, recipe: Recipe) -> AveragedModel | None:
    """The exponential moving average of the weights and of BatchNorm's statistics, if wanted."""
    if not recipe.ema_decay:
        return None
    return AveragedModel(
        model,
        multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay),  # type: ignore[no-untyped-call]
        use_buffers=True,
    )
