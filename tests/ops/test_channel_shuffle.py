"""channel_shuffle: every dtype and layout, bit for bit, and its gradient."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.bounds import layouts
from weebill import ops

# Without quantized ones, and those of less than a byte, which torch itself can't index.
DTYPES = sorted(
    {
        value
        for value in vars(torch).values()
        if isinstance(value, torch.dtype)
        and not re.fullmatch(r"torch\.(qu?int.*|u?int[1-7]|bits[124].*)", str(value))
    },
    key=str,
)


def random_of(dtype: torch.dtype, *shape: int) -> Tensor:
    """Random bits, as a tensor of the dtype."""
    values = 2 if dtype == torch.bool else 256
    return torch.randint(0, values, (*shape, dtype.itemsize), dtype=torch.uint8).view(dtype)[..., 0]


def bits(x: Tensor) -> Tensor:
    return x.contiguous().unsqueeze(-1).view(torch.uint8)


def expected(x: Tensor, groups: int) -> Tensor:
    """On the bits: torch can't copy tensors of every dtype."""
    n, c, h, w = x.shape
    values = bits(x).reshape(n, groups, c // groups, h, w, -1)
    return values.transpose(1, 2).reshape(n, c, h, w, -1)


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 6, 8, 24, 48])
@pytest.mark.parametrize("shape", [(1, 48, 7, 5), (2, 96, 3, 4), (0, 48, 3, 3), (1, 144, 1, 1)])
def test_value(groups: int, shape: tuple[int, ...], isa: str) -> None:
    x = torch.randn(shape)
    for form in (torch.contiguous_format, torch.channels_last):
        y = ops.channel_shuffle(x.contiguous(memory_format=form), groups)
        assert torch.equal(y, F.channel_shuffle(x, groups))
        assert y.is_contiguous(memory_format=form)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    plain = random_of(dtype, 2, 6, 5, 3)
    lasting = random_of(dtype, 2, 5, 3, 6).permute(0, 3, 1, 2)
    sliced = random_of(dtype, 2, 5, 3, 9).permute(0, 3, 1, 2)[:, 2:8]
    for x in (plain, lasting, sliced, plain.transpose(2, 3)):
        y = ops.channel_shuffle(x, 3)
        assert y.dtype == dtype
        assert torch.equal(bits(y), expected(x, 3))
    assert ops.channel_shuffle(plain, 3).is_contiguous()
    for x in (lasting, sliced):
        assert ops.channel_shuffle(x, 3).is_contiguous(memory_format=torch.channels_last)


def test_layouts() -> None:
    for x in layouts(torch.randn(2, 12, 7, 8)).values():
        assert torch.equal(ops.channel_shuffle(x, 4), F.channel_shuffle(x.contiguous(), 4))


def test_special_values_keep_their_bits() -> None:
    x = torch.tensor([0x7F800001, 0x7FC0DEAD, -0x80000000, 1], dtype=torch.int32)
    x = x.repeat(8).reshape(1, 32, 1, 1).view(torch.float32)
    for form in (torch.contiguous_format, torch.channels_last):
        y = ops.channel_shuffle(x.contiguous(memory_format=form), 2)
        assert torch.equal(bits(y), expected(x, 2))


def test_views_of_complex_tensors() -> None:
    x = torch.randn(1, 6, 2, 2, dtype=torch.complex64)
    assert torch.equal(ops.channel_shuffle(x.conj(), 3), F.channel_shuffle(x, 3).conj())
    assert torch.equal(ops.channel_shuffle(x.conj().imag, 2), F.channel_shuffle(x.conj().imag, 2))


def test_is_undone_by_the_other_groups() -> None:
    x = torch.randn(1, 12, 3, 3)
    assert torch.equal(ops.channel_shuffle(ops.channel_shuffle(x, 3), 4), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradient(dtype: torch.dtype) -> None:
    x = torch.randn(2, 6, 3, 2, dtype=dtype, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ops.channel_shuffle(x, 3), x)
    assert torch.autograd.gradgradcheck(lambda x: ops.channel_shuffle(x, 3), x)


def test_no_gradient_is_recorded_where_none_is_wanted() -> None:
    x = torch.randn(1, 4, 2, 2)
    assert not ops.channel_shuffle(x, 2).requires_grad
    x.requires_grad_()
    with torch.no_grad():
        assert not ops.channel_shuffle(x, 2).requires_grad
    assert ops.channel_shuffle(x, 2).requires_grad
    with torch.inference_mode():
        assert ops.channel_shuffle(x, 2).is_inference()


def test_autocast_keeps_the_dtype() -> None:
    x = torch.randn(1, 4, 2, 2).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.channel_shuffle(x, 2).dtype == torch.bfloat16


def test_compiles() -> None:
    compiled = torch.compile(
        lambda x: ops.channel_shuffle(x + 1, 2), fullgraph=True, backend="aot_eager"
    )
    x = torch.randn(1, 4, 2, 2)
    assert torch.equal(compiled(x), F.channel_shuffle(x + 1, 2))


@pytest.mark.parametrize(
    ("x", "groups", "error", "text"),
    [
        (torch.ones(1, 6, 2, 2), 4, ValueError, "groups must divide the 6 channels of x, got 4"),
        (torch.ones(1, 6, 2, 2), 0, ValueError, "groups must divide the 6 channels of x, got 0"),
        (torch.ones(1, 6, 2, 2), -2, ValueError, "groups must divide"),
        (torch.ones(6, 2, 2), 2, ValueError, "x must have 4 dimensions"),
        (torch.ones(1, 6, 2, 2).to_sparse(), 2, TypeError, "x must be strided"),
        (torch.ones(1, 6, 2, 2), "2", TypeError, "groups must be of type int"),
        ([1.0], 2, TypeError, "x must be of type Tensor"),
    ],
)
def test_bad_input(x: Tensor, groups: int, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"channel_shuffle: {text}"):
        ops.channel_shuffle(x, groups)
