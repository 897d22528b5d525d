"""The nodes of BLAKE3's tree in NumPy, which no CPU library gives: a lane of an array for each node.

The BLAKE3 specification (2020), sections 2.1 to 2.5. It takes some twenty times as long as the Rust blake3.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Words: TypeAlias = "np.ndarray[Any, np.dtype[np.uint32]]"
Bytes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"

_IV = (
    0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
)  # fmt: skip
_PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
_ROUNDS = 7
_CHUNK_START, _CHUNK_END, _PARENT, _ROOT = 1, 2, 4, 8
_CHUNK, _BLOCK = 1024, 64
_LANES = 2048  # nodes at a time, whose state stays in the cache


def _schedules() -> list[tuple[int, ...]]:
    order, found = tuple(range(16)), []
    for _ in range(_ROUNDS):
        found.append(order)
        order = tuple(order[i] for i in _PERMUTATION)
    return found


_SCHEDULES = _schedules()


def _rotate(x: Words, count: int) -> Words:
    return (x >> np.uint32(count)) | (x << np.uint32(32 - count))


def _quarter_rounds(a: Words, b: Words, c: Words, d: Words, x: Words, y: Words) -> tuple[Words, ...]:
    """Four applications of G side by side: a row of each array is a word, and a column a node."""
    a = a + b + x
    d = _rotate(d ^ a, 16)
    c = c + d
    b = _rotate(b ^ c, 12)
    a = a + b + y
    d = _rotate(d ^ a, 8)
    c = c + d
    b = _rotate(b ^ c, 7)
    return a, b, c, d


def _compress(cv: Words, m: Words, counter: Any, size: int, flags: int) -> Words:
    """New chaining values, uint32 ``[8, n]``, of ``cv`` and blocks ``m``, uint32 ``[16, n]``. ``counter`` is
    a number or an array of them."""
    lanes = m.shape[1]
    a, b = cv[:4], cv[4:]
    c = np.repeat(np.array(_IV[:4], np.uint32)[:, None], lanes, 1)
    d = np.empty((4, lanes), np.uint32)
    number = np.broadcast_to(np.asarray(counter, np.uint64), (lanes,))
    d[0], d[1], d[2], d[3] = number & 0xFFFFFFFF, number >> np.uint64(32), size, flags
    for order in _SCHEDULES:
        a, b, c, d = _quarter_rounds(a, b, c, d, m[list(order[0:8:2])], m[list(order[1:8:2])])
        b, c, d = b[[1, 2, 3, 0]], c[[2, 3, 0, 1]], d[[3, 0, 1, 2]]
        a, b, c, d = _quarter_rounds(a, b, c, d, m[list(order[8::2])], m[list(order[9::2])])
        b, c, d = b[[3, 0, 1, 2]], c[[2, 3, 0, 1]], d[[1, 2, 3, 0]]
    return np.concatenate([a ^ c, b ^ d])


def _initial(lanes: int) -> Words:
    return np.repeat(np.array(_IV, np.uint32)[:, None], lanes, 1)


def _bytes(values: Words) -> Bytes:
    """uint8 ``[n, 32]`` of uint32 ``[8, n]``."""
    return np.ascontiguousarray(values.T).astype("<u4", copy=False).view(np.uint8)


def chunk_values(data: Bytes, first: int) -> Bytes:
    """The chaining values, uint8 ``[n, 32]``, of the chunks of a part of a message that starts at chunk
    ``first``. None of them is a root."""
    whole = len(data) // _CHUNK
    found = []
    for start in range(0, whole, _LANES):
        part = data[start * _CHUNK : min(start + _LANES, whole) * _CHUNK]
        words = part.view("<u4").reshape(-1, _CHUNK // _BLOCK, 16)
        lanes = words.shape[0]
        cv = _initial(lanes)
        numbers = np.arange(first + start, first + start + lanes, dtype=np.uint64)
        for i in range(_CHUNK // _BLOCK):
            flags = (_CHUNK_START if i == 0 else 0) | (_CHUNK_END if i == _CHUNK // _BLOCK - 1 else 0)
            cv = _compress(cv, np.ascontiguousarray(words[:, i].T), numbers, _BLOCK, flags)
        found.append(_bytes(cv))
    rest = data[whole * _CHUNK :]
    if len(rest):
        cv = _initial(1)
        for at in range(0, len(rest), _BLOCK):
            block = rest[at : at + _BLOCK]
            m = np.zeros(_BLOCK, np.uint8)
            m[: len(block)] = block
            flags = (_CHUNK_START if at == 0 else 0) | (_CHUNK_END if at + _BLOCK >= len(rest) else 0)
            cv = _compress(cv, m.view("<u4")[:, None], first + whole, len(block), flags)
        found.append(_bytes(cv))
    return np.concatenate(found)


def parent_values(children: Bytes, root: bool) -> Bytes:
    """The chaining values, uint8 ``[n, 32]``, of the parents of each two nodes of 32 bytes, or with ``root``
    the digest."""
    words = children.view("<u4").reshape(-1, 16)
    found = []
    for start in range(0, len(words), _LANES):
        m = np.ascontiguousarray(words[start : start + _LANES].T)
        flags = _PARENT | (_ROOT if root else 0)
        found.append(_bytes(_compress(_initial(m.shape[1]), m, 0, _BLOCK, flags)))
    return np.concatenate(found) if found else np.empty((0, 32), np.uint8)
