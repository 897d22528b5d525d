"""Poly1305-AES out of the AES and the Poly1305 of the library cryptography."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from .poly1305 import poly1305


def poly1305_aes(data: Any = b"", *, key: bytes, nonce: bytes) -> Any:
    """A running Poly1305 under r, the second half of ``key``, and AES of ``nonce`` under the first."""
    # One block of a nonce, which never comes twice, is what this mode is right for.
    pad = Cipher(AES(key[:16]), modes.ECB()).encryptor().update(nonce)
    return poly1305(data, key=key[16:] + pad)
