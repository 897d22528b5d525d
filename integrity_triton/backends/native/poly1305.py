"""Poly1305 of the library cryptography, with the interface of hashlib's objects.

The library's object cannot be copied, nor continued after its tag was read. This class therefore keeps the
value of the message's whole blocks modulo p = 2**130 - 5. With s = 0, a tag is that value without its two
highest bits, and the tag of the same message with one more block determines these bits in all but contrived
cases. A message that comes in pieces is therefore read twice; :meth:`digest_of` reads a complete message
once.
"""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.poly1305 import Poly1305

_P = (1 << 130) - 5
_CLAMP = 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
_BLOCK = 16


class _Poly1305:
    name = "poly1305"
    digest_size = 16
    block_size = _BLOCK

    def __init__(self, key: bytes, data: Any = b"") -> None:
        self._key = key
        self._r = int.from_bytes(key[:16], "little") & _CLAMP
        self._value = 0
        self._pending = b""
        self.update(data)

    def update(self, data: Any) -> None:
        view = memoryview(data).cast("B")
        if self._pending:
            missing = min(_BLOCK - len(self._pending), len(view))
            self._pending += bytes(view[:missing])
            view = view[missing:]
            if len(self._pending) < _BLOCK:
                return
            self._absorb(memoryview(self._pending))
            self._pending = b""
        whole = len(view) // _BLOCK * _BLOCK
        if whole:
            self._absorb(view[:whole])
        self._pending = bytes(view[whole:])

    def _absorb(self, view: memoryview) -> None:
        """Absorb one or more whole blocks."""
        shift = pow(self._r, len(view) // _BLOCK, _P)
        self._value = (self._value * shift + self._evaluate(view)) % _P

    def _evaluate(self, view: memoryview) -> int:
        if len(view) == _BLOCK:
            return self._plain(view)
        key = self._key[:16] + bytes(16)
        known = Poly1305.generate_tag(key, view)
        longer = Poly1305(key)
        longer.update(view)
        longer.update(bytes(_BLOCK))
        told = int.from_bytes(longer.finalize(), "little")
        low = int.from_bytes(known, "little")
        fits = [
            value
            for value in range(low, _P, 1 << 128)
            if ((value + (1 << 128)) * self._r % _P) % (1 << 128) == told
        ]
        return fits[0] if len(fits) == 1 else self._plain(view)

    def _plain(self, view: memoryview) -> int:
        value = 0
        for i in range(0, len(view), _BLOCK):
            value = (value + int.from_bytes(view[i : i + _BLOCK], "little") + (1 << 128)) * self._r % _P
        return value

    def digest(self) -> bytes:
        value = self._value
        if self._pending:
            value = (value + int.from_bytes(self._pending + b"\x01", "little")) * self._r % _P
        return ((value + int.from_bytes(self._key[16:], "little")) % (1 << 128)).to_bytes(16, "little")

    def hexdigest(self) -> str:
        return self.digest().hex()

    def digest_of(self, message: Any) -> bytes:
        """The tag of ``message``, independent of what was absorbed before."""
        return Poly1305.generate_tag(self._key, message)

    def copy(self) -> _Poly1305:
        twin = object.__new__(_Poly1305)
        twin.__dict__.update(self.__dict__)
        return twin


def poly1305(data: Any = b"", *, key: bytes) -> _Poly1305:
    """A running Poly1305 under ``key``, which is r and s of 16 bytes each."""
    return _Poly1305(key, data)
