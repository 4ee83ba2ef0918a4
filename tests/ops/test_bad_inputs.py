"""What does not fit is refused by a typed exception that names op, argument, rule and value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.ops.cases import PLAIN_OPS, arguments, network, op, op_name
from weebill import _C, ops

X = torch.zeros(2, 6, 7, 5)
W = torch.zeros(8, 6, 3, 3)
DW = torch.zeros(6, 1, 3, 3)
PW = torch.zeros(8, 6, 1, 1)
UP = torch.zeros(12, 6, 1, 1)
MID = torch.zeros(12, 1, 3, 3)
DOWN = torch.zeros(6, 12, 1, 1)


def conv(**changes: Any) -> Callable[[], Tensor]:
    return lambda: ops.conv2d(**{"x": X, "weight": W, **changes})


def depthwise(**changes: Any) -> Callable[[], Tensor]:
    return lambda: ops.depthwise_conv2d(**{"x": X, "weight": DW, **changes})


def separable(**changes: Any) -> Callable[[], Tensor]:
    values = {
        "x": X,
        "depthwise_weight": DW,
        "depthwise_bias": None,
        "pointwise_weight": PW,
        "pointwise_bias": None,
    }
    return lambda: ops.depthwise_pointwise(**{**values, **changes})


def inverted(**changes: Any) -> Callable[[], Tensor]:
    values = {
        "x": X,
        "expand_weight": UP,
        "depthwise_weight": MID,
        "project_weight": DOWN,
        "padding": 1,
    }
    return lambda: ops.inverted_residual(**{**values, **changes})


def squeeze(**changes: Any) -> Callable[[], Tensor]:
    values = {
        "x": X,
        "reduce_weight": torch.zeros(2, 6, 1, 1),
        "reduce_bias": None,
        "expand_weight": torch.zeros(6, 2, 1, 1),
        "expand_bias": None,
    }
    return lambda: ops.squeeze_excite(**{**values, **changes})


VALUE_ERRORS: dict[str, tuple[Callable[[], Tensor], str]] = {
    "x rank": (conv(x=X[0]), "conv2d: x must have 4 dimensions .*, got 3"),
    "x channels": (conv(x=X[:, :5]), "conv2d: x must have 6 channels, got 5"),
    "weight rank": (conv(weight=W[0]), r"conv2d: weight must have 4 dimensions, got \(6, 3, 3\)"),
    "weight empty": (conv(weight=W[:0]), "conv2d: weight must not be empty"),
    "bias size": (conv(bias=torch.zeros(7)), r"conv2d: bias must be \(8,\), got \(7,\)"),
    "groups": (conv(groups=3), "conv2d: groups must divide the 8 output channels, got 3"),
    "groups negative": (conv(groups=-1), "conv2d: groups must .*, got -1"),
    "stride zero": (conv(stride=0), r"conv2d: stride must be from 1 to \d+, got \(0, 0\)"),
    "stride count": (conv(stride=(1, 1, 1)), r"conv2d: stride must be .*, got \(1, 1, 1\)"),
    "stride huge": (conv(stride=2**40), "conv2d: stride must be .*, got .*1099511627776"),
    "dilation zero": (conv(dilation=(1, 0)), r"conv2d: dilation must be .*, got \(1, 0\)"),
    "padding negative": (conv(padding=-1), r"conv2d: padding must be from 0 .*, got \(-1, "),
    "padding count": (conv(padding=(1, 2, 3)), r"conv2d: padding must be .*, got \(1, 2, 3\)"),
    "padding none": (conv(padding=()), r"conv2d: padding must be .*, got \(\)"),
    "padding word": (conv(padding="valid"), "conv2d: padding must be .*, got 'valid'"),
    "window": (conv(weight=torch.zeros(1, 6, 9, 3)), "conv2d: x must be at least as large as .*9"),
    "activation": (conv(activation="gelu"), "conv2d: activation must be one of .*, got 'gelu'"),
    "depthwise weight": (
        depthwise(weight=W),
        r"depthwise_conv2d: weight must be \(c_out, 1, kh, kw\) .*, got \(8, 6, 3, 3\)",
    ),
    "depthwise channels": (
        depthwise(weight=torch.zeros(9, 1, 3, 3)),
        r"depthwise_conv2d: weight must be .* a multiple of 6.*, got \(9, 1, 3, 3\)",
    ),
    "depthwise bias": (
        depthwise(bias=torch.zeros(6, 1)),
        r"depthwise_conv2d: .*bias must be \(6,\), got \(6, 1\)",
    ),
    "pointwise weight": (
        lambda: ops.pointwise_conv2d(X, W),
        r"pointwise_conv2d: weight must be \(c_out, 6, 1, 1\) .*, got \(8, 6, 3, 3\)",
    ),
    "pool_linear weight": (
        lambda: ops.pool_linear(X, PW),
        r"pool_linear: weight must be \(c_out, 6\) .*, got \(8, 6, 1, 1\)",
    ),
    "pool_linear pixels": (
        lambda: ops.pool_linear(X[:, :, :0], torch.zeros(3, 6)),
        "pool_linear: x must have .*",
    ),
    "separable x": (separable(x=X[:, :4]), "depthwise_pointwise: x must have 6 channels, got 4"),
    "separable weight": (
        separable(pointwise_weight=PW[:, :5]),
        r"depthwise_pointwise: pointwise_weight must be \(8, 6, 1, 1\), got \(8, 5, 1, 1\)",
    ),
    "separable bias": (
        separable(pointwise_bias=torch.zeros(6)),
        r"depthwise_pointwise: pointwise_bias must be \(8,\), got \(6,\)",
    ),
    "separable residual": (
        separable(residual=True, padding=1),
        "depthwise_pointwise: residual must .* equal .* channels, got 6 and 8",
    ),
    "inverted expansion": (
        inverted(expand_weight=UP[:11]),
        r"inverted_residual: expand_weight must be \(12, 6, 1, 1\), got \(11, 6, 1, 1\)",
    ),
    "inverted projection": (
        inverted(project_weight=UP),
        r"inverted_residual: project_weight must be \(12, 12, 1, 1\), got \(12, 6, 1, 1\)",
    ),
    "inverted stride": (
        inverted(residual=True, stride=2),
        r"inverted_residual: residual must .*stride \(1, 1\), got \(2, 2\)",
    ),
    "inverted size": (
        inverted(residual=True, padding=0),
        r"inverted_residual: padding must keep the size .*, got \(2, 6, 7, 5\) .* 5 x 3",
    ),
    "inverted SE": (
        inverted(se_reduce_weight=torch.zeros(3, 12, 1, 1)),
        "inverted_residual: se_expand_weight must be given",
    ),
    "inverted SE bias": (
        inverted(se_reduce_bias=torch.zeros(3)),
        "inverted_residual: se_reduce_weight must be given where se_reduce_bias is",
    ),
    "inverted expand bias": (
        inverted(expand_weight=None, expand_bias=torch.zeros(6), depthwise_weight=DW),
        "inverted_residual: expand_weight must be given where expand_bias is",
    ),
    "inverted gate": (
        inverted(
            se_reduce_weight=torch.zeros(3, 12, 1, 1),
            se_expand_weight=torch.zeros(12, 3, 1, 1),
            se_gate="softmax",
        ),
        "inverted_residual: se_gate must be one of .*, got 'softmax'",
    ),
    "squeeze channels": (squeeze(x=X[:, :5]), "squeeze_excite: x must have 6 channels, got 5"),
    "squeeze width": (
        squeeze(expand_weight=torch.zeros(6, 3, 1, 1)),
        r"squeeze_excite: expand_weight must be \(6, 2, 1, 1\), got \(6, 3, 1, 1\)",
    ),
}


@pytest.mark.parametrize("case", VALUE_ERRORS)
def test_value_errors(case: str) -> None:
    call, message = VALUE_ERRORS[case]
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


def tensor_arguments() -> list[tuple[str, int, str, str]]:
    """Case, place and name of an argument, and what is wrong with it."""
    places = []
    for name in PLAIN_OPS:
        any_dtype = op_name(name) == "channel_shuffle"
        schema = op(name)._schema
        for i, (argument, value) in enumerate(zip(schema.arguments, arguments(name), strict=True)):
            if isinstance(value, Tensor):
                places += [
                    (name, i, argument.name, wrong)
                    for wrong, (_, message) in WRONG.items()
                    if not (any_dtype and "float32" in message)
                ]
    return places


WRONG: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "float64": (lambda t: t.double(), "must be float32, got float64"),
    "float16": (lambda t: t.half(), "must be float32, got float16"),
    "bfloat16": (lambda t: t.bfloat16(), "must be float32, got bfloat16"),
    "int64": (lambda t: t.long(), "must be float32, got int64"),
    "bool": (lambda t: t.bool(), "must be float32, got bool"),
    "complex64": (lambda t: t.to(torch.complex64), "must be float32, got complex64"),
    "meta": (lambda t: t.to("meta"), "must be on the cpu, got meta"),
    "sparse": (lambda t: t.to_sparse(), "must be strided .*, got torch.sparse_coo"),
    "numpy": (lambda t: t.numpy(), r"must be of type (Optional\[Tensor\]|Tensor\??), got ndarray"),
}


def call_wrapper(name: str, values: list[object]) -> Tensor:
    names = [argument.name for argument in op(name)._schema.arguments]
    given = dict(zip(names, values, strict=True))
    if given.get("padding") == [-1]:
        given["padding"] = "same"
    function: Callable[..., Tensor] = getattr(ops, op_name(name))
    return function(**given)


@pytest.mark.parametrize(("name", "index", "argument", "wrong"), tensor_arguments())
def test_wrong_tensors(name: str, index: int, argument: str, wrong: str) -> None:
    change, message = WRONG[wrong]
    values = list(arguments(name))
    values[index] = change(values[index])
    with pytest.raises(TypeError, match=f"^{op_name(name)}: {argument} {message}"):
        call_wrapper(name, values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": 3}, "activation must be of type str, got int"),
        ({"groups": 1.5}, "groups must be of type int, got float"),
        ({"stride": 1.5}, "stride must be an integer or several, got 1.5"),
        ({"stride": None}, "stride must be an integer or several, got None"),
        ({"padding": (1, None)}, r"padding must be an integer or several, got \(1, None\)"),
        ({"x": [1, 2]}, "x must be of type Tensor, got list"),
    ],
    ids=str,
)
def test_wrong_kinds(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^conv2d: {message}"):
        conv(**changes)()


def test_a_device_elsewhere_is_refused_by_name() -> None:
    # There need be no such device: what torch.compile would see of its tensors is enough.
    with FakeTensorMode(), pytest.raises(TypeError, match="conv2d: x must be on the cpu, got cuda"):
        ops.conv2d(torch.empty(1, 6, 5, 5, device="cuda"), torch.empty(8, 6, 3, 3, device="cuda"))


def records_error(change: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
    def call() -> Tensor:
        records, geometry = network()
        return ops.run(X, change(records), geometry)

    return call


def shifted(records: Tensor) -> Tensor:
    wide = torch.zeros(len(records) + 8, dtype=torch.uint8)
    wide[8:] = records
    return wide[8:]


def patched(records: Tensor, at: int, value: int) -> Tensor:
    records = records.clone()
    records[at] = value
    return records


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r[:0], "records must"),
        (lambda r: r[:-64], "records must"),
        (lambda r: r[:64], "records must"),
        (lambda r: r[64:], "records must"),
        (lambda r: r[None], "records must have 1 dimension, got 2"),
        (lambda r: r[::2], "records must be contiguous, got a stride of 2"),
        (shifted, r"records must start at a multiple of 16 bytes, got a remainder of 8; "),
        (lambda r: patched(r, 0, 0), "records must"),
        (lambda r: patched(r, 8, 99), "records must"),
    ],
)
def test_damaged_records(change: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=f"^run: {message}"):
        records_error(change)()


def test_records_of_another_network() -> None:
    records, geometry = network()
    with pytest.raises(ValueError, match="^run: x must have 6 channels, got 5"):
        ops.run(X[:, :5], records, geometry)
    twice = torch.cat([records, records])
    with pytest.raises(ValueError, match="^run: "):
        ops.run(X, twice, geometry * 2)


@pytest.mark.parametrize("wrong", ["float64", "int64", "meta", "sparse"])
def test_run_takes_float32_on_the_cpu(wrong: str) -> None:
    change, message = WRONG[wrong]
    x = change(X)
    assert isinstance(x, Tensor)
    with pytest.raises(TypeError, match=f"^run: x {message}"):
        ops.run(x, *network())


def test_run_takes_bytes() -> None:
    records, geometry = network()
    with pytest.raises(TypeError, match="^run: records must be uint8, got int64"):
        ops.run(X, records.long(), geometry)
    with pytest.raises(TypeError, match="^run: records must be of type Tensor, got ndarray"):
        ops.run(X, records.numpy(), geometry)  # type: ignore[arg-type]


def test_raw_ops_say_the_same() -> None:
    # Without the wrapper the type's name leads the message: the ops' library knows no Python. (Ops
    # that are registered from Python raise the type itself.)
    told = "^(TypeError: )?conv2d: x must be float32, got float64"
    with pytest.raises((RuntimeError, TypeError), match=told):
        torch.ops.weebill.conv2d(X.double(), W, None, [1, 1], [0] * 4, [1, 1], 1, "none")
    with pytest.raises(ValueError, match="^conv2d: activation must be one of"):
        torch.ops.weebill.conv2d(X, W, None, [1, 1], [0] * 4, [1, 1], 1, "gelu")


def test_failure_leaves_nothing_behind() -> None:
    x, weight = torch.randn(1, 6, 7, 5), torch.randn(8, 6, 3, 3)
    before = ops.conv2d(x, weight)
    for call, _ in VALUE_ERRORS.values():
        with pytest.raises(ValueError):
            call()
    assert torch.equal(ops.conv2d(x, weight), before)


def test_numpy_and_torch_agree() -> None:
    records, geometry = network()
    x = torch.randn(2, 6, 9, 8)
    y = _C.run(x.numpy(), records.numpy())
    assert np.array_equal(y, ops.run(x, records, geometry).numpy())
