"""Describes records in words, for listings and documents."""

from __future__ import annotations

import re

from .parameter import Parameter
from .record import Algorithm, Security

GRADES = {
    Security.SECURE: "no attack comes near what the digest's size promises",
    Security.LEGACY: "no practical break, but no longer recommended",
    Security.BROKEN: "collisions or worse are practical",
    Security.CHECKSUM: "never meant to resist an adversary",
}


def listed(record: Algorithm) -> tuple[int, list[tuple[int, str]]]:
    """Return a sort key. It orders records from the best grade to the worst, and then by name; numbers in a
    name are compared by their value."""
    parts = re.findall(r"[0-9]+|[^0-9]+", record.name)
    natural = [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
    return list(GRADES).index(record.security), natural


def kind(record: Algorithm) -> str:
    """Say what kind of function a record describes, such as ``"tree, xof, seekable, optional key"`` or
    ``"MAC"``."""
    if record.security is Security.CHECKSUM:
        found = ["checksum"]
    elif record.keyed == "required":
        found = ["MAC"]
    elif record.construction.kind is not None:
        found = [record.construction.kind]
    elif record.parallel:
        found = ["tree"]
    else:
        found = [] if record.xof else ["hash"]
    found += ["xof"] if record.xof else []
    found += ["seekable"] if record.seekable else []
    found += ["optional key"] if record.keyed == "optional" else []
    return ", ".join(found)


def digest(record: Algorithm) -> str:
    """Return the digest's size in bytes. ``"32+"`` means that the output is extendable and has 32 bytes by
    default, and ``"any"`` that it has no default length."""
    if not record.digest_size:
        return "any"
    return f"{record.digest_size}{'+' if record.xof else ''}"


def allowed(parameter: Parameter) -> str:
    """Describe the values that a parameter accepts, without its default."""
    if parameter.choices is not None:
        return " or ".join(map(str, parameter.choices))
    if parameter.type is bytes:
        if parameter.sizes is not None:
            return f"{' or '.join(map(str, parameter.sizes))} bytes"
        low, high = parameter.min_size or 0, parameter.max_size
        if high is None:
            return f"{low} bytes or more" if low else "bytes"
        return f"{low} bytes" if low == high else f"{low} to {high} bytes" if low else f"up to {high} bytes"
    if parameter.type is int and parameter.minimum is not None and parameter.maximum is not None:
        return f"{parameter.minimum} to {parameter.maximum}"
    return {str: "text", bool: "true or false"}.get(parameter.type, parameter.type.__name__)
