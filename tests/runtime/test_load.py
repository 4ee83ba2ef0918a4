"""weebill.runtime.load: a file gives its network, or it is refused with ValueError."""

from __future__ import annotations

import copy
import json
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.runtime.files import document, joined, split, tensors, write_file
from weebill import runtime
from weebill.data import ImageClassification

X = np.random.default_rng(1).standard_normal((2, 3, 16, 12), dtype=np.float32)

#: The file's directory is made once for all examples of a property.
SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def test_load(tmp_path: Path) -> None:
    model = runtime.load(write_file(tmp_path / "a.weebill"))
    assert model.input_shape == (1, 3, 16, 12)
    assert model.categories == ("a", "b", "c", "d", "e")
    assert model.preprocessing == ImageClassification(crop_size=16, resize_size=16)
    assert model.version == "0.1.0"
    assert repr(model) == "<weebill.runtime.Model: 4 blocks, input 1 x 3 x 16 x 12>"
    assert model.output_shapes() == {"scores": (1, 5), "mask": (1, 8, 16, 12)}
    y = model(X)
    assert isinstance(y, dict)
    assert {name: array.shape for name, array in y.items()} == model.output_shapes(X.shape)
    assert all(np.isfinite(array).all() for array in y.values())
    again = model(np.ascontiguousarray(X.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))
    assert isinstance(again, dict)
    assert all(np.array_equal(y[name], again[name]) for name in y)


def test_structures(tmp_path: Path) -> None:
    wanted = document()
    named = runtime.load(write_file(tmp_path / "a", wanted))(X)
    wanted["structure"] = "tuple"
    both = runtime.load(write_file(tmp_path / "b", wanted))(X)
    wanted["structure"] = "array"
    wanted["outputs"] = wanted["outputs"][:1]
    one = runtime.load(write_file(tmp_path / "c", wanted))(X)
    assert isinstance(named, dict)
    assert isinstance(both, tuple)
    assert isinstance(one, np.ndarray)
    assert np.array_equal(named["scores"], one)
    assert np.array_equal(both[0], one)
    assert np.array_equal(both[1], named["mask"])


@pytest.mark.parametrize(
    ("x", "error", "text"),
    [
        (X.astype(np.float64), TypeError, "model: x must be a float32 array, got float64 array"),
        (X.tolist(), TypeError, "model: x must be a float32 array, got list"),
        (X[0], ValueError, r"model: x must be \(N, 3, H, W\), got \(3, 16, 12\)"),
        (X[:, :2], ValueError, r"model: x must be \(N, 3, H, W\), got \(2, 2, 16, 12\)"),
        (X[:, :, :0], ValueError, "height and width of at least 1"),
    ],
)
def test_wrong_input(tmp_path: Path, x: Any, error: type[Exception], text: str) -> None:
    model = runtime.load(write_file(tmp_path / "a.weebill"))
    with pytest.raises(error, match=text):
        model(x)


def test_no_images(tmp_path: Path) -> None:
    y = runtime.load(write_file(tmp_path / "a.weebill"))(X[:0])
    assert isinstance(y, dict)
    assert y["scores"].shape == (0, 5)


@pytest.mark.parametrize("single", [False, True])
def test_pickled_to_any_address(tmp_path: Path, single: bool) -> None:
    """As a pickle's buffers lie in a shared memory that is packed without gaps."""
    text, left_out = document(), dict[str, Any]()
    if single:
        text |= {"nodes": text["nodes"][:1], "programs": text["programs"][:1]}
        text |= {"outputs": [{"value": 1}], "structure": "array"}
        left_out = {name: None for name in tensors() if not name.startswith("stem")}
    model = runtime.load(write_file(tmp_path / "a.weebill", text, **left_out))
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(model, 5, buffer_callback=buffers.append)
    assert buffers
    moved = [memoryview(b"1234" + buffer.raw().tobytes())[4:] for buffer in buffers]
    for again in (pickle.loads(data, buffers=moved), copy.deepcopy(model)):
        found, expected = again(X), model(X)
        pairs = [(found, expected)] if single else [(found[k], expected[k]) for k in expected]
        assert all(np.array_equal(*pair) for pair in pairs)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        runtime.load(tmp_path / "missing.weebill")
    with pytest.raises(IsADirectoryError):
        runtime.load(tmp_path)


def refused(path: Path, text: str = "") -> None:
    with pytest.raises(ValueError, match="^load: path must be an intact weebill file") as caught:
        runtime.load(path)
    assert text in str(caught.value), caught.value
    assert len(str(caught.value)) < 400


