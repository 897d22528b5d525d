"""SipHash of the library siphash24, with the interface of hashlib's objects.

The library's own objects cannot be copied. These keep the message instead, which is short where SipHash is
appropriate. The library has no output of 16 bytes, which is computed in Python.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

_MASK = (1 << 64) - 1
_IV = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)


def __getattr__(name: str) -> Callable[..., Any]:
    """``siphash_2_4`` and ``siphash_1_3``. Raises ImportError where the library is not installed."""
    if name not in ("siphash_2_4", "siphash_1_3"):
        raise AttributeError(f"no library has {name}")
    import siphash24

    _, c, d = name.split("_")
    return partial(_SipHash, getattr(siphash24, f"siphash{c}{d}"), (int(c), int(d)))


class _SipHash:
    def __init__(
        self, library: Callable[..., Any], rounds: tuple[int, int], *, key: bytes, digest_size: int = 8
    ) -> None:
        self._library, self._rounds, self._key, self._digest_size = library, rounds, key, digest_size
        self._message = b""

    def update(self, data: Any) -> None:
        self._message += bytes(data)

    def digest(self) -> bytes:
        if self._digest_size == 8:
            return bytes(self._library(self._message, key=self._key).digest())
        return _wide(self._rounds, self._key, self._message)

    def copy(self) -> _SipHash:
        twin = _SipHash(self._library, self._rounds, key=self._key, digest_size=self._digest_size)
        twin._message = self._message
        return twin


def _wide(rounds: tuple[int, int], key: bytes, message: bytes) -> bytes:
    """SipHash-c-d with 16 bytes of output (the authors' reference implementation)."""
    a, b, c, d = (int.from_bytes(key[8 * (i % 2) :][:8], "little") ^ _IV[i] for i in range(4))
    b ^= 0xEE
    padded = message + bytes(7 - len(message) % 8) + bytes([len(message) & 0xFF])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        a, b, c, d = _sip_rounds(a, b, c, d ^ word, rounds[0])
        a ^= word
    first = _sip_rounds(a, b, c ^ 0xEE, d, rounds[1])
    a, b, c, d = first
    second = _sip_rounds(a, b ^ 0xDD, c, d, rounds[1])
    return b"".join((v[0] ^ v[1] ^ v[2] ^ v[3]).to_bytes(8, "little") for v in (first, second))


def _rotl(x: int, n: int) -> int:
    return (x << n | x >> (64 - n)) & _MASK


def _sip_rounds(a: int, b: int, c: int, d: int, count: int) -> tuple[int, int, int, int]:
    for _ in range(count):
        a, c = (a + b) & _MASK, (c + d) & _MASK
        b, d = _rotl(b, 13) ^ a, _rotl(d, 16) ^ c
        c, a = (c + b) & _MASK, (_rotl(a, 32) + d) & _MASK
        b, d, c = _rotl(b, 17) ^ c, _rotl(d, 21) ^ a, _rotl(c, 32)
    return a, b, c, d
