"""Several processes share the work of a conformance run.

A first run spends most of its time in compilers, and a compiler uses one processor: several processes compile
several kernels at the same time.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

_logger = logging.getLogger("integrity_triton")
_END_TIMEOUT = 10.0  # seconds

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Pending(Generic[Item]):
    """Items that no process has begun.

    Among items with the same key, the first is finished before another is begun, because the others need the
    kernels that it compiles.
    """

    def __init__(self, items: Sequence[tuple[Hashable, Item]]) -> None:
        self._items = list(enumerate(items))
        self._compiling: set[Hashable] = set()
        self._compiled: set[Hashable] = set()
        self._changed = threading.Condition()
        self.given_up = False

    def __iter__(self) -> Iterator[tuple[int, Item]]:
        """Yield items with their numbers until none is left. Several threads may iterate at the same time."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._items or self._ready())
                if not self._items:
                    return
                entry = self._ready()[0]
                self._items.remove(entry)
                number, (key, item) = entry
                first = key not in self._compiled
                if first:
                    self._compiling.add(key)
            try:
                yield number, item
            finally:
                with self._changed:
                    if first:
                        self._compiling.discard(key)
                        self._compiled.add(key)
                    self._changed.notify_all()

    def _ready(self) -> list[tuple[int, tuple[Hashable, Item]]]:
        """Return the items that may be begun now."""
        return [entry for entry in self._items if entry[1][0] not in self._compiling]

    def give_up(self) -> None:
        """Drop the items that no process has begun."""
        with self._changed:
            self.given_up = True
            self._items.clear()
            self._changed.notify_all()


class Lost(Exception):
    """A process could not start, or it ended while it worked on an item."""


class _Child(Generic[Item, Result]):
    """A process that works on items, one at a time."""

    def __init__(self, start: Callable[[], Callable[[Item], Result]]) -> None:
        """Start the process, and do not wait until it is ready. Raises Lost if the system refuses."""
        context = multiprocessing.get_context("spawn")  # devices' runtimes do not survive a fork
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(start, theirs), daemon=True)
        try:
            with _interrupts_blocked():
                self._process.start()
        except OSError as error:
            raise Lost(str(error)) from error
        finally:
            theirs.close()

    def wait_until_ready(self) -> None:
        """Raises Lost if the process ends before it is ready."""
        self._receive()

    def work(self, item: Item) -> Result:
        """Return the result of an item. Raises Lost if the process ends before it has sent the result."""
        with suppress(OSError):  # if the process has ended, _receive raises Lost
            self._connection.send(item)
        result: Result = self._receive()
        return result

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError) as error:
            self.join()
            raise Lost(f"the process ended with status {self._process.exitcode}") from error

    def end(self) -> None:
        """Let the process end, and kill it if that takes too long."""
        self._connection.close()
        self.join()
        if self._process.is_alive():
            self.kill()
            self.join()

    def kill(self) -> None:
        self._process.kill()

    def join(self) -> None:
        """Wait until the process has ended, for a limited time."""
        self._process.join(_END_TIMEOUT)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block SIGINT in this thread, so that a process that it starts inherits the mask.

    An interrupt from the keyboard reaches all processes of the group. Without the mask, a process that is not
    in :func:`_serve` yet would print the traceback of a KeyboardInterrupt.
    """
    if sys.platform == "win32":  # Windows has no signal masks
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # before SIGINT is blocked, because a start of the tracker unblocks it
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _serve(start: Callable[[], Callable[[Item], Result]], connection: Connection) -> None:
    # This process ignores interrupts from the keyboard, because the process that started it ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    work = start()
    with suppress(EOFError, BrokenPipeError):  # the process that started this one has closed the connection
        connection.send(None)
        while True:
            connection.send(work(connection.recv()))


def share(
    items: Sequence[tuple[Hashable, Item]],
    start: Callable[[], Callable[[Item], Result]],
    jobs: int,
    done: Callable[[Result], None],
    lost: Callable[[Item, Lost], Result],
) -> list[Result]:
    """Work on items in this process and in ``jobs - 1`` others, and return the results in the items' order.

    Each item comes with a key: among items with the same key, the first is finished before another is begun.
    Each process calls ``start()`` once, which returns the function that works on an item; ``start`` and the
    items are pickled. ``done`` is called in this process with each result as it comes, by one thread at a
    time. If another process ends while it works on an item, ``lost(item, error)`` makes the item's result,
    and a new process takes the place of the one that ended.

    If an exception ends the work, this function kills the other processes and waits until they have ended,
    for a limited time, before it raises the exception. A KeyboardInterrupt is such an exception.
    """
    pending, results = _Pending(items), dict[int, Result]()
    lock = threading.Lock()
    children: list[_Child[Item, Result]] = []
    problems: list[BaseException] = []

    def finish(number: int, result: Result) -> None:
        with lock:
            results[number] = result
            done(result)

    def begin() -> _Child[Item, Result]:
        child = _Child(start)
        # The child is listed before given_up is read, and give_up() sets given_up before it reads the list:
        # at least one of the two kills the child.
        children.append(child)
        if pending.given_up:
            child.kill()
        child.wait_until_ready()
        return child

    def give_up() -> None:
        pending.give_up()
        for child in list(children):
            child.kill()

    def tend() -> None:
        try:
            child = begin()
            for number, item in pending:
                try:
                    result = child.work(item)
                except Lost as error:
                    if pending.given_up:
                        return
                    finish(number, lost(item, error))
                    child = begin()
                else:
                    finish(number, result)
            child.end()
        except Lost as error:  # the other processes do the work without this one
            if not pending.given_up:
                _logger.warning("could not start another process to share the work: %s", error)
        except BaseException as error:
            problems.append(error)
            give_up()

    helpers = [threading.Thread(target=tend, daemon=True) for _ in range(jobs - 1)]
    try:
        for helper in helpers:
            helper.start()
        work = start()
        for number, item in pending:
            finish(number, work(item))
        for helper in helpers:
            helper.join()
        if problems:
            raise problems[0]
    except BaseException:
        give_up()
        for helper in helpers:
            if helper.is_alive():  # an interrupt may have come before all of them were started
                helper.join(_END_TIMEOUT)
        for child in children:
            child.join()
        raise
    return [results[number] for number in sorted(results)]