def changed(path: list[Any], value: Any) -> dict[str, Any]:
    """The document with one place changed; `...` as the value removes it."""
    found = document()
    place: Any = found
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return found


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (["format"], 2, "format must be 1, got 2; update weebill"),
        (["format"], "1", "format must be of type int"),
        (["format"], ..., "format"),
        (["surprise"], 1, "unknown key 'surprise'"),
        (["input_shape"], [1, 3], "resize takes 4 dimensions"),
        (["input_shape"], [1, 3, 0, 5], "positive"),
        (["input_shape"], [1, 3, 1 << 30, 1 << 30], ""),
        (["input_shape"], [1 << 20, 3, 64, 64], "must not be as large"),
        (["input_shape"], [True, 3, 4, 4], "must be of type int, got True"),
        (["nodes", 0, "inputs"], [1], "node 0 must take values from 0 to 0, got 1"),
        (["nodes", 2, "inputs"], [1, 3], "node 2 must take values from 0 to 2, got 3"),
        (["nodes", 2, "inputs"], [1, -1], "got -1"),
        (["nodes", 2, "inputs"], [1], "add takes 2 to 2 inputs"),
        (["nodes", 2, "op"], "exec", "must be one of run, add"),
        (["nodes", 2, "op"], ["add"], "must be of type str"),
        (["nodes", 2], [], "must be an object"),
        (["nodes"], {}, "nodes must be a list"),
        (["nodes", 1, "program"], 3, "must have a program that is there, got 3"),
        (["nodes", 1, "program"], -1, "got -1"),
        (["nodes", 1, "program"], 0, "channels"),
        (["nodes", 4, "size"], [9, 9], "second input, size or scale"),
        (["outputs", 0, "value"], 6, "an output must be a value that is there, got 6"),
        (["outputs", 1, "name"], "scores", "the outputs must be those of a dict"),
        (["outputs"], [], "the outputs must be"),
        (["structure"], "list", "must be one of 'array', 'tuple', 'dict'"),
        (["programs", 0], [], "a program must have blocks"),
        (["programs", 0, 0, "kind"], "separable", "must have depthwise, got layer"),
        (["programs", 0, 0, "residual"], True, "must not have a residual"),
        (["programs", 1, 0, "depthwise"], None, "must have depthwise"),
        (["programs", 1, 0, "expand", "path"], "stem", "no two layers"),
        (["programs", 1, 0, "expand", "groups"], 0, "groups must be positive"),
        (["programs", 1, 0, "expand", "activation"], "tanh", "expand_activation"),
        (["programs", 1, 0, "expand", "norms"], [{"path": "bn"}], "folded in"),
        (["programs", 1, 0, "depthwise", "window", "stride"], [2, 1], "residual"),
        (["programs", 1, 0, "depthwise", "window", "stride"], [0, 1], "stride"),
        (["programs", 1, 0, "depthwise", "window", "stride"], [1 << 40, 1], "stride"),
        (["programs", 1, 0, "depthwise", "window", "padding"], [1, 1], "must have 4 entries"),
        (
            ["programs", 1, 0, "depthwise", "window", "padding"],
            "valid",
            "must be a list, got 'valid'",
        ),
        (["programs", 1, 0, "project", "path"], "elsewhere", "lacks the tensor"),
        (["programs", 2, 0, "channels"], 0, "channels must be from 1"),
        (["programs", 2, 0, "channels"], 1 << 62, "channels must be from 1"),
        (["programs", 2, 1, "layer", "out_channels"], 6, "must have shape (6, 8, 1, 1)"),
        (["preprocessing", "crop_size"], 0, "crop_size must be positive"),
        (["preprocessing", "crop_size"], "9", "must be of type int"),
        (["preprocessing", "mean"], [1.0], "mean and std"),
        (["categories", 0], 3, "must be of type str"),
    ],
)
def test_bad_description(tmp_path: Path, path: list[Any], value: Any, text: str) -> None:
    refused(write_file(tmp_path / "bad", changed(path, value)), text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON"),
        ("[]", "must be an object"),
        ("{}", "format"),
        ('{"format": 1, "format": 1}', "key 'format' is there twice"),
        ('{"format": NaN}', "NaN is no number"),
        ('{"format": ' + "9" * 5000 + "}", "5000 digits"),
        ('{"a": ' + "[" * 200_000 + "]" * 200_000 + "}", "nested too deeply"),
        ('{"a": ' * 200_000 + "1" + "}" * 200_000, "nested too deeply"),
        ("{" * 100, "no JSON"),
    ],
)
def test_bad_json(tmp_path: Path, text: str, reason: str) -> None:
    refused(write_file(tmp_path / "bad", text), reason)


def test_bad_tensors(tmp_path: Path) -> None:
    one = np.ones((1,), np.float32)
    refused(write_file(tmp_path / "a", **{"stem.weight": None}), "lacks the tensor 'stem.weight'")
    refused(write_file(tmp_path / "b", **{"stem.bias": one}), "must have 8 elements")
    refused(write_file(tmp_path / "c", surprise=one), "belongs to nothing: 'surprise'")
    refused(
        write_file(tmp_path / "d", **{"stem.weight": np.ones((8, 3, 9), np.float32)}),
        "must have shape (8, 3, 3, 3)",
    )


