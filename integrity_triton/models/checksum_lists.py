"""The checksum lists of coreutils: ``<hex>  <name>``, or BSD's ``SHA256 (<name>) = <hex>``."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import BinaryIO

_ESCAPES = {b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r"}
_UNESCAPES = {escaped: plain for plain, escaped in _ESCAPES.items()}
_MIXED_CASE_TAGS = {"blake2b": "BLAKE2b", "blake2s": "BLAKE2s"}
_TRUNCATED_SHA512 = re.compile(r"SHA512_(?=\d)")
_TAGGED = re.compile(rb"([\w/-]+) ?\((.*)\)[ \t]*=[ \t]*([0-9A-Fa-f]+)", re.DOTALL)
_ESCAPED_PIECE = re.compile(rb"\\(.?)", re.DOTALL)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # editors and shells of Windows write it at the start of UTF-8
_MAX_NAME_SIZE = 1 << 16  # far above PATH_MAX, even with every character escaped


def tag(algorithm: str) -> str:
    """The name of an algorithm in BSD-style lines."""
    name = _MIXED_CASE_TAGS.get(algorithm) or algorithm.upper()
    return _TRUNCATED_SHA512.sub("SHA512/", name).replace("_", "-")  # FIPS 180-4 and OpenSSL: SHA-512/256


def escape(name: bytes) -> bytes:
    """A file name on one line: backslashes, line feeds and carriage returns are escaped."""
    return b"".join(_ESCAPES.get(c, c) for c in (name[i : i + 1] for i in range(len(name))))


def marked(name: bytes) -> tuple[bytes, bytes]:
    """What a line with a name begins with, a backslash if the name had to be escaped, and the name as it is
    written."""
    written = escape(name)
    return b"\\" if written != name else b"", written


def format_line(algorithm: str, digest: bytes, name: str, *, tagged: bool, zero: bool) -> bytes:
    """The line of a list for one file. ``zero`` ends it with NUL and leaves the name unescaped."""
    raw = os.fsencode(name)
    mark, written = (b"", raw) if zero else marked(raw)
    hexadecimal = digest.hex().encode("ascii")
    if tagged:
        line = mark + tag(algorithm).encode("ascii") + b" (" + written + b") = " + hexadecimal
    else:
        line = mark + hexadecimal + b"  " + written
    return line + (b"\0" if zero else b"\n")


@dataclass(frozen=True)
class Entry:
    """One line of a list. Lines are counted from 1. ``name`` is None if the line is improperly formatted."""

    line: int
    name: str | None
    digest: bytes


class ListReader:
    """Reads lists of digests of one algorithm, all of ``length`` bytes.

    BSD-style lines may call the algorithm by its tag, its name or one of ``aliases``.

    Lists made by BSD's ``md5 -r`` have one space between digest and name. The first line shows which kind a
    list is, and a list cannot mix the two, because a name could then gain or lose a leading space.
    """

    def __init__(self, algorithm: str, aliases: Collection[str], length: int) -> None:
        self._tags = {tag(algorithm), algorithm, *aliases}
        self._digits = 2 * length
        self._plain = re.compile(rb"([0-9A-Fa-f]{%d})[ \t](.+)" % self._digits, re.DOTALL)
        self._reversed: bool | None = None

    def read(self, stream: BinaryIO) -> Iterator[Entry]:
        """The entries of a list, without comments and empty lines. Only one line is in memory at a time."""
        limit = self._digits + _MAX_NAME_SIZE
        number = 0
        while line := stream.readline(limit):
            number += 1
            if number == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            whole = len(line) < limit or line.endswith(b"\n")
            end = line
            while not whole and end and not end.endswith(b"\n"):
                end = stream.readline(limit)
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            if line and not line.startswith(b"#"):
                name, digest = (self._parse(line) if whole else None) or (None, b"")
                yield Entry(number, name, digest)

    def _parse(self, line: bytes) -> tuple[str, bytes] | None:
        line = line.lstrip(b" \t")
        escaped = line.startswith(b"\\")
        line = line[escaped:]
        tagged = _TAGGED.fullmatch(line)
        if tagged is not None and self._is_tag(tagged[1]):
            name, digits = tagged[2], tagged[3]
            if len(digits) != self._digits:
                return None
        else:
            plain = self._plain.fullmatch(line)
            if plain is None:
                return None
            digits, rest = plain.groups()
            name = self._plain_name(rest)
        name = _unescape(name) if escaped else name
        if not name or b"\0" in name:
            return None
        return os.fsdecode(name), bytes.fromhex(digits.decode("ascii"))

    def _is_tag(self, label: bytes) -> bool:
        text = label.decode("ascii", "replace")
        return text in self._tags or text.lower() in self._tags

    def _plain_name(self, rest: bytes) -> bytes:
        is_reversed = len(rest) == 1 or rest[:1] not in {b" ", b"*"}
        if self._reversed is None:
            self._reversed = is_reversed
        if self._reversed:
            return rest
        return b"" if is_reversed else rest[1:]


def _unescape(name: bytes) -> bytes:
    """The name before it was escaped; empty if an escape is unknown."""
    pieces = _ESCAPED_PIECE.findall(name)
    if any(b"\\" + piece not in _UNESCAPES for piece in pieces):
        return b""
    return _ESCAPED_PIECE.sub(lambda match: _UNESCAPES[match[0]], name)
