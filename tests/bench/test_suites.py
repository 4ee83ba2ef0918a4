"""The suites: shapes, counts, and that a network's file is that network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import weebill
from tests.bench.small import SMALL, small_case
from weebill.bench.case import make_case, read_case
from weebill.bench.modules import make_module
from weebill.bench.reference import forward, relative_error
from weebill.bench.suites import (
    NETWORKS,
    load_suite,
    operators,
    parse_suite,
    resize,
    suite_names,
    unrolled,
)
from weebill.bench.weights import make_input, make_weights

# Multiply-adds in millions and parameters, from torchvision's and timm's own counts.
PUBLISHED = {
    "mobilenet_v1": (568.7, 4231976),
    "mobilenet_v2": (300.8, 3504872),
    "mobilenet_v3_large": (216.6, 5483032),
    "mobilenet_v3_small": (56.5, 2542856),
    "efficientnet_lite0": (385.2, 4652008),
    "shufflenet_v2_x0_5": (40.5, 1366792),
    "shufflenet_v2_x1_0": (144.9, 2278604),
}


def test_every_network_has_published_counts() -> None:
    assert set(PUBLISHED) == set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_networks_file_is_the_network(name: str) -> None:
    suite = load_suite(name)
    blocks = unrolled(suite.blocks)
    macs, parameters = PUBLISHED[name]
    assert round(sum(block.macs for block in blocks) / 1e6, 1) == macs
    module = make_module(blocks, make_weights(blocks, norm=True))
    assert sum(p.numel() for p in module.parameters()) == parameters
    assert suite.top1 is not None
    assert suite.top1_source
    # The sizes in the file follow from each other.
    assert resize(suite.blocks, 224, 224) == blocks


@pytest.mark.parametrize("name", suite_names())
def test_operators_do_the_work_of_their_block(name: str) -> None:
    for block in load_suite(name).blocks:
        assert sum(op.macs for op in operators(block)) == replace(block, count=1).macs
        assert all(op.name for op in operators(block))


def test_sizes_of_another_image() -> None:
    blocks = resize(load_suite("mobilenet_v2").blocks, 97, 64)
    assert (blocks[0].h, blocks[0].w) == (97, 64)
    assert (blocks[1].h, blocks[1].w) == (49, 32)
    assert blocks[-1].out_size == (1, 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("conv2d a 3 8", "line 2: zip"),
        ("conv2d a 3 8 8 0 4 3 x 1 0 0 relu none 0 1", "line 2: invalid literal"),
        ("gelu a 3 8 8 0 4 3 1 1 0 0 relu none 0 1", "line 2: kind must be one of"),
    ],
)
def test_a_wrong_line_is_named(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_suite("mine", f"# title\n{line}\n", network=False)
    with pytest.raises(ValueError, match="got 'mine'"):
        load_suite("mine")


@pytest.mark.parametrize("norm", [True, False])
def test_reference_is_torchs_float64(norm: bool) -> None:
    blocks = resize(SMALL, 19, 14)
    weights = make_weights(blocks, norm=norm)
    x = make_input((2, 3, 19, 14))
    with torch.no_grad():
        expected = make_module(blocks, weights).double()(torch.from_numpy(x).double()).numpy()
    assert expected.shape == (2, 7)
    assert relative_error(forward(blocks, weights, x), expected) < 1e-12


@pytest.mark.parametrize("name", NETWORKS)
def test_activations_keep_their_scale(name: str) -> None:
    blocks = resize(load_suite(name).blocks, 32, 32)
    y = forward(blocks, make_weights(blocks, norm=True), make_input((1, 3, 32, 32)))
    assert 1e-2 < np.abs(y).mean() < 1e2


def test_relative_error_sees_shape_and_nan() -> None:
    reference = np.array([1.0, -4.0])
    assert relative_error(np.array([1.0, -4.0]), reference) == 0.0
    assert relative_error(np.array([1.5, -4.0]), reference) == 0.125
    assert relative_error(np.array([[1.0, -4.0]]), reference) == np.inf
    assert relative_error(np.array([1.0, np.nan]), reference) == np.inf


def test_convert_fuses_the_whole_network(tmp_path: Path) -> None:
    case = small_case(tmp_path)
    model = weebill.convert(case.module())
    with torch.inference_mode():
        y = model(torch.from_numpy(case.input())).numpy()
    assert relative_error(y, case.reference()) < 1e-5
    assert "left alone" not in str(weebill.report(model))


def test_a_case_is_found_again(tmp_path: Path) -> None:
    blocks = resize(SMALL, 12, 12)
    first = make_case("net/1", blocks, tmp_path)
    assert make_case("net/1", blocks, tmp_path) == first == read_case(first.folder)
    assert make_case("net/1", blocks, tmp_path, batch=2).folder != first.folder
    assert make_case("net/1", blocks, tmp_path, norm=False).folder != first.folder
    assert [set(own) for own in first.weights()] == [
        set(own) for own in make_weights(blocks, norm=True)
    ]
    assert first.bytes == 4 * (3 * 144 + 7 + sum(block.weights for block in blocks))
