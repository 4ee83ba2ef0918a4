"""Weights: where they come from, and that only fitting ones are loaded."""

from __future__ import annotations

import copy
import pickle
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from weebill.data import ImageClassification
from weebill.models import (
    DownloadError,
    EfficientNet_Lite0_Weights,
    MobileNet_V3_Large_Weights,
    MobileNet_V3_Small_Weights,
    PackageFile,
    Weights,
    create_model,
    get_weights,
    load_weights,
    mobilenet_v3_small,
)

SMALL: dict[str, Any] = {"width_mult": 0.35, "num_classes": 7}


@pytest.fixture(scope="module")
def state_dict() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return mobilenet_v3_small(**SMALL).state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def checkpoint(path: Path, state_dict: dict[str, torch.Tensor], kind: str) -> Path:
    if kind == "safetensors":
        save_file(state_dict, path)
    elif kind == "plain":
        torch.save(state_dict, path)
    elif kind == "old format":
        torch.save(state_dict, path, _use_new_zipfile_serialization=False)
    elif kind == "wrapped":
        torch.save({"epoch": 3, "state_dict": state_dict}, path)
    elif kind == "distributed":
        torch.save({"model": {f"module.{k}": v for k, v in state_dict.items()}}, path)
    return path


@pytest.mark.parametrize("kind", ["safetensors", "plain", "old format", "wrapped", "distributed"])
@pytest.mark.parametrize("as_text", [True, False])
def test_loads_files(
    tmp_path: Path, state_dict: dict[str, torch.Tensor], kind: str, as_text: bool
) -> None:
    path = checkpoint(tmp_path / "net.pth", state_dict, kind)
    model = mobilenet_v3_small(weights=str(path) if as_text else path, width_mult=0.35)
    assert model.num_classes == 7  # taken from the file
    assert same(dict(model.state_dict()), state_dict)


def test_half_precision_weights_become_the_models_dtype(
    tmp_path: Path, state_dict: dict[str, torch.Tensor]
) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in state_dict.items()}
    path = checkpoint(tmp_path / "half.safetensors", half, "safetensors")
    model = mobilenet_v3_small(weights=path, width_mult=0.35)
    assert model.features[0][0].weight.dtype == torch.float32
    assert torch.equal(model.features[0][0].weight, half["features.0.0.weight"].float())


def test_safetensors_whose_first_byte_is_that_of_a_pickle(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(0x80)
    path = tmp_path / "net"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert path.read_bytes()[:1] == b"\x80"
    assert list(Weights.from_file(path).get_state_dict()) == ["a"]


def test_batch_counters_may_be_absent(tmp_path: Path, state_dict: dict[str, torch.Tensor]) -> None:
    fewer = {k: v for k, v in state_dict.items() if not k.endswith("num_batches_tracked")}
    path = checkpoint(tmp_path / "net.safetensors", fewer, "safetensors")
    assert same(dict(mobilenet_v3_small(weights=path, width_mult=0.35).state_dict()), state_dict)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, r"features.0.0.weight is \(8, 3, 3, 3\) instead of \(16, 3, 3, 3\)"),
        ({"num_classes": 9, "width_mult": 0.35}, r"classifier.3.weight is \(7, .*instead of \(9,"),
        ({"in_channels": 1, "width_mult": 0.35}, r"instead of \(8, 1, 3, 3\)"),
    ],
)
def test_weights_of_a_variant_name_it(
    tmp_path: Path, state_dict: dict[str, torch.Tensor], arguments: dict[str, Any], text: str
) -> None:
    path = checkpoint(tmp_path / "net.pth", state_dict, "plain")
    with pytest.raises(ValueError, match=text) as error:
        mobilenet_v3_small(weights=path, **arguments)
    assert "they fit mobilenet_v3_small(num_classes=7, width_mult=0.35)" in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_of_another_model_name_it(tmp_path: Path) -> None:
    with torch.device("meta"):
        other = create_model("mobilenet_v3_large")
    values = {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in other.state_dict().items()}
    path = checkpoint(tmp_path / "net.pth", values, "plain")
    with pytest.raises(ValueError, match=r"and \d+ more; they fit mobilenet_v3_large\(\)"):
        mobilenet_v3_small(weights=path)
    path = EfficientNet_Lite0_Weights.DEFAULT.weights.path()
    with pytest.raises(ValueError, match=r"is missing.*they fit efficientnet_lite0\(\)"):
        mobilenet_v3_small(weights=path)


