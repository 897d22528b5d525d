"""The files that a writer of checkpoints writes, with the digests of their parts.

A large tensor is hashed from the moment on at which the planner gives it: in a thread while torch computes a
checksum of it and writes it, or on its device before it is copied to the host. Everything else is hashed as
it is written.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import torch
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.planner import SavePlanner, WriteItem
from torch.serialization import get_crc32_options, set_crc32_options

from ...hashing import new
from .checkpoint_segments import (
    LARGE,
    Digests,
    Key,
    Segment,
    digests_of,
    hashing_threads,
    of_pieces,
    of_tensor,
    spans,
)

Staged = Mapping[tuple[int, int], tuple[torch.Tensor, Digests]]
"""Tensors in the memory of the host, by their address and their bytes, with the digests of what they are
copies of."""

_BATCH_SIZE = 1 << 20  # bytes of small segments that are hashed together


class HashingFiles(FileSystem):
    """A file system that hashes what is written to each file."""

    def __init__(self, algorithm: str) -> None:
        self._algorithm = algorithm
        self._pool: ThreadPoolExecutor | None = None
        self._crc32: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        self.parts: dict[Key, tuple[Segment, ...]] = {}
        """The segments of the parts that were written, a part being what is written from one question for the
        position to the next, or to the end."""
        self.digest: bytes | None = None
        """The digest of the last file that was written as a whole."""

    @contextlib.contextmanager
    def in_parts(self, threads: int, crc32: bool | None) -> Iterator[ThreadPoolExecutor]:
        """Divide the files that are written by ``threads`` threads meanwhile into parts. ``crc32`` says
        whether torch computes that checksum of each tensor; None leaves this to torch."""
        self.parts.clear()
        before = get_crc32_options()

        @contextlib.contextmanager
        def as_stated() -> Iterator[None]:
            # torch 2.13.0 keeps the option for each thread; where a process has one, every thread sets it
            # back to what it was before the first.
            set_crc32_options(bool(crc32))
            try:
                yield
            finally:
                set_crc32_options(before)

        with ThreadPoolExecutor(hashing_threads(threads), "integrity_triton") as pool:
            self._pool, self._crc32 = pool, contextlib.nullcontext if crc32 is None else as_stated
            try:
                yield pool
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            finally:
                self._pool, self._crc32 = None, contextlib.nullcontext

    @contextlib.contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[io.IOBase, None, None]:
        if mode != "wb":
            raise ValueError(f"{os.fspath(path)}: a writer of checkpoints does not open files as {mode!r}")
        with super().create_stream(path, mode) as stream:
            if self._pool is None:
                whole = _WholeStream(stream, self._algorithm)
                yield whole
                self.digest = whole.hash.digest()
                return
            divided = DividedStream(stream, self._algorithm, self._pool)
            with self._crc32():
                yield divided
            divided.finish()
            name = Path(path).name
            for (start, length), segments in divided.parts.items():
                self.parts[name, start, length] = tuple(found.segment(i) for found, i in segments)


class _Stream(io.RawIOBase):
    """A file that is written from its beginning to its end."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        if not self._stream.closed:
            self._stream.flush()

    def fileno(self) -> int:
        self.flush()
        return int(self._stream.fileno())


class _WholeStream(_Stream):
    """A file with one digest."""

    def __init__(self, stream: Any, algorithm: str) -> None:
        super().__init__(stream)
        self.hash = new(algorithm)

    def write(self, data: Any, /) -> int:
        self.hash.update(data)
        self._stream.write(data)
        return memoryview(data).nbytes


class DividedStream(_Stream):
    """A file whose parts have digests of their segments."""

    def __init__(self, stream: Any, algorithm: str, pool: ThreadPoolExecutor) -> None:
        super().__init__(stream)
        self._algorithm = algorithm
        self._pool = pool
        self._position = 0
        self._start = 0  # of the part
        self._segments: list[tuple[Digests, int]] = []  # of the part
        self._small = bytearray()  # what is hashed as one batch
        self._batch = Digests([])
        self._open = 0  # how many of these bytes belong to a segment that has not ended
        self.source: Digests | None = None
        """The digests of the tensor that is written next."""
        self.parts: dict[tuple[int, int], list[tuple[Digests, int]]] = {}
        """Where the digests of each part are, by its first byte and its number of bytes."""

    def write(self, data: Any, /) -> int:
        """Write bytes, which threads hash meanwhile if they were not hashed before."""
        view = memoryview(data).cast("B")
        self._position += len(view)
        if len(view) < LARGE:  # a batch of small parts takes less time than a task for each
            self._small += view
            self._open += len(view)
            self._stream.write(view)
            if self._open >= LARGE:
                self._end_segment()
        elif self.source is not None and len(view) == sum(self.source.lengths):
            self._end_segment()
            self._segments += [(self.source, i) for i in range(len(self.source.lengths))]
            self.source = None
            self._stream.write(view)
        else:
            self._end_segment()
            pieces = [view[start:stop] for start, stop in spans(len(view))]
            hashing = of_pieces(self._pool, pieces, self._algorithm)
            self._segments += [(hashing, i) for i in range(len(pieces))]
            try:
                self._stream.write(view)
            finally:
                hashing.digests()  # the memory is the caller's again after this call
        return len(view)

    def tell(self) -> int:
        """The position, at which a part ends."""
        self._end_segment()
        if self._segments:
            self.parts[self._start, self._position - self._start] = self._segments
        self._segments, self._start, self.source = [], self._position, None
        return self._position

    def _end_segment(self) -> None:
        if self._open:
            self._segments.append((self._batch, len(self._batch.lengths)))
            self._batch.lengths.append(self._open)
            self._open = 0
        if len(self._small) >= _BATCH_SIZE:
            self._end_batch()

    def _end_batch(self) -> None:
        data, messages, start = memoryview(self._small), [], 0
        for length in self._batch.lengths:
            messages.append(data[start : start + length])
            start += length
        if messages:
            # A thread would take the interpreter's lock for each message, and torch's pickling waits for it.
            self._batch.found(digests_of(messages, self._algorithm))
        self._small, self._batch = bytearray(), Digests([])

    def finish(self) -> None:
        """End the last part, and hash what was not hashed."""
        self.tell()
        self._end_batch()


class ObservedPlanner:
    """A planner whose large tensors are hashed from the moment on at which it gives them."""

    def __init__(
        self, planner: SavePlanner, algorithm: str, pool: ThreadPoolExecutor, staged: Staged
    ) -> None:
        self._planner = planner
        self._algorithm = algorithm
        self._pool = pool
        self._staged = staged
        self.started: dict[Any, Digests] = {}
        """The digests of tensors that are not yet written, by their indices."""

    def resolve_data(self, item: WriteItem) -> torch.Tensor | io.BytesIO:
        data = self._planner.resolve_data(item)
        if isinstance(data, torch.Tensor):
            staged = self._staged.get((data.data_ptr(), data.nbytes)) if data.device.type == "cpu" else None
            found = of_tensor(self._pool, data, self._algorithm) if staged is None else staged[1]
            if found is not None:
                self.started[item.index] = found
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._planner, name)


class AnnouncingTransforms:
    """The transforms of a writer, which tell a stream whose bytes come next. torch asks for the transforms of
    an item just before it writes it."""

    def __init__(self, transforms: Any, planner: ObservedPlanner) -> None:
        self._transforms = transforms
        self._planner = planner

    def transform_save_stream(self, item: WriteItem, stream: io.IOBase) -> Any:
        cast(DividedStream, stream).source = self._planner.started.pop(item.index, None)
        return self._transforms.transform_save_stream(item, stream)
