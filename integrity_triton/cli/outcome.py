"""What a command comes to: its exit status, and an error in one line."""

from __future__ import annotations

import os

from ..errors import IntegrityTritonError

OK, MISMATCH, TROUBLE = 0, 1, 2
INTERRUPTED, BROKEN_PIPE = 128 + 2, 128 + 13  # what shells report for SIGINT and SIGPIPE

# Errors that the caller can do something about. Any other exception is a fault of this program.
EXPECTED_ERRORS = (OSError, ValueError, TypeError, EOFError, ImportError, IntegrityTritonError)


def describe(error: BaseException) -> str:
    """An error in words, without Python's name for it."""
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return where + error.strerror
    return str(error) or type(error).__name__


def describe_at(name: str, error: BaseException) -> str:
    """An error in words, after the name of the file that it concerns."""
    if isinstance(error, OSError) and error.strerror and error.filename in (None, name):
        return f"{name}: {error.strerror}"
    return f"{name}: {describe(error)}"
