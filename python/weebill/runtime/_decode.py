"""JSON from a file that may be hostile, to dataclasses: strict, and bounded in time and memory.

Every value must have exactly the type that the dataclass declares; unknown, missing and duplicate
keys are errors. What is wrong is told as a ValueError with the place in the document.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
from collections.abc import Callable
from typing import Any, Literal, NoReturn, TypeAlias, Union, get_args, get_origin, get_type_hints

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


#: Makes a value of JSON types (and where it is in the document) what a kind declares.
_Decoder: TypeAlias = Callable[[Any, str], Any]


def decode(kind: Any, value: Any, where: str) -> Any:
    """`value`, of JSON types, as `kind`: a dataclass, or what its fields may be declared as."""
    return _decoder(kind)(value, where)


@functools.cache
def _decoder(kind: Any) -> _Decoder:
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass_decoder(kind)
    if origin in (Union, types.UnionType):
        return _union_decoder(arguments)
    if origin is Literal:
        return _literal_decoder(arguments)
    if origin is tuple:
        return _tuple_decoder(arguments)
    return _plain_decoder(kind)


def _plain_decoder(kind: type[Any]) -> _Decoder:
    def decode_plain(value: Any, where: str) -> Any:
        if type(value) is kind:
            return value
        if kind is float and type(value) is int:
            return float(value)
        _fail(where, "null" if kind is type(None) else f"of type {kind.__name__}", value)

    return decode_plain


def _literal_decoder(choices: tuple[Any, ...]) -> _Decoder:
    def decode_literal(value: Any, where: str) -> Any:
        # the type too: 1 == True
        if not any(type(value) is type(known) and value == known for known in choices):
            _fail(where, f"one of {', '.join(map(repr, choices))}", value)
        return value

    return decode_literal


def _dataclass_decoder(kind: type[Any]) -> _Decoder:
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    required = [n for n, field in fields.items() if field.default is dataclasses.MISSING]
    decoders: dict[str, _Decoder] = {}

    def decode_dataclass(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            _fail(where, "an object", value)
        if not decoders:  # not before: a dataclass may have fields of its own kind
            decoders.update({name: _decoder(hints[name]) for name in fields})
        unknown = value.keys() - fields.keys()
        if unknown:
            raise ValueError(f"{where} has an unknown key {min(unknown)[:40]!r}")
        for name in required:
            if name not in value:
                raise ValueError(f"{where} lacks {name}")
        found = {name: decoders[name](entry, f"{where}.{name}") for name, entry in value.items()}
        try:
            return kind(**found)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    return decode_dataclass


def _union_decoder(kinds: tuple[Any, ...]) -> _Decoder:
    optional = type(None) in kinds
    decoders: list[_Decoder] = []

    def decode_union(value: Any, where: str) -> Any:
        if value is None and optional:
            return None
        if not decoders:
            decoders.extend(_decoder(kind) for kind in kinds if kind is not type(None))
        errors = []
        for decoder in decoders:
            try:
                return decoder(value, where)
            except ValueError as error:
                errors.append(str(error))
        raise ValueError(errors[0])

    return decode_union


def _tuple_decoder(kinds: tuple[Any, ...]) -> _Decoder:
    repeated = _decoder(kinds[0]) if len(kinds) == 2 and kinds[1] is Ellipsis else None
    decoders = [] if repeated else [_decoder(kind) for kind in kinds]

    def decode_tuple(value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            _fail(where, "a list", value)
        own = [repeated] * len(value) if repeated else decoders
        if len(own) != len(value):
            raise ValueError(f"{where} must have {len(own)} entries, got {len(value)}")
        return tuple(
            [
                decoder(entry, f"{where}[{i}]")
                for i, (decoder, entry) in enumerate(zip(own, value, strict=True))
            ]
        )

    return decode_tuple


def _fail(where: str, wanted: str, value: Any) -> NoReturn:
    shown = repr(value) if isinstance(value, (str, int, float)) else type(value).__name__
    shown = shown if len(shown) <= 40 else shown[:40] + "..."
    raise ValueError(f"{where} must be {wanted}, got {shown}")
