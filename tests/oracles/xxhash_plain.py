"""XXH64 and XXH3 in plain Python, written from the specification, one value at a time. They are the oracle if
the xxhash library is not installed, and are compared with that library if it is."""

from __future__ import annotations

import struct

MASK = (1 << 64) - 1
P32 = (2654435761, 2246822519, 3266489917)
P64 = (
    11400714785074694791,
    14029467366897019727,
    1609587929392839161,
    9650029242287828579,
    2870177450012600261,
)
SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8a8"
    "fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb17"
    "0ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)


def rotate(x: int, n: int) -> int:
    return (x << n | x >> (64 - n)) & MASK


def swap(x: int, size: int = 8) -> int:
    return int.from_bytes(x.to_bytes(size, "little"), "big")


def read(data: bytes, at: int, size: int = 8) -> int:
    return int.from_bytes(data[at : at + size], "little")


def avalanche64(h: int) -> int:
    h = (h ^ h >> 33) * P64[1] & MASK
    h = (h ^ h >> 29) * P64[2] & MASK
    return h ^ h >> 32


def _round(acc: int, lane: int) -> int:
    return rotate((acc + lane * P64[1]) & MASK, 31) * P64[0] & MASK


def xxh64_value(data: bytes, seed: int) -> int:
    at = 0
    if len(data) >= 32:
        v = [seed + P64[0] + P64[1], seed + P64[1], seed, seed - P64[0]]
        while at + 32 <= len(data):
            v = [_round(a, lane) for a, lane in zip(v, struct.unpack_from("<4Q", data, at), strict=True)]
            at += 32
        h = sum(rotate(a, n) for a, n in zip(v, (1, 7, 12, 18), strict=True)) & MASK
        for a in v:
            h = ((h ^ _round(0, a)) * P64[0] + P64[3]) & MASK
    else:
        h = seed + P64[4]
    h = (h + len(data)) & MASK
    while at + 8 <= len(data):
        h = (rotate(h ^ _round(0, read(data, at)), 27) * P64[0] + P64[3]) & MASK
        at += 8
    if at + 4 <= len(data):
        h = (rotate(h ^ read(data, at, 4) * P64[0] & MASK, 23) * P64[1] + P64[2]) & MASK
        at += 4
    for byte in data[at:]:
        h = rotate(h ^ byte * P64[4] & MASK, 11) * P64[0] & MASK
    return avalanche64(h)


def avalanche(h: int) -> int:
    h = (h ^ h >> 37) * 0x165667919E3779F9 & MASK
    return h ^ h >> 32


def fold(x: int, y: int) -> int:
    return x * y & MASK ^ x * y >> 64


def _short(data: bytes, seed: int) -> tuple[int, int]:
    """The 64-bit and the 128-bit digest of up to 16 bytes."""
    n, s = len(data), lambda at: read(SECRET, at)
    if n == 0:
        high = avalanche64(seed ^ s(80) ^ s(88))
        return avalanche64(seed ^ s(56) ^ s(64)), high << 64 | avalanche64(seed ^ s(64) ^ s(72))
    if n <= 3:
        word = data[0] << 16 | data[n >> 1] << 24 | data[n - 1] | n << 8
        turned = swap(word, 4)
        turned = (turned << 13 | turned >> 19) & 0xFFFFFFFF
        low = avalanche64(word ^ ((read(SECRET, 0, 4) ^ read(SECRET, 4, 4)) + seed & MASK))
        high = avalanche64(turned ^ ((read(SECRET, 8, 4) ^ read(SECRET, 12, 4)) - seed & MASK))
        return low, high << 64 | low
    if n <= 8:
        seed ^= swap(seed & 0xFFFFFFFF, 4) << 32
        first, last = read(data, 0, 4), read(data, n - 4, 4)
        h = (last + (first << 32)) ^ ((s(8) ^ s(16)) - seed & MASK)
        h = (h ^ rotate(h, 49) ^ rotate(h, 24)) * 0x9FB21C651E98DF25 & MASK
        h = (h ^ (h >> 35) + n) * 0x9FB21C651E98DF25 & MASK
        product = (first + (last << 32) ^ ((s(16) ^ s(24)) + seed & MASK)) * (P64[0] + 4 * n)
        low, high = product & MASK, product >> 64
        high = high + 2 * low & MASK
        low ^= high >> 3
        low = (low ^ low >> 35) * 0x9FB21C651E98DF25 & MASK
        return h ^ h >> 28, avalanche(high) << 64 | (low ^ low >> 28)
    first, last = read(data, 0), read(data, n - 8)
    a, b = first ^ ((s(24) ^ s(32)) + seed & MASK), last ^ ((s(40) ^ s(48)) - seed & MASK)
    digest = avalanche(n + swap(a) + b + fold(a, b) & MASK)
    product = (first ^ last ^ ((s(32) ^ s(40)) - seed & MASK)) * P64[0]
    low, high = product + (n - 1 << 54) & MASK, product >> 64
    last ^= (s(48) ^ s(56)) + seed & MASK
    high = high + last + (last & 0xFFFFFFFF) * (P32[1] - 1) & MASK
    product = (low ^ swap(high)) * P64[1]
    return digest, avalanche((product >> 64) + high * P64[1] & MASK) << 64 | avalanche(product & MASK)


