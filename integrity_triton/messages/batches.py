"""A caller's batch of messages, in groups, so that a call takes little memory above its inputs.

Most messages are hashed where they are. Those that have to be copied, such as tensors that are not
contiguous, are copied a group at a time. Very many rows on the CPU are hashed in groups, too, since kernels
keep states for each message: up to 600 bytes for BLAKE2bp.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .copying import copy_rows
from .layout import Messages, Ragged, Rows
from .moving import moved
from .tensors import byte_range, bytes_in_place, is_tensor, tensor_bytes

if TYPE_CHECKING:
    import torch

COPIES_SIZE = 128 << 20
"""How many bytes of copies there are at a time, except for a longer message on an accelerator."""
ROWS_COUNT = 1 << 18
"""How many rows on the CPU are hashed at a time."""
_PIECE_SIZE = 64 << 20  # of a message that is copied in pieces


@dataclass(frozen=True)
class Group:
    """Some messages of a batch, one after another."""

    first: int
    last: int
    """The index after that of the last message."""
    long: bool = False
    """Whether this is one message whose copy alone would take more than ``COPIES_SIZE``."""

    @property
    def count(self) -> int:
        return self.last - self.first


class Batch(abc.ABC):
    """Checked messages, of which none is copied yet."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.count = count
        self.device = device

    @abc.abstractmethod
    def messages(self, first: int, last: int) -> Messages:
        """The messages from index ``first`` on and before ``last``, with the copies that they need."""

    @abc.abstractmethod
    def updates(self, i: int) -> Iterator[Any]:
        """What ``Hash.update`` takes to absorb message ``i``. It copies little at a time."""

    def groups(self) -> Iterator[Group]:
        """Groups of all messages in their order; one, which may be empty, if copies take little memory."""
        yield Group(0, self.count)

    def whole(self) -> Messages:
        """All messages at the same time."""
        return self.messages(0, self.count)


