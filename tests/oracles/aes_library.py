"""CMAC and GMAC of pycryptodome, which is not the library that the native backend uses."""

from __future__ import annotations

from typing import Any

from Crypto.Cipher import AES
from Crypto.Hash import CMAC


def cmac_aes(data: bytes = b"", *, key: bytes, digest_size: int = 16) -> Any:
    # Its mac_len must be at least 4, as ours must. With update_after_digest, a digest may be asked for twice.
    return CMAC.new(key, msg=bytes(data), ciphermod=AES, mac_len=digest_size, update_after_digest=True)


def gmac_aes(data: bytes = b"", *, key: bytes, iv: bytes, digest_size: int = 16) -> Any:
    return AES.new(key, AES.MODE_GCM, nonce=iv, mac_len=digest_size).update(bytes(data))
