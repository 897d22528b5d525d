"""Launches in flight: they keep memory alive until no kernel can touch it any more.

Python can raise an exception between any two instructions: an interrupt from the keyboard, the handler of
another signal, an exception that another thread sends. The call that queued a kernel is then left, and its
tensors are freed, while the kernel runs. Therefore the references that count are not those of the call.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import weakref
from collections.abc import Callable

from ...errors import BackendUnavailable
from ...launching.launch import Launch

_PAUSE = 0.001  # seconds
_MOST_PAUSES = 5000


class _Call:
    """Lives as long as the frame of the call that runs a launch."""

    __slots__ = ("__weakref__",)


class InFlight:
    """The launches of one device, each from before its kernel is queued until the device is done with it.

    Everything happens by single operations on a dictionary, so that there is no lock that an exception could
    leave locked.
    """

    def __init__(self, finish: Callable[[], None]) -> None:
        """``finish`` waits until the device has done everything that was queued."""
        self._finish = finish
        self._launches: dict[weakref.ref[_Call], tuple[int, Launch]] = {}
        self._ended = False

    def run(self, launch: Launch, work: Callable[[], None]) -> None:
        """Call ``work``, which queues the kernel of ``launch`` and waits for it. If it raises an exception,
        wait until the device is idle before the exception goes on.

        Another exception may end that wait. The launch then stays here until a later launch has waited for
        the device. Raises BackendUnavailable after :meth:`end`.
        """
        if self._launches:
            self._release_abandoned()
        call = _Call()
        mark = weakref.ref(call)
        self._launches[mark] = threading.get_ident(), launch
        if self._ended:
            del self._launches[mark]
            raise BackendUnavailable("backend 'opencl' starts nothing more: the process is ending")
        try:
            work()
            del self._launches[mark]
        except BaseException:
            self._finish()
            self._launches.pop(mark, None)
            raise

    def _release_abandoned(self) -> None:
        """Release the launches whose calls are over, which exceptions have left here."""
        abandoned = [mark for mark in list(self._launches) if mark() is None]
        if abandoned:
            self._finish()
            for mark in abandoned:
                self._launches.pop(mark, None)

    def end(self) -> None:
        """Refuse further launches, and wait until the device is idle and no other thread is in a launch:
        the runtime must not be torn down while it is in use."""
        self._ended = True
        for _ in range(_MOST_PAUSES):
            with contextlib.suppress(Exception):  # a broken device has nothing to wait for
                self._finish()
            # What this thread has left here was abandoned, and a thread that has ended is in no launch.
            others = sys._current_frames().keys() - {threading.get_ident()}
            if not any(thread in others for thread, _ in list(self._launches.values())):
                return
            time.sleep(_PAUSE)
