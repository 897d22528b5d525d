"""Poly1305-AES, made of the AES and the Poly1305 of the library cryptography."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from .poly1305 import poly1305


def poly1305_aes(data: Any = b"", *, key: bytes, nonce: bytes) -> Any:
    """A running Poly1305. The second half of ``key`` is r; s is ``nonce`` encrypted with AES under the first
    half."""
    # ECB is right for a single block: a nonce is encrypted, which never occurs twice under a key.
    pad = Cipher(AES(key[:16]), modes.ECB()).encryptor().update(nonce)
    return poly1305(data, key=key[16:] + pad)
