"""Keccak-p[1600] and everything that is built on it, in plain Python from FIPS 202, SP 800-185 and RFC 9861.
It is the oracle for functions that no library has, and is compared with libraries and published samples where
they exist.

Every function is a class called as ``function(data, **parameters)``. A class with a fixed digest has
``digest()``, an extendable one ``digest(length, seek=0)``. TupleHash takes a tuple of byte strings as data.
The round constants and rotations are computed from their definitions.
"""

from __future__ import annotations

import copy
import struct
from functools import lru_cache

LANE = (1 << 64) - 1


def _rotate(x: int, n: int) -> int:
    return (x << n | x >> (64 - n)) & LANE


def _round_constant_bits() -> list[int]:
    """One period of the output of the linear feedback shift register of FIPS 202, algorithm 5."""
    register, bits = [1, 0, 0, 0, 0, 0, 0, 0], []
    for _ in range(255):
        bits.append(register[0])
        register = [0, *register]
        for tap in (0, 4, 5, 6):
            register[tap] ^= register[8]
        register = register[:8]
    return bits


def _round_constants() -> list[int]:
    """FIPS 202, section 3.2.5: in the constant of round i, bit 2**j - 1 is output j + 7 * i of the
    register."""
    bits = _round_constant_bits()
    return [sum(bits[(j + 7 * i) % 255] << (2**j - 1) for j in range(7)) for i in range(24)]


def _rotations() -> dict[tuple[int, int], int]:
    """FIPS 202, algorithm 2: the distance by which each lane (x, y) is rotated."""
    offsets, x, y = {(0, 0): 0}, 1, 0
    for t in range(24):
        offsets[x, y] = (t + 1) * (t + 2) // 2 % 64
        x, y = y, (2 * x + 3 * y) % 5
    return offsets


ROUND_CONSTANTS = _round_constants()
# rho and pi as one step (FIPS 202, 3.2.2 and 3.2.3): the lane that moves to index x + 5 * y, its column, its
# rotation to the left, and 64 minus this rotation.
MOVES = [
    ((x + 3 * y) % 5 + 5 * x, (x + 3 * y) % 5, n, 64 - n)
    for y in range(5)
    for x in range(5)
    for n in [_rotations()[(x + 3 * y) % 5, x]]
]
# chi combines a lane with the next two lanes of its row (section 3.2.4).
ROWS = [(i, i - i % 5 + (i + 1) % 5, i - i % 5 + (i + 2) % 5) for i in range(25)]


def keccak_p(lanes: list[int], rounds: int) -> list[int]:
    """The last ``rounds`` rounds of Keccak-f[1600]. Lane (x, y) is at x + 5 * y (FIPS 202, section 3.3)."""
    for constant in ROUND_CONSTANTS[24 - rounds :]:
        parity = [lanes[x] ^ lanes[x + 5] ^ lanes[x + 10] ^ lanes[x + 15] ^ lanes[x + 20] for x in range(5)]
        theta = [parity[x - 1] ^ _rotate(parity[(x + 1) % 5], 1) for x in range(5)]
        b = [((v := lanes[i] ^ theta[x]) << n | v >> m) & LANE for i, x, n, m in MOVES]
        lanes = [b[i] ^ (~b[j] & b[k]) for i, j, k in ROWS]
        lanes[0] ^= constant
    return lanes


