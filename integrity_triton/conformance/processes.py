"""Work that several processes share, so that as many kernels are compiled at a time: compilers use one
processor each, and a first run spends most of its time in them."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

_logger = logging.getLogger("integrity_triton")
_LONGEST_END = 10  # seconds

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Pending(Generic[Item]):
    """Items that nobody has begun. Of those with one key the first is done before others are begun: they
    need what it compiles."""

    def __init__(self, items: Sequence[tuple[Hashable, Item]]) -> None:
        self._items = list(enumerate(items))
        self._compiling: set[Hashable] = set()
        self._compiled: set[Hashable] = set()
        self._changed = threading.Condition()
        self.given_up = False

    def __iter__(self) -> Iterator[tuple[int, Item]]:
        """Items with their numbers, to whoever asks; ends when there are no more."""
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
        return [entry for entry in self._items if entry[1][0] not in self._compiling]

    def give_up(self) -> None:
        with self._changed:
            self.given_up = True
            self._items.clear()
            self._changed.notify_all()


class Lost(Exception):
    """The process ended while it worked on an item."""


class _Child(Generic[Item, Result]):
    """A process that works on items, one at a time."""

    def __init__(self, start: Callable[[], Callable[[Item], Result]]) -> None:
        """Raises Lost if it does not start."""
        context = multiprocessing.get_context("spawn")  # devices' runtimes do not survive a fork
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(start, theirs), daemon=True)
        try:
            self._process.start()
        except OSError as error:
            raise Lost(str(error)) from error
        finally:
            theirs.close()
        self._receive()

    def work(self, item: Item) -> Result:
        """Raises Lost."""
        with suppress(OSError):  # receiving then tells
            self._connection.send(item)
        result: Result = self._receive()
        return result

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(_LONGEST_END)
            raise Lost(f"the process ended with status {self._process.exitcode}") from error

    def end(self) -> None:
        self._connection.close()
        self._process.join(_LONGEST_END)
        if self._process.is_alive():
            self._process.kill()

    def kill(self) -> None:
        self._process.kill()


def _serve(start: Callable[[], Callable[[Item], Result]], connection: Connection) -> None:
    # An interrupt from the keyboard reaches all processes. The one that started this one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work = start()
    connection.send(None)
    with suppress(EOFError, BrokenPipeError):
        while True:
            connection.send(work(connection.recv()))


def share(
    items: Sequence[tuple[Hashable, Item]],
    start: Callable[[], Callable[[Item], Result]],
    jobs: int,
    done: Callable[[Result], None],
    lost: Callable[[Item, Lost], Result],
) -> list[Result]:
    """Results of items, in their order, of this process and ``jobs - 1`` others.

    Items come with a key: of those with the same one, the first is done before others are begun. ``start()``
    gives, in each process, what works on an item; it and the items are pickled. ``done`` is called in this
    process, by one thread at a time, as results come. An item in whose work another process ends gets what
    ``lost`` makes of it, and a new process takes that one's place.
    """
    pending, results = _Pending(items), dict[int, Result]()
    lock = threading.Lock()
    children: list[_Child[Item, Result]] = []
    problems: list[BaseException] = []

    def finish(number: int, result: Result) -> None:
        with lock:
            results[number] = result
            done(result)

    def tend() -> None:
        try:
            children.append(child := _Child(start))
            for number, item in pending:
                try:
                    result = child.work(item)
                except Lost as error:
                    if pending.given_up:
                        return
                    finish(number, lost(item, error))
                    children.append(child := _Child(start))
                else:
                    finish(number, result)
            child.end()
        except Lost as error:  # the others do its part
            _logger.warning("a process to share the work does not start: %s", error)
        except BaseException as error:
            problems.append(error)
            pending.give_up()

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
        pending.give_up()
        for child in list(children):
            child.kill()
        raise
    return [results[number] for number in sorted(results)]
