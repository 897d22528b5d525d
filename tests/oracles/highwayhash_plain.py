"""HighwayHash in plain Python, one value at a time, from the description in the paper. What the paper leaves
open follows the reference implementation."""

from __future__ import annotations

MASK = (1 << 64) - 1
LOW = (1 << 32) - 1
INIT0 = (0xDBE6D5D5FE4CCE2F, 0xA4093822299F31D0, 0x13198A2E03707344, 0x243F6A8885A308D3)
INIT1 = (0x3BD39E10CB0EF593, 0xC0ACF169B5F18A8C, 0xBE5466CF34E90C6C, 0x452821E638D01377)
ZIPPER = (3, 12, 2, 5, 14, 1, 15, 0, 11, 4, 10, 13, 9, 6, 8, 7)


def _words(data: bytes) -> list[int]:
    return [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)]


def _swapped(x: int) -> int:
    return x >> 32 | (x & LOW) << 32


class _State:
    def __init__(self, key: bytes) -> None:
        words = _words(key)
        self.mul0, self.mul1 = list(INIT0), list(INIT1)
        self.v0 = [a ^ k for a, k in zip(INIT0, words, strict=True)]
        self.v1 = [a ^ _swapped(k) for a, k in zip(INIT1, words, strict=True)]

    @staticmethod
    def _merge(x: list[int], y: list[int]) -> list[int]:
        data = b"".join(n.to_bytes(8, "little") for n in y)
        merged = b"".join(bytes(data[half + i] for i in ZIPPER) for half in (0, 16))
        return [(a + b) & MASK for a, b in zip(x, _words(merged), strict=True)]

    def update(self, packet: bytes) -> None:
        self.update_words(_words(packet))

    def update_words(self, words: list[int]) -> None:
        for i in range(4):
            self.v1[i] = (self.v1[i] + self.mul0[i] + words[i]) & MASK
            self.mul0[i] ^= (self.v1[i] & LOW) * (self.v0[i] >> 32)
            self.v0[i] = (self.v0[i] + self.mul1[i]) & MASK
            self.mul1[i] ^= (self.v0[i] & LOW) * (self.v1[i] >> 32)
        self.v0 = self._merge(self.v0, self.v1)
        self.v1 = self._merge(self.v1, self.v0)

    def tail(self, data: bytes) -> None:
        size = len(data)
        self.v0 = [(v + (size << 32 | size)) & MASK for v in self.v0]
        turned = []
        for v in self.v1:
            halves = [(h << size | h >> (32 - size)) & LOW for h in (v & LOW, v >> 32)]
            turned.append(halves[0] | halves[1] << 32)
        self.v1 = turned
        packet = bytearray(32)
        whole = size // 4 * 4
        packet[:whole] = data[:whole]
        rest = data[whole:]
        if size & 16:
            packet[28:] = data[-4:]
        elif rest:
            packet[16:19] = bytes([rest[0], rest[len(rest) // 2], rest[-1]])
        self.update(bytes(packet))

    def permute(self) -> None:
        self.update_words([_swapped(self.v0[i]) for i in (2, 3, 0, 1)])


def _reduced(v: _State, i: int) -> list[int]:
    """256 bits, whose upper half is v1 + mul1, reduced modulo x**128 + x**2 + x."""
    low = [(v.v0[j] + v.mul0[j]) & MASK for j in (i, i + 1)]
    high = [(v.v1[j] + v.mul1[j]) & MASK for j in (i, i + 1)]
    x = high[0] | (high[1] & MASK >> 2) << 64
    x = (low[0] | low[1] << 64) ^ x << 1 ^ x << 2
    return [x & MASK, x >> 64 & MASK]


class _HighwayHash:
    def __init__(self, size: int, data: bytes, key: bytes) -> None:
        assert len(key) == 32
        self.size, self.key, self.data = size, key, bytes(data)

    def update(self, data: bytes) -> None:
        self.data += bytes(data)

    def digest(self) -> bytes:
        v = _State(self.key)
        whole = len(self.data) // 32 * 32
        for i in range(0, whole, 32):
            v.update(self.data[i : i + 32])
        if len(self.data) > whole:
            v.tail(self.data[whole:])
        for _ in range({8: 4, 16: 6, 32: 10}[self.size]):
            v.permute()
        if self.size == 8:
            out = [v.v0[0] + v.v1[0] + v.mul0[0] + v.mul1[0]]
        elif self.size == 16:
            out = [v.v0[i] + v.mul0[i] + v.v1[i + 2] + v.mul1[i + 2] for i in (0, 1)]
        else:
            out = _reduced(v, 0) + _reduced(v, 2)
        return b"".join((n & MASK).to_bytes(8, "little") for n in out)


def highwayhash_64(data: bytes = b"", *, key: bytes) -> _HighwayHash:
    return _HighwayHash(8, data, key)


def highwayhash_128(data: bytes = b"", *, key: bytes) -> _HighwayHash:
    return _HighwayHash(16, data, key)


def highwayhash_256(data: bytes = b"", *, key: bytes) -> _HighwayHash:
    return _HighwayHash(32, data, key)
