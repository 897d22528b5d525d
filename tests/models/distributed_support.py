"""What the tests of digests over several ranks share: the definition once more, in plain Python, and a group
whose ranks are all in this process."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from integrity_triton.models.distributed import ReplicaMismatch
from integrity_triton.models.distributed.agreement import Agreement
from integrity_triton.models.distributed.description import describe, parse
from integrity_triton.models.distributed.finish import conclude
from integrity_triton.models.distributed.held import held_by
from integrity_triton.models.distributed.layout import Layout
from integrity_triton.models.distributed.member import Member
from integrity_triton.models.distributed.records import check_algorithm


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def u64(number: int) -> bytes:
    return number.to_bytes(8, "little")


def text(data: str) -> bytes:
    return u64(len(data.encode())) + data.encode()


def tree(x: np.ndarray) -> bytes:
    """The root of a tensor's tree."""
    if x.nbytes <= 256 or x.size == 1:
        return sha256(x.tobytes())
    dim = next(i for i, size in enumerate(x.shape) if size > 1)
    first, second = np.split(x, [(x.shape[dim] + 1) // 2], axis=dim)
    return sha256(tree(first) + tree(second))


def content(x: np.ndarray, dtype: str, shape: Sequence[int] | None = None) -> bytes:
    """The content digest of a tensor."""
    shape = x.shape if shape is None else shape
    head = text("integrity_triton tensor content") + u64(1) + text("sha256") + text(dtype)
    return sha256(head + u64(len(shape)) + b"".join(map(u64, shape)) + tree(x))


def root(contents: Mapping[str, bytes]) -> bytes:
    """The root of a model."""
    named = sorted((name.encode(), digest) for name, digest in contents.items())
    head = text("integrity_triton distributed root") + u64(1) + text("sha256") + u64(len(named))
    return sha256(head + b"".join(u64(len(name)) + name + digest for name, digest in named))


def part(x: torch.Tensor, layout: Layout) -> torch.Tensor:
    """The local tensor of a layout."""
    for dim, runs in enumerate(layout.runs):
        indices = [i for start, stop in runs for i in range(start, stop)]
        x = x.index_select(dim, torch.tensor(indices, dtype=torch.int64))
    return x


class Simulated:
    """A group of logical ranks, each of which holds one of ``sources``."""

    def __init__(self, sources: Sequence[Mapping[str, Any]], algorithm: str = "sha256") -> None:
        self.hash = hash_ = check_algorithm(algorithm)
        size = len(sources)
        held = [held_by(source, range(size), rank) for rank, source in enumerate(sources)]
        described = [describe(own) for own in held]
        parsed = {data: parse(data) for data in described}
        self.agreement = Agreement([parsed[data] for data in described], hash_.digest_size)
        self.members = [Member(rank, own, self.agreement, hash_, None) for rank, own in enumerate(held)]
        self.sent: list[list[torch.Tensor]] = []
        """What each rank sent to each, of all rounds."""
        self.faults: list[str] = []

    def run(self) -> dict[str, bytes]:
        """The content digests of all tensors."""
        for part in self.agreement.rounds:
            sent = [member.contributions(part) for member in self.members]
            self.sent += sent
            for rank, member in enumerate(self.members):
                received = [data[rank] for data in sent]
                lots = part.of(rank)
                for other, data in enumerate(received):
                    assert data.numel() == self.agreement.sent(lots, other)
                self.faults += member.receive(part, received)
        if self.faults:
            return {}
        return conclude(self.agreement, [member.digests for member in self.members], self.hash)


class InThreads:
    """The exchange of a logical rank that is a thread of this process."""

    def __init__(self, rank: int, size: int, shared: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.size, self._shared, self._barrier = rank, size, shared, barrier
        self.global_ranks = range(size)
        self.device = None
        self.gathered: list[int] = []
        """The bytes of each gathering."""
        self.given_up: list[str] = []
        """The types of the errors with which this rank gave up."""

    def _all(self, data: Any) -> list[Any]:
        self._shared[self.rank] = data
        self._barrier.wait(60)
        found = list(self._shared)
        self._barrier.wait(60)
        return found

    def meet(self) -> None:
        self._all(None)

    def give_up(self, error: BaseException) -> None:
        self.given_up.append(type(error).__name__)
        if not isinstance(error, ReplicaMismatch):  # which all ranks raise
            self._barrier.abort()

    def gather(self, data: bytes) -> list[bytes]:
        self.gathered.append(len(data))
        return self._all(data)

    def broadcast(self, data: bytes, source: int) -> bytes:
        return self._all(data)[source]

    def all_to_all(self, data: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[torch.Tensor]:
        return [sent[self.rank] for sent in self._all(list(data))]


def in_threads(size: int, call: Callable[[InThreads], Any]) -> list[Any]:
    """What ``call`` returns or raises for each rank of a group of threads."""
    barrier = threading.Barrier(size)
    shared: list[Any] = [None] * size
    found: list[Any] = [None] * size

    def run(rank: int) -> None:
        exchange = InThreads(rank, size, shared, barrier)
        try:
            found[rank] = call(exchange)
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
