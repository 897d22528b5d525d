"""Hashes that hashlib has by way of OpenSSL, as far as the OpenSSL at hand has them.

``openssl.sha512_256(data)`` is ``hashlib.new("sha512_256", data)``; a name that is not there is an
AttributeError, as it is of any module.
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
