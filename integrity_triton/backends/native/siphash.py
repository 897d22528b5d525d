"""SipHash of the library siphash24, with the interface of hashlib's objects.

The library's own objects cannot be copied. These objects therefore keep messages of up to 1 MiB, and a longer
one cannot be copied; SipHash is made for short messages. The library has no output of 16 bytes, which is
computed in Python.
"""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable
from typing import Any

from ...errors import BackendUnavailable

_KEPT = 1 << 20  # the longest message that is kept, in bytes
_MASK = (1 << 64) - 1
_IV = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)


def __getattr__(name: str) -> Callable[..., Any]:
    """``siphash_2_4`` and ``siphash_1_3``. Raises ImportError where the library is not installed."""
    if name not in ("siphash_2_4", "siphash_1_3"):
        raise AttributeError(f"no library has {name}")
    import siphash24

    _, c, d = name.split("_")
    library = getattr(siphash24, f"siphash{c}{d}")

    def make(*, key: bytes, digest_size: int = 8) -> _SipHash | _WideSipHash:
        return _SipHash(library, key) if digest_size == 8 else _WideSipHash((int(c), int(d)), key)

    return make


class _SipHash:
    def __init__(self, library: Callable[..., Any], key: bytes) -> None:
        self._library, self._key = library, key
        self._message = bytearray()
        self._running: Any = None  # the library's object, for a message that is not kept

    def update(self, data: Any) -> None:
        if self._running is not None:
            self._running.update(bytes(data))
            return
        self._message += memoryview(data).cast("B")
        if len(self._message) > _KEPT:
            self._running = self._library(bytes(self._message), key=self._key)
            self._message = bytearray()

    def digest(self) -> bytes:
        running = self._running or self._library(bytes(self._message), key=self._key)
        return bytes(running.digest())

    def digest_of(self, message: Any) -> bytes:
        """The tag of ``message``, independent of what was absorbed before."""
        return bytes(self._library(bytes(message), key=self._key).digest())

    def copy(self) -> _SipHash:
        if self._running is not None:
            raise BackendUnavailable(
                f"native SipHash of more than {_KEPT} bytes cannot be copied, because the library's objects "
                "cannot; copy it earlier, or use another backend"
            )
        twin = _SipHash(self._library, self._key)
        twin._message = bytearray(self._message)
        return twin


class _WideSipHash:
    """SipHash-c-d with 16 bytes of output (the authors' reference implementation)."""

    def __init__(self, rounds: tuple[int, int], key: bytes) -> None:
        self._rounds = rounds
        a, b, c, d = (int.from_bytes(key[8 * (i % 2) :][:8], "little") ^ _IV[i] for i in range(4))
        self._state = a, b ^ 0xEE, c, d
        self._pending = b""
        self._length = 0

    def update(self, data: Any) -> None:
        view = memoryview(data).cast("B")
        self._length += len(view)
        if self._pending:
            missing = 8 - len(self._pending)
            self._pending += bytes(view[:missing])
            view = view[missing:]
            if len(self._pending) < 8:
                return
            self._state = self._after(self._pending)
        whole = len(view) // 8 * 8
        self._state = self._after(view[:whole])
        self._pending = bytes(view[whole:])

    def _after(self, words: bytes | memoryview) -> tuple[int, int, int, int]:
        a, b, c, d = self._state
        for (word,) in struct.iter_unpack("<Q", words):
            a, b, c, d = _sip_rounds(a, b, c, d ^ word, self._rounds[0])
            a ^= word
        return a, b, c, d

    def digest(self) -> bytes:
        a, b, c, d = self._after(self._pending.ljust(7, b"\0") + bytes([self._length & 0xFF]))
        first = _sip_rounds(a, b, c ^ 0xEE, d, self._rounds[1])
        a, b, c, d = first
        second = _sip_rounds(a, b ^ 0xDD, c, d, self._rounds[1])
        return b"".join((v[0] ^ v[1] ^ v[2] ^ v[3]).to_bytes(8, "little") for v in (first, second))

    def copy(self) -> _WideSipHash:
        return copy.copy(self)


def _rotl(x: int, n: int) -> int:
    return (x << n | x >> (64 - n)) & _MASK


def _sip_rounds(a: int, b: int, c: int, d: int, count: int) -> tuple[int, int, int, int]:
    for _ in range(count):
        a, c = (a + b) & _MASK, (c + d) & _MASK
        b, d = _rotl(b, 13) ^ a, _rotl(d, 16) ^ c
        c, a = (c + b) & _MASK, (_rotl(a, 32) + d) & _MASK
        b, d, c = _rotl(b, 17) ^ c, _rotl(d, 21) ^ a, _rotl(c, 32)
    return a, b, c, d
