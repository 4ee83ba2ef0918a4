"""Packed blocks in one call: the same values as one op after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.bounds import Bounded, is_channels_last, layouts
from tests.ops.cases import network
from weebill import _C, ops


def chain(x: Tensor, seed: int) -> tuple[Tensor, Tensor, list[int]]:
    """Exact float64 result is not the point here: the same packed blocks, one call each."""
    torch.manual_seed(seed)
    records, geometry = network()
    y = x
    for record, shape in split(records, geometry):
        y = ops.run(y, record, shape)
    return y, records, geometry


def split(records: Tensor, geometry: list[int]) -> list[tuple[Tensor, list[int]]]:
    """The single records: each starts with the same eight bytes, at a multiple of 64."""
    magic = bytes(records[:8].tolist())
    data = bytes(records.tolist())
    starts = [at for at in range(0, len(data), 64) if data[at : at + 8] == magic]
    ends = [*starts[1:], len(data)]
    return [
        (records[start:end], geometry[6 * i : 6 * i + 6])
        for i, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("size", [(9, 8), (3, 3), (30, 17)])
def test_network_is_its_blocks(batch: int, size: tuple[int, int], isa: str, seed: int) -> None:
    x = torch.randn(batch, 6, *size)
    want, records, geometry = chain(x, seed)
    y = ops.run(x, records, geometry)
    assert torch.equal(y, want)
    assert is_channels_last(y)
    assert y.shape == _C.output_shape(x.shape, records.numpy())


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_flat_results(batch: int) -> None:
    records, geometry = network()
    first, shape = split(records, geometry)[0]  # of 9 x 8 pixels it makes several
    x = torch.randn(batch, 6, 9, 8)
    for some, sizes in ((records, geometry), (first, shape)):
        y = ops.run(x, some, sizes)
        flat = ops.run(x, some, sizes, flatten=True)
        assert flat.shape == (batch, y[:1].numel() if batch else y.shape[1:].numel())
        assert torch.equal(flat, y.flatten(1))
        assert flat.is_contiguous()


def test_layouts(isa: str) -> None:
    records, geometry = network()
    results = [ops.run(x, records, geometry) for x in layouts(torch.randn(2, 6, 9, 8)).values()]
    for result in results[1:]:
        assert torch.equal(result, results[0])


def test_one_block_is_the_op(isa: str) -> None:
    weight, bias = torch.randn(10, 6, 3, 3), torch.randn(10)
    record = _C.pack_conv2d(
        weight.numpy(), bias.numpy(), (2, 1), (1, 0, 1, 2), (1, 1), 1, "hardswish"
    )
    x = torch.randn(2, 6, 8, 9)
    y = ops.run(x, torch.from_numpy(record), _C.geometry(record))
    assert torch.equal(y, ops.conv2d(x, weight, bias, (2, 1), (1, 0, 1, 2), 1, 1, "hardswish"))
    Bounded.of(x).conv2d(weight, bias, (2, 1), (1, 0, 1, 2)).activation("hardswish").check(y)


def test_records_do_not_depend_on_the_isa() -> None:
    from weebill import config

    weight = torch.randn(20, 17, 3, 3).numpy()
    packed = []
    for isa in config.isas():
        with config.use_isa(isa):
            packed.append(_C.pack_conv2d(weight, None, (1, 1), "same", (1, 1), 1, "relu").tobytes())
    assert len(set(packed)) == 1


def test_record_survives_a_copy_and_a_file(tmp_path: object) -> None:
    records, geometry = network()
    x = torch.randn(1, 6, 12, 12)
    want = ops.run(x, records, geometry)
    assert torch.equal(ops.run(x, records.clone(), geometry), want)
    path = f"{tmp_path}/records.pt"
    torch.save(records, path)
    loaded = torch.load(path, weights_only=True)
    assert torch.equal(ops.run(x, loaded, geometry), want)


def test_records_need_not_start_at_a_cache_line(isa: str) -> None:
    records, geometry = network()
    x = torch.randn(2, 6, 9, 8)
    want = ops.run(x, records, geometry)
    for offset in (16, 32, 48):
        moved = torch.zeros(len(records) + offset, dtype=torch.uint8)[offset:]
        moved.copy_(records)
        assert torch.equal(ops.run(x, moved, geometry), want)
