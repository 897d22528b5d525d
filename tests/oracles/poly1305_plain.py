"""Poly1305 with integers of any size, from RFC 8439, section 2.5.1."""

from __future__ import annotations

from .aes_plain import Aes

P = 2**130 - 5


def clamp(r: int) -> int:
    """r with the bits cleared that the section names: the top four bits of bytes 3, 7, 11 and 15, and the
    bottom two bits of bytes 4, 8 and 12."""
    octets = bytearray(r.to_bytes(16, "little"))
    for i in (3, 7, 11, 15):
        octets[i] &= 15
    for i in (4, 8, 12):
        octets[i] &= 252
    return int.from_bytes(octets, "little")


def value(r: int, message: bytes, start: int = 0) -> int:
    """The accumulator after ``message``, from 0 to P - 1. r is used as it is, without clamping."""
    accumulator = start
    for i in range(0, len(message), 16):
        accumulator = (accumulator + int.from_bytes(message[i : i + 16] + b"\x01", "little")) * r % P
    return accumulator


class poly1305:
    def __init__(self, data: bytes = b"", *, key: bytes) -> None:
        r, s = (int.from_bytes(key[i : i + 16], "little") for i in (0, 16))
        self._tag = ((value(clamp(r), bytes(data)) + s) % 2**128).to_bytes(16, "little")

    def digest(self) -> bytes:
        return self._tag


def poly1305_aes(data: bytes = b"", *, key: bytes, nonce: bytes) -> poly1305:
    """D. J. Bernstein, "The Poly1305-AES message-authentication code", 2005, section 2."""
    return poly1305(data, key=key[16:] + Aes(key[:16]).encrypt(nonce))
