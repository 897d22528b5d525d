"""Work in threads, of which an exception or an interrupt leaves nothing behind."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import TypeVar

from ..files import Progress

_Result = TypeVar("_Result")

_WAIT = 0.5  # in seconds; on Windows, an interrupt does not end the wait for a lock


class SharedProgress:
    """Serialises several threads' calls of one progress function, and can stop the threads."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._cancelled = False

    def __call__(self, nbytes: int) -> None:
        with self._lock:
            self.check()
            if self._progress is not None:
                self._progress(nbytes)

    def cancel(self) -> None:
        """Let the threads end: from now on, :meth:`check` and calls of progress raise CancelledError."""
        self._cancelled = True

    def check(self) -> None:
        """Raise CancelledError if the work has been cancelled."""
        if self._cancelled:
            raise CancelledError


def uninterrupted(
    work: Callable[[], _Result], cancel: Callable[[], None], enter: Callable[[], None] | None = None
) -> _Result:
    """The result of ``work``, which no interrupt reaches, so that it may use locks and pools.

    Python raises KeyboardInterrupt between any two instructions of the main thread, also in the middle of its
    own pools, whose locks are not made for it: threads then wait for each other for ever. The main thread
    therefore only waits here, and another one works, after ``enter``. When an interrupt comes, ``cancel`` is
    called, which has to make ``work`` end soon, and the interrupt is raised once it has ended. Another
    interrupt is raised at once; ``work`` then ends by itself.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return work()
    state = _State()
    begun, done = _thread.allocate_lock(), _thread.allocate_lock()
    done.acquire()
    results: list[_Result] = []

    def run() -> None:
        try:
            if enter is not None:
                enter()
            results.append(work())
        except BaseException as error:
            state.error = error
        finally:
            state.ended = True
            done.release()

    thread = threading.Thread(target=run, name="integrity_triton", daemon=False)

    def start() -> None:
        if begun.acquire(False):
            try:
                thread.start()
            except BaseException as error:  # there are too many threads, or too little memory for one
                state.error = error
                state.ended = True
                done.release()

    def wait() -> None:
        while not state.ended:
            done.acquire(timeout=_WAIT)
        if thread.ident is not None:
            thread.join()

    try:
        # Thread.start waits for the thread with a condition, whose lock an interrupt can leave locked.
        _thread.start_new_thread(start, ())
        wait()
    except BaseException:
        cancel()
        if not begun.acquire(False):  # otherwise it will not begin
            wait()
        state.error = None  # it keeps what the work was about
        raise
    if state.error is not None:
        try:
            raise state.error
        finally:
            state.error = None  # its own frames would keep it
    return results[0]


class _State:
    """How the work of a thread ended. Setting these takes no memory, of which none may be left."""

    __slots__ = ("ended", "error")

    def __init__(self) -> None:
        self.ended = False
        self.error: BaseException | None = None


def in_threads(
    count: int | None, calls: Iterable[Callable[[], _Result]], progress: SharedProgress
) -> list[_Result]:
    """The results of all calls, in order, by ``count`` threads, or as many as a pool takes by
    default.

    After an exception or an interrupt, calls that have not begun are dropped, and the others end when they
    report progress to ``progress``, which is cancelled. No thread is left.
    """

    def work() -> list[_Result]:
        with ThreadPoolExecutor(count, "integrity_triton") as pool:
            try:
                tasks = [pool.submit(call) for call in calls]
                return [task.result() for task in tasks]
            except BaseException:
                progress.cancel()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    return uninterrupted(work, progress.cancel)
