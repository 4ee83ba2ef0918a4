"""Learning rate, weight decay and moving average."""

from __future__ import annotations

import math

import pytest
from torch import nn

from tests.train.data import small_network
from weebill.train import Recipe
from weebill.train.optim import learning_rate, make_average, make_optimizer, make_scheduler


def test_learning_rate_rises_and_falls() -> None:
    rates = [learning_rate(step, warmup_steps=10, total_steps=110) for step in range(111)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10] == 1
    assert rates[60] == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
    assert rates[110] == pytest.approx(0)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_no_warm_up_starts_at_the_peak() -> None:
    assert learning_rate(0, warmup_steps=0, total_steps=5) == 1


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weight_decay_leaves_biases_and_normalisation(name: str) -> None:
    model = small_network()
    optimizer = make_optimizer(model, Recipe(optimizer=name, weight_decay=0.1))  # type: ignore[arg-type]
    decayed = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for parameter in model.parameters():
        assert decayed.pop(id(parameter)) == (0.1 if parameter.ndim > 1 else 0.0)
    assert decayed == {}


def test_scheduler_sets_the_peak_after_warm_up() -> None:
    optimizer = make_optimizer(small_network(), Recipe(lr=0.5))
    scheduler = make_scheduler(optimizer, warmup_steps=1, total_steps=4)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.25, 0.5, 0.375, 0.125])


def test_average_is_exponential_with_the_statistics() -> None:
    convolution, norm = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1)
    assert norm.running_mean is not None
    model = nn.Sequential(convolution, norm)
    average = make_average(model, Recipe(ema_decay=0.75))
    assert average is not None
    values = []
    for value in (0.0, 4.0, 8.0):
        nn.init.constant_(convolution.weight, value)
        nn.init.constant_(norm.running_mean, value)
        average.update_parameters(model)
        values.append((average.module[0].weight.item(), average.module[1].running_mean.item()))
    assert values == [(0, 0), (1, 1), (2.75, 2.75)]
    assert make_average(model, Recipe(ema_decay=0.0)) is None