class Sponge:
    """Absorbs a padded message once, and squeezes any part of the output (FIPS 202, section 4)."""

    def __init__(self, message: bytes, rate: int, suffix: int, rounds: int = 24) -> None:
        """``suffix`` holds the bits of the domain and the first 1 of the padding, as a byte (appendix
        B.2)."""
        padded = bytearray(message) + bytes([suffix])
        padded += bytes(-len(padded) % rate)
        padded[-1] ^= 0x80
        lanes = [0] * 25
        for start in range(0, len(padded), rate):
            block = struct.unpack_from(f"<{rate // 8}Q", padded, start)
            lanes = keccak_p([x ^ y for x, y in zip(lanes, block, strict=False)] + lanes[rate // 8 :], rounds)
        self._lanes, self._rate, self._rounds = lanes, rate, rounds

    def squeeze(self, length: int, seek: int = 0) -> bytes:
        lanes, output = self._lanes, bytearray()
        while len(output) < seek + length:
            if output:
                lanes = keccak_p(lanes, self._rounds)
            output += struct.pack("<25Q", *lanes)[: self._rate]
        return bytes(output[seek : seek + length])


def _rate(security: int) -> int:
    """The number of bytes that are absorbed before each permutation. The capacity is twice the security
    strength in bits."""
    return 200 - security // 4


@lru_cache(maxsize=64)  # several outputs are taken of one message
def _sponge(message: bytes, rate: int, suffix: int, rounds: int) -> Sponge:
    return Sponge(message, rate, suffix, rounds)


class _Function:
    """The part of hashlib's interface that the tests call. A subclass says how its output is made."""

    security: int

    def __init__(self, data: bytes = b"") -> None:
        self._data = bytes(data)

    def update(self, data: bytes) -> None:
        self._data += bytes(data)

    def copy(self) -> _Function:
        return copy.copy(self)

    def hexdigest(self, *length: int) -> str:
        return self.digest(*length).hex()

    def digest(self, *length: int) -> bytes:
        raise NotImplementedError


class _Fixed(_Function):
    """SHA-3; with another suffix, Keccak as it was before the standard."""

    suffix = 0x06

    def digest(self) -> bytes:
        return Sponge(self._data, _rate(self.security), self.suffix).squeeze(self.security // 8)


class sha3_224(_Fixed):
    security = 224


class sha3_256(_Fixed):
    security = 256


class sha3_384(_Fixed):
    security = 384


class sha3_512(_Fixed):
    security = 512


class keccak_224(sha3_224):
    suffix = 0x01


class keccak_256(sha3_256):
    suffix = 0x01


class keccak_384(sha3_384):
    suffix = 0x01


class keccak_512(sha3_512):
    suffix = 0x01


def left_encode(n: int) -> bytes:
    """SP 800-185, section 2.3.1."""
    size = max(1, (n.bit_length() + 7) // 8)
    return bytes([size]) + n.to_bytes(size, "big")


def right_encode(n: int) -> bytes:
    """SP 800-185, section 2.3.1."""
    size = max(1, (n.bit_length() + 7) // 8)
    return n.to_bytes(size, "big") + bytes([size])


def encode_string(s: bytes) -> bytes:
    """SP 800-185, section 2.3.2."""
    return left_encode(8 * len(s)) + s


def bytepad(x: bytes, width: int) -> bytes:
    """SP 800-185, section 2.3.3."""
    x = left_encode(width) + x
    return x + bytes(-len(x) % width)


def _cshake(message: bytes, security: int, name: bytes, customization: bytes) -> Sponge:
    """SP 800-185, section 3.3."""
    rate = _rate(security)
    if not name and not customization:
        return _sponge(message, rate, 0x1F, 24)
    return _sponge(
        bytepad(encode_string(name) + encode_string(customization), rate) + message, rate, 0x04, 24
    )


class _Extendable(_Function):
    def _output(self) -> Sponge:
        raise NotImplementedError

    def digest(self, length: int, *, seek: int = 0) -> bytes:
        return self._output().squeeze(length, seek)


class shake_128(_Extendable):
    """FIPS 202, section 6.2."""

    security = 128

    def _output(self) -> Sponge:
        return _sponge(self._data, _rate(self.security), 0x1F, 24)


class shake_256(shake_128):
    security = 256


class cshake_128(_Extendable):
    """SP 800-185, section 3."""

    security = 128

    def __init__(self, data: bytes = b"", *, function_name: bytes = b"", customization: bytes = b"") -> None:
        super().__init__(data)
        self._name, self._customization = bytes(function_name), bytes(customization)

    def _output(self) -> Sponge:
        return _cshake(self._data, self.security, self._name, self._customization)


class cshake_256(cshake_128):
    security = 256


class turboshake_128(_Extendable):
    """RFC 9861, section 2."""

    security = 128

    def __init__(self, data: bytes = b"", *, domain: int = 0x1F) -> None:
        super().__init__(data)
        if not 0x01 <= domain <= 0x7F:
            raise ValueError("a domain is a byte from 0x01 to 0x7F")
        self._domain = domain

    def _output(self) -> Sponge:
        return _sponge(self._data, _rate(self.security), self._domain, 12)


class turboshake_256(turboshake_128):
    security = 256


def length_encode(n: int) -> bytes:
    """RFC 9861, section 3.3: the same as right_encode, except that zero takes no byte."""
    return n.to_bytes((n.bit_length() + 7) // 8, "big") + bytes([(n.bit_length() + 7) // 8])


class kt128(_Extendable):
    """RFC 9861, section 3."""

    security = 128
    chunk = 8192

    def __init__(self, data: bytes = b"", *, customization: bytes = b"") -> None:
        super().__init__(data)
        self._customization = bytes(customization)

    def _output(self) -> Sponge:
        rate = _rate(self.security)
        s = self._data + self._customization + length_encode(len(self._customization))
        first, *others = (s[i : i + self.chunk] for i in range(0, len(s), self.chunk))
        if not others:
            return _sponge(first, rate, 0x07, 12)
        node = first + b"\x03" + bytes(7)
        for chunk in others:
            node += _sponge(chunk, rate, 0x0B, 12).squeeze(self.security // 4)
        return _sponge(node + length_encode(len(others)) + b"\xff\xff", rate, 0x06, 12)


class kt256(kt128):
    security = 256


class _Custom(_Function):
    """The functions of SP 800-185 over cSHAKE whose digest depends on its size, and their extendable forms,
    which encode a size of zero instead."""

    function_name: bytes

    def __init__(self, data: bytes = b"", *, customization: bytes = b"", digest_size: int | None = None):
        super().__init__(data)
        self._customization = bytes(customization)
        self._digest_size = self.security // 4 if digest_size is None else digest_size

    def _message(self) -> bytes:
        raise NotImplementedError

    def _squeeze(self, declared: int, length: int, seek: int) -> bytes:
        message = self._message() + right_encode(8 * declared)
        return _cshake(message, self.security, self.function_name, self._customization).squeeze(length, seek)

    def digest(self) -> bytes:
        return self._squeeze(self._digest_size, self._digest_size, 0)


class _CustomExtendable(_Custom):
    def digest(self, length: int, *, seek: int = 0) -> bytes:
        return self._squeeze(0, length, seek)


class tuplehash_128(_Custom):
    """SP 800-185, section 5. The data are a tuple of byte strings; an update adds one string or several."""

    security = 128
    function_name = b"TupleHash"

    def __init__(self, data: tuple[bytes, ...] = (), **parameters) -> None:
        super().__init__(**parameters)
        self._strings = tuple(bytes(s) for s in data)

    def update(self, data: tuple[bytes, ...]) -> None:
        self._strings += tuple(bytes(s) for s in data)

    def _message(self) -> bytes:
        return b"".join(encode_string(s) for s in self._strings)


class tuplehash_256(tuplehash_128):
    security = 256


class tuplehashxof_128(tuplehash_128, _CustomExtendable):
    """SP 800-185, section 5.3.1."""


class tuplehashxof_256(tuplehashxof_128):
    security = 256


class parallelhash_128(_Custom):
    """SP 800-185, section 6. The standard has no default block size."""

    security = 128
    function_name = b"ParallelHash"

    def __init__(self, data: bytes = b"", *, block_size: int = 8192, **parameters) -> None:
        super().__init__(data, **parameters)
        self._block_size = block_size

    def _message(self) -> bytes:
        step, rate = self._block_size, _rate(self.security)
        blocks = [self._data[i : i + step] for i in range(0, len(self._data), step)]
        leaves = [_sponge(block, rate, 0x1F, 24).squeeze(self.security // 4) for block in blocks]
        return left_encode(step) + b"".join(leaves) + right_encode(len(blocks))


class parallelhash_256(parallelhash_128):
    security = 256


class parallelhashxof_128(parallelhash_128, _CustomExtendable):
    """SP 800-185, section 6.3.1."""


class parallelhashxof_256(parallelhashxof_128):
    security = 256


class kmac_128(_Custom):
    """SP 800-185, section 4."""

    security = 128
    function_name = b"KMAC"

    def __init__(self, data: bytes = b"", *, key: bytes, **parameters) -> None:
        super().__init__(data, **parameters)
        self._key = bytes(key)

    def _message(self) -> bytes:
        return bytepad(encode_string(self._key), _rate(self.security)) + self._data


class kmac_256(kmac_128):
    security = 256


class kmacxof_128(kmac_128, _CustomExtendable):
    """SP 800-185, section 4.3.1."""


class kmacxof_256(kmacxof_128):
    security = 256
