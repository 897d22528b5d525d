"""CMAC and GMAC of CPU libraries, with the interface of hashlib's objects."""

from __future__ import annotations

import copy
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from ...errors import BackendUnavailable


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


class _Gmac:
    """Keeps the whole message, because the libraries' GCM objects cannot be copied and give a tag only
    once."""

    def __init__(self, key: bytes, iv: bytes, digest_size: int) -> None:
        self._key, self._iv, self._digest_size = key, iv, digest_size
        self._cipher = AESGCM(key)  # made once for all copies
        self._message = b""

    def update(self, data: Any) -> None:
        self._message += bytes(data)

    def digest(self) -> bytes:
        # These are the limits of the library cryptography.
        if 8 <= len(self._iv) <= 128 and len(self._message) < 1 << 31:
            tag = self._cipher.encrypt(self._iv, b"", self._message)
        else:
            try:
                from Crypto.Cipher import AES as _Aes
            except ImportError:
                raise BackendUnavailable(
                    "native GMAC with an IV of fewer than 8 or more than 128 bytes needs pycryptodome"
                ) from None

            cipher = _Aes.new(self._key, _Aes.MODE_GCM, nonce=self._iv)
            tag = cipher.update(self._message).digest()
        return bytes(tag[: self._digest_size])

    def copy(self) -> _Gmac:
        return copy.copy(self)


def gmac_aes(*, key: bytes, iv: bytes, digest_size: int = 16) -> _Gmac:
    return _Gmac(key, iv, digest_size)
