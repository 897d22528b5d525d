"""JSON from untrusted sources, restricted to objects, arrays, strings and 64-bit integers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

_HEX = re.compile(r"(?:[0-9a-f]{2})*\Z")
_LONGEST_SHOWN = 120
_MOST_DIGITS = 19  # those of a signed 64-bit integer; int() of a long string of digits takes quadratic time


class StrictJsonError(ValueError):
    """A text is not what this module accepts. Callers raise an error of their own, which names the text."""


def shown(name: str) -> str:
    """A name from untrusted data, quoted for a message, with control characters escaped and cut if it is
    long."""
    if len(name) > _LONGEST_SHOWN:
        return f"{name[:_LONGEST_SHOWN]!r}... ({len(name)} characters)"
    return repr(name)


def _integer(digits: str) -> int:
    if len(digits.removeprefix("-")) > _MOST_DIGITS:
        raise StrictJsonError("an integer does not fit in 64 bits")
    return int(digits)


def _not_an_integer(number: str) -> NoReturn:
    raise StrictJsonError(f"{shown(number)} is not an integer")


def _not_a_number(constant: str) -> NoReturn:
    raise StrictJsonError(f"{constant} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise StrictJsonError(f"the key {shown(key)} occurs twice in one object")
            seen.add(key)
    return members


def parse_object(data: str | bytes | bytearray, *, floats: bool = False) -> dict[str, Any]:
    """The JSON object in ``data``, whose bytes are UTF-8.

    Raises StrictJsonError for anything that is not strict JSON, for a duplicate key, for an integer of more
    than 64 bits, for a fractional number unless ``floats`` is set, for nesting that is too deep, and for any
    value other than an object at the top level.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StrictJsonError(f"not UTF-8 at byte {error.start}") from None
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=float if floats else _not_an_integer,
            parse_constant=_not_a_number,
        )
    except StrictJsonError:
        raise
    except RecursionError:
        raise StrictJsonError("nested too deeply") from None
    except ValueError as error:
        raise StrictJsonError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise StrictJsonError(f"a JSON object was expected, not {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "an integer", str: "a string", list: "an array", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def check_members(value: Mapping[str, Any], expected: Mapping[str, type]) -> None:
    """Check that an object has exactly the members ``expected``, each of exactly its type."""
    for key, kind in expected.items():
        if key not in value:
            raise StrictJsonError(f"the field {key!r} is missing")
        if type(value[key]) is not kind:  # exact types, because isinstance takes a bool for an int
            raise StrictJsonError(f"the field {key!r} must be {_kind(kind())}, not {_kind(value[key])}")
    if len(value) != len(expected):
        unknown = next(key for key in value if key not in expected)
        raise StrictJsonError(f"unknown field {shown(unknown)}")


def check_sizes(values: list[Any], what: str) -> tuple[int, ...]:
    """The elements of an array of non-negative integers."""
    for value in values:
        if type(value) is not int:
            raise StrictJsonError(f"{what} must hold integers, not {_kind(value)}")
        if value < 0:
            raise StrictJsonError(f"{what} must not hold a negative number, got {value}")
    return tuple(values)


def parse_hex(text: str, what: str) -> bytes:
    """The bytes that lower-case hexadecimal digits stand for, without white space. ``what`` names the
    field."""
    if not _HEX.match(text):
        raise StrictJsonError(f"the field {what!r} must be an even number of lower-case hexadecimal digits")
    return bytes.fromhex(text)
