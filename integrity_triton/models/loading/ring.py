"""Loading to an accelerator, and hashing with kernels: what is hashed is what has arrived on the device.

Threads read pieces into a ring of buffers, pinned where the device takes them, and queue their copies.
Nothing waits for the device but a buffer that is to be used again. Groups of tensors are hashed on the device
while the threads read the next group.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ...backends.native import usable_cpus
from ..live import digest_tensors
from ..threads import SharedProgress
from .destination import Destination
from .digesters import Digester
from .plan import Message, Plan, PlannedFile, Segment
from .reading import fill, join, opened

if TYPE_CHECKING:
    import torch

BUFFER_SIZE = 16 << 20
MOST_BUFFERS = 4
"""The ring takes at most ``MOST_BUFFERS * BUFFER_SIZE`` bytes of host memory."""

_GROUP_SIZE = 512 << 20  # bytes that are hashed together by a hash that many lanes share
_RUN_SIZE = 1 << 20


def load_to_device(
    plan: Plan, destination: Destination, backend: str | None, progress: SharedProgress
) -> None:
    """Fill the destination, and find the digest of every message of the plan, with ``backend`` or the one
    that is chosen for the device.

    Raises as :func:`load_to_host` does, and as :func:`integrity_triton.hash_batch` for the backend.
    """
    ring = _Ring(destination.device)
    pool = ThreadPoolExecutor(
        min(MOST_BUFFERS, max(2, usable_cpus())), "integrity_triton", in_stream_of_caller(destination.device)
    )
    groups = list(_groups(plan))

    def start(group: _Group) -> list[Future[None]]:
        file, segments = group
        return [pool.submit(_move, file, run, destination, ring, progress) for run in _runs(segments)]

    waiting: list[tuple[Message, torch.Tensor]] = []
    try:
        reading = start(groups[0]) if groups else []
        for i, (file, segments) in enumerate(groups):
            current, reading = reading, start(groups[i + 1]) if i + 1 < len(groups) else []
            join(current)
            waiting += _resident(file, segments, destination)
            last = i + 1 == len(groups)
            ready = [(m, t) for m, t in waiting if last or _parallel(m)]
            waiting = [] if last else [(m, t) for m, t in waiting if not _parallel(m)]
            _hash_tensors(ready, backend)
        for file in plan.files:
            _hash_ranges(file, destination, backend)
    except BaseException:
        progress.cancel()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def in_stream_of_caller(device: torch.device) -> Callable[[], None]:
    """A function that gives the thread which calls it the stream that is current here.

    The tensors were allocated in this stream, and are hashed in it. A copy in another stream would not be
    ordered with either: the hash could be that of what the memory held before.
    """
    import torch

    if device.type == "cpu":
        return lambda: None
    stream = torch.accelerator.current_stream(device)
    return lambda: torch.accelerator.set_stream(stream)


_Group = tuple[PlannedFile, list[Segment]]


def _groups(plan: Plan) -> Iterator[_Group]:
    """The tensors of each file in groups."""
    for file in plan.files:
        group: list[Segment] = []
        size = 0
        for segment in file.segments():
            if segment.tensor is None:
                continue
            group.append(segment)
            size += segment.end - segment.start
            if size >= _GROUP_SIZE:
                yield file, group
                group, size = [], 0
        if group:
            yield file, group


def _runs(segments: Sequence[Segment]) -> Iterator[list[tuple[Segment, int, int]]]:
    """Parts of tensors for one buffer each: the segment, and the bytes of the file ``[start, end)``. Small
    tensors go together if nothing is between them."""
    run: list[tuple[Segment, int, int]] = []
    for segment in segments:
        if run and (segment.start != run[-1][2] or segment.end - run[0][1] > _RUN_SIZE):
            yield run
            run = []
        if segment.end - segment.start <= _RUN_SIZE:
            run.append((segment, segment.start, segment.end))
            continue
        for start in range(segment.start, segment.end, BUFFER_SIZE):
            yield [(segment, start, min(start + BUFFER_SIZE, segment.end))]
    if run:
        yield run


def _move(
    file: PlannedFile,
    run: Sequence[tuple[Segment, int, int]],
    destination: Destination,
    ring: _Ring,
    progress: SharedProgress,
) -> None:
    """Read parts of tensors into one buffer, and queue their copies to the device."""
    progress.check()
    first, last = run[0][1], run[-1][2]
    buffer = ring.take(progress)
    try:
        with opened(file) as stream:
            fill(file, stream, first, [buffer.numpy().data[: last - first]])
        for segment, start, end in run:
            assert segment.tensor is not None
            target = destination.device_bytes(segment.tensor.name)
            part = buffer[start - first : end - first]
            target[start - segment.start : end - segment.start].copy_(part, non_blocking=ring.pinned)
    finally:
        ring.give_back(buffer)
    progress(last - first)


class _Ring:
    """Buffers in host memory, each free again when the device has copied what it held."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self._device = device
        self._free: queue.SimpleQueue[tuple[torch.Tensor, Any]] = queue.SimpleQueue()
        self.pinned = False
        for _ in range(MOST_BUFFERS):
            buffer = torch.empty(BUFFER_SIZE, dtype=torch.uint8, device="cpu")  # whatever the default is
            if device.type != "cpu":
                try:
                    buffer = buffer.pin_memory()
                    self.pinned = True
                except RuntimeError:  # this device cannot copy from pinned memory, or there is none left
                    self.pinned = False
            self._free.put((buffer, None))

    def take(self, progress: SharedProgress) -> torch.Tensor:
        """A free buffer. Raises CancelledError if the load ends while it waits for one."""
        while True:
            try:
                buffer, copied = self._free.get(timeout=0.1)
            except queue.Empty:
                progress.check()
                continue
            if copied is not None:
                copied.synchronize()
            return buffer

    def give_back(self, buffer: torch.Tensor) -> None:
        """Free a buffer once the copies that were queued before have been made."""
        import torch

        copied = None
        if self.pinned:
            copied = torch.Event(self._device)
            copied.record(torch.accelerator.current_stream(self._device))
        self._free.put((buffer, copied))


