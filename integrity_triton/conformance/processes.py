"""Several processes share the work of a conformance run.

A first run spends most of its time in compilers, and a compiler uses one processor: several processes compile
several kernels at the same time.

The work calls code of other packages, which may end its process, never return, or leave compilers running. No
item may end the run, and none may take longer than a limit.
"""

from __future__ import annotations

import abc
import contextvars
import ctypes
import logging
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

_logger = logging.getLogger("integrity_triton")
START_TIMEOUT = 600.0
"""The number of seconds that a process may take to import and load everything that it needs."""
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

    def rest(self) -> list[tuple[int, Item]]:
        """Return the items that no process has begun, with their numbers."""
        return [(number, item) for number, (_, item) in self._items]

    def give_up(self) -> None:
        """Drop the items that no process has begun."""
        with self._changed:
            self.given_up = True
            self._items.clear()
            self._changed.notify_all()


class Lost(Exception):
    """A process could not start, it ended while it worked on an item, or the item took too long."""


class _Worker(abc.ABC, Generic[Item, Result]):
    """Works on items, one at a time, and takes at most ``limit`` seconds for each of them."""

    def __init__(self, limit: float | None) -> None:
        self._limit = limit

    @abc.abstractmethod
    def wait_until_ready(self) -> None:
        """Raises Lost if it ends before it is ready."""

    @abc.abstractmethod
    def work(self, item: Item) -> Result:
        """Return the result of an item. Raises Lost if it ends before it has the result."""

    @abc.abstractmethod
    def end(self) -> None:
        """Let it end when it has nothing to do, and kill it if that takes too long."""

    @abc.abstractmethod
    def kill(self) -> None:
        """End it, whatever it does."""

    @abc.abstractmethod
    def join(self) -> None:
        """Wait until it has ended, for a limited time."""


class _Here(_Worker[Item, Result]):
    """A thread of this process that works on items.

    It is not the thread that waits for the results, which could not go on if a result never came. Python
    cannot kill a thread, but it can raise an exception in it at the next step of Python code.
    """

    def __init__(self, start: Callable[[], Callable[[Item], Result]], limit: float | None) -> None:
        super().__init__(limit)
        self._items: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        context = contextvars.copy_context()  # which backend a caller has chosen, for example
        self._thread = threading.Thread(target=context.run, args=(self._serve, start), daemon=True)
        self._thread.start()

    def _serve(self, start: Callable[[], Callable[[Item], Result]]) -> None:
        try:
            work = start()
            self._results.put((None, None))
            while (item := self._items.get()) is not None:
                self._results.put((work(item[0]), None))
        except BaseException as error:
            self._results.put((None, error))

    def wait_until_ready(self) -> None:
        self._receive(START_TIMEOUT)

    def work(self, item: Item) -> Result:
        self._items.put((item,))
        result: Result = self._receive(self._limit)
        return result

    def _receive(self, limit: float | None) -> Any:
        try:
            result, error = self._results.get(timeout=limit)
        except queue.Empty:
            self.kill()
            raise Lost(f"it took longer than {limit:g} seconds") from None
        if isinstance(error, SystemExit):
            raise Lost(f"it wanted to end the process with status {error.code}") from error
        if error is not None:
            raise error
        return result

    def end(self) -> None:
        self._items.put(None)

    def kill(self) -> None:
        self.end()
        self._results.put((None, Lost("it was ended")))
        if self._thread.ident is not None and self._thread.is_alive():
            raise_there = ctypes.pythonapi.PyThreadState_SetAsyncExc
            raise_there(ctypes.c_ulong(self._thread.ident), ctypes.py_object(KeyboardInterrupt))

    def join(self) -> None:
        self._thread.join(_END_TIMEOUT)


