"""CMAC of the library cryptography, as an object like hashlib's."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC


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
