"""Parts of a checkpoint that are read and hashed by threads ahead of the thread that makes tensors of them.

Each part is read into memory once, by threads that read and hash some segments while earlier parts are used.
What is given out is this memory, after all its digests were compared; the elements of a large tensor are not
copied out of it before they go to their target.
"""

from __future__ import annotations

import contextlib
import hmac
import io
import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import IO, Any, cast

import numpy as np
import torch

from ...messages.tensors import bytes_in_place, host_memory
from ..loading.errors import LoadError, Mismatch
from ..regular_files import LocalReader
from .checkpoint_segments import FEW, LARGE, Segment, digests_of, hashing_threads

Open = Callable[[str, str], AbstractContextManager[Any]]

_AHEAD = 32 << 20  # bytes that are read ahead, or the next part if that is larger
_RUN_SIZE = 4 << 20  # bytes of small parts that are read together
_TASK_SIZE = 4 << 20  # bytes from which on a thread has enough to do


@dataclass(frozen=True)
class Part:
    """What is stored of one tensor or object, and what is asked for of it."""

    path: str
    name: str
    """The tensor, with the place of the part if it is divided."""
    start: int
    segments: tuple[Segment, ...]
    size: int
    """Bytes, which are those of the segments together."""
    items: list[Any] = field(default_factory=list)
    """torch's ``ReadItem`` objects."""
    transforms: Sequence[str] = ()

    @property
    def stop(self) -> int:
        return self.start + self.size


@dataclass
class _Run:
    """Parts that lie one after the other in a file, and are read together."""

    parts: list[Part]
    buffer: torch.Tensor
    tasks: list[Future[tuple[int, list[memoryview], list[bytes]]]]

    @property
    def size(self) -> int:
        return self.parts[-1].stop - self.parts[0].start


def verified(
    parts: Iterable[Part], algorithm: str, backend: str | None, open_: Open
) -> Generator[tuple[Part, torch.Tensor]]:
    """Each part with its bytes, as a flat uint8 tensor that holds them until the next one is asked for.

    Raises LoadError for a part that has another digest or of which the file has less, and what ``open_`` and
    the system raise.
    """
    waiting = deque(_runs(parts))
    ahead: deque[_Run] = deque()
    free: list[torch.Tensor] = []
    with ThreadPoolExecutor(hashing_threads(0), "integrity_triton") as pool:
        try:
            while waiting or ahead:
                run = ahead.popleft() if ahead else None
                while waiting and (not ahead or sum(r.size for r in ahead) + _size(waiting[0]) <= _AHEAD):
                    ahead.append(_begin(waiting.popleft(), free, pool, algorithm, backend, open_))
                if run is None:
                    continue
                _compare(run, algorithm, backend)
                first = run.parts[0].start
                for part in run.parts:
                    yield part, run.buffer[part.start - first : part.stop - first]
                free.append(run.buffer)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _size(parts: list[Part]) -> int:
    return parts[-1].stop - parts[0].start


def _runs(parts: Iterable[Part]) -> Generator[list[Part]]:
    run: list[Part] = []
    for part in parts:
        follows = run and (part.path, part.start) == (run[-1].path, run[-1].stop)
        if run and not (follows and _size(run) + part.size <= _RUN_SIZE):
            yield run
            run = []
        run.append(part)
    if run:
        yield run


def _begin(
    parts: list[Part],
    free: list[torch.Tensor],
    pool: ThreadPoolExecutor,
    algorithm: str,
    backend: str | None,
    open_: Open,
) -> _Run:
    size = _size(parts)
    buffer = free.pop() if free else torch.empty(0, dtype=torch.uint8)
    if len(buffer) < size:  # memory that was used before takes less time than new memory
        buffer = torch.empty(size, dtype=torch.uint8)
    view = memoryview(host_memory(buffer))  # type: ignore[arg-type]
    at, tasks = 0, []
    for lengths in _tasks([length for part in parts for length, _ in part.segments]):
        piece = view[at : at + sum(lengths)]
        read = (parts[0].path, parts[0].start + at, piece, lengths, algorithm, backend, open_)
        tasks.append(pool.submit(_read, *read))
        at += len(piece)
    return _Run(parts, buffer, tasks)


def _tasks(lengths: list[int]) -> Generator[list[int]]:
    """The segments that a thread takes at a time."""
    task: list[int] = []
    size = 0
    for length in lengths:
        task.append(length)
        size += length
        if size >= _TASK_SIZE:
            yield task
            task, size = [], 0
    if task:
        yield task


