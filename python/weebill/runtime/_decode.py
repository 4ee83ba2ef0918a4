"""JSON from a file that may be hostile, to dataclasses: strict, and bounded in time and memory.

Every value must have exactly the type that the dataclass declares; unknown, missing and duplicate
keys are errors. What is wrong is told as a ValueError with the place in the document.
"""

from __future__ import annotations

import dataclasses
import json
import types
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

#: Digits of the largest number that a file of ours holds: sizes are below 2^63.
_MAX_DIGITS = 20


def parse_json(text: bytes | str, where: str) -> dict[str, Any]:
    """The JSON object in `text`.

    Raises:
        ValueError: It is no JSON, no object, has a key twice, NaN or huge numbers, or is nested
            deeper than the interpreter's stack.
    """
    try:
        value = json.loads(
            text if isinstance(text, str) else text.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_constant=_constant,
        )
    except RecursionError:
        raise ValueError(f"{where} is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError(f"{where} is no UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is no JSON: {error.msg} at {error.pos}") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if not isinstance(value, dict):
        _fail(where, "an object", value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"key {name[:40]!r} is there twice")
        found[name] = value
    return found


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def decode(kind: Any, value: Any, where: str) -> Any:
    """`value`, of JSON types, as `kind`: a dataclass, or what its fields may be declared as."""
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_dataclass(kind, value, where)
    if origin in (Union, types.UnionType):
        return _decode_union(arguments, value, where)
    if origin is Literal:
        # the type too: 1 == True
        if not any(type(value) is type(known) and value == known for known in arguments):
            _fail(where, f"one of {', '.join(map(repr, arguments))}", value)
        return value
    if origin is tuple:
        return _decode_tuple(arguments, value, where)
    if kind is type(None):
        if value is not None:
            _fail(where, "null", value)
        return None
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        _fail(where, f"of type {kind.__name__}", value)
    return value


def _decode_dataclass(kind: type[Any], value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        _fail(where, "an object", value)
    hints = _hints_of(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = value.keys() - fields.keys()
    if unknown:
        raise ValueError(f"{where} has an unknown key {min(unknown)[:40]!r}")
    found = {}
    for name, field in fields.items():
        if name in value:
            found[name] = decode(hints[name], value[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING:
            raise ValueError(f"{where} lacks {name}")
    try:
        return kind(**found)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


_known_hints: dict[type[Any], dict[str, Any]] = {}


def _hints_of(kind: type[Any]) -> dict[str, Any]:
    if kind not in _known_hints:
        _known_hints[kind] = get_type_hints(kind)
    return _known_hints[kind]


def _decode_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    errors = []
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return decode(kind, value, where)
        except ValueError as error:
            errors.append(str(error))
    raise ValueError(errors[0])


def _decode_tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        _fail(where, "a list", value)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise ValueError(f"{where} must have {len(kinds)} entries, got {len(value)}")
    return tuple(
        decode(kind, entry, f"{where}[{i}]")
        for i, (kind, entry) in enumerate(zip(kinds, value, strict=True))
    )


def _fail(where: str, wanted: str, value: Any) -> NoReturn:
    shown = repr(value) if isinstance(value, (str, int, float)) else type(value).__name__
    shown = shown if len(shown) <= 40 else shown[:40] + "..."
    raise ValueError(f"{where} must be {wanted}, got {shown}")
