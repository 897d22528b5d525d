"""CMAC and GMAC of pycryptodome: another library than what the native backend runs."""

from __future__ import annotations

from typing import Any

from Crypto.Cipher import AES
from Crypto.Hash import CMAC


def cmac_aes(data: bytes = b"", *, key: bytes, digest_size: int = 16) -> Any:
    # Its own mac_len begins at 4 as ours does not; update_after_digest lets a digest be asked for twice.
    return CMAC.new(key, msg=bytes(data), ciphermod=AES, mac_len=digest_size, update_after_digest=True)


def gmac_aes(data: bytes = b"", *, key: bytes, iv: bytes, digest_size: int = 16) -> Any:
    return AES.new(key, AES.MODE_GCM, nonce=iv, mac_len=digest_size).update(bytes(data))