def entry(header: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = header["expand.weight"]
    return found


def overlap(header: dict[str, Any]) -> None:
    entry(header)["data_offsets"] = header["stem.weight"]["data_offsets"]


def gap(header: dict[str, Any]) -> None:
    entry(header)["data_offsets"][0] += 4


@pytest.mark.parametrize(
    "change",
    [
        overlap,
        gap,
        lambda h: entry(h).update(dtype="F64"),
        lambda h: entry(h).update(dtype="I32"),
        lambda h: entry(h).update(dtype="F16"),
        lambda h: entry(h).update(shape=[20, 8, 1]),
        lambda h: entry(h).update(shape=[20, 8, 1, 1, 1]),
        lambda h: entry(h).update(shape=[1 << 40, 1 << 40, 1, 1]),
        lambda h: entry(h).update(shape=[-20, -8, 1, 1]),
        lambda h: entry(h).update(shape=[]),
        lambda h: entry(h).update(shape=160),
        lambda h: entry(h).update(data_offsets=[0]),
        lambda h: entry(h).update(data_offsets=[-640, 0]),
        lambda h: entry(h).update(data_offsets=[0, 1 << 62]),
        lambda h: entry(h).update(extra=1),
        lambda h: entry(h).pop("dtype"),
        lambda h: h.update(__metadata__=[]),
        lambda h: h.update(__metadata__={"weebill": 1}),
        lambda h: h.pop("__metadata__"),
    ],
)
def test_bad_header(tmp_path: Path, change: Any) -> None:
    path = write_file(tmp_path / "bad")
    header, rest = split(path.read_bytes())
    change(header)
    path.write_bytes(joined(header, rest))
    refused(path)


def test_bad_lengths(tmp_path: Path) -> None:
    path = write_file(tmp_path / "bad")
    data = path.read_bytes()
    for broken in (
        b"",
        data[:7],
        (1 << 63).to_bytes(8, "little") + data[8:],
        (len(data) - 7).to_bytes(8, "little") + data[8:],
        data + b"\0",
        data[:-1],
        data[:8] + b"\xff" + data[9:],
    ):
        path.write_bytes(broken)
        refused(path)


@SETTINGS
@given(cut=st.integers(0, 1 << 14))
def test_truncated(tmp_path: Path, cut: int) -> None:
    path = write_file(tmp_path / "cut")
    data = path.read_bytes()
    path.write_bytes(data[: cut % len(data)])
    refused(path)


@SETTINGS
@given(at=st.integers(0, 1 << 14), value=st.integers(0, 255))
def test_one_byte_changed(tmp_path: Path, at: int, value: int) -> None:
    """A changed byte of the header is refused, or tells something else that is valid."""
    path = write_file(tmp_path / "changed")
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    data[at % (8 + length)] = value
    path.write_bytes(data)
    load_or_refuse(path)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([0, 1, 2, 3, 8, 20, -1, 1.5, "", "stem", "run", "same", "relu"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["op", "inputs", "kind", "layer", "path"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        found += [p for key, inner in value.items() for p in places(inner, (*path, key))]
    if isinstance(value, list):
        found += [p for i, inner in enumerate(value) for p in places(inner, (*path, i))]
    return found


PLACES = places(document())


@SETTINGS
@given(place=st.sampled_from(PLACES), value=JSON)
def test_any_place_replaced(tmp_path: Path, place: tuple[Any, ...], value: Any) -> None:
    path = write_file(tmp_path / "replaced", changed(list(place), value))
    load_or_refuse(path)


@SETTINGS
@given(st.data())
def test_two_places_swapped(tmp_path: Path, data: st.DataObject) -> None:
    found = document()
    first, second = data.draw(st.sampled_from(PLACES)), data.draw(st.sampled_from(PLACES))
    value = copy.deepcopy(look_up(found, second))
    wanted = changed(list(first), value)
    load_or_refuse(write_file(tmp_path / "swapped", wanted))


def look_up(place: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        place = place[key]
    return place


def load_or_refuse(path: Path) -> None:
    """The file is refused with ValueError, or is a network that runs; in little memory."""
    tracemalloc.start()
    try:
        model = runtime.load(path)
        shape = model.input_shape
        small = int(np.prod(shape)) <= 1 << 16
        if small and all(size <= 1 << 20 for size in sizes(model.output_shapes())):
            model(np.zeros(shape, np.float32))
    except ValueError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 64 << 20


def sizes(shapes: Any) -> list[int]:
    if isinstance(shapes, dict):
        shapes = tuple(shapes.values())
    listed = shapes if isinstance(shapes[0], tuple) else (shapes,)
    return [int(np.prod(shape)) for shape in listed]


def test_header_is_plain_safetensors(tmp_path: Path) -> None:
    numpy_reader = pytest.importorskip("safetensors.numpy")
    path = write_file(tmp_path / "a.weebill")
    found = numpy_reader.load_file(path)
    assert found.keys() == tensors().keys()
    assert all(np.array_equal(found[name], array) for name, array in tensors().items())
    data = path.read_bytes()
    assert int.from_bytes(data[:8], "little") % 64 == 56  # the tensors begin on a multiple of 64
    assert json.loads(split(data)[0]["__metadata__"]["weebill"]) == document()
