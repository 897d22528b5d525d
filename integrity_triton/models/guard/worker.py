"""The thread of a guard. It ends with the guard and with the process, and keeps neither alive."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

_JOIN_SECONDS = 10.0


class Guarding(Protocol):
    """What the thread drives."""

    def turn(self) -> float:
        """Check one slice and return the seconds to wait before the next one."""
        ...

    def died(self, error: BaseException) -> None:
        """Take note of an exception of the thread, which ends after that."""
        ...


class Worker:
    """A daemon thread that calls ``turn`` of a guard until it is stopped or the guard is no longer used."""

    def __init__(self, guard: Guarding, name: str) -> None:
        self._stop = threading.Event()
        self._process = os.getpid()
        self._thread = threading.Thread(
            target=_run, args=(weakref.ref(guard), self._stop), name=name, daemon=True
        )
        _workers.add(self)

    def start(self) -> None:
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._process == os.getpid() and self._thread.is_alive()

    def stop(self) -> None:
        """End the thread and wait for its present slice, unless this is called by the thread itself."""
        self._stop.set()
        if self.running and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_SECONDS)


def _run(guard: weakref.ref[Guarding], stop: threading.Event) -> None:
    wait = 0.0
    while not stop.wait(wait):
        running = guard()
        if running is None:
            return
        try:
            wait = running.turn()
        except BaseException as error:
            running.died(error)
            return
        del running  # the guard must not be kept alive while its thread waits


_workers: weakref.WeakSet[Worker] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """At the end of the process no thread may still read memory that is about to be freed."""
    for worker in list(_workers):
        worker.stop()


def after_fork(call: Callable[[], None]) -> None:
    """Have ``call`` called in every child process that is forked from this one."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=call)
