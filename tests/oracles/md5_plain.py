"""MD5 in plain Python, written from RFC 1321. It can resume after any number of bytes."""

from __future__ import annotations

import struct
from math import floor, sin

MASK = 0xFFFFFFFF
ROTATIONS = [(7, 12, 17, 22), (5, 9, 14, 20), (4, 11, 16, 23), (6, 10, 15, 21)]


def compress(state: list[int], block: bytes) -> list[int]:
    """Section 3.4. The four rounds take the words in the order 0, 1, 2 ..; 1, 6, 11 ..; 5, 8, 11 ..; 0, 7, 14
    .."""
    x = struct.unpack("<16I", block)
    a, b, c, d = state
    for i in range(64):
        turn = i // 16
        f = (b & c | ~b & d, b & d | c & ~d, b ^ c ^ d, c ^ (b | ~d & MASK))[turn]
        word = x[(i, 1 + 5 * i, 5 + 3 * i, 7 * i)[turn] % 16]
        total = (a + (f & MASK) + word + floor(abs(sin(i + 1)) * 2**32)) & MASK
        n = ROTATIONS[turn][i % 4]
        a, b, c, d = d, (b + (total << n | total >> (32 - n))) & MASK, b, c
    return [(p + q) & MASK for p, q in zip(state, (a, b, c, d), strict=True)]


def finish(absorbed: int, tail: bytes) -> bytes:
    """The digest of a message whose first ``absorbed`` bytes left the initial state unchanged, and whose
    remaining bytes are ``tail``. The padding contains the low 64 bits of the length in bits (section 3.2)."""
    bits = 8 * (absorbed + len(tail)) % 2**64
    data = tail + b"\x80" + bytes(-(len(tail) + 9) % 64) + bits.to_bytes(8, "little")
    # Section 3.3 gives the bytes of the registers in order: 01 23 .. ef, fe dc .. 10.
    rising = "0123456789abcdef"
    state = list(struct.unpack("<4I", bytes.fromhex(rising + rising[::-1])))
    for i in range(0, len(data), 64):
        state = compress(state, data[i : i + 64])
    return struct.pack("<4I", *state)
