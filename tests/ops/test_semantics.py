"""What torch's users rely on: NaN, infinity, zeros of either sign, threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from tests.bounds import ACTIVATIONS
from tests.ops.cases import PLAIN_OPS, arguments, op, reference
from weebill import _reference, ops

INF, NAN = float("inf"), float("nan")
SPECIAL = (NAN, INF, -INF, 0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38, 6.0, -3.0, 3.0, 100.0, -100.0)


def same_kind(y: torch.Tensor, want: torch.Tensor) -> None:
    """NaN where torch has NaN, the same infinities, the same finite values up to rounding."""
    torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_special_values_through_an_activation(activation: str, isa: str) -> None:
    # 19 channels: whole vectors of every ISA and a rest. Identity weights pass values on.
    values = torch.tensor(SPECIAL)
    x = values[torch.arange(19 * 6).reshape(1, 19, 2, 3) % len(values)]
    weight = torch.ones(19, 1, 1, 1)
    y = ops.depthwise_conv2d(x, weight, activation=activation)
    same_kind(y, _reference.ACTIVATIONS[activation](x))


def test_negative_zero(isa: str) -> None:
    x = torch.full((1, 17, 2, 2), -0.0)
    y = ops.depthwise_conv2d(x, torch.ones(17, 1, 1, 1), torch.full((17,), -0.0))
    assert torch.signbit(y).all()


@pytest.mark.parametrize("special", [NAN, INF, -INF])
def test_special_values_stay_in_their_window(special: float, isa: str) -> None:
    # One pixel of one channel: it must reach what torch says it reaches, and nothing else. Small
    # integers, so that the finite sums are exact.
    def integers(*shape: int) -> torch.Tensor:
        return torch.randint(-4, 5, shape).float()

    def same(y: torch.Tensor, want: torch.Tensor) -> None:
        torch.testing.assert_close(y, want, rtol=0, atol=0, equal_nan=True)

    x = integers(2, 19, 9, 8)
    x[1, 7, 4, 3] = special
    dense, filters, matrix = integers(18, 19, 3, 3), integers(19, 1, 3, 3), integers(5, 19, 1, 1)
    same(ops.conv2d(x, dense, padding=1), F.conv2d(x, dense, padding=1))
    same(ops.depthwise_conv2d(x, filters, padding=1), F.conv2d(x, filters, None, 1, 1, 1, 19))
    same(ops.pointwise_conv2d(x, matrix), F.conv2d(x, matrix))


@pytest.mark.parametrize("special", [NAN, INF])
def test_special_values_through_a_block(special: float, isa: str) -> None:
    _, *rest = arguments("inverted_residual")
    x = torch.randn(2, 6, 7, 5)
    x[1, 2, 3, 3] = special
    # The squeeze spreads it over the image; the other image stays clean.
    y, want = op("inverted_residual")(x, *rest), reference("inverted_residual")(x, *rest)
    assert torch.equal(y.isnan(), want.isnan())
    assert torch.isfinite(y[0]).all()


def test_padding_is_zero_and_not_a_product(isa: str) -> None:
    # An infinite weight that only ever meets padding does not make NaN.
    weight = torch.zeros(17, 1, 3, 3)
    weight[:, 0, 0] = INF
    x = torch.ones(1, 17, 1, 4)
    y = ops.depthwise_conv2d(x, weight, padding=(1, 1, 1, 1))
    same_kind(y, torch.zeros_like(y))


@pytest.fixture
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("restored_threads")
@pytest.mark.parametrize("name", PLAIN_OPS)
def test_threads_do_not_change_a_bit(name: str, isa: str) -> None:
    x, *rest = arguments(name)
    x = torch.randn(3, x.shape[1], 57, 41)
    results = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        results.append(op(name)(x, *rest))
    for result in results[1:]:
        assert torch.equal(result, results[0])


@pytest.mark.usefixtures("restored_threads")
def test_torchs_threads_and_those_of_the_runtime_are_two_numbers() -> None:
    from weebill import config

    before = config.threads()
    torch.set_num_threads(before + 2)
    assert config.threads() == config.info()["threads"] == before
    config.set_threads(before + 1)
    assert torch.get_num_threads() == before + 2
    config.set_threads(before)


@pytest.mark.usefixtures("restored_threads")
def test_calls_from_several_threads() -> None:
    from concurrent.futures import ThreadPoolExecutor

    torch.set_num_threads(2)
    x, *rest = arguments("inverted_residual")
    inputs = [torch.randn(1, x.shape[1], 20 + i, 30) for i in range(8)]
    wanted = [op("inverted_residual")(x, *rest) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            results = list(pool.map(lambda x: op("inverted_residual")(x, *rest), inputs))
            for result, want in zip(results, wanted, strict=True):
                assert torch.equal(result, want)
