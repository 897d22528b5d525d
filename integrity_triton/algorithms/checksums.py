"""Wraps CPU libraries of checksums in the interface of hashlib's objects.

``checksums.crc32(data)`` returns such an object. A checksum whose library is not installed raises
AttributeError, as any missing name of a module does.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from typing import Any


class _Running:
    """A checksum whose library continues it from the value so far. The digest is big-endian."""

    def __init__(
        self, extend: Callable[[Any, int], int], digest_size: int, data: Any = b"", *, value: int = 0
    ) -> None:
        self._extend = extend
        self._value = value
        self.digest_size = digest_size
        self.update(data)

    def update(self, data: Any, /) -> None:
        if memoryview(data).nbytes:
            self._value = self._extend(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self.digest_size, "big")

    def hexdigest(self) -> str:
        return self.digest().hex()

    def copy(self) -> _Running:
        return _Running(self._extend, self.digest_size, value=self._value)


_PIECE_SIZE = 1 << 18  # of data that have to be copied: a copy of them stays in the cache


def _google_crc32c(data: Any, value: int) -> int:
    extend: Callable[[int, Any], int] = import_module("google_crc32c").extend
    view = memoryview(data).cast("B")
    owner = view.obj
    # The library takes only objects whose buffers need no release: bytes and NumPy arrays, but no memoryview.
    if isinstance(owner, bytes) and len(owner) == view.nbytes:
        return extend(value, owner)
    if not isinstance(data, memoryview | bytearray):
        return extend(value, data)
    for start in range(0, len(view), _PIECE_SIZE):
        value = extend(value, bytes(view[start : start + _PIECE_SIZE]))
    return value


@cache
def _crc32c() -> Callable[[Any, int], int]:
    """The library, which is looked for only once: a failed import takes a quarter of a millisecond."""
    try:
        extend: Callable[[Any, int], int] = import_module("crc32c").crc32c
    except ImportError:
        import_module("google_crc32c")
        return _google_crc32c
    return extend


def __getattr__(name: str) -> Callable[..., Any]:
    try:
        if name == "crc32":
            return partial(_Running, zlib.crc32, 4)
        if name == "crc32c":
            return partial(_Running, _crc32c(), 4)
        if name == "crc64_nvme":
            return partial(_Running, import_module("awscrt.checksums").crc64nvme, 8)
    except ImportError as error:
        raise AttributeError(f"{name} needs the package {error.name}, which is not installed") from None
    raise AttributeError(f"there is no checksum {name}")
