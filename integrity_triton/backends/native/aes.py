"""CMAC and GMAC of CPU libraries, with the interface of hashlib's objects."""

from __future__ import annotations

import copy
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from ...algorithms.binary_field import BinaryField, reflected


class _Cmac:
    def __init__(self, running: CMAC, digest_size: int) -> None:
        self._running, self._digest_size = running, digest_size

    def update(self, data: Any) -> None:
        self._running.update(data)

    def digest(self) -> bytes:
        return self._running.copy().finalize()[: self._digest_size]

    def copy(self) -> _Cmac:
        return _Cmac(self._running.copy(), self._digest_size)


def cmac_aes(*, key: bytes, digest_size: int = 16) -> _Cmac:
    return _Cmac(CMAC(AES(key)), digest_size)


# GHASH's field (SP 800-38D, section 6.3), whose blocks have the coefficient of x**0 in their first bit.
_FIELD = BinaryField(128, 0x87)
_BLOCK = 16
_PIECE = 1 << 18  # bytes that the library takes at once, and that wait for the next ones
_PLAIN_IV = bytes(12)


def _element(block: bytes) -> int:
    return reflected(int.from_bytes(block, "big"), 128)


class _Gmac:
    """The library's objects cannot be copied and give a tag only once. This one keeps the sum of the blocks
    b1 to bm of the message so far, b1 * H**m + ... + bm * H, where H is the hash subkey: the library gives
    that of a piece, since a tag is the sum of the piece, plus its length times H, plus a mask that depends on
    the IV only (SP 800-38D, sections 6.4 and 7.1)."""

    def __init__(self, key: bytes, iv: bytes, digest_size: int) -> None:
        self._key, self._iv, self._digest_size = key, iv, digest_size
        self._cipher = AESGCM(key)  # made once for all copies
        self._pending = bytearray()
        self._sum = self._length = 0
        self._power = 0  # H to the number of blocks of a piece; 0 before the first piece

    def update(self, data: Any) -> None:
        view = memoryview(data).cast("B")
        missing = _PIECE - len(self._pending)
        self._pending += view[:missing]
        view = view[missing:]
        # The end of the message is not absorbed: a message of one piece needs nothing of this.
        while view:
            self._absorb()
            self._pending = bytearray(view[:_PIECE])
            view = view[_PIECE:]

    def _absorb(self) -> None:
        if not self._power:
            self._power = self._subkey_to(_PIECE // _BLOCK)
        piece = bytes(self._pending)
        self._sum = _FIELD.multiply(self._sum, self._power) ^ self._sum_of(piece)
        self._length += len(piece)

    def _encrypted(self, block: bytes) -> bytes:
        # ECB is right for a single block. The result is no ciphertext, and nobody sees it.
        return Cipher(AES(self._key), modes.ECB()).encryptor().update(block)

    def _subkey_to(self, exponent: int) -> int:
        return _FIELD.power(_element(self._encrypted(bytes(_BLOCK))), exponent)

    def _length_part(self, first: int, second: int) -> int:
        """The last block of GHASH, two lengths in bytes, times H."""
        block = (8 * first).to_bytes(8, "big") + (8 * second).to_bytes(8, "big")
        return _FIELD.multiply(_element(block), self._subkey_to(1))

    def _sum_of(self, piece: bytes) -> int:
        tag = _element(self._cipher.encrypt(_PLAIN_IV, b"", piece))
        mask = _element(self._cipher.encrypt(_PLAIN_IV, b"", b""))
        return tag ^ mask ^ self._length_part(len(piece), 0)

    def _mask(self) -> bytes:
        if self._has_library_iv():
            return self._cipher.encrypt(self._iv, b"", b"")
        counter = self._sum_of(self._iv) ^ self._length_part(0, len(self._iv))
        return self._encrypted(reflected(counter, 128).to_bytes(_BLOCK, "big"))

    def digest_of(self, message: Any) -> bytes:
        """The tag of ``message``, independent of what was absorbed before."""
        view = memoryview(message).cast("B")
        if self._has_library_iv() and len(view) < 1 << 31:
            return self._cipher.encrypt(self._iv, b"", view)[: self._digest_size]
        fresh = _Gmac(self._key, self._iv, self._digest_size)
        fresh.update(view)
        return fresh.digest()

    def _has_library_iv(self) -> bool:
        return 8 <= len(self._iv) <= 128

    def digest(self) -> bytes:
        rest = bytes(self._pending)
        if not self._length and self._has_library_iv():
            return self._cipher.encrypt(self._iv, b"", rest)[: self._digest_size]
        value = _FIELD.multiply(self._sum, self._subkey_to(-(-len(rest) // _BLOCK))) ^ self._sum_of(rest)
        value ^= self._length_part(self._length + len(rest), 0) ^ _element(self._mask())
        return reflected(value, 128).to_bytes(_BLOCK, "big")[: self._digest_size]

    def copy(self) -> _Gmac:
        twin = copy.copy(self)
        twin._pending = bytearray(self._pending)
        return twin


def gmac_aes(*, key: bytes, iv: bytes, digest_size: int = 16) -> _Gmac:
    return _Gmac(key, iv, digest_size)
