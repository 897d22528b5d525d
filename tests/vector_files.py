"""Reads vector files: those of ``tests/vectors/``, and the formats of packages of vectors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import pattern

FOLDER = Path(__file__).resolve().parent / "vectors"


@dataclass(frozen=True)
class Vector:
    """One published answer."""

    algorithm: str
    message: Any
    """Bytes, or a tuple of them for a function of several strings."""
    digest: bytes
    parameters: dict[str, Any] = field(default_factory=dict)
    skip: int = 0
    """Bytes of output before ``digest``."""

    @property
    def size(self) -> int:
        """Bytes of message, parameters and output together."""
        size = len(self.message) if isinstance(self.message, bytes) else sum(map(len, self.message))
        size += sum(len(v) for v in self.parameters.values() if isinstance(v, bytes))
        return size + self.skip + len(self.digest)


def _bytes(text: str) -> bytes:
    """Hexadecimal, or one of two ways to say which bytes."""
    named = re.fullmatch(r"(ptn|range)\((\d+)(?:\*\*(\d+))?\)", text)
    if named is None:
        return bytes.fromhex(text)
    count = int(named[2]) ** int(named[3] or 1)
    return pattern(count) if named[1] == "ptn" else bytes(range(count))


_PARAMETERS = {
    "customization": _bytes,
    "domain": lambda text: int(text, 16),
    "block_size": int,
    "skip": int,
}


def published(name: str) -> list[Vector]:
    """The vectors of a file of ``tests/vectors/``, whose first lines describe the format."""
    vectors = []
    for line in (FOLDER / f"{name}.txt").read_text("ascii").splitlines():
        if line.startswith("#"):
            continue
        algorithm, message, *middle, digest = line.split()
        parts = (part.partition("=") for part in middle)
        parameters = {key: _PARAMETERS[key](value) for key, _, value in parts}
        skip = parameters.pop("skip", 0)
        data: Any = _bytes(message) if "tuple" not in algorithm else tuple(map(_bytes, message.split(",")))
        vectors.append(Vector(algorithm, data, bytes.fromhex(digest), parameters, skip))
    return vectors


def records(lines: Iterable[str], first: Iterable[str]) -> list[dict[str, str]]:
    """The ``key = value`` records of a response file, each from one of the keys ``first`` on."""
    found: list[dict[str, str]] = []
    for line in lines:
        match = re.match(r"([\w()]+)\s*[=:]\s*(\S*)", line)
        if match is None:
            continue
        if match[1] in first:
            found.append({})
        if found:
            found[-1][match[1]] = match[2]
    return found
