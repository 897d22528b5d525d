"""Two levels of sponges: KangarooTwelve (RFC 9861) and ParallelHash (SP 800-185).

One launch hashes the chunks of all messages where they lie. Buffers then hold the roots: the chaining values
and what the modes put around them. Roots of the same number of chunks are hashed by a launch of their own if
they are many, and the others together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..algorithms import Algorithm, KangarooTree, SpongeTree
from ..algorithms.encoding import left_encode, right_encode
from ..launching.host import Host
from ..messages.copying import copy_beginnings, copy_rows, one_after_another, put, side_by_side, taken
from ..messages.layout import Addressed, AnyMessages, Messages, Rows, signed
from ..messages.stream import Stream
from .base import BlockStream, Driver
from .sponge import SpongeDriver

if TYPE_CHECKING:
    import numpy as np
    import torch


# The parts of a message in order: bytes of the host, or flat uint8 tensors on the device.
Node = tuple["bytes | torch.Tensor", ...]

# A sponge can have fewer bytes than this behind a message without a copy (see SpongeDriver.behind).
_MOST_BEHIND = 6
# Fewer messages with the same number of chunks than this are not worth a launch of their own, which leaves
# lanes and threads without work.
_FEW = 32
# Roots begin at multiples of this, so that whole words can be loaded.
_ALIGNMENT = 8
# How many bytes of roots are laid out at a time on a CPU. Fresh memory for more would take longer than the
# copies into it.
_NODES_SIZE = 16 << 20
_INNER_NODE = b"\x03" + bytes(7)


def length_encode(n: int) -> bytes:
    """``length_encode`` of RFC 9861, section 3.3."""
    size = (n.bit_length() + 7) // 8
    return n.to_bytes(size, "big") + bytes([size])


class SpongeTreeDriver(Driver):
    """Subclasses say how messages become chunks, and of what roots consist."""

    construction: SpongeTree

    def __init__(self, host: Host, algorithm: Algorithm) -> None:
        super().__init__(host, algorithm)
        self.leaf = SpongeDriver(host, algorithm, self.construction.leaf)
        self.root = SpongeDriver(host, algorithm, self.construction.root)

    def references(self) -> tuple[str, ...]:
        return self.leaf.references()

    def main_kernel(self) -> tuple[str, str | None]:
        return self.leaf.main_kernel()

    def chunk_size(self, parameters: Mapping[str, Any]) -> int:
        return int(parameters.get("block_size", self.construction.chunk_size))

    def chaining_values(self, chunks: AnyMessages, ending: bytes = b"") -> torch.Tensor:
        """The chaining values of chunks: uint8 ``[n, chaining_size]``. ``ending`` follows each of them; it
        has fewer than ``_MOST_BEHIND`` bytes."""
        import torch

        if chunks.count == 0:
            return torch.empty((0, self.construction.chaining_size), dtype=torch.uint8, device=chunks.device)
        start = self.leaf.start({}, chunks.device)
        if ending:
            start = self.leaf.behind(start, ending)
        states = self.leaf.iterate(chunks, start, final=True)
        return self.leaf.output(states, self.construction.chaining_size, 0)

    def picked(self, values: torch.Tensor, starts: np.ndarray[Any, Any], count: int) -> torch.Tensor:
        """``count`` chaining values of each message, which begin at ``starts`` in ascending order: uint8
        ``[n, count * chaining_size]``."""
        import numpy as np

        if len(starts) * count != len(values):
            rows = starts[:, None] + np.arange(count)
            values = taken(values, rows.reshape(-1))
        return values.view(len(starts), count * self.construction.chaining_size)

    def roots(
        self,
        nodes: Sequence[Node],
        parameters: Mapping[str, Any],
        device: torch.device,
        length: int,
    ) -> torch.Tensor:
        """Digests of roots that are given by their parts: uint8 ``[n, length]``."""
        return self.digests(self.joined(nodes, device), parameters, length)

    def digests(self, roots: AnyMessages, parameters: Mapping[str, Any], length: int) -> torch.Tensor:
        """Digests of roots: uint8 ``[n, length]``."""
        start = self.root.finish(self.root.start(parameters, roots.device), length)
        return self.root.output(self.root.iterate(roots, start, final=True), length, 0)

    def joined(self, nodes: Sequence[Node], device: torch.device) -> Addressed:
        """Messages put together from their parts, in one buffer."""
        import numpy as np

        starts, lengths, end = [], [], 0
        parts: list[bytes | torch.Tensor] = []
        for node in nodes:
            gap = -end % _ALIGNMENT
            if gap:
                parts.append(bytes(gap))
            parts += node
            size = sum(len(part) if isinstance(part, bytes) else part.numel() for part in node)
            starts.append(end + gap)
            lengths.append(size)
            end += gap + size
        # The same few bytes are in many nodes. One view of each is enough.
        distinct = list(dict.fromkeys(part for part in parts if isinstance(part, bytes)))
        glue = self.host.words(b"".join(distinct), device, 8)
        found = dict(zip(distinct, glue.split_with_sizes([len(part) for part in distinct]), strict=True))
        flat = one_after_another([found[part] if isinstance(part, bytes) else part for part in parts])
        addresses = np.array(starts, np.int64) + signed(flat.data_ptr())
        return Addressed(addresses, np.array(lengths, np.int64), device, flat)

    def laid_out(self, nodes: torch.Tensor, length: int) -> Rows:
        """Messages of ``length`` bytes at the beginnings of the rows of a contiguous uint8 2-D tensor."""
        number, stride = nodes.shape
        return Rows(nodes.view(-1), nodes.data_ptr(), number, stride, length, number * stride)


def _chunks(
    addresses: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any], size: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Addresses and lengths of the chunks of ``size`` bytes into which messages are cut."""
    import numpy as np

    counts = -(-lengths // size)
    message = np.repeat(np.arange(len(counts)), counts)
    offsets = (np.arange(len(message)) - np.repeat(np.cumsum(counts) - counts, counts)) * size
    return addresses[message] + offsets, np.minimum(lengths[message] - offsets, size)


class ParallelHashDriver(SpongeTreeDriver):
    """ParallelHash (SP 800-185, section 6)."""

    def enqueue(self, parameters: Mapping[str, Any], messages: Messages, length: int) -> torch.Tensor:
        import numpy as np

        device, size = messages.device, self.chunk_size(parameters)
        places = messages.addressed()
        addresses, lengths = places.addresses, places.lengths
        counts = -(-lengths // size)
        chunks = Addressed(*_chunks(addresses, lengths, size), device, messages)
        values = self.chaining_values(chunks)
        ends = np.cumsum(counts)
        # Messages with the same number of chunks are laid out together: work on each by itself would take the
        # host longer than a short message takes the device.
        kinds, members = np.unique(counts, return_counts=True)
        if len(kinds) == 1:
            return self._alike(int(kinds[0]), messages.count, values, size, parameters, length)
        out = self.host.empty((messages.count, length), values.dtype, device)
        single = []
        for count, number in zip(kinds.tolist(), members.tolist(), strict=True):
            which = np.flatnonzero(counts == count)
            if number < _FEW:
                single.append(which)
                continue
            picked = self.picked(values, ends[which] - count, count)
            digests = self._alike(count, number, picked, size, parameters, length)
            put(out, which, digests)
        if single:
            which = np.concatenate(single)
            nodes = [
                self.node(size, (values[ends[i] - counts[i] : ends[i]].view(-1),)) for i in which.tolist()
            ]
            put(out, which, self.roots(nodes, parameters, device, length))
        return out

    def _alike(
        self,
        count: int,
        number: int,
        values: torch.Tensor,
        size: int,
        parameters: Mapping[str, Any],
        length: int,
    ) -> torch.Tensor:
        """Digests of ``number`` messages of ``count`` chunks each, from their chaining values in order."""

        device = values.device
        head, tail = left_encode(size), right_encode(count)
        inner = count * self.construction.chaining_size
        used = len(head) + inner + len(tail)
        glue = self.host.words(head + tail + bytes(-used % _ALIGNMENT), device, 8)
        before, behind = glue[: len(head)], glue[len(head) :]
        nodes = side_by_side(
            [
                before.expand(number, -1),
                values.reshape(number, inner),
                behind.expand(number, -1),
            ]
        )
        return self.digests(self.laid_out(nodes, used), parameters, length)

    def node(self, size: int, values: tuple[torch.Tensor, ...]) -> Node:
        count = sum(v.numel() for v in values) // self.construction.chaining_size
        return left_encode(size), *values, right_encode(count)

    def stream(self, parameters: Mapping[str, Any], device: torch.device) -> Stream:
        return _ParallelHashStream(self, parameters, device)


@dataclass(frozen=True)
class _Part:
    """A message whose whole chunks are hashed, with the bytes that remain."""

    first: torch.Tensor | None
    """The first chunk of the message, if that is whole."""
    values: tuple[torch.Tensor, ...]
    """Chaining values of the chunks after that, in flat tensors."""
    rest: torch.Tensor


class KangarooDriver(SpongeTreeDriver):
    """KangarooTwelve (RFC 9861, section 3). What is hashed is the message, the customization string and the
    length of the latter."""

    construction: KangarooTree

    def __init__(self, host: Host, algorithm: Algorithm) -> None:
        super().__init__(host, algorithm)
        self.single = SpongeDriver(host, algorithm, self.construction.single)

    @staticmethod
    def ending(parameters: Mapping[str, Any]) -> bytes:
        customization: bytes = parameters.get("customization", b"")
        return customization + length_encode(len(customization))

    def enqueue(self, parameters: Mapping[str, Any], messages: Messages, length: int) -> torch.Tensor:
        import numpy as np

        places = messages.addressed()
        short = places.lengths + len(self.ending(parameters)) <= self.construction.chunk_size
        if short.all():
            return self.one_chunk(messages, None, parameters, length)
        digests = self._long(messages, places, np.flatnonzero(~short), parameters, length)
        if short.any():
            few = np.flatnonzero(short)
            digests.append((few, self.one_chunk(messages, few, parameters, length)))
        if len(digests) == 1:
            return digests[0][1]
        out = self.host.empty((messages.count, length), digests[0][1].dtype, messages.device)
        for which, rows in digests:
            put(out, which, rows)
        return out

    def _long(
        self,
        messages: Messages,
        places: Addressed,
        long: np.ndarray[Any, Any],
        parameters: Mapping[str, Any],
        length: int,
    ) -> list[tuple[np.ndarray[Any, Any], torch.Tensor]]:
        """Digests of the messages ``long``, which have more than one chunk: some of their indices, and the
        digests of these, at a time."""
        import numpy as np

        size, unit = self.construction.chunk_size, self.construction.chaining_size
        addresses, lengths = places.addresses[long], places.lengths[long]
        # Except for the first of each message, whole chunks are hashed where they are.
        whole = lengths // size
        inner = np.maximum(whole - 1, 0)
        ends = np.cumsum(inner)
        values = self.chaining_values(
            Addressed(*_chunks(addresses + size, inner * size, size), messages.device, messages)
        )
        # Messages with as many chunks are laid out together, as those of ParallelHash are. Messages without a
        # whole chunk are not, since a part of what follows them is in their first chunk.
        rests = -(-(lengths - whole * size + len(self.ending(parameters))) // size)
        kinds, kind, members = np.unique(
            np.where(whole > 0, inner * (rests.max() + 1) + rests, -1),
            return_inverse=True,
            return_counts=True,
        )
        together = (members >= _FEW) & (kinds >= 0)
        digests = []
        alone = np.flatnonzero(~together[kind])
        if alone.size:
            flat = values.view(-1)
            parts = [
                self._part(messages.view(i), flat[(end - n) * unit : end * unit])
                for i, n, end in zip(
                    long[alone].tolist(), inner[alone].tolist(), ends[alone].tolist(), strict=True
                )
            ]
            digests.append((long[alone], self.tree(parts, parameters, messages.device, length)))
        alike = np.flatnonzero(together[kind])
        if alike.size:
            behind = self._behind(messages, places.chosen(long[alike]), long[alike], parameters)
            behind_ends = np.cumsum(rests[alike])
            for group in np.flatnonzero(together).tolist():
                these = np.flatnonzero(kind[alike] == group)
                which = alike[these]
                n, m = int(inner[which[0]]), int(rests[which[0]])
                found = [
                    self.picked(values, ends[which] - n, n),
                    self.picked(behind, behind_ends[these] - m, m),
                ]
                digests.append((long[which], self._alike(messages, long[which], found, parameters, length)))
        return digests

    def _behind(
        self,
        messages: Messages,
        places: Addressed,
        chosen: np.ndarray[Any, Any],
        parameters: Mapping[str, Any],
    ) -> torch.Tensor:
        """Chaining values of what is behind the last whole chunks of the ``chosen`` messages, at ``places``,
        together with what follows the messages."""
        device, size, ending = messages.device, self.construction.chunk_size, self.ending(parameters)
        rests = places.lengths % size
        starts = places.lengths - rests
        if len(ending) < _MOST_BEHIND and (rests + len(ending) <= size).all():
            located = Addressed(places.addresses + starts, rests, device, messages)
            return self.chaining_values(located, ending)
        views = [messages.view(i)[start:] for i, start in zip(chosen.tolist(), starts.tolist(), strict=True)]
        joined = self.joined([(view, ending) for view in views], device)
        chunks = _chunks(joined.addresses, joined.lengths, size)
        return self.chaining_values(Addressed(*chunks, device, joined))

    def _alike(
        self,
        messages: Messages,
        chosen: np.ndarray[Any, Any],
        values: Sequence[torch.Tensor],
        parameters: Mapping[str, Any],
        length: int,
    ) -> torch.Tensor:
        """Digests of the ``chosen`` messages, which have the same number of chunks. ``values`` are the
        chaining values of all but the first: side by side, a row for each message."""
        import torch

        device, size, number = messages.device, self.construction.chunk_size, len(chosen)
        inner = sum(part.shape[1] for part in values)
        tail = length_encode(inner // self.construction.chaining_size) + b"\xff\xff"
        used = size + len(_INNER_NODE) + inner + len(tail)
        stride = used + -used % _ALIGNMENT
        glue = self.host.words(_INNER_NODE + tail + bytes(stride - used), device, 8)
        before, behind = glue[: len(_INNER_NODE)], glue[len(_INNER_NODE) :]
        # A CPU needs few messages at a time, and a kernel has read its messages when the launch returns.
        step = max(1, _NODES_SIZE // stride) if device.type == "cpu" else number
        nodes = self.host.empty((min(step, number), stride), torch.uint8, device)
        out = self.host.empty((number, length), torch.uint8, device)
        for i in range(0, number, step):
            j = min(i + step, number)
            rows = nodes[: j - i]
            if isinstance(messages, Rows):
                # Rows with as many chunks are consecutive, since only the last may be shorter.
                copy_rows(rows[:, :size], messages.beginnings(number, size)[i:j])
            else:
                copy_beginnings(rows[:, :size], [messages.view(k) for k in chosen[i:j].tolist()])
            parts = [before.expand(j - i, -1), *(part[i:j] for part in values), behind.expand(j - i, -1)]
            side_by_side(parts, rows[:, size:])
            copy_rows(out[i:j], self.digests(self.laid_out(rows, used), parameters, length))
        return out

    def _part(self, view: torch.Tensor, values: torch.Tensor) -> _Part:
        size = self.construction.chunk_size
        whole = view.numel() // size * size
        return _Part(view[:size] if whole else None, (values,), view[whole:])

    def one_chunk(
        self,
        messages: Messages,
        chosen: np.ndarray[Any, Any] | None,
        parameters: Mapping[str, Any],
        length: int,
    ) -> torch.Tensor:
        """Digests of messages that fit one chunk together with what follows them: uint8 ``[n, length]``.
        ``chosen`` are the indices of those to hash; None stands for all."""
        device, ending = messages.device, self.ending(parameters)
        start = self.single.start({}, device)
        located: AnyMessages = messages
        if len(ending) < _MOST_BEHIND:
            start = self.single.behind(start, ending)
            if chosen is not None:
                located = messages.addressed().chosen(chosen)
        else:
            indices = range(messages.count) if chosen is None else chosen.tolist()
            located = self.joined([(messages.view(i), ending) for i in indices], device)
        return self.single.output(self.single.iterate(located, start, final=True), length, 0)

    def tree(
        self, parts: Sequence[_Part], parameters: Mapping[str, Any], device: torch.device, length: int
    ) -> torch.Tensor:
        """Digests of messages of more than one chunk: uint8 ``[n, length]``."""
        import numpy as np

        size, ending = self.construction.chunk_size, self.ending(parameters)
        rest = self.joined([(part.rest, ending) for part in parts], device)
        # A first chunk that was not whole is at the front of the rest.
        taken = np.array([0 if part.first is not None else size for part in parts], np.int64)
        chunks = _chunks(rest.addresses + taken, rest.lengths - taken, size)
        values = self.chaining_values(Addressed(*chunks, device, rest))
        counts = -(-(rest.lengths - taken) // size)
        offsets = (rest.addresses - rest.addresses[0]).tolist()
        unit = self.construction.chaining_size
        behind = values.view(-1).split_with_sizes((counts * unit).tolist())
        nodes = []
        for part, offset, last in zip(parts, offsets, behind, strict=True):
            first = rest.memory[offset : offset + size] if part.first is None else part.first
            inner = (*part.values, last)
            count = sum(v.numel() for v in inner) // unit
            nodes.append((first, _INNER_NODE, *inner, length_encode(count) + b"\xff\xff"))
        return self.roots(nodes, parameters, device, length)

    def stream(self, parameters: Mapping[str, Any], device: torch.device) -> Stream:
        return _KangarooStream(self, parameters, device)


class _TreeStream(BlockStream):
    """Whole chunks are hashed as they come; their chaining values are kept for the root."""

    _driver: Any

    def __init__(self, driver: SpongeTreeDriver, parameters: Mapping[str, Any], device: torch.device) -> None:
        super().__init__(driver, device, driver.chunk_size(parameters))
        self._parameters = parameters
        self._values: tuple[torch.Tensor, ...] = ()

    def _absorb(self, view: torch.Tensor) -> None:
        import torch

        size, total = self._block, view.numel()
        chunks = Rows(view, view.data_ptr(), total // size, size, size, total)
        values = self._driver.chaining_values(chunks)
        # Few tensors of growing size, since a tuple of many would be copied at each update.
        while self._values and len(self._values[-1]) <= len(values):
            values = torch.cat([self._values[-1], values])
            self._values = self._values[:-1]
        self._values += (values,)

    def _flat_values(self) -> tuple[torch.Tensor, ...]:
        return tuple(values.view(-1) for values in self._values)


class _ParallelHashStream(_TreeStream):
    def digest(self, length: int, seek: int) -> bytes:
        if length == 0:
            return b""
        values, rest = self._flat_values(), self._pending.data
        if rest.numel():
            values = (*values, self._driver.chaining_values(Rows.single(rest)).view(-1))
        node = self._driver.node(self._block, values)
        return _to_bytes(self._driver.roots([node], self._parameters, self._device, length))


class _KangarooStream(_TreeStream):
    _first: torch.Tensor | None = None

    def _absorb(self, view: torch.Tensor) -> None:
        if self._first is None:
            # A copy: the caller may change the memory after update() returns.
            self._first, view = view[: self._block].clone(), view[self._block :]
        if view.numel():
            super()._absorb(view)

    def digest(self, length: int, seek: int) -> bytes:
        if length == 0:
            return b""
        rest = self._pending.data
        ending = self._driver.ending(self._parameters)
        if self._first is None and rest.numel() + len(ending) <= self._block:
            digests = self._driver.one_chunk(Rows.single(rest), None, self._parameters, length)
        else:
            part = _Part(self._first, self._flat_values(), rest)
            digests = self._driver.tree([part], self._parameters, self._device, length)
        return _to_bytes(digests)


def _to_bytes(digests: torch.Tensor) -> bytes:
    return digests.cpu().numpy().tobytes()
