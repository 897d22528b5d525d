"""The standard library's HMAC over each hash's CPU library: ``hmac_sha256(data, key=key)``.

A name whose hash has no CPU library raises AttributeError, as a missing name of any module does.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from functools import partial
from typing import Any


class _Hmac:
    """A hashlib-like object."""

    def __init__(
        self, digestmod: Any, data: Any = b"", *, key: bytes, digest_size: int | None = None
    ) -> None:
        self._hasher = hmac.new(key, data, digestmod)
        self._size = digest_size

    def update(self, data: Any) -> None:
        self._hasher.update(data)

    def digest(self) -> bytes:
        return self._hasher.digest()[: self._size]

    def copy(self) -> _Hmac:
        twin = object.__new__(_Hmac)
        twin._hasher, twin._size = self._hasher.copy(), self._size
        return twin


def __getattr__(name: str) -> Callable[..., Any]:
    from ...algorithms import get, load_reference

    if not name.startswith("hmac_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    hash_name = get(name).construction.hmac_of
    assert hash_name is not None
    hash_ = get(hash_name)
    if hash_.native is None:
        raise AttributeError(f"no CPU library has {hash_.name}")
    make = load_reference(hash_.native)
    module = hash_.native.partition(":")[0]
    # Given the hash's name, OpenSSL computes the whole HMAC itself.
    by_name = module in ("hashlib", "integrity_triton.algorithms.openssl")
    return partial(_Hmac, hash_.native.partition(":")[2] if by_name else make)
