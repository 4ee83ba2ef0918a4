"""Models by name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from torch import nn

from weebill.models import (
    EfficientNet_Lite0_Weights,
    MobileNet_V3_Large_Weights,
    MobileNetV3,
    create_model,
    get_model_weights,
    list_models,
    model_entry,
    register_model,
)
from weebill.models import _registry as registry


@pytest.fixture
def empty_again() -> Iterator[None]:
    before = dict(registry._models)
    yield
    registry._models.clear()
    registry._models.update(before)


def test_list_models() -> None:
    names = list_models()
    assert names == sorted(names)
    assert {"efficientnet_lite0", "mobilenet_v3_large", "mobilenet_v3_small"} <= set(names)
    assert list_models("mobilenet_v3_[ls]*[el]") == ["mobilenet_v3_large", "mobilenet_v3_small"]
    assert list_models("nothing*") == []


def test_create_model_passes_arguments_on() -> None:
    model = create_model("mobilenet_v3_small", num_classes=3, width_mult=0.5)
    assert isinstance(model, MobileNetV3)
    assert model.num_classes == 3


@pytest.mark.parametrize("wrong", ["mobilenet_v3_larg", "mobilenetv3_large", "MobileNet_V3_Large"])
def test_unknown_name_suggests_the_closest(wrong: str) -> None:
    with pytest.raises(ValueError, match=f"got '{wrong}'; did you mean 'mobilenet_v3_large'"):
        create_model(wrong)


def test_hopeless_name_lists_all() -> None:
    with pytest.raises(ValueError, match="there are .*efficientnet_lite0, .*mobilenet_v3_large"):
        create_model("zzz")


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="create_model: .*unexpected keyword argument 'width'"):
        create_model("mobilenet_v3_small", width=2)
    with pytest.raises(ValueError, match="out_indices must be given with features_only=True"):
        create_model("mobilenet_v3_small", out_indices=[1])


def test_pretrained_is_the_default_weights() -> None:
    model = create_model("efficientnet_lite0", pretrained=True)
    reference = create_model("efficientnet_lite0", weights=EfficientNet_Lite0_Weights.DEFAULT)
    assert (model.classifier[1].weight == reference.classifier[1].weight).all()


def test_model_weights() -> None:
    assert get_model_weights("mobilenet_v3_large") == (
        MobileNet_V3_Large_Weights.IMAGENET1K_V1,
        MobileNet_V3_Large_Weights.IMAGENET1K_V2,
    )
    with pytest.raises(ValueError, match="did you mean"):
        get_model_weights("mobilenet_v3")


def test_summary_is_the_docstrings_first_line() -> None:
    assert model_entry("mobilenet_v3_small").summary.startswith("MobileNetV3-Small, 2.5 M")


@pytest.mark.usefixtures("empty_again")
def test_users_models() -> None:
    @register_model()
    def tiny_net(*, num_classes: int = 10) -> nn.Module:
        return nn.Linear(3, num_classes)

    @register_model("other_net")
    def unnamed() -> nn.Module:
        return nn.Identity()

    assert list_models("*_net") == ["other_net", "tiny_net"]
    model = create_model("tiny_net", num_classes=2)
    assert isinstance(model, nn.Linear)
    assert get_model_weights("tiny_net") == ()
    with pytest.raises(NotImplementedError, match="features_only must be False for tiny_net"):
        create_model("tiny_net", features_only=True)
    with pytest.raises(ValueError, match="name must be new, got 'tiny_net', which is"):
        register_model("tiny_net")(unnamed)
    register_model()(tiny_net)  # reloading a module is no mistake