def test_weights_of_no_known_model(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "net.pth", {"a.weight": torch.zeros(3, 2)}, "plain")
    with pytest.raises(ValueError, match="no known model has such weights"):
        mobilenet_v3_small(weights=path)


def test_nothing_is_half_loaded(tmp_path: Path, state_dict: dict[str, torch.Tensor]) -> None:
    broken = {**state_dict, "classifier.3.bias": torch.zeros(8)}
    path = checkpoint(tmp_path / "net.pth", broken, "plain")
    model = mobilenet_v3_small(**SMALL)
    before = copy.deepcopy(dict(model.state_dict()))
    with pytest.raises(ValueError, match=r"classifier.3.bias is \(8,\) instead of \(7,\)"):
        load_weights(model, Weights.from_file(path))
    assert same(dict(model.state_dict()), before)
    load_weights(model, Weights.from_file(checkpoint(tmp_path / "ok", state_dict, "plain")))
    assert same(dict(model.state_dict()), state_dict)


class Hostile:
    """Runs code when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("kind", ["safetensors", "plain", "old format"])
@pytest.mark.parametrize("keep", [0.5, 0.999, 40])
def test_truncated_files(
    tmp_path: Path, state_dict: dict[str, torch.Tensor], kind: str, keep: float
) -> None:
    path = checkpoint(tmp_path / "net.pth", state_dict, kind)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    with pytest.raises(ValueError, match="path must be an intact") as error:
        mobilenet_v3_small(weights=path)
    assert "\n" not in str(error.value)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    zip_like, safetensors_like = b"PK\x03\x04" + bytes(90), bytes(8) + b"{"
    for content in (b"", b"not weights at all", b"\x80\x02", zip_like, safetensors_like):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^read_state_dict: .*net\.pth"):
            mobilenet_v3_small(weights=path)
    for thing in ([1, 2], {"state_dict": 3}, {}, {"a": torch.zeros(1), 2: torch.zeros(1)}):
        torch.save(thing, path)
        with pytest.raises(ValueError, match="path must hold tensors by name"):
            mobilenet_v3_small(weights=path)


def test_no_code_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = tmp_path / "net.pth"
    torch.save({"a": Hostile(mark)}, path)
    with pytest.raises(ValueError, match="holds more than weights"):
        mobilenet_v3_small(weights=path)
    path.write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(ValueError, match="holds more than weights"):
        mobilenet_v3_small(weights=path)
    assert not mark.exists()


def test_missing_files(tmp_path: Path) -> None:
    for missing in (tmp_path / "no.pth", str(tmp_path / "no"), "no.safetensors"):
        with pytest.raises(FileNotFoundError, match="path must be an existing file, got '.*no"):
            mobilenet_v3_small(weights=missing)
    with pytest.raises(IsADirectoryError, match="path must be a file, got the folder"):
        mobilenet_v3_small(weights=tmp_path)


def test_names_of_weights() -> None:
    large = MobileNet_V3_Large_Weights
    assert get_weights("mobilenet_v3_large", "IMAGENET1K_V1") is large.IMAGENET1K_V1.weights
    assert get_weights("mobilenet_v3_large", "DEFAULT") is large.IMAGENET1K_V2.weights
    name = "MobileNet_V3_Large_Weights.IMAGENET1K_V2"
    assert get_weights("mobilenet_v3_large", name) is large.IMAGENET1K_V2.weights
    assert str(large.DEFAULT) == repr(large.DEFAULT) == name
    assert str(large.DEFAULT.weights) == "mobilenet_v3_large-5c1a4163.pth"
    with pytest.raises(ValueError, match="got 'IMAGENET1K_V3'; did you mean 'IMAGENET1K_V"):
        get_weights("mobilenet_v3_large", "IMAGENET1K_V3")
    with pytest.raises(TypeError, match=r"must be one of IMAGENET1K_V1, .*got MobileNet_V3_Small"):
        create_model("mobilenet_v3_large", weights=MobileNet_V3_Small_Weights.DEFAULT)
    with pytest.raises(TypeError, match="must be a member, a name or a path, got bool"):
        create_model("mobilenet_v3_large", weights=True)


def test_a_published_file_is_recognised_wherever_it_lies(tmp_path: Path) -> None:
    member = EfficientNet_Lite0_Weights.DEFAULT
    copied = tmp_path / "renamed"
    copied.write_bytes(member.weights.path().read_bytes())
    chosen = get_weights("efficientnet_lite0", copied)
    assert chosen.file == copied
    assert chosen.meta == member.meta
    assert chosen.transforms() == member.transforms()
    assert "categories" not in get_weights("mobilenet_v3_small", copied).meta


def test_an_own_file_gets_the_models_preprocessing(
    tmp_path: Path, state_dict: dict[str, torch.Tensor]
) -> None:
    path = checkpoint(tmp_path / "net.pth", state_dict, "plain")
    preset = EfficientNet_Lite0_Weights.DEFAULT.transforms()
    assert get_weights("efficientnet_lite0", path).transforms() == preset
    assert Weights.from_file(path).transforms() == ImageClassification()


def test_number_of_classes_is_checked_before_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Weights, "path", lambda self, **_: pytest.fail("asked for the file"))
    with pytest.raises(ValueError, match="num_classes must be 1000 for .*reset_classifier"):
        mobilenet_v3_small(weights="DEFAULT", num_classes=10)


def test_without_a_network_the_sentence_names_what_else_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEEBILL_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/net-01234567.pth"
    weights = Weights(url=url, sha256="01234567")
    with pytest.raises(DownloadError) as error:
        mobilenet_v3_small(weights=weights)
    text = str(error.value)
    assert "Connection refused" in text
    assert f"put net-01234567.pth into {tmp_path / 'weights'}" in text
    assert "weights=PATH" in text
    assert "efficientnet_lite0" in text
    assert "\n" not in text


def test_file_put_into_the_cache_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state_dict: dict[str, torch.Tensor]
) -> None:
    import hashlib

    monkeypatch.setenv("WEEBILL_HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()
    path = checkpoint(tmp_path / "weights" / "net.pth", state_dict, "plain")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    weights = Weights(url="http://127.0.0.1:9/net.pth", sha256=digest[:8])
    model = mobilenet_v3_small(weights=weights, width_mult=0.35)
    assert same(dict(model.state_dict()), state_dict)


def test_package_that_is_not_installed() -> None:
    weights = Weights(package=PackageFile("no_such_package", "a/b.pth", "no-such-package==1.2"))
    with pytest.raises(FileNotFoundError, match=r"b.pth .*; pip install no-such-package==1\.2$"):
        weights.get_state_dict()


def test_changed_file_is_refused(tmp_path: Path, state_dict: dict[str, torch.Tensor]) -> None:
    path = checkpoint(tmp_path / "net.pth", state_dict, "plain")
    weights = Weights(file=path, sha256="0" * 64)
    with pytest.raises(ValueError, match="changed or is damaged"):
        weights.get_state_dict()
    assert same(weights.get_state_dict(check_hash=False), state_dict)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "exactly one of url, package and file must be given, got 0"),
        ({"url": "http://x/y", "sha256": "0", "file": Path("z")}, "got 2"),
        ({"url": "http://x/y"}, "sha256 must be given with a url"),
        ({"url": "http://x", "sha256": "0"}, "url must end in a file name, got 'http://x'"),
    ],
)
def test_wrong_weights(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Weights(**arguments)


def test_transforms_can_be_changed() -> None:
    weights = MobileNet_V3_Large_Weights.IMAGENET1K_V2
    assert weights.transforms() == ImageClassification(crop_size=224, resize_size=232)
    assert weights.transforms(crop_size=96).crop_size == 96


def test_members_can_be_copied_and_pickled() -> None:
    for member in MobileNet_V3_Large_Weights:
        assert copy.deepcopy(member) is member
        assert pickle.loads(pickle.dumps(member)) is member
