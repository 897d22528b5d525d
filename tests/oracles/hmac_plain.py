"""HMAC by its definition (RFC 2104, section 2), over the oracle of each hash: ``hmac_sha256(data,
key=key)``."""

from __future__ import annotations

from typing import Any

from integrity_triton import algorithms
from integrity_triton.algorithms import Algorithm, load_reference


class _Hmac:
    def __init__(self, record: Algorithm, data: bytes, key: bytes, digest_size: int | None) -> None:
        self._record, self._data, self._key, self._size = record, data, key, digest_size

    def _hash(self, data: bytes) -> bytes:
        from support import PLAIN_ORACLES  # it imports the siblings of this module

        try:
            make = load_reference(self._record.oracle)
        except (ImportError, AttributeError):
            make = load_reference(PLAIN_ORACLES[self._record.name])
        hasher = make(data)
        return hasher.digest(self._record.digest_size) if self._record.xof else hasher.digest()

    def digest(self) -> bytes:
        size = self._record.block_size
        key = self._hash(self._key) if len(self._key) > size else self._key
        key += bytes(size - len(key))
        inner = self._hash(bytes(b ^ 0x36 for b in key) + self._data)
        return self._hash(bytes(b ^ 0x5C for b in key) + inner)[: self._size]


def __getattr__(name: str) -> Any:
    if not name.startswith("hmac_"):
        raise AttributeError(name)
    record = algorithms.get(name.removeprefix("hmac_"))

    def make(data: bytes = b"", *, key: bytes, digest_size: int | None = None) -> _Hmac:
        return _Hmac(record, bytes(data), key, digest_size)

    return make
