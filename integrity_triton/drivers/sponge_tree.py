"""Two levels of sponges: KangarooTwelve (RFC 9861) and ParallelHash (SP 800-185).

One launch hashes the chunks of all messages where they lie. One buffer then holds the roots: the chaining
values and what the modes put around them. A second launch hashes these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..algorithms import Algorithm, KangarooTree, SpongeTree
from ..algorithms.encoding import left_encode, right_encode
from ..launching.host import Host
from ..messages.copying import side_by_side
from ..messages.layout import Addressed, AnyMessages, Messages, Rows, signed
from ..messages.stream import Stream
from .base import BlockStream, Driver
from .sponge import SpongeDriver

if TYPE_CHECKING:
    import numpy as np
    import torch


# The parts of a message in order: bytes of the host, or tensors on the device.
Node = tuple["bytes | torch.Tensor", ...]

# A sponge can have fewer bytes than this behind a message without a copy (see SpongeDriver.behind).
_MOST_BEHIND = 6
# Fewer messages with the same number of chunks than this are not worth laying out together.
_FEW = 16
# Roots begin at multiples of this, so that whole words can be loaded.
_ALIGNMENT = 8
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

    def chaining_values(self, chunks: AnyMessages) -> torch.Tensor:
        """The chaining values of chunks: uint8 ``[n, chaining_size]``."""
        import torch

        if chunks.count == 0:
            return torch.empty((0, self.construction.chaining_size), dtype=torch.uint8, device=chunks.device)
        states = self.leaf.iterate(chunks, self.leaf.start({}, chunks.device), final=True)
        return self.leaf.output(states, self.construction.chaining_size, 0)

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
        import torch

        starts, lengths, end = [], [], 0
        parts: list[bytes | torch.Tensor] = []
        for node in nodes:
            gap = -end % _ALIGNMENT
            sizes = sum(len(part) if isinstance(part, bytes) else part.numel() for part in node)
            parts += [bytes(gap), *node]
            starts.append(end + gap)
            lengths.append(sizes)
            end += gap + sizes
        glue = self.host.words(b"".join(p for p in parts if isinstance(p, bytes)), device, 8)
        views, used = [], 0
        for part in parts:
            if isinstance(part, bytes):
                views.append(glue[used : used + len(part)])
                used += len(part)
            else:
                views.append(part.reshape(-1))
        flat = torch.cat(views)
        addresses = np.array(starts, np.int64) + signed(flat.data_ptr())
        return Addressed(addresses, np.array(lengths, np.int64), device, flat)


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
            rows = (ends[which] - count)[:, None] + np.arange(count)
            picked = values[self.host.upload(rows.reshape(-1), device)]
            digests = self._alike(count, number, picked, size, parameters, length)
            out[self.host.upload(which, device)] = digests
        if single:
            which = np.concatenate(single)
            nodes = [self.node(size, (values[ends[i] - counts[i] : ends[i]],)) for i in which.tolist()]
            out[self.host.upload(which, device)] = self.roots(nodes, parameters, device, length)
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
        stride = nodes.shape[1]
        rows = Rows(nodes.view(-1), nodes.data_ptr(), number, stride, used, number * stride)
        return self.digests(rows, parameters, length)

    @staticmethod
    def node(size: int, values: tuple[torch.Tensor, ...]) -> Node:
        return left_encode(size), *values, right_encode(sum(len(v) for v in values))

    def stream(self, parameters: Mapping[str, Any], device: torch.device) -> Stream:
        return _ParallelHashStream(self, parameters, device)


@dataclass(frozen=True)
class _Part:
    """A message whose whole chunks are hashed, with the bytes that remain."""

    first: torch.Tensor | None
    """The first chunk of the message, if that is whole."""
    values: tuple[torch.Tensor, ...]
    """Chaining values of the chunks after that."""
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

        device, size = messages.device, self.construction.chunk_size
        places = messages.addressed()
        addresses, lengths = places.addresses, places.lengths
        short = lengths + len(self.ending(parameters)) <= size
        if short.all():
            return self.one_chunk(messages, None, parameters, length)
        # Except for the first of each message, whole chunks are hashed where they are.
        long = np.flatnonzero(~short)
        inner = np.maximum(lengths[long] // size - 1, 0)
        values = self.chaining_values(
            Addressed(*_chunks(addresses[long] + size, inner * size, size), device, messages)
        )
        parts = [
            self._part(messages.view(i), values[end - n : end])
            for i, n, end in zip(long.tolist(), inner.tolist(), np.cumsum(inner).tolist(), strict=True)
        ]
        digests = self.tree(parts, parameters, device, length)
        if len(long) == messages.count:
            return digests
        few = np.flatnonzero(short)
        out = self.host.empty((messages.count, length), digests.dtype, device)
        out[self.host.upload(long, device)] = digests
        out[self.host.upload(few, device)] = self.one_chunk(messages, few, parameters, length)
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
        nodes = []
        for part, offset, n, end in zip(
            parts, offsets, counts.tolist(), np.cumsum(counts).tolist(), strict=True
        ):
            first = rest.memory[offset : offset + size] if part.first is None else part.first
            inner = (*part.values, values[end - n : end])
            count = sum(len(v) for v in inner)
            nodes.append((first, _INNER_NODE, *inner, length_encode(count), b"\xff\xff"))
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


class _ParallelHashStream(_TreeStream):
    def digest(self, length: int, seek: int) -> bytes:
        if length == 0:
            return b""
        values, rest = self._values, self._pending.data
        if rest.numel():
            values = (*values, self._driver.chaining_values(Rows.single(rest)))
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
            part = _Part(self._first, self._values, rest)
            digests = self._driver.tree([part], self._parameters, self._device, length)
        return _to_bytes(digests)


def _to_bytes(digests: torch.Tensor) -> bytes:
    return digests.cpu().numpy().tobytes()
