"""The digests of the parts of a checkpoint: a list of consecutive segments, each with a digest of its own.

A part is what ``torch.distributed.checkpoint`` stores of one shard or one object. The elements of a large
shard are segments of their own, so that their digests can be computed from the tensor, on its device and
before it was pickled, and several processors can share a part. What lies around them, and a small part as a
whole, is one segment.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from ...algorithms import get as get_algorithm
from ...backends.native import in_calling_thread, usable_cpus
from ...batch import hash_batch, hash_chunks
from ...errors import BackendUnavailable
from ...hashing import new
from ...messages.tensors import check_has_bytes, host_memory, tensor_bytes

SEGMENT_SIZE = 8 << 20
"""Bytes of a tensor in one segment, except its last."""
LARGE = 256 << 10
"""Bytes from which on a tensor has segments of its own. What torch pickles around the elements of one
is shorter."""

Segment = tuple[int, bytes]
"""The number of bytes, and their digest."""
Key = tuple[str, int, int]
"""A file with the first byte of a part, and the number of its bytes."""

FEW = 5  # messages that take less time one by one than as a batch
_LONG = 2 << 20  # bytes whose checksum takes longer than waiting for a thread
_MOST_THREADS = 4  # from which on, files rather than hashes limit a save or a load


class Digests:
    """The digests of segments, which threads or a device compute meanwhile."""

    def __init__(self, lengths: list[int], found: Sequence[Future[list[bytes]]] | torch.Tensor = ()) -> None:
        self.lengths = lengths
        """Bytes of each segment."""
        self._found = found
        self._digests: list[bytes] | None = None

    def found(self, digests: list[bytes]) -> None:
        """State the digests, if they were not being computed before."""
        self._digests = digests

    def digests(self) -> list[bytes]:
        """Wait for the digests."""
        if self._digests is None:
            if isinstance(self._found, torch.Tensor):
                self._digests = [bytes(row) for row in self._found.cpu().numpy()]
            else:
                self._digests = [digest for task in self._found for digest in task.result()]
            self._found = ()
        return self._digests

    def segment(self, index: int) -> Segment:
        """Wait for the digest of one segment."""
        return self.lengths[index], self.digests()[index]


def hashing_threads(spare: int) -> int:
    """How many threads hash while ``spare`` threads do something else."""
    return max(1, min(_MOST_THREADS, usable_cpus() - spare))


def digests_of(messages: Sequence[memoryview], algorithm: str, backend: str | None = None) -> list[bytes]:
    """The digests of data in memory, computed by the calling thread."""
    with in_calling_thread():
        if len(messages) < FEW:
            return [new(algorithm, message, backend=backend).digest() for message in messages]
        found = hash_batch(messages, algorithm, backend=backend)
        return [bytes(row) for row in found.cpu().numpy()]


def of_pieces(pool: ThreadPoolExecutor, pieces: Sequence[memoryview], algorithm: str) -> Digests:
    """The digests of data in memory, of which a thread takes a piece at a time. The first one is being hashed
    when this returns: torch keeps the interpreter's lock while it computes a checksum, and lets no thread
    begin then."""
    begun = threading.Event()
    tasks = [pool.submit(_digest_of, piece, algorithm, begun) for piece in pieces]
    if sum(map(len, pieces)) >= _LONG:
        begun.wait()
    return Digests([len(piece) for piece in pieces], tasks)


def _digest_of(data: memoryview, algorithm: str, begun: threading.Event) -> list[bytes]:
    try:
        with in_calling_thread():
            running = new(algorithm)
            begun.set()
            running.update(data)
            return [running.digest()]
    finally:
        begun.set()


def spans(size: int) -> Iterator[tuple[int, int]]:
    """The segments of a large tensor of ``size`` bytes, as ranges."""
    return ((start, min(start + SEGMENT_SIZE, size)) for start in range(0, size, SEGMENT_SIZE))


def of_tensor(pool: ThreadPoolExecutor, tensor: torch.Tensor, algorithm: str) -> Digests | None:
    """The digests of the segments of a large tensor, computed where it is; None if it has none, or if
    what is there does not compute them."""
    if not has_segments(tensor):
        return None
    if is_on_device(tensor):
        found = device_digests(tensor, algorithm)
        return None if found is None else Digests(lengths_of(tensor), found)
    flat = memoryview(host_memory(tensor_bytes(tensor)))  # type: ignore[arg-type]
    return of_pieces(pool, [flat[start:stop] for start, stop in spans(len(flat))], algorithm)


def device_digests(tensor: torch.Tensor, algorithm: str) -> torch.Tensor | None:
    """The digests of the segments of a tensor on a device, as rows there; None if nothing computes them
    there, or if a lane of the device for each segment would take longer than the processors of the host."""
    if not get_algorithm(algorithm).parallel:
        return None
    try:
        return hash_chunks(tensor, algorithm, chunk_size=SEGMENT_SIZE)
    except BackendUnavailable:
        return None


def lengths_of(tensor: torch.Tensor) -> list[int]:
    return [stop - start for start, stop in spans(tensor.nbytes)]


def is_on_device(tensor: torch.Tensor) -> bool:
    """Whether the elements of a tensor are somewhere else than in the memory of the host."""
    return tensor.device.type != "cpu"


def has_segments(tensor: torch.Tensor) -> bool:
    """Whether the elements of a tensor are segments of their own: it is large, and what torch writes of them
    are its bytes in C order."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.nbytes < LARGE:
        return False
    try:
        check_has_bytes(tensor)
    except (TypeError, ValueError):
        return False
    lazy = tensor.is_conj() or tensor.is_neg() or tensor._is_zerotensor()
    return tensor.is_contiguous() and not lazy and sys.byteorder == "little"
