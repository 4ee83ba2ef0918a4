"""Weight files with a description: what is written is read, and what is damaged is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from weebill.data import ImageClassification
from weebill.models import create_model, get_weights, mobilenet_v3_small, save_weights

SMALL: dict[str, Any] = {"width_mult": 0.35, "in_channels": 1, "stem_stride": 1}
PRESET = ImageClassification(crop_size=20, resize_size=24, mean=(0.5,), std=(0.25,))


@pytest.mark.parametrize("half", [False, True])
def test_a_file_brings_all_that_is_needed(tmp_path: Path, half: bool) -> None:
    torch.manual_seed(1)
    model = mobilenet_v3_small(num_classes=3, **SMALL)
    path = tmp_path / "net.safetensors"
    meta = {"categories": ["a", "b", "c"], "acc@1": 12.5}
    save_weights(path, model.state_dict(), arguments=SMALL, preset=PRESET, meta=meta, half=half)
    loaded = create_model("mobilenet_v3_small", weights=path)
    x = torch.randn(2, 1, 20, 20)
    with torch.inference_mode():
        expected, found = model.eval()(x), loaded.eval()(x)
    # Eleven bits of a weight are left in half precision.
    torch.testing.assert_close(found, expected, rtol=0.02 if half else 0, atol=0.02 if half else 0)
    weights = get_weights("mobilenet_v3_small", path)
    assert weights.transforms() == PRESET
    assert weights.meta["categories"] == ["a", "b", "c"]
    assert weights.arguments == SMALL
    assert {p.name for p in tmp_path.iterdir()} == {"net.safetensors"}


def test_layouts_and_shared_memory_are_stored(tmp_path: Path) -> None:
    tensor = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    save_weights(tmp_path / "a.safetensors", {"a": tensor, "b": tensor[:, 1:]})
    found = get_weights("mobilenet_v3_small", tmp_path / "a.safetensors").get_state_dict()
    assert torch.equal(found["a"], tensor)
    assert torch.equal(found["b"], tensor[:, 1:])


GOOD: dict[str, Any] = {
    "arguments": {"width_mult": 0.5},
    "preset": {"crop_size": 28, "resize_size": 28, "mean": [0.5], "std": [0.5]},
    "meta": {"categories": ["a"]},
}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        json.dumps({**GOOD, "arguments": {"norm_layer": "os.system"}}),
        json.dumps({**GOOD, "arguments": 3}),
        json.dumps({**GOOD, "arguments": {"width_mult": float("inf")}}),
        json.dumps({**GOOD, "arguments": {"width_mult": 1e300}}),
        json.dumps({**GOOD, "preset": {}}),
        json.dumps({**GOOD, "preset": {**GOOD["preset"], "crop_size": "28"}}),
        json.dumps({**GOOD, "preset": {**GOOD["preset"], "crop_size": 0}}),
        json.dumps({**GOOD, "preset": {**GOOD["preset"], "mean": [1, 2]}}),
        json.dumps({**GOOD, "preset": {**GOOD["preset"], "path": "/"}}),
        json.dumps({**GOOD, "meta": {"categories": [1]}}),
        json.dumps({**GOOD, "meta": {"categories": "abc"}}),
        "[" * 100_000,
    ],
)
def test_damaged_descriptions_are_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "net.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"weebill": text})
    with pytest.raises(ValueError, match="description in .* must be one that weebill wrote"):
        get_weights("mobilenet_v3_small", path)


def test_a_description_that_lies_builds_no_giant(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    state_dict = mobilenet_v3_small(num_classes=3, **SMALL).state_dict()
    save_weights(path, state_dict, arguments={**SMALL, "width_mult": 9000.0}, preset=PRESET)
    with pytest.raises(ValueError, match="must fit the model, but .* instead of"):
        create_model("mobilenet_v3_small", weights=path)


def test_files_without_a_description_have_the_default_preset(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    weights = get_weights("mobilenet_v3_small", path)
    assert weights.arguments == {}
    assert weights.transforms() == get_weights("mobilenet_v3_small", "DEFAULT").transforms()
