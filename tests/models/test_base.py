"""What all classification networks share: head, feature maps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from weebill.models import Classifier, FeatureExtractor, create_model
from weebill.models._base import make_divisible

MODELS = ["mobilenet_v3_large", "mobilenet_v3_small", "efficientnet_lite0"]


def small(name: str) -> Classifier:
    model = create_model(name, num_classes=6).eval()
    assert isinstance(model, Classifier)
    return model


@pytest.mark.parametrize(
    ("value", "expected"), [(1, 8), (8, 8), (11.9, 8 + 8), (12, 16), (18.4, 24), (84, 88)]
)
def test_make_divisible(value: float, expected: int) -> None:
    assert make_divisible(value) == expected
    assert make_divisible(value) >= 0.9 * value


@pytest.mark.parametrize("name", MODELS)
def test_forward_is_features_then_head(name: str) -> None:
    model = small(name)
    x = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        features = model.forward_features(x)
        assert features.shape == (2, model.num_features, 2, 2)
        assert torch.equal(model.forward_head(features.clone()), model(x))
        before = model.forward_head(features.clone(), pre_logits=True)
        assert before.shape == (2, model.head_hidden_size)
        assert torch.equal(model.get_classifier()(before), model(x))


@pytest.mark.parametrize("name", MODELS)
def test_reset_classifier(name: str) -> None:
    model = small(name)
    kept = model.features[0][0].weight.clone()
    model.reset_classifier(4)
    assert model.num_classes == 4
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert model(x).shape == (2, 4)
        model.reset_classifier(0)
        assert model.num_classes == 0
        assert model(x).shape == (2, model.head_hidden_size)
        model.reset_classifier(3)
        assert model(x).shape == (2, 3)
    assert torch.equal(model.features[0][0].weight, kept)
    assert not model.get_classifier().bias.any()
    model.double().reset_classifier(2)
    assert model.get_classifier().weight.dtype == torch.float64
    with pytest.raises(ValueError, match="num_classes must not be negative, got -1"):
        model.reset_classifier(-1)


@pytest.mark.parametrize("name", MODELS)
def test_feature_maps_are_as_announced(name: str) -> None:
    extractor = create_model(name, features_only=True).eval()
    assert isinstance(extractor, FeatureExtractor)
    with torch.inference_mode():
        maps = extractor(torch.rand(1, 3, 96, 64))
    assert len(maps) == len(extractor.feature_info) >= 5
    for info, features in zip(extractor.feature_info, maps, strict=True):
        assert features.shape == (1, info.channels, 96 // info.reduction, 64 // info.reduction)
    assert [info.reduction for info in extractor.feature_info] == [2, 4, 8, 16, 32]


def test_dilated_backbone_stops_at_one_sixteenth() -> None:
    extractor = create_model("mobilenet_v3_large", features_only=True, dilated=True)
    assert [info.reduction for info in extractor.feature_info] == [2, 4, 8, 16]
    assert extractor.eval()(torch.rand(1, 3, 64, 64))[-1].shape[-2:] == (4, 4)


def test_feature_maps_are_the_networks_own() -> None:
    model = small("mobilenet_v3_small")
    extractor = FeatureExtractor(model, out_indices=(-1, 1))
    assert set(extractor.state_dict()) <= set(model.state_dict())
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        shallow, deep = extractor(x)
        assert torch.equal(deep, model.forward_features(x))
        assert torch.equal(shallow, model.features[: extractor.feature_info[0].index + 1](x))


def test_unused_layers_are_dropped() -> None:
    extractor = create_model("mobilenet_v3_large", features_only=True, out_indices=[0, 1])
    assert isinstance(extractor, FeatureExtractor)
    assert len(extractor.features) == extractor.feature_info[-1].index + 1 < 10
    assert isinstance(torch.fx.symbolic_trace(extractor), nn.Module)


@pytest.mark.parametrize("indices", [[], [5], [-6]])
def test_wrong_indices(indices: list[int]) -> None:
    with pytest.raises(ValueError, match=r"out_indices must be within 0\.\.4, got"):
        create_model("mobilenet_v3_small", features_only=True, out_indices=indices)
