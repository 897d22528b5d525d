"""Threads that run calls for another thread, which an interrupt may reach at any instruction."""

from __future__ import annotations

import _thread
import queue
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

_Result = TypeVar("_Result")

_WAIT = 0.5  # in seconds; on Windows, an interrupt does not end the wait for a queue


class Workers:
    """At most ``count`` threads, each begun when there is a call for it.

    Python raises KeyboardInterrupt between any two instructions of the main thread, also within the locks
    and conditions that :mod:`concurrent.futures` is made of. A lock that is left locked then lets threads
    wait for each other for ever. Here the thread of the caller shares with the others only what one
    instruction changes: queues and dictionaries.

    A context manager drops the calls that have not begun and waits for the others. The threads end then, or
    when the object is released.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._calls: queue.SimpleQueue[Pending[Any] | None] = queue.SimpleQueue()
        self._threads = 0
        self._pending: dict[Pending[Any], None] = {}  # in their order

    def submit(self, call: Callable[..., _Result], *arguments: Any) -> Pending[_Result]:
        """Let a thread run ``call(*arguments)``, or run it here if no thread can be started."""
        pending = Pending(self._pending, call, arguments)
        self._begin(pending)
        return pending

    def map(self, call: Callable[..., _Result], arguments: Iterable[tuple[Any, ...]]) -> list[_Result]:
        """The results of ``call`` for each tuple of arguments, in their order.

        After an exception or an interrupt, calls that have not begun are dropped, and those that have are
        waited for.
        """
        every = [Pending(self._pending, call, values) for values in arguments]
        try:
            for pending in every:
                self._begin(pending)
            return [pending.result() for pending in every]
        except BaseException:
            _drop(every)
            raise

    def _begin(self, pending: Pending[Any]) -> None:
        self._pending[pending] = None
        if self._threads < min(self._count, len(self._pending)):
            try:
                _thread.start_new_thread(_serve, (self._calls,))
            except RuntimeError:
                if not self._threads:
                    pending.run()
                    return
            else:
                self._threads += 1
        self._calls.put(pending)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        self._calls.put(None)
        _drop(list(self._pending))

    def __del__(self) -> None:
        if hasattr(self, "_calls"):  # an interrupt may end __init__ before that
            self._calls.put(None)


class Pending(Generic[_Result]):
    """A call that another thread runs."""

    def __init__(
        self, every: dict[Pending[Any], None], call: Callable[..., _Result], arguments: tuple[Any, ...]
    ) -> None:
        self._every, self._call, self._arguments = every, call, arguments
        self._owner: dict[None, str] = {}
        self._done: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._ended = False
        self._value: _Result
        self._error: BaseException | None = None

    def result(self) -> _Result:
        """What the call returns, once it has. Raises what the call raises."""
        self.wait()
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # its own frames would keep it
        return self._value

    def cancel(self) -> None:
        """Drop the call if it has not begun. It has no result then."""
        if self._belongs_to("caller"):
            self._end()

    def wait(self) -> None:
        """Wait until the call has ended or is dropped."""
        while not self._ended:
            try:
                self._done.get(timeout=_WAIT)
            except queue.Empty:
                continue

    def run(self) -> None:
        """Run the call in this thread, unless it is dropped."""
        if not self._belongs_to("thread"):
            return
        try:
            self._value = self._call(*self._arguments)
        except BaseException as error:
            self._error = error
        finally:
            del self._call, self._arguments  # they keep what the call was about
            self._end()

    def _belongs_to(self, owner: str) -> bool:
        """Whether this owner, who has asked first or asks first now, decides what becomes of the call."""
        return self._owner.setdefault(None, owner) == owner

    def _end(self) -> None:
        self._every.pop(self, None)
        self._ended = True
        self._done.put(None)


def _drop(every: list[Pending[Any]]) -> None:
    for pending in every:
        pending.cancel()
    for pending in every:
        pending.wait()


def _serve(calls: queue.SimpleQueue[Pending[Any] | None]) -> None:
    while (pending := calls.get()) is not None:
        pending.run()
        del pending  # otherwise its result would be kept until the next one comes
    calls.put(None)  # for the next thread
