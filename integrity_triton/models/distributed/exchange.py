"""How bytes get from rank to rank: the collective operations of a group, each with a time limit and an error
that names the ranks which did not take part."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from .errors import DistributedError, RankTimeout, ranks_text

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import Store

_GOOD = b"."
_SEPARATOR = "|"
_GRACE_SECONDS = 2.0
_RELEASE_SECONDS = 1.0
_LONGEST_TIMEOUT = 1e7  # seconds; torch counts in integers of limited size
_groups: weakref.WeakKeyDictionary[Any, _Group] = weakref.WeakKeyDictionary()
_groups_lock = threading.Lock()


@dataclass
class _Group:
    """What this process remembers of a group from one call to the next."""

    store: Store
    calls: int = 0
    previous: Collective | None = None
    """The exchange of the last call, whose keys are still in the store."""


class Exchange(Protocol):
    """What the protocol needs of a group."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def global_ranks(self) -> Sequence[int]: ...

    @property
    def device(self) -> torch.device | None:
        """Where the bytes are that are sent; None if they can stay where they are."""

    def meet(self) -> None:
        """Wait until all ranks are here. Raises RankTimeout, which names those that are not, and
        DistributedError with what another rank could not do."""

    def give_up(self, error: BaseException) -> None:
        """Tell the ranks that wait in :meth:`meet`, or will, that this one does not come."""

    def gather(self, data: bytes) -> list[bytes]:
        """What each rank passes; all pass equally many bytes."""

    def broadcast(self, data: bytes, source: int) -> bytes:
        """What the rank ``source`` passes; all know how many bytes these are, and pass as many."""

    def all_to_all(self, data: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[torch.Tensor]:
        """What each rank has for this one: of rank i, flat uint8 of ``sizes[i]`` bytes. ``data`` has what
        this rank sends to each."""


class Alone:
    """The exchange of a process without a group."""

    rank = 0
    size = 1
    global_ranks: Sequence[int] = (0,)
    device: torch.device | None = None

    def meet(self) -> None:
        """There is nobody to wait for."""

    def give_up(self, error: BaseException) -> None:
        """There is nobody to tell."""

    def gather(self, data: bytes) -> list[bytes]:
        return [data]

    def broadcast(self, data: bytes, source: int) -> bytes:
        return data

    def all_to_all(self, data: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[torch.Tensor]:
        return list(data)


class Collective:
    """The exchange over a process group of ``torch.distributed``.

    Before each collective operation the ranks meet at the store of the group, since no backend of torch can
    say which rank is missing once an operation has begun. A meeting takes three requests of each rank to the
    store. All ranks have to make the same calls in the same order.
    """

    def __init__(self, group: dist.ProcessGroup, timeout: float) -> None:
        import torch
        import torch.distributed as dist

        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        if self.rank < 0:
            raise ValueError("this process is not a member of the group")
        self.global_ranks = dist.get_process_group_ranks(group)
        self._group = group
        with _groups_lock:
            self._known = _groups.get(group) or _groups.setdefault(group, _Group(_store_of(group)))
            self._call = self._known.calls
            self._known.calls += 1
        self._store = self._known.store
        self._step = 0
        # The call is counted before anything can fail, so that a rank which fails is in step afterwards.
        try:
            self._timeout = _limit(timeout)
        except ValueError as error:
            self.give_up(error)
            raise
        kinds = sorted({device.type for device in group._device_types})
        self.device = torch.device("cpu")
        if kinds and "cpu" not in kinds:
            self.device = torch.device(kinds[0], torch.get_device_module(kinds[0]).current_device())

    def _key(self, step: int, name: str | int) -> str:
        return f"integrity_triton/{self._call}/{step}/{name}"

    def meet(self) -> None:
        step, self._step = self._step, self._step + 1
        over = self._key(step, "over")
        with self._store_errors():
            self._store.set(self._key(step, self.rank), "")
            if self._store.add(self._key(step, "count"), 1) == self.size:
                self._store.compare_set(over, "", _GOOD.decode())
        try:
            self._store.wait([over], self._timeout)
        except Exception as error:  # stores raise exceptions of several types
            self._raise_missing(step, error)
        with self._store_errors():
            outcome = self._store.get(over)
            self._clean(step - 2)
        if outcome != _GOOD:
            self._raise_told(outcome.decode("utf-8", "replace"))
        if step == 0:
            self._forget_previous()

    def _raise_told(self, outcome: str) -> NoReturn:
        """Raise what another rank wrote instead of going on."""
        missing, _, message = outcome.partition(_SEPARATOR)
        ranks = [int(rank) for rank in missing.split()]
        if self.rank in ranks:
            raise DistributedError(f"this rank came too late, and the others have given up: {message}")
        if ranks:
            raise RankTimeout(message, ranks)
        raise DistributedError(message)

    def _raise_missing(self, step: int, error: Exception) -> None:
        with self._store_errors():
            missing = [rank for rank in range(self.size) if not self._store.check([self._key(step, rank)])]
        if not missing:
            raise DistributedError(f"the store of the group failed: {error}") from error
        message = (
            f"{ranks_text(missing)} did not arrive within {self._timeout.total_seconds():g} seconds: dead, "
            "hanging or slow"
        )
        with contextlib.suppress(Exception):
            told = " ".join(map(str, missing)) + _SEPARATOR + message
            self._store.compare_set(self._key(step, "over"), "", told)
        raise RankTimeout(message, missing) from None

    def _clean(self, step: int) -> None:
        """Remove the keys of a meeting that nobody can still read."""
        if step < 0:
            return
        with contextlib.suppress(Exception):  # some stores cannot delete
            for own in (str(self.rank), f"past/{self.rank}", f"failed/{self.rank}"):
                self._store.delete_key(self._key(step, own))
            if self.rank == 0:
                self._store.delete_key(self._key(step, "over"))
                self._store.delete_key(self._key(step, "count"))

    def _forget_previous(self) -> None:
        """Remove what the last call left in the store. All ranks have begun this call, and so ended that
        one, even if it failed and they ended it at different steps."""
        previous, self._known.previous = self._known.previous, self
        if previous is not None:
            for step in range(previous._step - 3, previous._step + 2):
                previous._clean(step)

    def give_up(self, error: BaseException) -> None:
        message = f"rank {self.rank} could not go on: {type(error).__name__}: {error}"
        with contextlib.suppress(Exception):
            self._store.compare_set(self._key(self._step, "over"), "", _SEPARATOR + message[:4000])

    @contextlib.contextmanager
    def _store_errors(self) -> Iterator[None]:
        try:
            yield
        except DistributedError:
            raise
        except Exception as error:
            raise DistributedError(
                "the store of the group cannot be reached; the rank that holds it, usually rank 0, has died: "
                f"{error}"
            ) from error

    def _run(self, start: Callable[[], Any], *tensors: torch.Tensor) -> None:
        """Run a collective operation on ``tensors`` to its end. All ranks are about to start it."""
        self.meet()
        step = self._step - 1
        before = _references(tensors)
        try:
            work = start()
            work.wait(self._timeout)
            self._note(step, "past")
            del work
            _await_release(tensors, before)
        except Exception as error:
            self._note(step, "failed")
            raise self._failed(step, error) from error

    def _note(self, step: int, what: str) -> None:
        with contextlib.suppress(Exception):
            self._store.set(self._key(step, f"{what}/{self.rank}"), "")

    def _failed(self, step: int, error: Exception) -> DistributedError:
        """An operation did not end. The ranks that neither ended it nor failed in it are named."""
        time.sleep(_GRACE_SECONDS)  # the others fail at about the same time
        silent = []
        with self._store_errors():
            for rank in range(self.size):
                keys = [self._key(step, f"{what}/{rank}") for what in ("past", "failed")]
                if not any(self._store.check([key]) for key in keys):
                    silent.append(rank)
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        if silent:
            message = f"{ranks_text(silent)} stopped during a collective operation ({first})"
            return RankTimeout(message, silent)
        return DistributedError(f"a collective operation failed: {first}")

    def gather(self, data: bytes) -> list[bytes]:
        import torch
        import torch.distributed as dist

        if not data:
            return [b""] * self.size
        own = _tensor(data).to(self.device)
        found = [torch.empty_like(own) for _ in range(self.size)]
        self._run(lambda: dist.all_gather(found, own, group=self._group, async_op=True), own, *found)
        return [x.cpu().numpy().tobytes() for x in found]

    def broadcast(self, data: bytes, source: int) -> bytes:
        import torch.distributed as dist

        x = _tensor(data).to(self.device)
        sender = self.global_ranks[source]
        self._run(lambda: dist.broadcast(x, sender, group=self._group, async_op=True), x)
        return x.cpu().numpy().tobytes()

    def all_to_all(self, data: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[torch.Tensor]:
        import torch
        import torch.distributed as dist

        sent = torch.cat(list(data))
        found = torch.empty(sum(sizes), dtype=torch.uint8, device=self.device)
        lengths = [x.numel() for x in data]
        self._run(
            lambda: dist.all_to_all_single(
                found, sent, list(sizes), lengths, group=self._group, async_op=True
            ),
            sent,
            found,
        )
        return list(torch.split(found, list(sizes)))


def _references(tensors: Sequence[torch.Tensor]) -> list[int]:
    return [sys.getrefcount(x) for x in tensors]


def _await_release(tensors: Sequence[torch.Tensor], before: Sequence[int]) -> None:
    """Wait until torch has released tensors of an operation that has ended, but not for long. ``before`` is
    their ``_references`` before the operation.

    A thread of gloo (torch 2.13, ``ProcessGroupGloo::runLoop``) releases them a moment after the operation
    was reported as done, and needs Python's lock to do so. If the interpreter ends in this moment, the
    process is aborted: "terminate called without an active exception".
    """
    deadline = time.monotonic() + _RELEASE_SECONDS
    while any(now > then for now, then in zip(_references(tensors), before, strict=True)):
        if time.monotonic() > deadline:
            break
        time.sleep(0.0001)


def _tensor(data: bytes) -> torch.Tensor:
    import torch

    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _store_of(group: dist.ProcessGroup) -> Store:
    """The store at which the members of a group met, which gives each group a prefix of its own.

    torch has no public function for it (2.13.0, ``torch/distributed/distributed_c10d.py``). A connection
    serves one request at a time, and waiting is a request, so that two groups in two threads would wait for
    each other: each group gets a connection of its own.
    """
    from torch.distributed import distributed_c10d

    store: Any = distributed_c10d._get_process_group_store(group)
    base = getattr(store, "_underlying_non_prefix_store", store)
    own: Store = store.clone() if type(base).__name__ == "TCPStore" and hasattr(store, "clone") else store
    return own


def _limit(timeout: float) -> timedelta:
    if not 0 < timeout <= _LONGEST_TIMEOUT:
        raise ValueError(
            "the time limit must be a positive number of seconds, at most "
            f"{_LONGEST_TIMEOUT:g}, not {timeout}"
        )
    return timedelta(seconds=timeout)


def exchange_for(group: Any, timeout: float) -> Exchange:
    """The exchange of a process group. None stands for the default group or, where torch.distributed is not
    initialised, for this process alone."""
    import torch.distributed as dist

    if group is None:
        if not dist.is_available() or not dist.is_initialized():
            _limit(timeout)
            return Alone()
        group = dist.distributed_c10d._get_default_group()
    return Collective(group, timeout)
