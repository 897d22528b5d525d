"""SHA-256 and SHA-512 in plain Python, written from FIPS 180-4. They can resume after any number of bytes,
which hashlib cannot. The constants are computed from the primes that define them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache

PRIMES = [n for n in range(2, 410) if all(n % d for d in range(2, n))]


@cache
def root_fraction(n: int, degree: int, bits: int) -> int:
    """The first ``bits`` bits of the fractional part of the ``degree``-th root of ``n``."""
    target, low, high = n << bits * degree, 0, n << bits
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= target else (low, middle - 1)
    return low & ((1 << bits) - 1)


@dataclass(frozen=True)
class Sha2:
    """Sections 4.1.2 and 4.1.3. The functions have the names of the standard. The last distance of a small
    one is that of a shift."""

    bits: int
    rounds: int
    Sigma0: tuple[int, int, int]
    Sigma1: tuple[int, int, int]
    sigma0: tuple[int, int, int]
    sigma1: tuple[int, int, int]

    def _rotations(self, x: int, n: tuple[int, int, int], *, shift: bool = False) -> int:
        rotated = [(x >> k | x << (self.bits - k)) & ((1 << self.bits) - 1) for k in n]
        return rotated[0] ^ rotated[1] ^ (x >> n[2] if shift else rotated[2])

    def compress(self, state: list[int], block: bytes) -> list[int]:
        mask, format = (1 << self.bits) - 1, "I" if self.bits == 32 else "Q"
        w = list(struct.unpack(f">16{format}", block))
        for t in range(16, self.rounds):
            small0 = self._rotations(w[t - 15], self.sigma0, shift=True)
            small1 = self._rotations(w[t - 2], self.sigma1, shift=True)
            w.append((w[t - 16] + small0 + w[t - 7] + small1) & mask)
        a, b, c, d, e, f, g, h = state
        for t in range(self.rounds):
            k = root_fraction(PRIMES[t], 3, self.bits)
            t1 = h + self._rotations(e, self.Sigma1) + (e & f ^ ~e & g) + k + w[t]
            t2 = self._rotations(a, self.Sigma0) + (a & b ^ a & c ^ b & c)
            a, b, c, d, e, f, g, h = (t1 + t2) & mask, a, b, c, (d + t1) & mask, e, f, g
        return [(x + y) & mask for x, y in zip(state, (a, b, c, d, e, f, g, h), strict=True)]

    def finish(self, absorbed: int, tail: bytes) -> bytes:
        """The digest of a message whose first ``absorbed`` bytes left the initial state unchanged, and whose
        remaining bytes are ``tail``."""
        block, field = self.bits * 2, self.bits // 4
        data = tail + b"\x80" + bytes(-(len(tail) + 1 + field) % block)
        data += (8 * (absorbed + len(tail))).to_bytes(field, "big")
        state = [root_fraction(p, 2, self.bits) for p in PRIMES[:8]]
        for i in range(0, len(data), block):
            state = self.compress(state, data[i : i + block])
        return b"".join(word.to_bytes(self.bits // 8, "big") for word in state)


sha256 = Sha2(32, 64, (2, 13, 22), (6, 11, 25), (7, 18, 3), (17, 19, 10))
sha512 = Sha2(64, 80, (28, 34, 39), (14, 18, 41), (1, 8, 7), (19, 61, 6))
