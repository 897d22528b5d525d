"""BLAKE3 in plain Python, written from the specification (2020). It is the oracle if the Rust library is not
installed, and is compared with that library if it is. It is recursive where the kernels go level by level,
and computes its constants."""

from __future__ import annotations

import struct
from math import isqrt

MASK = 0xFFFFFFFF
# The first 32 bits of the fractional parts of the square roots of the first eight primes.
IV = [isqrt(p << 64) & MASK for p in (2, 3, 5, 7, 11, 13, 17, 19)]
PERMUTE = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]
START, END, PARENT, ROOT, KEYED, CONTEXT, MATERIAL = (1 << i for i in range(7))


def _rotate(x: int, n: int) -> int:
    return (x >> n | x << (32 - n)) & MASK


def _compress(cv, block: bytes, counter: int, flags: int) -> list[int]:
    length = len(block)
    m = list(struct.unpack("<16I", block.ljust(64, b"\0")))
    v = [*cv, *IV[:4], counter & MASK, counter >> 32, length, flags]
    for _ in range(7):
        for i in range(8):
            shift = i // 4
            a, b, c, d = (4 * k + (i + shift * k) % 4 for k in range(4))
            for word, r1, r2 in ((m[2 * i], 16, 12), (m[2 * i + 1], 8, 7)):
                v[a] = (v[a] + v[b] + word) & MASK
                v[d] = _rotate(v[d] ^ v[a], r1)
                v[c] = (v[c] + v[d]) & MASK
                v[b] = _rotate(v[b] ^ v[c], r2)
        m = [m[k] for k in PERMUTE]
    return [v[i] ^ v[i + 8] for i in range(8)] + [v[i + 8] ^ cv[i] for i in range(8)]


def _node(key, data: bytes, first_chunk: int, mode: int):
    """The unfinished root of a subtree: chaining value, block, counter, flags."""
    if len(data) <= 1024:
        blocks = [data[i : i + 64] for i in range(0, len(data), 64)] or [b""]
        cv = key
        for i, block in enumerate(blocks):
            flags = mode | (START if i == 0 else 0) | (END if i == len(blocks) - 1 else 0)
            if i == len(blocks) - 1:
                return cv, block, first_chunk, flags
            cv = _compress(cv, block, first_chunk, flags)[:8]
    chunks = 1 << ((len(data) - 1) // 1024).bit_length() - 1
    halves = (data[: chunks * 1024], first_chunk), (data[chunks * 1024 :], first_chunk + chunks)
    block = b"".join(
        struct.pack("<8I", *_compress(*_node(key, half, chunk, mode))[:8]) for half, chunk in halves
    )
    return key, block, 0, mode | PARENT


def _output(node, length: int, seek: int) -> bytes:
    cv, block, _, flags = node
    first, last = seek // 64, (seek + length + 63) // 64
    stream = b"".join(struct.pack("<16I", *_compress(cv, block, i, flags | ROOT)) for i in range(first, last))
    return stream[seek - first * 64 :][:length]


def _value(node, root: bool) -> bytes:
    cv, block, counter, flags = node
    return struct.pack("<8I", *_compress(cv, block, counter, flags | (ROOT if root else 0))[:8])


def chunk_value(data: bytes, number: int, *, root: bool) -> bytes:
    """The chaining value of chunk ``number``."""
    return _value(_node(IV, data, number, 0), root)


def parent_value(block: bytes, *, root: bool) -> bytes:
    """The chaining value of the parent whose children have the values in ``block``."""
    return _value((IV, block, 0, PARENT), root)


class blake3:
    """The part of the Rust library's class that the tests call."""

    def __init__(self, data: bytes = b"", *, key: bytes | None = None, derive_key_context: str | None = None):
        self._data = bytearray(data)
        self._key, self._mode = IV, 0
        if key is not None:
            self._key, self._mode = list(struct.unpack("<8I", key)), KEYED
        if derive_key_context is not None:
            derived = _output(_node(IV, derive_key_context.encode(), 0, CONTEXT), 32, 0)
            self._key, self._mode = list(struct.unpack("<8I", derived)), MATERIAL

    def update(self, data: bytes) -> None:
        self._data += data

    def digest(self, length: int = 32, *, seek: int = 0) -> bytes:
        return _output(_node(self._key, bytes(self._data), 0, self._mode), length, seek)