def _mix(data: bytes, at: int, secret_at: int, seed: int) -> int:
    low = read(data, at) ^ (read(SECRET, secret_at) + seed & MASK)
    return fold(low, read(data, at + 8) ^ (read(SECRET, secret_at + 8) - seed & MASK))


def _middle(data: bytes, seed: int) -> tuple[int, int]:
    """Both digests of 17 to 240 bytes."""
    n = len(data)
    h = n * P64[0]
    pair = [n * P64[0] & MASK, 0]

    def mix_pair(one: int, two: int, secret_at: int, seed: int) -> None:
        pair[0] = (pair[0] + _mix(data, one, secret_at, seed) & MASK) ^ (
            read(data, two) + read(data, two + 8) & MASK
        )
        pair[1] = (pair[1] + _mix(data, two, secret_at + 16, seed) & MASK) ^ (
            read(data, one) + read(data, one + 8) & MASK
        )

    if n <= 128:
        for i in reversed(range((n - 1) // 32 + 1)):
            h += _mix(data, 16 * i, 32 * i, seed) + _mix(data, n - 16 * i - 16, 32 * i + 16, seed)
            mix_pair(16 * i, n - 16 * i - 16, 32 * i, seed)
    else:
        places = [(16 * i, 16 * i if i < 8 else 16 * i - 125) for i in range(n // 16)]
        h = avalanche(h + sum(_mix(data, *place, seed) for place in places[:8]) & MASK)
        h += sum(_mix(data, *place, seed) for place in places[8:]) + _mix(data, n - 16, 119, seed)
        for i in range(n // 32):
            if i == 4:
                pair[:] = map(avalanche, pair)
            mix_pair(32 * i, 32 * i + 16, 32 * i if i < 4 else 32 * i - 125, seed)
        if n < 160:
            pair[:] = map(avalanche, pair)
        mix_pair(n - 16, n - 32, 103, -seed & MASK)
    low, high = pair
    mixed = low * P64[0] + high * P64[3] + (n - seed) * P64[1] & MASK
    return avalanche(h & MASK), (-avalanche(mixed) & MASK) << 64 | avalanche(low + high & MASK)


def _long(data: bytes, seed: int) -> tuple[int, int]:
    """Both digests of more than 240 bytes."""
    n = len(data)
    words = struct.unpack("<24Q", SECRET)
    secret = struct.pack("<24Q", *((w + (-seed if i % 2 else seed)) & MASK for i, w in enumerate(words)))
    acc = [P32[2], *P64[:4], P32[1], P64[4], P32[0]]

    def stripe(at: int, secret_at: int) -> None:
        for i in range(8):
            value = read(data, at + 8 * i)
            key = value ^ read(secret, secret_at + 8 * i)
            acc[i ^ 1] = acc[i ^ 1] + value & MASK
            acc[i] = acc[i] + (key & 0xFFFFFFFF) * (key >> 32) & MASK

    for k in range((n - 1) // 64):
        stripe(64 * k, 8 * (k % 16))
        if k % 16 == 15:
            for i in range(8):
                acc[i] = (acc[i] ^ acc[i] >> 47 ^ read(secret, 128 + 8 * i)) * P32[0] & MASK
    stripe(n - 64, 121)

    def merge(secret_at: int, start: int) -> int:
        for i in range(4):
            one = acc[2 * i] ^ read(secret, secret_at + 16 * i)
            start += fold(one, acc[2 * i + 1] ^ read(secret, secret_at + 16 * i + 8))
        return avalanche(start & MASK)

    low = merge(11, n * P64[0])
    return low, merge(117, ~(n * P64[1]) & MASK) << 64 | low


def xxh3_values(data: bytes, seed: int) -> tuple[int, int]:
    if len(data) <= 16:
        return _short(data, seed)
    return _middle(data, seed) if len(data) <= 240 else _long(data, seed)


class _Whole:
    def __init__(self, data: bytes = b"", seed: int = 0) -> None:
        self._data, self._seed = bytes(data), seed

    def update(self, data: bytes) -> None:
        self._data += bytes(data)


class xxh64(_Whole):
    def digest(self) -> bytes:
        return xxh64_value(self._data, self._seed).to_bytes(8, "big")


class xxh3_64(_Whole):
    def digest(self) -> bytes:
        return xxh3_values(self._data, self._seed)[0].to_bytes(8, "big")


class xxh3_128(_Whole):
    def digest(self) -> bytes:
        return xxh3_values(self._data, self._seed)[1].to_bytes(16, "big")
