"""Errors of the torch ops, as Python's own types.

The ops' library has no Python in it. A wrong value arrives as ValueError by itself; a TypeError or
NotImplementedError arrives as a RuntimeError whose text starts with that name
(csrc/bindings/ops.cpp). Nothing here runs unless a call has failed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NoReturn, TypeVar

_T = TypeVar("_T")

_NAMED = re.compile(r"^(TypeError|NotImplementedError): (.*)$", re.DOTALL)
_TYPES: dict[str, type[Exception]] = {
    "TypeError": TypeError,
    "NotImplementedError": NotImplementedError,
}
#: How torch says that an argument does not fit the schema.
_SCHEMA = re.compile(
    r"Expected a value of type '(?P<wanted>.+?)' for argument '(?P<name>\w+)' "
    r"but instead found type '(?P<found>.+?)'"
)


def typed_error(error: Exception, op: str, tensors: Mapping[str, object]) -> Exception:
    """The exception to raise in place of `error`, which a call of the op has raised.

    Args:
        error: What torch raised.
        op: Name of the op, the first word of the message.
        tensors: The call's tensor arguments by name; anything else among them is passed over.

    Returns:
        TypeError for an argument of the wrong kind, device, layout or dtype; NotImplementedError
        for what is right but not supported; otherwise `error` itself.
    """
    named = _NAMED.match(str(error))
    if named:
        return _TYPES[named[1]](named[2])
    schema = _SCHEMA.search(str(error))
    if schema:
        return TypeError(
            f"{op}: {schema['name']} must be of type {schema['wanted']}, got {schema['found']}"
        )
    if isinstance(error, NotImplementedError):  # the dispatcher found no kernel for a tensor
        return _misplaced_tensor(op, tensors) or error
    return error


def fail(error: Exception, op: str, **tensors: object) -> NoReturn:
    """Raises `typed_error(error, op, tensors)`."""
    raise typed_error(error, op, tensors) from None


def call(function: Callable[..., _T], op: str, **arguments: object) -> _T:
    """The op on its arguments, which are given by name in the order of its schema; errors typed."""
    try:
        return function(*arguments.values())
    except RuntimeError as error:
        fail(error, op, **arguments)


def _misplaced_tensor(op: str, tensors: Mapping[str, object]) -> TypeError | None:
    import torch

    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            continue
        if value.device.type != "cpu":
            return TypeError(f"{op}: {name} must be on the cpu, got {value.device}")
        if value.layout is not torch.strided:
            return TypeError(f"{op}: {name} must be strided (dense), got {value.layout}")
        if value.is_quantized:
            return TypeError(
                f"{op}: {name} must be float32, got {value.dtype}".replace("torch.", "")
            )
    return None
