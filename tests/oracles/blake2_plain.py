"""BLAKE2b and BLAKE2s in plain Python, written from RFC 7693, that can resume after any number of bytes.
Without parameters: for those hashlib is the oracle."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from .sha2_plain import PRIMES, root_fraction

# Section 2.7, a hexadecimal digit an index.
SIGMA = [
    "0123456789abcdef",
    "ea489fd61c02b753",
    "b8c052fdae367194",
    "7931dcbe265a40f8",
    "905724afe1bc683d",
    "2c6a0b834d75fe19",
    "c51fed4a0763928b",
    "db7ec13950f4862a",
    "6fe9b308c2d714a5",
    "a2847615fb9e3cd0",
]


@dataclass(frozen=True)
class Blake2:
    bits: int
    rounds: int
    rotations: tuple[int, int, int, int]

    def compress(self, h: list[int], block: bytes, t: int, last: bool) -> list[int]:
        """Section 3.2: ``t`` is the number of bytes up to the end of the block, two words of it."""
        mask = (1 << self.bits) - 1
        m = struct.unpack("<16I" if self.bits == 32 else "<16Q", block)
        v = h + [root_fraction(p, 2, self.bits) for p in PRIMES[:8]]  # as SHA-2's, section 2.6
        v[12] ^= t & mask
        v[13] ^= t >> self.bits
        v[14] ^= mask if last else 0
        for r in range(self.rounds):
            s = [int(digit, 16) for digit in SIGMA[r % 10]]
            for i in range(8):
                a, b, c, d = (4 * k + (i + i // 4 * k) % 4 for k in range(4))
                for word, (n1, n2) in zip(
                    (m[s[2 * i]], m[s[2 * i + 1]]), (self.rotations[:2], self.rotations[2:]), strict=True
                ):
                    v[a] = (v[a] + v[b] + word) & mask
                    v[d] = self._rotate(v[d] ^ v[a], n1)
                    v[c] = (v[c] + v[d]) & mask
                    v[b] = self._rotate(v[b] ^ v[c], n2)
        return [h[i] ^ v[i] ^ v[i + 8] for i in range(8)]

    def _rotate(self, x: int, n: int) -> int:
        return (x >> n | x << (self.bits - n)) & ((1 << self.bits) - 1)

    def finish(self, absorbed: int, tail: bytes) -> bytes:
        """The digest of a message whose first ``absorbed`` bytes left the initial state as it was, and
        whose rest is ``tail``, which is empty only if the message is."""
        block, size = self.bits * 2, self.bits
        h = [root_fraction(p, 2, self.bits) for p in PRIMES[:8]]
        h[0] ^= 0x01010000 ^ size  # section 2.5: fanout and depth of 1, no key
        for start in range(0, max(1, len(tail)), block):
            piece = tail[start : start + block]
            last = start + block >= len(tail)
            h = self.compress(h, piece.ljust(block, b"\0"), absorbed + start + len(piece), last)
        return b"".join(word.to_bytes(self.bits // 8, "little") for word in h)


blake2b = Blake2(64, 12, (32, 24, 16, 63))
blake2s = Blake2(32, 10, (16, 12, 8, 7))
