"""Checksums from libraries that the package itself does not use, with hashlib's interface; and for CRCs that
no library has, their definition in plain Python."""

from __future__ import annotations

import zlib


class _Plain:
    """A CRC computed bit by bit, as the catalogue of parametrised CRC algorithms defines it. The bits of the
    message come lowest first and are divided as a polynomial; the register and the result are inverted."""

    def __init__(self, width: int, polynomial: int, data: bytes = b"") -> None:
        self._width, self._polynomial = width, polynomial
        self._register = (1 << width) - 1
        self.update(data)

    def update(self, data: bytes) -> None:
        top, mask = 1 << (self._width - 1), (1 << self._width) - 1
        for byte in bytes(data):
            for bit in range(8):
                out = bool(self._register & top) ^ bool(byte >> bit & 1)
                self._register = (self._register << 1 & mask) ^ (self._polynomial if out else 0)

    def digest(self) -> bytes:
        inverted = self._register ^ ((1 << self._width) - 1)
        reflected = int(f"{inverted:0{self._width}b}"[::-1], 2)
        return reflected.to_bytes(self._width // 8, "big")


def plain_crc32(data: bytes = b"") -> _Plain:
    # x^32 + x^26 + x^23 + x^22 + x^16 + x^12 + x^11 + x^10 + x^8 + x^7 + x^5 + x^4 + x^2 + x + 1
    return _Plain(32, sum(1 << k for k in (26, 23, 22, 16, 12, 11, 10, 8, 7, 5, 4, 2, 1, 0)), data)


def plain_crc32c(data: bytes = b"") -> _Plain:
    return _Plain(32, 0x1EDC6F41, data)


def plain_crc64_nvme(data: bytes = b"") -> _Plain:
    return _Plain(64, 0xAD93D23594C93659, data)


class _Tabled:
    """The same CRC computed byte by byte, for longer messages. :class:`_Plain` gives the table."""

    _tables: dict[tuple[int, int], list[int]] = {}  # noqa: RUF012

    def __init__(self, plain: _Plain, data: bytes = b"") -> None:
        self._ones = (1 << plain._width) - 1
        self._size = plain._width // 8
        key = plain._width, plain._polynomial
        if key not in self._tables:
            # By linearity, this is the check of a byte without the contribution of the initial register.
            empty = _value(type(plain)(*key, b"\0"))
            self._tables[key] = [_value(type(plain)(*key, bytes([n]))) ^ empty for n in range(256)]
        self._table = self._tables[key]
        self._register = self._ones
        self.update(data)

    def update(self, data: bytes) -> None:
        register, table = self._register, self._table
        for byte in bytes(data):
            register = register >> 8 ^ table[(register ^ byte) & 255]
        self._register = register

    def digest(self) -> bytes:
        return (self._register ^ self._ones).to_bytes(self._size, "big")


def _value(plain: _Plain) -> int:
    return int.from_bytes(plain.digest(), "big")


class _Whole:
    """A function of a whole message, with the interface of an object."""

    def __init__(self, function, size: int, data: bytes = b"") -> None:
        self._function, self._size, self._data = function, size, bytes(data)

    def update(self, data: bytes) -> None:
        self._data += bytes(data)

    def digest(self) -> bytes:
        return self._function(self._data).to_bytes(self._size, "big")


def crc32(data: bytes = b"") -> _Whole:
    return _Whole(zlib.crc32, 4, data)


def crc32c(data: bytes = b"") -> _Whole | _Tabled:
    try:
        import google_crc32c
    except ImportError:
        return _Tabled(plain_crc32c(), data)
    return _Whole(google_crc32c.value, 4, data)


def crc64_nvme(data: bytes = b"") -> _Tabled:
    return _Tabled(plain_crc64_nvme(), data)
