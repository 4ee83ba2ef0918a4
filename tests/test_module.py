"""`weebill._C`: the core on numpy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.bounds import Bounded, layouts
from weebill import _C

Floats = NDArray[np.float32]
UNIT = (1, 1)
ZEROS = (0, 0, 0, 0)


def floats(*shape: int) -> Floats:
    return torch.randn(*shape).numpy()


def dense(c_in: int = 5, c_out: int = 7, kernel: int = 3) -> tuple[Floats, NDArray[np.uint8]]:
    weight = floats(c_out, c_in, kernel, kernel)
    return weight, _C.pack_conv2d(weight, None, UNIT, ZEROS, UNIT, 1, "none")


def test_conv2d(isa: str) -> None:
    weight, bias = floats(17, 5, 3, 3), floats(17)
    record = _C.pack_conv2d(weight, bias, (2, 1), (1, 0, 2, 1), (1, 2), 1, "hardswish")
    x = floats(2, 5, 9, 8)
    y = _C.run(x, record)
    exact = Bounded.of(torch.from_numpy(x)).conv2d(
        torch.from_numpy(weight), torch.from_numpy(bias), (2, 1), (1, 0, 2, 1), (1, 2)
    )
    exact.activation("hardswish").check(torch.from_numpy(y))
    assert y.shape == _C.output_shape(x.shape, record)


def test_result_is_aligned_and_channels_last() -> None:
    _, record = dense()
    y = _C.run(floats(2, 5, 6, 7), record)
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    assert y.ctypes.data % 64 == 0
    assert y.flags.writeable
    assert record.ctypes.data % 64 == 0
    assert record.nbytes % 64 == 0


def test_layouts(isa: str) -> None:
    _, record = dense()
    results = [_C.run(x.numpy(), record) for x in layouts(torch.randn(2, 5, 9, 8)).values()]
    for result in results[1:]:
        assert np.array_equal(result, results[0])


def test_strides_of_single_steps_are_not_used() -> None:
    _, record = dense()
    x = floats(1, 5, 6, 7)
    odd = np.lib.stride_tricks.as_strided(x, strides=(-12345, *x.strides[1:]))
    assert np.array_equal(_C.run(odd, record), _C.run(x, record))


def test_broadcast_input() -> None:
    _, record = dense()
    x = floats(1, 1, 6, 7)
    wide = np.broadcast_to(x, (3, 5, 6, 7))
    assert np.array_equal(_C.run(wide, record), _C.run(wide.copy(), record))


def test_weights_of_other_layouts() -> None:
    weight = floats(6, 4, 3, 3)
    want = _C.pack_conv2d(weight, None, UNIT, ZEROS, UNIT, 1, "none")
    wide = np.zeros((12, 4, 3, 3), np.float32)
    wide[::2] = weight
    for same in (
        np.asfortranarray(weight),
        wide[::2],
        weight[::-1].copy()[::-1],
        unaligned(weight),
    ):
        got = _C.pack_conv2d(same, None, UNIT, ZEROS, UNIT, 1, "none")
        assert np.array_equal(got, want)


def unaligned(array: Floats) -> Floats:
    raw = np.zeros(array.nbytes + 1, np.uint8)
    copy = raw[1:].view(np.float32).reshape(array.shape)
    copy[...] = array
    return copy


def test_empty_batch() -> None:
    _, record = dense()
    assert _C.run(np.zeros((0, 5, 6, 7), np.float32), record).shape == (0, 7, 4, 5)


def test_join_runs_one_after_the_other() -> None:
    _, first = dense(5, 7)
    _, second = dense(7, 4)
    x = floats(2, 5, 9, 8)
    both = _C.join([first, second])
    assert both.ctypes.data % 64 == 0
    assert np.array_equal(_C.run(x, both), _C.run(_C.run(x, first), second))
    assert _C.geometry(both) == _C.geometry(first) + _C.geometry(second)
    assert _C.join([]).size == 0


def test_geometry() -> None:
    padded = _C.pack_conv2d(floats(8, 3, 3, 5), None, (2, 1), (1, 0, 2, 1), (1, 2), 1, "none")
    assert _C.geometry(padded) == [8, 2, 1, 1 + 2 - 3, 0 + 1 - 9, 0]
    same = _C.pack_conv2d(floats(8, 3, 3, 3), None, (2, 2), "same", UNIT, 1, "none")
    assert _C.geometry(same)[:3] == [8, 2, 2]
    assert _C.geometry(same)[5] == 1
    assert _C.geometry(_C.pack_global_avg_pool2d(9))[0] == 9
    assert _C.geometry(_C.pack_global_avg_pool2d(9))[5] == 2


def test_multiply_adds() -> None:
    _, record = dense(5, 7, 3)
    assert _C.multiply_adds((2, 5, 6, 7), record) == 2 * 4 * 5 * 7 * 5 * 9


def test_explain_has_a_line_per_record() -> None:
    block = _C.pack_separable(
        expand_weight=floats(32, 8, 1, 1),
        depthwise_weight=floats(32, 1, 3, 3),
        project_weight=floats(8, 32, 1, 1),
        stride=UNIT,
        padding=(1, 1, 1, 1),
        dilation=UNIT,
        residual=True,
    )
    text = _C.explain((1, 8, 28, 28), _C.join([block, block]), 2)
    assert len(text.splitlines()) == 2
    assert "8-32-8 28x28" in text


def test_input_is_not_kept() -> None:
    import gc
    import weakref

    class Array(np.ndarray[Any, Any]):
        pass

    weight = floats(7, 5, 3, 3).view(Array)
    gone = weakref.ref(weight)
    record = _C.pack_conv2d(weight, None, UNIT, ZEROS, UNIT, 1, "none")
    del weight
    gc.collect()
    assert gone() is None
    assert _C.run(floats(1, 5, 4, 4), record).shape == (1, 7, 2, 2)


def test_memory_of_large_results_is_used_again_once_nobody_holds_it() -> None:
    record = _C.pack_conv2d(floats(64, 3, 1, 1), None, UNIT, ZEROS, UNIT, 1, "none")
    x, other = floats(1, 3, 48, 48), floats(1, 3, 48, 48)  # results of 0.6 MB
    first = _C.run(x, record)
    values, address = first.copy(), first.ctypes.data
    held = [_C.run(other, record) for _ in range(8)]
    assert len({y.ctypes.data for y in [first, *held]}) == 9
    assert np.array_equal(first, values)
    held.clear()
    row = first[:, :, 0]
    del first
    later = [_C.run(other, record) for _ in range(8)]
    assert address not in {y.ctypes.data for y in later}  # a view still looks at it
    assert np.array_equal(row, values[:, :, 0])
    later.clear()
    del row
    assert _C.run(other, record).ctypes.data == address
    small = [_C.run(floats(1, 3, size, size), record) for size in (1, 2, 3)]
    assert all(y.ctypes.data % 64 == 0 for y in small)


def test_other_python_threads_run_meanwhile() -> None:
    import threading

    weight = floats(64, 64, 3, 3)
    record = _C.pack_conv2d(weight, None, UNIT, (1, 1, 1, 1), UNIT, 1, "none")
    x = floats(1, 64, 128, 128)
    finished = threading.Event()

    def work() -> None:
        _C.run(x, record)
        finished.set()

    thread = threading.Thread(target=work)
    turns = 0
    thread.start()
    while not finished.is_set():
        turns += 1
    thread.join()
    # Were the lock held, the loop would get its first turn when all is done.
    assert turns > 10


def run(x: Any, record: Any = None) -> Callable[[], object]:
    return lambda: _C.run(x, dense()[1] if record is None else record)


def pack(**changes: Any) -> Callable[[], object]:
    values = {
        "weight": np.ones((4, 3, 3, 3), np.float32),
        "bias": None,
        "stride": UNIT,
        "padding": ZEROS,
        "dilation": UNIT,
        "groups": 1,
        "activation": "none",
    }
    return lambda: _C.pack_conv2d(**{**values, **changes})


X = np.zeros((1, 5, 6, 7), np.float32)
ERRORS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "float64": (run(X.astype("f8")), TypeError, "run: x must be float32, got float64"),
    "float16": (run(X.astype("f2")), TypeError, "run: x must be float32, got float16"),
    "int": (run(X.astype("i4")), TypeError, "run: x must be float32, got int32"),
    "byte order": (run(X.astype(">f4")), TypeError, "run: x must be float32, got >f4"),
    "object": (run(X.astype(object)), TypeError, "run: x must be float32, got object"),
    "list": (run([1.0]), TypeError, "run: x must be a numpy array, got list"),
    "none": (run(None), TypeError, "run: x must be a numpy array, got NoneType"),
    "rank": (run(X[0]), ValueError, r"run: x must have 4 dimensions .*, got shape \(5, 6, 7\)"),
    "negative stride": (run(X[..., ::-1]), ValueError, r"run: x must have strides .*, got .*-4\)"),
    "unaligned": (run(unaligned(X)), ValueError, "run: x must be aligned to 4 bytes"),
    "channels": (run(X[:, :4]), ValueError, "run: x must have 5 channels, got 4"),
    "records dtype": (run(X, X), TypeError, "run: records must be uint8, got float32"),
    "records rank": (
        run(X, np.zeros((2, 64), np.uint8)),
        ValueError,
        r"run: records must have 1 dimension, got shape \(2, 64\)",
    ),
    "records step": (
        run(X, np.zeros(256, np.uint8)[::2]),
        ValueError,
        r"run: records must be contiguous, got strides \(2,\)",
    ),
    "records zero": (
        run(X, _C.join([np.zeros(256, np.uint8)])),
        ValueError,
        "run: records must",
    ),
    "records address": (
        run(X, _C.join([np.zeros(256, np.uint8)])[8:]),
        ValueError,
        "run: records must start at a multiple of 16 bytes, got a remainder of 8; .*join",
    ),
    "weight dtype": (
        pack(weight=np.ones((4, 3, 3, 3))),
        TypeError,
        "conv2d: weight must be float32",
    ),
    "weight none": (pack(weight=None), ValueError, "conv2d: weight must be given"),
    "weight rank": (pack(weight=X[0]), ValueError, "conv2d: weight must have 4 dimensions"),
    "weight empty": (
        pack(weight=np.zeros((0, 3, 3, 3), np.float32)),
        ValueError,
        r"conv2d: weight must not be empty, got shape \(0, 3, 3, 3\)",
    ),
    "bias": (pack(bias=X[0, 0, 0]), ValueError, r"conv2d: bias must be \(4,\), got \(7,\)"),
    "stride": (pack(stride=(1,)), ValueError, r"conv2d: stride must be two .*, got \(1\)"),
    "padding": (pack(padding=(1, 1)), ValueError, r"conv2d: padding must be four .*, got \(1, 1\)"),
    "padding word": (pack(padding="valid"), ValueError, "conv2d: padding must be .*, got 'valid'"),
    "padding kind": (pack(padding=1.5), TypeError, "conv2d: padding must be .*, got float"),
    "activation": (pack(activation="gelu"), ValueError, "conv2d: activation must be one of"),
    "own name": (pack(activation="gelu", op="stem"), ValueError, "stem: activation must be one of"),
    "shape": (
        lambda: _C.output_shape((1, 5, 6), dense()[1]),
        ValueError,
        r"output_shape: shape must be 4 numbers .*, got \[1, 5, 6\]",
    ),
    "negative shape": (
        lambda: _C.multiply_adds((1, 5, -6, 3), dense()[1]),
        ValueError,
        "multiply_adds: shape must be 4 numbers .*, none negative",
    ),
    "threads": (
        lambda: _C.explain((1, 5, 6, 6), dense()[1], 0),
        ValueError,
        "explain: threads must be at least 1, got 0",
    ),
    "channels to pool": (
        lambda: _C.pack_global_avg_pool2d(0),
        ValueError,
        r"global_avg_pool2d: channels must be .*, got 0",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case: str) -> None:
    call, kind, message = ERRORS[case]
    with pytest.raises(kind, match=f"^{message}"):
        call()
