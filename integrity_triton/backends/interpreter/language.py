"""A lock on ``triton.language``, whose builtins the interpreter replaces while it runs."""

from __future__ import annotations

import threading

language_lock = threading.RLock()
"""It is held while a kernel is interpreted or compiled, so that these never happen at the same time."""
