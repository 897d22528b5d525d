"""Loading to the CPU: threads read pieces into the tensors' memory, and hash each there while it is cached.

A *unit* is a range of a file that one thread takes from its first byte to its last: a tensor, a run of small
ones, or all that the digest of a file covers. A large unit, of which there are not enough for all threads, is
*wide*: it is read by all threads, window by window, while the window before is hashed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from ...backends.native import usable_cpus
from ...remote_files import RemoteFile
from ..threads import SharedProgress
from .destination import Destination
from .digesters import Running
from .plan import Message, Plan, PlannedFile, Segment
from .reading import PIECE_SIZE, fill, join, opened, piece_size

_RUN_SIZE = 4 << 20  # small tensors are read together, up to this many bytes
_WINDOW_SIZE = 8 << 20
_PART_SIZE = 2 << 20  # of a window, which one thread reads
_LEAST_WIDE = 4 * _WINDOW_SIZE
_MOST_THREADS = 8

MOST_SCRATCH = _MOST_THREADS * 2 * _WINDOW_SIZE
"""The most bytes of a file that are in memory besides the tensors: those of copies that do not count, which
only the digest of a file covers, in windows."""


@dataclass
class _Unit:
    file: PlannedFile
    start: int
    end: int
    messages: list[Message]

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def parallel(self) -> bool:
        """Whether the CPU library hashes one message with all threads."""
        records = [message.digester.plain for message in self.messages]
        return all(record is not None and bool(record.native_one_message) for record in records)


def load_to_host(plan: Plan, destination: Destination, backend: str | None, progress: SharedProgress) -> None:
    """Fill the destination, and find the digest of every message of the plan.

    Raises LoadError if a file changes meanwhile, and OSError if it cannot be read. No thread of it is left
    after an exception.
    """
    units = [unit for file in plan.files for unit in _units(file)]
    memories = {id(file): _Memory(file, destination) for file in plan.files}
    remote = any(isinstance(file.layout.path, RemoteFile) for file in plan.files)
    threads = _MOST_THREADS if remote else max(1, min(_MOST_THREADS, usable_cpus()))
    wide, narrow = _divided(units, threads)

    def work(unit: _Unit) -> None:
        with opened(unit.file) as stream:
            hashes = _Hashes(unit.messages, backend, alone=False)
            memory = memories[id(unit.file)]
            size = piece_size(unit.file, PIECE_SIZE)
            for offset, views, in_file in memory.pieces(unit.start, unit.end, size):
                progress.check()
                if in_file:
                    fill(unit.file, stream, offset, views)
                hashes.update(offset, views)
                progress(sum(map(len, views)))
            hashes.finish()

    pool = ThreadPoolExecutor(threads, "integrity_triton")
    try:
        for unit in wide:
            _work_widely(unit, memories[id(unit.file)], pool, backend, progress)
        join([pool.submit(work, unit) for unit in narrow])
    except BaseException:
        progress.cancel()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _work_widely(
    unit: _Unit,
    memory: _Memory,
    pool: ThreadPoolExecutor,
    backend: str | None,
    progress: SharedProgress,
) -> None:
    hashes = _Hashes(unit.messages, backend, alone=True)
    with opened(unit.file) as stream:

        def read(offset: int, views: Sequence[memoryview]) -> None:
            progress.check()
            fill(unit.file, stream, offset, views)

        reading: list[Future[None]] = []
        windows = memory.pieces(unit.start, unit.end, _WINDOW_SIZE)

        def ahead() -> tuple[int, list[memoryview], list[Future[None]]] | None:
            window = next(windows, None)
            if window is None:
                return None
            offset, views, in_file = window
            tasks = [pool.submit(read, *part) for part in _parts(offset, views)] if in_file else []
            reading.extend(tasks)
            return offset, views, tasks

        try:
            current = ahead()
            while current is not None:
                following = ahead()
                offset, views, tasks = current
                for task in tasks:
                    task.result()
                hashes.update(offset, views)
                progress(sum(map(len, views)))
                current = following
            hashes.finish()
        except BaseException:
            progress.cancel()
            for task in reading:
                task.cancel()
            for task in reading:
                if not task.cancelled():
                    task.exception()  # the stream stays open until no thread reads from it
            raise


def _parts(offset: int, views: Sequence[memoryview]) -> Iterator[tuple[int, list[memoryview]]]:
    """The views in parts for one read each, with their offsets in the file."""
    for view in views:
        for start in range(0, len(view), _PART_SIZE):
            yield offset + start, [view[start : start + _PART_SIZE]]
        offset += len(view)


def _units(file: PlannedFile) -> Iterator[_Unit]:
    """The units of a file, in the order of its bytes. Messages that overlap are in one unit."""
    unit: _Unit | None = None
    for message in sorted(file.messages, key=lambda m: (m.start, m.end)):
        if unit is not None and (
            message.start < unit.end
            or (message.start == unit.end and message.end - unit.start <= _RUN_SIZE)
            or message.start == message.end == unit.end
        ):
            unit.messages.append(message)
            unit.end = max(unit.end, message.end)
            continue
        if unit is not None:
            yield unit
        unit = _Unit(file, message.start, message.end, [message])
    if unit is not None:
        yield unit


def _divided(units: Sequence[_Unit], threads: int) -> tuple[list[_Unit], list[_Unit]]:
    """Which units are wide, and which ones are for a thread each, the largest first."""
    total = sum(unit.size for unit in units)
    few = len([unit for unit in units if unit.size >= _LEAST_WIDE]) < threads
    wide: list[_Unit] = []
    narrow: list[_Unit] = []
    for unit in units:
        uneven = unit.size * 2 * threads > total and (unit.parallel or few)
        (wide if threads > 1 and unit.size >= _LEAST_WIDE and uneven else narrow).append(unit)
    return wide, sorted(narrow, key=lambda unit: -unit.size)


class _Memory:
    """Where the bytes of a file are in memory."""

    def __init__(self, file: PlannedFile, destination: Destination) -> None:
        self._head = memoryview(file.layout.head)
        self._segments: list[Segment] = [s for s in file.segments() if s.end > s.start]
        self._starts = [segment.start for segment in self._segments]
        self._destination = destination

    def pieces(self, start: int, end: int, size: int) -> Iterator[tuple[int, list[memoryview], bool]]:
        """Neighbouring memory for the bytes ``[start, end)``, at most ``size`` bytes at a time: the offset in
        the file, the views, and whether they still have to be read."""
        views: list[memoryview] = []
        first = position = start
        index = bisect_right(self._starts, start) - 1
        while position < end:
            segment = self._segments[index]
            name = None if segment.tensor is None else segment.tensor.name
            view = None if name is None else self._destination.host_view(name)
            stop = min(segment.end, end)
            while position < stop:
                length = min(stop - position, size - (position - first))
                if segment.start == 0:
                    yield position, [self._head[position : position + length]], False
                    first = position = position + length
                    continue
                # Bytes of no tensor get memory for this piece alone.
                at = position - segment.start
                views.append(memoryview(bytearray(length)) if view is None else view[at : at + length])
                position += length
                if position - first == size:
                    yield first, views, True
                    views, first = [], position
            index += 1
        if views:
            yield first, views, True


class _Hashes:
    """The running hashes of a unit, whose bytes come in order."""

    def __init__(self, messages: Sequence[Message], backend: str | None, *, alone: bool) -> None:
        self._pending = sorted(messages, key=lambda m: (m.start, m.end))[::-1]
        self._running: list[tuple[Message, Running]] = []
        self._backend = backend
        self._alone = alone

    def update(self, offset: int, views: Sequence[memoryview]) -> None:
        """Absorb neighbouring bytes that begin at ``offset`` in the file."""
        for view in views:
            end = offset + len(view)
            while self._pending and self._pending[-1].start < end:
                message = self._pending.pop()
                self._running.append((message, self._start(message)))
            left = []
            for message, running in self._running:
                if message.start <= offset and message.end >= end:
                    running.update(view)
                else:
                    running.update(view[max(message.start - offset, 0) : message.end - offset])
                if message.end > end:
                    left.append((message, running))
                else:
                    message.found = running.digest()
            self._running = left
            offset = end

    def finish(self) -> None:
        """Finish the messages without bytes. All others have ended with their last byte."""
        for message in self._pending:
            if message.start == message.end:
                message.found = self._start(message).digest()

    def _start(self, message: Message) -> Running:
        return message.digester.start(message.end - message.start, self._backend, alone=self._alone)
