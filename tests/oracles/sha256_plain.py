"""SHA-256 in plain Python, written from FIPS 180-4, that can resume from any state and length: what
hashlib cannot. Constants are computed from the primes they are defined by."""

from __future__ import annotations

import struct

MASK = 0xFFFFFFFF
PRIMES = [n for n in range(2, 312) if all(n % d for d in range(2, n))]


def _root_fraction(n: int, degree: int) -> int:
    """The first 32 bits of the fractional part of the ``degree``-th root of ``n``."""
    target, low, high = n << 32 * degree, 0, n << 32
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= target else (low, middle - 1)
    return low & MASK


K = [_root_fraction(p, 3) for p in PRIMES[:64]]
IV = [_root_fraction(p, 2) for p in PRIMES[:8]]


def _rotate(x: int, n: int) -> int:
    return (x >> n | x << (32 - n)) & MASK


def compress(state: list[int], block: bytes) -> list[int]:
    w = list(struct.unpack(">16I", block))
    for t in range(16, 64):
        x, y = w[t - 15], w[t - 2]
        small0 = _rotate(x, 7) ^ _rotate(x, 18) ^ x >> 3
        small1 = _rotate(y, 17) ^ _rotate(y, 19) ^ y >> 10
        w.append((w[t - 16] + small0 + w[t - 7] + small1) & MASK)
    a, b, c, d, e, f, g, h = state
    for t in range(64):
        big1 = _rotate(e, 6) ^ _rotate(e, 11) ^ _rotate(e, 25)
        t1 = h + big1 + (e & f ^ ~e & g) + K[t] + w[t]
        big0 = _rotate(a, 2) ^ _rotate(a, 13) ^ _rotate(a, 22)
        t2 = big0 + (a & b ^ a & c ^ b & c)
        a, b, c, d, e, f, g, h = (t1 + t2) & MASK, a, b, c, (d + t1) & MASK, e, f, g
    return [(x + y) & MASK for x, y in zip(state, (a, b, c, d, e, f, g, h), strict=True)]


def finish(state: list[int], absorbed: int, tail: bytes) -> bytes:
    """The digest of a message whose first ``absorbed`` bytes left ``state`` and whose rest is ``tail``."""
    total = absorbed + len(tail)
    data = tail + b"\x80" + bytes(-(len(tail) + 9) % 64) + struct.pack(">Q", total * 8)
    for i in range(0, len(data), 64):
        state = compress(state, data[i : i + 64])
    return struct.pack(">8I", *state)