def _groups(costs: Sequence[int]) -> Iterator[Group]:
    """Groups of messages, whose copies take ``costs`` bytes."""
    total, count = sum(costs), len(costs)
    if total <= COPIES_SIZE:
        yield Group(0, count)
        return
    enough = total / -(-total // COPIES_SIZE)  # groups of like size keep a device equally busy
    first = used = 0
    for i, cost in enumerate(costs):
        if first < i and (used + cost > COPIES_SIZE or used >= enough):
            yield Group(first, i, used > COPIES_SIZE)
            first, used = i, 0
        used += cost
    yield Group(first, count, used > COPIES_SIZE)


class InPlace(Batch):
    """Messages that need no copy, or were copied already."""

    def __init__(self, given: Messages) -> None:
        super().__init__(given.count, given.device)
        self._given = given

    def groups(self) -> Iterator[Group]:
        if self.device.type != "cpu" or not isinstance(self._given, Rows) or self.count <= ROWS_COUNT:
            yield from super().groups()
            return
        step = -(-self.count // -(-self.count // ROWS_COUNT))
        for first in range(0, self.count, step):
            yield Group(first, min(first + step, self.count))

    def messages(self, first: int, last: int) -> Messages:
        if (first, last) == (0, self.count):
            return self._given
        assert isinstance(self._given, Rows)  # there is one group of others
        return self._given.between(first, last)

    def updates(self, i: int) -> Iterator[Any]:
        yield self._given.view(i)


class Several(Batch):
    """A tensor for each message."""

    def __init__(
        self, views: Sequence[torch.Tensor], copied: Mapping[int, int], device: torch.device
    ) -> None:
        """``views`` are flat contiguous uint8 tensors, except for the messages that need a copy. ``copied``
        has the sizes of these in bytes, by their indices."""
        super().__init__(len(views), device)
        self.given = views
        self._copied = copied

    def groups(self) -> Iterator[Group]:
        if not self._copied:
            return super().groups()
        return _groups([self._copied.get(i, 0) for i in range(self.count)])

    def messages(self, first: int, last: int) -> Messages:
        views = self.given
        if self._copied:
            views = [tensor_bytes(views[i]) if i in self._copied else views[i] for i in range(first, last)]
        return Ragged(views, self.device)

    def updates(self, i: int) -> Iterator[Any]:
        yield self.given[i]


class Packed(Batch):
    """Short ``bytes``, copied into one tensor, which takes a fifth of the time of a tensor for each."""

    def __init__(self, given: Sequence[bytes], sizes: Sequence[int]) -> None:
        import torch

        super().__init__(len(given), torch.device("cpu"))
        self.given = given
        self._sizes = sizes

    def groups(self) -> Iterator[Group]:
        return _groups(self._sizes)

    def messages(self, first: int, last: int) -> Messages:
        import torch

        joined = torch.frombuffer(bytearray().join(self.given[first:last]), dtype=torch.uint8)
        return Ragged(torch.split_with_sizes(joined, list(self._sizes[first:last])), self.device)

    def updates(self, i: int) -> Iterator[Any]:
        yield self.given[i]


class CutCopy(Batch):
    """One tensor that needs a copy, cut into messages of ``size`` bytes, of which the last may be shorter."""

    def __init__(self, tensor: torch.Tensor, size: int) -> None:
        super().__init__(-(-tensor.nbytes // size), tensor.device)
        self._tensor, self._size, self._total = tensor, size, tensor.nbytes

    def groups(self) -> Iterator[Group]:
        enough = -(-self._total // -(-self._total // COPIES_SIZE))
        step = max(1, min(-(-enough // self._size), COPIES_SIZE // self._size))
        for first in range(0, self.count, step):
            yield Group(first, min(first + step, self.count), self._size > COPIES_SIZE)

    def _range(self, first: int, last: int) -> tuple[int, int]:
        return first * self._size, min(last * self._size, self._total)

    def messages(self, first: int, last: int) -> Messages:
        data = byte_range(self._tensor, *self._range(first, last))
        return Rows(data, data.data_ptr(), last - first, self._size, self._size, data.numel())

    def updates(self, i: int) -> Iterator[Any]:
        return pieces(self._tensor, *self._range(i, i + 1))


class Cut(Batch):
    """Tensors on one device, each cut into messages of ``size`` bytes; the last of each may be shorter."""

    def __init__(self, tensors: Sequence[torch.Tensor], size: int) -> None:
        self._tensors = tensors
        self._views = [bytes_in_place(x) for x in tensors]
        self._places = [
            (number, start, min(start + size, x.nbytes))
            for number, x in enumerate(tensors)
            for start in range(0, x.nbytes, size)
        ]
        super().__init__(len(self._places), tensors[0].device)

    def groups(self) -> Iterator[Group]:
        views = self._views
        return _groups(
            [0 if views[number] is not None else end - start for number, start, end in self._places]
        )

    def messages(self, first: int, last: int) -> Messages:
        places = self._places[first:last]
        spans: dict[int, tuple[int, int]] = {}
        for number, start, end in places:
            spans[number] = spans.get(number, (start, end))[0], end
        data: dict[int, tuple[torch.Tensor, int]] = {}
        for number, span in spans.items():
            view = self._views[number]
            data[number] = (byte_range(self._tensors[number], *span), span[0]) if view is None else (view, 0)
        views = []
        for number, start, end in places:
            part, begin = data[number]
            views.append(part[start - begin : end - begin])
        return Ragged(views, self.device)

    def updates(self, i: int) -> Iterator[Any]:
        number, start, end = self._places[i]
        return pieces(self._tensors[number], start, end)


class Tuples(Batch):
    """Tuples of byte strings. Each encoded tuple is a new tensor on the device of the batch."""

    def __init__(
        self, given: Sequence[Any], parts: Sequence[Sequence[memoryview | torch.Tensor]], device: torch.device
    ) -> None:
        """``parts`` are what is joined for each of the tuples ``given``."""
        super().__init__(len(parts), device)
        self._given, self._parts = given, parts

    def groups(self) -> Iterator[Group]:
        return _groups([_joining(parts) for parts in self._parts])

    def messages(self, first: int, last: int) -> Messages:
        import torch

        group = self._parts[first:last]
        host = bytearray().join(part for parts in group for part in parts if isinstance(part, memoryview))
        joined = moved(torch.frombuffer(host or bytearray(1), dtype=torch.uint8), self.device)
        views, used = [], 0
        for parts in group:
            start, found = used, []
            for part in parts:
                if isinstance(part, memoryview):
                    found.append(joined[used : used + part.nbytes])
                    used += part.nbytes
                else:
                    found.append(tensor_bytes(part))
            whole = not any(is_tensor(part) for part in parts)
            views.append(joined[start:used] if whole else torch.cat(found))
        return Ragged(views, self.device)

    def updates(self, i: int) -> Iterator[Any]:
        yield self._given[i]


class Prefixed(Batch):
    """Messages that each follow the same ``prefix``, as in the leaves of a Merkle tree. Each is copied behind
    its prefix."""

    def __init__(
        self, prefix: bytes, views: Sequence[memoryview | torch.Tensor], device: torch.device
    ) -> None:
        super().__init__(len(views), device)
        self._prefix, self._views = prefix, views

    def groups(self) -> Iterator[Group]:
        return _groups([len(self._prefix) + view.nbytes for view in self._views])

    def messages(self, first: int, last: int) -> Messages:
        parts = [(memoryview(self._prefix), view) for view in self._views[first:last]]
        return Tuples((), parts, self.device).whole()

    def sizes(self) -> list[int]:
        """Bytes in each message, without the prefix."""
        return [view.nbytes for view in self._views]

    def updates(self, i: int) -> Iterator[Any]:
        yield self._prefix
        yield self._views[i]


class PrefixedChunks(Batch):
    """Flat bytes cut into chunks of ``size`` bytes, of which the last may be shorter, and each of which
    follows the same ``prefix``. Chunks are copied behind their prefix, a group at a time."""

    def __init__(self, prefix: bytes, data: torch.Tensor, size: int) -> None:
        super().__init__(-(-data.numel() // size), data.device)
        self._prefix, self._data, self._size = prefix, data, size

    def groups(self) -> Iterator[Group]:
        row = len(self._prefix) + self._size
        step = max(1, COPIES_SIZE // row)
        if self.device.type == "cpu":
            step = min(step, ROWS_COUNT)
        for first in range(0, max(self.count, 1), step):
            yield Group(first, min(first + step, self.count), row > COPIES_SIZE)

    def messages(self, first: int, last: int) -> Messages:
        import torch

        data = self._data[first * self._size : last * self._size]
        start, row = len(self._prefix), len(self._prefix) + self._size
        total = start * (last - first) + data.numel()
        joined = torch.empty((last - first, row), dtype=torch.uint8, device=self.device)
        if start:
            known = torch.frombuffer(bytearray(self._prefix), dtype=torch.uint8)
            copy_rows(joined[:, :start], moved(known, self.device).expand(last - first, start))
        whole = data.numel() // self._size
        copy_rows(joined[:whole, start:], data[: whole * self._size].view(whole, self._size))
        rest = data[whole * self._size :].view(1, -1)
        if rest.numel():
            copy_rows(joined[whole:, start : start + rest.numel()], rest)
        flat = joined.view(-1)[:total]
        return Rows(flat, flat.data_ptr(), last - first, row, row, total)

    def updates(self, i: int) -> Iterator[Any]:
        yield self._prefix
        yield self._data[i * self._size : (i + 1) * self._size]


def _joining(parts: Sequence[memoryview | torch.Tensor]) -> int:
    """How many bytes are copied to join the parts of a tuple."""
    once = sum(part.nbytes for part in parts)
    if not any(is_tensor(part) for part in parts):
        return once
    twice = (p.nbytes for p in parts if not is_tensor(p) or bytes_in_place(p) is None)
    return once + sum(twice)


def pieces(x: torch.Tensor, first: int = 0, last: int | None = None) -> Iterator[torch.Tensor]:
    """The bytes of a tensor, or those from ``first`` on and before ``last``, as flat uint8 tensors one after
    another. A tensor that needs no copy is one piece."""
    last = x.nbytes if last is None else last
    view = bytes_in_place(x)
    if view is not None:
        yield view[first:last]
        return
    for start in range(first, last, _PIECE_SIZE):
        yield byte_range(x, start, min(start + _PIECE_SIZE, last))
