"""The simplified MobileNetV3-Small against its layers in numpy and, if installed, in Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import weebill
from tests.models import keras_reference
from weebill.models import (
    create_model,
    load_keras_weights,
    load_weights,
    mobilenet_v3_small,
    mobilenet_v3_small_simplified,
)
from weebill.nn import unfused

Weights = list[NDArray[np.float32]]


def relative_error(value: Any, expected: Any) -> float:
    value, expected = np.asarray(value, np.float64), np.asarray(expected, np.float64)
    return float(abs(value - expected).max() / abs(expected).max())


@pytest.fixture(scope="module")
def weights() -> Weights:
    return keras_reference.random_weights(3, 10, seed=0)


@pytest.fixture
def model(weights: Weights) -> torch.nn.Module:
    model = mobilenet_v3_small_simplified(10, (64, 64, 3)).eval()
    load_keras_weights(model, weights)
    return model


# SAME padding differs between even and odd sizes.
@pytest.mark.parametrize("size", [(64, 64), (33, 50), (7, 96), (1, 1)])
def test_equals_the_layers_in_float64(
    size: tuple[int, int], weights: Weights, model: torch.nn.Module, isa: str
) -> None:
    image = np.random.default_rng(1).random((*size, 3))
    expected = keras_reference.forward(weights, image)
    # a distribution that tells the classes apart, not the constant of tiny logits
    assert expected.std() > 0.01
    x = torch.from_numpy(image.astype(np.float32).transpose(2, 0, 1)[None])
    with torch.inference_mode():
        with unfused():
            assert relative_error(model(x)[0], expected) < 1e-5
        assert relative_error(weebill.convert(model)(x)[0], expected) < 1e-5


def test_runs_fused(model: torch.nn.Module) -> None:
    fused = weebill.convert(model)
    assert "fused into 1 call" in str(weebill.report(fused))
    assert fused.fusion.prepare(fused)


def test_head(model: torch.nn.Module) -> None:
    x = torch.rand(2, 3, 40, 56)
    logits = mobilenet_v3_small_simplified(10, classifier_activation=None).eval()
    logits.load_state_dict(model.state_dict())
    with torch.inference_mode():
        y = model(x)
        torch.testing.assert_close(y.sum(dim=1), torch.ones(2))
        torch.testing.assert_close(logits(x).softmax(dim=1), y)
        assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, 1280)
        assert model(torch.rand(0, 3, 32, 32)).shape == (0, 10)


def test_features_and_entry() -> None:
    backbone = create_model("mobilenet_v3_small_simplified", features_only=True)
    with torch.inference_mode():
        maps = backbone.eval()(torch.rand(1, 3, 64, 64))
    assert [(i.channels, i.reduction) for i in backbone.feature_info] == [
        (16, 2),
        (24, 4),
        (48, 8),
        (576, 16),
    ]
    assert [tuple(m.shape[1:]) for m in maps] == [
        (16, 32, 32),
        (24, 16, 16),
        (48, 8, 8),
        (576, 4, 4),
    ]


def test_trains() -> None:
    model = mobilenet_v3_small_simplified(3, (32, 32, 1), classifier_activation=None).train()
    loss = torch.nn.functional.cross_entropy(
        model(torch.rand(4, 1, 32, 32)), torch.tensor([0, 1, 2, 0])
    )
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"num_classes": 0}, ValueError, "num_classes must be positive, got 0"),
        ({"input_shape": (224, 224)}, ValueError, r"input_shape must be \(height, width, channels"),
        ({"input_shape": (224, 0, 3)}, ValueError, "width must be positive, got 0"),
        ({"input_shape": (224, 224, 1.5)}, TypeError, "channels must be an int, got 1.5"),
        ({"classifier_activation": "relu"}, ValueError, "'softmax' or None, got 'relu'"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mobilenet_v3_small_simplified(**arguments)


def parameters(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def test_npz(tmp_path: Path, weights: Weights, model: torch.nn.Module) -> None:
    path = tmp_path / "keras.npz"
    np.savez(path, *weights)
    other = mobilenet_v3_small_simplified(10)
    load_keras_weights(other, path)
    assert all(map(torch.equal, parameters(other), parameters(model)))


def write_keras_3(file: Any, weights: Weights, first: int) -> None:
    """As Keras 3 writes it: a group per layer under "layers", numbered by class."""
    kinds = [kind for kind, _ in mobilenet_v3_small_simplified(10).keras_layers()]
    names = {"Conv2D": "conv2d", "DepthwiseConv2D": "depthwise_conv2d", "Dense": "dense"}
    count = dict.fromkeys(names, first)
    for index, kind in enumerate(kinds):
        name = names[kind] + (f"_{count[kind]}" if count[kind] else "")
        count[kind] += 1
        for part in (0, 1):
            file[f"layers/{name}/vars/{part}"] = weights[2 * index + part]
    file.create_group("layers/multiply/vars")


def write_keras_2(file: Any, weights: Weights, first: int) -> None:
    """As Keras 2 writes it: attributes tell the order."""
    kinds = [kind for kind, _ in mobilenet_v3_small_simplified(10).keras_layers()]
    names = []
    for index, kind in enumerate(kinds):
        names.append(f"{kind.lower()}_{first + index}")
        group = file.create_group(names[-1])
        parts = [f"{names[-1]}/kernel:0", f"{names[-1]}/bias:0"]
        group.attrs["weight_names"] = [part.encode() for part in parts]
        for part, array in zip(parts, weights[2 * index : 2 * index + 2], strict=True):
            group[part] = array
    file.attrs["layer_names"] = [name.encode() for name in names]


@pytest.mark.parametrize("write", [write_keras_2, write_keras_3])
@pytest.mark.parametrize("first", [0, 7])
def test_h5(
    tmp_path: Path, weights: Weights, model: torch.nn.Module, write: Any, first: int
) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py reads and writes these files")
    path = tmp_path / "keras.weights.h5"
    with h5py.File(path, "w") as file:
        write(file, weights, first)
    other = mobilenet_v3_small_simplified(10)
    load_keras_weights(other, path)
    assert all(map(torch.equal, parameters(other), parameters(model)))
    with h5py.File(path, "a") as file:
        if write is write_keras_3:
            del file["layers/dense_9"]
        else:
            del file.attrs["layer_names"]
    with pytest.raises(ValueError, match="intact file of Keras, got '.*keras.weights.h5'"):
        load_keras_weights(other, path)


def test_wrong_weights_change_nothing(tmp_path: Path, weights: Weights) -> None:
    model = mobilenet_v3_small_simplified(10)
    before = parameters(model)
    transposed = [*weights]
    transposed[-2] = weights[-2].transpose(0, 1, 3, 2)
    cases: list[tuple[Any, str]] = [
        (weights[:-1], "must be 112 arrays, .* got 111"),
        ([*weights, weights[-1]], "must be 112 arrays, .* got 113"),
        (transposed, r"Conv2D number 55 must fit classifier.2.weight \(10, 1280\), got"),
        ([*weights[:-1], np.zeros(10, np.int32)], "must be floating point, got int32"),
        (keras_reference.random_weights(3, 11, 0), r"classifier.2.weight \(10, 1280\)"),
        (keras_reference.random_weights(1, 10, 0), r"features.0.0.weight \(16, 3, 3, 3\)"),
    ]
    for wrong, text in cases:
        with pytest.raises(ValueError, match=text):
            load_keras_weights(model, wrong)
    empty = tmp_path / "empty.npz"
    empty.write_bytes(b"")
    truncated = tmp_path / "truncated.npz"
    np.savez(truncated, *weights)
    truncated.write_bytes(truncated.read_bytes()[:100_000])
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, np.array([{}], dtype=object))
    named = tmp_path / "named.npz"
    np.savez(named, kernel=weights[0])
    for path, text in [
        (empty, "of another kind"),
        (truncated, "intact file"),
        (pickled, "intact file"),
        (named, "got kernel"),
    ]:
        with pytest.raises(ValueError, match=text):
            load_keras_weights(model, path)
    with pytest.raises(FileNotFoundError, match="no.h5"):
        load_keras_weights(model, "no.h5")
    with pytest.raises(IsADirectoryError, match="must be a file"):
        load_keras_weights(model, tmp_path)
    with pytest.raises(TypeError, match="got int"):
        load_keras_weights(model, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Keras original .*, got MobileNetV3"):
        load_keras_weights(mobilenet_v3_small(width_mult=0.35), weights)
    assert all(map(torch.equal, parameters(model), before))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Keras' own, with numpy 2
def test_keras_model_agrees(tmp_path: Path) -> None:
    """The same network in TensorFlow, its own initial weights with random biases."""
    tf = pytest.importorskip("tensorflow", reason="Keras' side of the comparison")
    tf.keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    # Layers made before shift the numbers in the names of the others.
    tf.keras.layers.Dense(1)
    theirs = keras_reference.build(tf, (97, 130, 3), 10)
    theirs.set_weights(
        [
            1.5 * w if w.ndim > 1 else random.normal(0, 0.1, w.shape).astype(np.float32)
            for w in theirs.get_weights()
        ]
    )
    image = random.random((2, 97, 130, 3), np.float32)
    expected = theirs.predict(image, verbose=0)
    assert expected.std() > 0.01
    path = tmp_path / "model.weights.h5"
    theirs.save_weights(path)
    x = torch.from_numpy(image.transpose(0, 3, 1, 2).copy())
    for source in (theirs.get_weights(), path):
        ours = mobilenet_v3_small_simplified(10, (97, 130, 3)).eval()
        load_keras_weights(ours, source)
        with torch.inference_mode():
            with unfused():
                assert relative_error(ours(x), expected) < 1e-5
            assert relative_error(weebill.convert(ours)(x), expected) < 1e-5


def test_own_files(tmp_path: Path, model: torch.nn.Module) -> None:
    path = tmp_path / "net.pth"
    torch.save(model.state_dict(), path)
    other = mobilenet_v3_small_simplified(weights=path)
    assert other.num_classes == 10
    assert all(map(torch.equal, parameters(other), parameters(model)))
    load_weights(other, weebill.models.Weights.from_file(path))
