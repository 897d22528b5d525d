"""Provides the hashes that hashlib takes from OpenSSL, if the installed OpenSSL has them.

``openssl.sha512_256(data)`` is ``hashlib.new("sha512_256", data)``. A hash that OpenSSL lacks raises
AttributeError, as any missing name of a module does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any


def __getattr__(name: str) -> Callable[..., Any]:
    make = partial(hashlib.new, name)
    try:
        make()
    except ValueError:
        raise AttributeError(f"this Python's OpenSSL has no {name}") from None
    return make
