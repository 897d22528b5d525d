"""SipHash in plain Python, written from the paper, one value at a time. The output of 128 bits follows the
authors' reference implementation."""

from __future__ import annotations

MASK = (1 << 64) - 1


def _rotate(x: int, n: int) -> int:
    return (x << n | x >> (64 - n)) & MASK


def _round(v: list[int]) -> None:
    for a, b, c, d, s, t in ((0, 1, 2, 3, 13, 16), (2, 1, 0, 3, 17, 21)):
        v[a] = (v[a] + v[b]) & MASK
        v[c] = (v[c] + v[d]) & MASK
        v[b] = _rotate(v[b], s) ^ v[a]
        v[d] = _rotate(v[d], t) ^ v[c]
        v[a] = _rotate(v[a], 32)


class _SipHash:
    def __init__(self, c: int, d: int, data: bytes, key: bytes, digest_size: int) -> None:
        assert len(key) == 16
        assert digest_size in {8, 16}
        self.c, self.d, self.key, self.digest_size = c, d, key, digest_size
        self.message = bytes(data)

    def update(self, data: bytes) -> None:
        self.message += bytes(data)

    def digest(self) -> bytes:
        text = b"somepseudorandomlygeneratedbytes"
        v = [
            int.from_bytes(text[8 * i : 8 * i + 8], "big") ^ int.from_bytes(self.key[k : k + 8], "little")
            for i, k in enumerate((0, 8, 0, 8))
        ]
        wide = self.digest_size == 16
        v[1] ^= 0xEE * wide
        size = len(self.message)
        padded = self.message + bytes(7 - size % 8) + bytes([size % 256])
        for at in range(0, len(padded), 8):
            word = int.from_bytes(padded[at : at + 8], "little")
            v[3] ^= word
            for _ in range(self.c):
                _round(v)
            v[0] ^= word
        v[2] ^= 0xEE if wide else 0xFF
        out = b""
        for _ in range(self.digest_size // 8):
            for _ in range(self.d):
                _round(v)
            out += (v[0] ^ v[1] ^ v[2] ^ v[3]).to_bytes(8, "little")
            v[1] ^= 0xDD
        return out


def siphash_2_4(data: bytes = b"", *, key: bytes, digest_size: int = 8) -> _SipHash:
    return _SipHash(2, 4, data, key, digest_size)


def siphash_1_3(data: bytes = b"", *, key: bytes, digest_size: int = 8) -> _SipHash:
    return _SipHash(1, 3, data, key, digest_size)


def siphash_4_8(data: bytes = b"", *, key: bytes, digest_size: int = 8) -> _SipHash:
    return _SipHash(4, 8, data, key, digest_size)
