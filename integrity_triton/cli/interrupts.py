"""Interrupts from the keyboard (SIGINT, Ctrl-C) that a library has swallowed.

Python raises KeyboardInterrupt wherever the program happens to be. torch imports NumPy from C++ and takes any
exception for the absence of NumPy, and other libraries make an ImportError of it. The command would then go
on, with a module of which only a part is loaded.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_noted = False


@contextmanager
def noting() -> Iterator[None]:
    """Note the interrupts that come while the block runs, which still raise KeyboardInterrupt.

    Nothing is noted in other threads than the main one, which interrupts do not reach, and where the process
    ignores interrupts or handles them in its own way.
    """
    global _noted
    _noted = False
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _note(number: int, frame: FrameType | None) -> None:
    global _noted
    _noted = True
    signal.default_int_handler(number, frame)


def noted() -> bool:
    """Whether an interrupt has come that nobody has :func:`accept`-ed."""
    return _noted


def accept() -> None:
    """Called by a command that has caught KeyboardInterrupt and still writes its report."""
    global _noted
    _noted = False


def check() -> None:
    """Raise KeyboardInterrupt again if an interrupt has come, so that a command whose interrupt was swallowed
    ends at its next output."""
    if _noted and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt
