"""The native core on numpy arrays; see csrc/bindings/module.cpp."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weebill.config import CpuInfo

_Floats = NDArray[np.float32]
_Bytes = NDArray[np.uint8]
_Padding = Sequence[int] | str
#: Gives the memory for a record of so many bytes.
_Allocate = Callable[[int], _Bytes]

__version__: str

def isas() -> list[str]: ...
def built_isas() -> list[str]: ...
def isa() -> str: ...
def set_isa(name: str) -> None: ...
def has_float16() -> bool: ...
def kernel_list() -> list[tuple[str, str]]: ...
def cpu_info() -> CpuInfo: ...
def activation_names() -> list[str]: ...
def max_threads() -> int: ...
def peak_gflops(isa: str, seconds: float) -> float: ...
def read_bandwidth(isa: str, seconds: float) -> list[tuple[str, float]]: ...
def set_threads(threads: int) -> None: ...
def usable_cores() -> int: ...
def pack_conv2d(
    weight: _Floats,
    bias: _Floats | None,
    stride: Sequence[int],
    padding: _Padding,
    dilation: Sequence[int],
    groups: int,
    activation: str,
    op: str = "conv2d",
    allocate: _Allocate | None = None,
) -> _Bytes: ...
def pack_separable(
    *,
    expand_weight: _Floats | None = None,
    expand_bias: _Floats | None = None,
    depthwise_weight: _Floats,
    depthwise_bias: _Floats | None = None,
    se_reduce_weight: _Floats | None = None,
    se_reduce_bias: _Floats | None = None,
    se_expand_weight: _Floats | None = None,
    se_expand_bias: _Floats | None = None,
    project_weight: _Floats | None = None,
    project_bias: _Floats | None = None,
    stride: Sequence[int],
    padding: _Padding,
    dilation: Sequence[int],
    expand_activation: str = "none",
    depthwise_activation: str = "none",
    se_activation: str = "relu",
    se_gate: str = "hardsigmoid",
    project_activation: str = "none",
    residual: bool = False,
    op: str = "inverted_residual",
    allocate: _Allocate | None = None,
) -> _Bytes: ...
def pack_squeeze_excite(
    reduce_weight: _Floats,
    reduce_bias: _Floats | None,
    expand_weight: _Floats,
    expand_bias: _Floats | None,
    activation: str = "relu",
    gate: str = "hardsigmoid",
    op: str = "squeeze_excite",
    allocate: _Allocate | None = None,
) -> _Bytes: ...
def pack_global_avg_pool2d(channels: int, allocate: _Allocate | None = None) -> _Bytes: ...
def pack_max_pool2d(
    channels: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: _Padding,
    dilation: Sequence[int],
    allocate: _Allocate | None = None,
) -> _Bytes: ...
def pack_channel_shuffle(
    channels: int, groups: int, allocate: _Allocate | None = None
) -> _Bytes: ...
def pack_shuffle_unit(
    branch: _Bytes, shortcut: _Bytes | None = None, allocate: _Allocate | None = None
) -> _Bytes: ...
def pack_shuffle_unit_v1(
    *,
    expand_weight: _Floats,
    expand_bias: _Floats | None,
    depthwise_weight: _Floats,
    depthwise_bias: _Floats | None,
    project_weight: _Floats,
    project_bias: _Floats | None,
    stride: Sequence[int],
    padding: _Padding,
    dilation: Sequence[int],
    expand_groups: int,
    groups: int,
    project_groups: int,
    expand_activation: str = "relu",
    depthwise_activation: str = "none",
    activation: str = "relu",
    shortcut: str = "none",
    allocate: _Allocate | None = None,
) -> _Bytes: ...
def to_float16(records: _Bytes, allocate: _Allocate | None = None) -> _Bytes: ...
def is_float16(records: _Bytes) -> bool: ...
def join(records: Sequence[_Bytes]) -> _Bytes: ...
def run(x: NDArray[Any], records: _Bytes, op: str = "run", threads: int = 0) -> _Floats: ...
def profile(
    x: NDArray[Any], records: _Bytes
) -> tuple[float, list[tuple[str, int, int, int, int, float]]]: ...
def depthwise_conv2d_backward(
    grad_output: NDArray[Any],
    x: NDArray[Any],
    weight: _Floats,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_mask: Sequence[bool],
    threads: int = 0,
) -> tuple[_Floats, _Floats, _Floats]: ...
def pointwise_conv2d_backward(
    grad_output: NDArray[Any],
    x: NDArray[Any],
    weight: _Floats,
    output_mask: Sequence[bool],
    threads: int = 0,
) -> tuple[_Floats, _Floats, _Floats]: ...
def output_shape(shape: Sequence[int], records: _Bytes) -> tuple[int, int, int, int]: ...
def geometry(records: _Bytes) -> list[int]: ...
def explain(shape: Sequence[int], records: _Bytes, threads: int) -> str: ...
def multiply_adds(shape: Sequence[int], records: _Bytes) -> int: ...

class Guard:
    def __init__(
        self, version: Any, address: Any, layout: tuple[int, ...] | None = None
    ) -> None: ...
    def expect_empty(self, table: dict[Any, Any], code: int) -> None: ...
    def expect_size(self, table: dict[Any, Any], code: int) -> None: ...
    def expect_entry(self, table: dict[Any, Any], key: object, code: int) -> None: ...
    def watch(self, tensor: object, alias: object, code: int) -> None: ...
    def state(self) -> int: ...
