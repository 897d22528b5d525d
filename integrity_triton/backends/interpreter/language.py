"""A lock on ``triton.language``, whose builtins the interpreter replaces while it runs."""

from __future__ import annotations

import threading

language_lock = threading.RLock()
"""Held while anything interprets or compiles a kernel, so that the two never meet."""