def _read(
    path: str,
    offset: int,
    view: memoryview,
    lengths: list[int],
    algorithm: str,
    backend: str | None,
    open_: Open,
) -> tuple[int, list[memoryview], list[bytes]]:
    """Read segments of a file, and hash them. Returns how many bytes there are, and the segments that are
    there as a whole, with their digests unless they are many: for each of these a thread would take the
    interpreter's lock, for which torch's unpickling waits."""
    with open_(path, "rb") as stream:
        got = _fill(LocalReader(stream, path), view, offset)
    stops = [stop for stop in itertools.accumulate(lengths) if stop <= got]
    messages = [view[start:stop] for start, stop in itertools.pairwise([0, *stops])]
    return got, messages, [] if len(messages) >= FEW else digests_of(messages, algorithm, backend)


def _fill(reader: LocalReader, view: memoryview, offset: int) -> int:
    """How many bytes of ``view`` were filled: all, unless the file ends before."""
    filled = 0
    while filled < len(view) and (got := reader.read_into([view[filled:]], offset + filled)):
        filled += got
    return filled


def _compare(run: _Run, algorithm: str, backend: str | None) -> None:
    """Raises LoadError unless all digests of a run are what is stated."""
    found: deque[bytes] = deque()
    end = run.parts[0].start
    for task in run.tasks:
        got, messages, digests = task.result()
        end += got
        found += digests or digests_of(messages, algorithm, backend)
    for part in run.parts:
        start = part.start
        for length, expected in part.segments:
            place = (start, start + length)
            if not found:
                raise LoadError(
                    f"{part.path}: the file was cut: {part.name} has the bytes {part.start} to {part.stop}, "
                    f"and the file ends at byte {end}",
                    file=part.path,
                    tensor=part.name,
                    range=(part.start, part.stop),
                )
            digest = found.popleft()
            if not hmac.compare_digest(digest, expected):
                raise LoadError.of(
                    [Mismatch(part.path, part.name, place, algorithm, expected, digest, "the metadata")]
                )
            start += length


def loaded(data: torch.Tensor | io.BytesIO) -> torch.Tensor:
    """The tensor that ``torch.save`` stored. A large one is a view of ``data`` if that is a flat uint8
    tensor."""
    if isinstance(data, torch.Tensor) and len(data) >= LARGE:
        described = torch.load(cast(IO[bytes], FileOf(data)), map_location="meta", weights_only=True)
        storage = described.untyped_storage()
        start = getattr(storage, "_checkpoint_offset", None)  # where it is in the file
        plain = type(described) in (torch.Tensor, torch.nn.Parameter) and described.layout is torch.strided
        lazy = described.is_conj() or described.is_neg() or described.is_quantized
        if start is not None and plain and not lazy:
            here = data.untyped_storage()
            start += data.storage_offset()
            size, stride = described.size(), described.stride()
            tensor = torch.empty(0, dtype=described.dtype)
            tensor.set_(here[start : start + storage.nbytes()], described.storage_offset(), size, stride)
            return tensor
    file = cast(IO[bytes], FileOf(data)) if isinstance(data, torch.Tensor) else data
    found: torch.Tensor = torch.load(file, map_location="cpu", weights_only=True)
    return found


def copy_to(target: torch.Tensor, tensor: torch.Tensor) -> None:
    """Copy a tensor of the same shape to ``target``.

    Memory to memory, one processor does it, while the others hash what comes next: torch's copy takes several
    for a short time, and they spin for a longer one after it.
    """
    if target.dtype == tensor.dtype and target.nbytes >= LARGE and target.device.type == "cpu":
        with contextlib.suppress(TypeError, ValueError):
            to, source = bytes_in_place(target), bytes_in_place(tensor)
            if to is not None and source is not None:
                torch.autograd.graph.increment_version(target)
                np.copyto(host_memory(to), host_memory(source))
                return
    target.copy_(tensor)


class FileOf(io.RawIOBase):
    """Bytes in memory as a file, without a copy of them."""

    def __init__(self, data: torch.Tensor) -> None:
        self._data = memoryview(host_memory(data))  # type: ignore[arg-type]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: len(self._data)}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        some = self._data[self._position : self._position + len(target)]
        target[: len(some)] = some
        self._position += len(some)
        return len(some)