def _parallel(message: Message) -> bool:
    """Whether the hash needs no other message beside it to fill a device."""
    record = message.digester.plain
    return record is not None and record.parallel


def _resident(
    file: PlannedFile, segments: Sequence[Segment], destination: Destination
) -> list[tuple[Message, torch.Tensor]]:
    """The messages that are tensors of the group, each with its memory on the device."""
    names = {segment.tensor.name for segment in segments if segment.tensor is not None}
    return [
        (message, destination.device_bytes(message.tensor))
        for message in file.messages
        if message.tensor is not None and message.tensor in names
    ]


def _hash_tensors(messages: Sequence[tuple[Message, torch.Tensor]], backend: str | None) -> None:
    by_digester: dict[Digester, list[tuple[Message, torch.Tensor]]] = {}
    for message, data in messages:
        by_digester.setdefault(message.digester, []).append((message, data))
    for digester, group in by_digester.items():
        record = digester.plain
        assert record is not None  # an algorithm for whole files has no tensors
        length = digester.length if record.xof else None
        digests = digest_tensors([data for _, data in group], record, length=length, backend=backend)
        for (message, _), digest in zip(group, digests, strict=True):
            message.found = digest


def _hash_ranges(file: PlannedFile, destination: Destination, backend: str | None) -> None:
    """Hash the messages that are files, or parts of one, over what is on the device, in the file's order.

    Bytes that are not loaded are read for it.
    """
    import torch

    for message in file.messages:
        if message.tensor is not None:
            continue
        running = message.digester.start(message.end - message.start, backend)
        for segment in file.segments():
            start, end = max(segment.start, message.start), min(segment.end, message.end)
            if start >= end:
                continue
            inner = slice(start - segment.start, end - segment.start)
            if segment.tensor is not None:
                running.update(destination.device_bytes(segment.tensor.name)[inner])
                continue
            if segment.start == 0:
                data = torch.frombuffer(bytearray(file.layout.head[inner]), dtype=torch.uint8)
                running.update(data.to(destination.device))
                continue
            for position in range(start, end, BUFFER_SIZE):
                data = torch.empty(min(BUFFER_SIZE, end - position), dtype=torch.uint8, device="cpu")
                with opened(file) as stream:
                    fill(file, stream, position, [data.numpy().data])
                running.update(data.to(destination.device))
        message.found = running.digest()