class _Child(_Worker[Item, Result]):
    """A process that works on items."""

    def __init__(self, start: Callable[[], Callable[[Item], Result]], limit: float | None) -> None:
        """Start the process, and do not wait until it is ready. Raises Lost if the system refuses."""
        super().__init__(limit)
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
        self._receive(START_TIMEOUT)

    def work(self, item: Item) -> Result:
        with suppress(OSError):  # if the process has ended, _receive raises Lost
            self._connection.send(item)
        result: Result = self._receive(self._limit)
        return result

    def _receive(self, limit: float | None) -> Any:
        try:
            if not self._connection.poll(limit):
                self.kill()
                self.join()
                raise Lost(f"it took longer than {limit:g} seconds, and its process was killed")
            return self._connection.recv()
        except (EOFError, OSError) as error:
            self._kill_group()
            self.join()
            raise Lost(f"the process ended with status {self._process.exitcode}") from error

    def end(self) -> None:
        self._connection.close()
        self.join()
        if self._process.is_alive():
            self.kill()
            self.join()

    def kill(self) -> None:
        self._kill_group()
        self._process.kill()

    def _kill_group(self) -> None:
        """Kill the process and what it has started, such as compilers, which ignore interrupts as it does."""
        pid = self._process.pid
        if sys.platform != "win32" and pid is not None:
            with suppress(OSError):  # it has ended, and nothing of it is left
                if os.getpgid(pid) == pid:  # otherwise it has not begun, and has started nothing
                    os.killpg(pid, signal.SIGKILL)

    def join(self) -> None:
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
        os.setsid()  # whatever this process starts is in its group, which is killed as a whole
        threading.Thread(target=_end_with_parent, daemon=True).start()
    os.dup2(2, 1)  # standard output belongs to the report
    work = start()
    with suppress(EOFError, BrokenPipeError):  # the process that started this one has closed the connection
        connection.send(None)
        while True:
            connection.send(work(connection.recv()))


def _end_with_parent() -> None:
    """Kill the group of this process when the process that started it has ended, even if it was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)


def within(limit: float | None, function: Callable[[], Result]) -> Result:
    """The result of ``function``, which runs in a thread. Raises Lost if it takes longer than ``limit``
    seconds, or if it wants to end the process."""
    worker: _Here[Any, Result] = _Here(lambda: lambda _: function(), limit)
    try:
        worker.wait_until_ready()
        result: Result = worker.work(None)
    except KeyboardInterrupt:
        worker.kill()
        raise
    worker.end()
    return result


def share(
    items: Sequence[tuple[Hashable, Item]],
    start: Callable[[], Callable[[Item], Result]],
    jobs: int,
    done: Callable[[Result], None],
    lost: Callable[[Item, Lost], Result],
    limit: float | None = None,
) -> list[Result]:
    """Work on items in this process and in ``jobs - 1`` others, and return the results in the items' order.

    Each item comes with a key: among items with the same key, the first is finished before another is begun.
    Each process calls ``start()`` once, which returns the function that works on an item; ``start`` and the
    items are pickled. ``done`` is called in this process with each result as it comes, by one thread at a
    time. If a process ends while it works on an item, or the item takes longer than ``limit`` seconds,
    ``lost(item, error)`` makes the item's result, and a new process takes the place of the one that has ended
    or was killed. In this process, a new thread takes the place of one that does not return.

    If an exception ends the work, this function kills the other processes and waits until they have ended,
    for a limited time, before it raises the exception. A KeyboardInterrupt is such an exception.
    """
    pending, results = _Pending(items), dict[int, Result]()
    lock = threading.Lock()
    workers: list[_Worker[Item, Result]] = []
    problems: list[BaseException] = []

    def finish(number: int, result: Result) -> None:
        with lock:
            results[number] = result
            done(result)

    def begin(kind: type[_Here[Item, Result]] | type[_Child[Item, Result]]) -> _Worker[Item, Result]:
        worker = kind(start, limit)
        # The worker is listed before given_up is read, and give_up() sets given_up before it reads the list:
        # at least one of the two kills the worker.
        workers.append(worker)
        if pending.given_up:
            worker.kill()
        worker.wait_until_ready()
        return worker

    def give_up() -> None:
        pending.give_up()
        for worker in list(workers):
            worker.kill()

    def tend(kind: type[_Here[Item, Result]] | type[_Child[Item, Result]]) -> None:
        try:
            worker = begin(kind)
            for number, item in pending:
                try:
                    result = worker.work(item)
                except Lost as error:
                    if pending.given_up:
                        return
                    finish(number, lost(item, error))
                    worker = begin(kind)
                else:
                    finish(number, result)
            worker.end()
        except Lost as error:  # the others do the work without this one
            if not pending.given_up:
                _logger.warning("could not start another process to share the work: %s", error)
        except BaseException as error:
            problems.append(error)
            give_up()

    kinds = [_Here, *[_Child] * (jobs - 1)]
    tenders = [threading.Thread(target=tend, args=(kind,), daemon=True) for kind in kinds]
    try:
        for tender in tenders:
            tender.start()
        for tender in tenders:
            tender.join()
        if problems:
            raise problems[0]
    except BaseException:
        give_up()
        for tender in tenders:
            if tender.is_alive():  # an interrupt may have come before all of them were started
                tender.join(_END_TIMEOUT)
        for worker in workers:
            worker.join()
        raise
    for number, item in pending.rest():
        finish(number, lost(item, Lost("no process could start to work on it")))
    return [results[number] for number in sorted(results)]
