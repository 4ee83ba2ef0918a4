"""The trained weights inside the package: what they are, and what they reach.

The accuracy needs Fashion-MNIST's test images, from WEEBILL_FASHION_MNIST or from where the Debian
package dataset-fashion-mnist puts them.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import weebill
from weebill.data import FASHION_MNIST
from weebill.models import Weights, create_model, get_model_weights, get_weights
from weebill.models._metadata import read_description
from weebill.models._state_dict import read_state_dict
from weebill.train import FashionMNIST

DATA = Path(os.environ.get("WEEBILL_FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
# Accuracy that each must reach on the 10,000 test images, in percent.
REQUIRED = {
    ("mobilenet_v3_small", "FASHION_MNIST_X0_5"): 91.0,
    ("shufflenet_v2_x0_5", "FASHION_MNIST_V1"): 90.0,
}


def weights_bits(weights: Weights) -> int:
    description = read_description(weights.path())
    assert description is not None
    _, _, meta = description
    assert meta["acc@1"] == weights.meta["acc@1"]
    return int(meta["significant_bits"])


@pytest.fixture(scope="module")
def test_images() -> FashionMNIST:
    try:
        return FashionMNIST(DATA, "test")
    except FileNotFoundError:
        pytest.skip("needs Fashion-MNIST: the Debian package dataset-fashion-mnist")


@pytest.mark.parametrize(("model", "member"), REQUIRED)
def test_accuracy_of_the_fused_network(test_images: FashionMNIST, model: str, member: str) -> None:
    eager = create_model(model, weights=member).eval()
    fused = weebill.convert(eager)
    prepare = get_weights(model, member).transforms()
    with torch.inference_mode():
        batches = [prepare(batch) for batch in test_images.images.split(100)]
        found = torch.cat([fused(batch) for batch in batches]).argmax(1)
        plain = torch.cat([eager(batch) for batch in batches]).argmax(1)
    assert len(found) == 10_000
    right = int((found == test_images.labels).sum())
    assert right >= 100 * REQUIRED[model, member]
    # The card's figure is the file's.
    assert right / 100 == get_weights(model, member).meta["acc@1"]
    assert int((found != plain).sum()) == 0


@pytest.mark.parametrize(("model", "member"), REQUIRED)
def test_they_are_small_and_say_what_they_are(model: str, member: str) -> None:
    weights = get_weights(model, member)
    path = weights.path()
    assert path.stat().st_size < 2_000_000
    stored = read_state_dict(path)
    for value in stored.values():
        assert value.dtype == (torch.float16 if value.ndim > 1 else value.dtype)
        assert value.isfinite().all()
    # What is behind the significant bits is zero, and takes no space in a wheel.
    bits = weights_bits(weights)
    halves = [value.view(torch.int16) for value in stored.values() if value.dtype == torch.float16]
    assert all((value & (1 << (11 - bits)) - 1 == 0).all() for value in halves)
    network = create_model(model, weights=member)
    assert sum(p.numel() for p in network.parameters()) == weights.meta["num_params"]
    assert all(p.dtype == torch.float32 for p in network.parameters())
    # Given as a file, they are as good as by name; a copy under any name has its own description.
    by_path = get_weights(model, path)
    assert by_path.arguments == weights.arguments
    assert by_path.preset == weights.preset == FASHION_MNIST


@pytest.mark.parametrize(("model", "member"), REQUIRED)
def test_a_copy_describes_itself(tmp_path: Path, model: str, member: str) -> None:
    weights = get_weights(model, member)
    content = weights.path().read_bytes()
    # Another byte in the last tensor: its hash is unknown, its description is there.
    (tmp_path / "net.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    copy = get_weights(model, tmp_path / "net.safetensors")
    assert copy.file == tmp_path / "net.safetensors"
    assert copy.arguments == weights.arguments
    assert copy.preset == weights.preset
    assert tuple(copy.meta["categories"]) == weights.meta["categories"]
    assert copy.meta["acc@1"] == pytest.approx(weights.meta["acc@1"], abs=0.1)


@pytest.mark.parametrize(("model", "member"), REQUIRED)
def test_arguments_come_from_the_weights(model: str, member: str) -> None:
    with pytest.raises(ValueError, match="stem_stride must be 1 for .*, got 2"):
        create_model(model, weights=member, stem_stride=2)
    with pytest.raises(ValueError, match="in_channels must be 1 for .*, got 3"):
        create_model(model, weights=member, in_channels=3)
    assert member in [entry.name for entry in get_model_weights(model)]


@pytest.mark.parametrize(("model", "member"), REQUIRED)
def test_a_grey_picture_is_prepared(model: str, member: str) -> None:
    weights = get_weights(model, member)
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    x = weights.transforms()(Image.fromarray(pixels))
    expected = (torch.from_numpy(pixels) / 255 - 0.286) / 0.353
    torch.testing.assert_close(x, expected.unsqueeze(0))
    with torch.inference_mode():
        assert create_model(model, weights=weights).eval()(x.unsqueeze(0)).shape == (1, 10)
