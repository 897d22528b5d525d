"""Ascon-Hash256 in plain Python, written from NIST SP 800-232: what the kernel is compared with."""

from __future__ import annotations

_MASK = (1 << 64) - 1


def _rotated(x: int, n: int) -> int:
    return (x >> n | x << (64 - n)) & _MASK


def permute(s: list[int]) -> list[int]:
    """Ascon-p[12] (section 3)."""
    for i in range(12):
        s[2] ^= 0xF0 - 0x0F * i  # Table 5
        # Section 3.3, column by column: the S-box of Table 6 as its definition, bit by bit.
        out = [0] * 5
        for bit in range(64):
            x0, x1, x2, x3, x4 = (word >> bit & 1 for word in s)
            column = (
                x4 & x1 ^ x3 ^ x2 & x1 ^ x2 ^ x1 & x0 ^ x1 ^ x0,
                x4 ^ x3 & x2 ^ x3 & x1 ^ x3 ^ x2 & x1 ^ x2 ^ x1 ^ x0,
                x4 & x3 ^ x4 ^ x2 ^ x1 ^ 1,
                x4 & x0 ^ x4 ^ x3 & x0 ^ x3 ^ x2 ^ x1 ^ x0,
                x4 & x1 ^ x4 ^ x3 ^ x1 & x0 ^ x1,
            )
            for j in range(5):
                out[j] |= column[j] << bit
        turns = ((19, 28), (61, 39), (1, 6), (10, 17), (7, 41))
        s = [x ^ _rotated(x, a) ^ _rotated(x, b) for x, (a, b) in zip(out, turns, strict=True)]
    return s


class ascon_hash256:
    """Algorithm 5 of section 5.1."""

    def __init__(self, data: bytes = b"") -> None:
        self._data = bytes(data)

    def digest(self) -> bytes:
        state = permute([0x0000080100CC0002, 0, 0, 0, 0])
        padded = self._data + b"\x01"
        padded += bytes(-len(padded) % 8)
        for i in range(0, len(padded), 8):
            state[0] ^= int.from_bytes(padded[i : i + 8], "little")
            state = permute(state)
        out = state[0].to_bytes(8, "little")
        for _ in range(3):
            state = permute(state)
            out += state[0].to_bytes(8, "little")
        return out
