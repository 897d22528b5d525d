"""What a backend is: probing, what it can run, and the two ways of running it."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..algorithms import Algorithm
from .per_message import PerMessage

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = [
    "Addressed",
    "AnyMessages",
    "Backend",
    "Messages",
    "Probe",
    "Ragged",
    "Rows",
    "Stream",
    "addressed",
    "message",
    "rows_of",
    "view_of",
]


@dataclass(frozen=True)
class Probe:
    """Whether a backend can run on this machine, found out once a process."""

    available: bool
    reason: str
    """Why not, and what would help; or, where available, what it runs on."""
    devices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rows:
    """Messages at equal distances in one tensor: row i starts ``i * stride`` bytes into ``data``.

    Every row is ``length`` bytes long but for the last, which may be shorter: ``total`` bytes end
    the data as seen from its first byte.
    """

    data: torch.Tensor
    """Flat uint8, or a 2-D tensor of any dtype with dense rows; it starts with row 0."""
    address: int
    count: int
    stride: int
    length: int
    total: int

    @property
    def device(self) -> torch.device:
        return self.data.device

    def row_length(self, i: int) -> int:
        return max(0, min(self.length, self.total - i * self.stride))


@dataclass(frozen=True)
class Ragged:
    """Messages of any lengths, each a flat contiguous uint8 tensor on ``device``."""

    views: Sequence[torch.Tensor]
    device: torch.device

    @property
    def count(self) -> int:
        return len(self.views)


Messages = Rows | Ragged


@dataclass(frozen=True)
class Addressed:
    """Messages that drivers make out of callers' messages, by address: parts of them, in place."""

    addresses: np.ndarray[Any, Any]
    """int64, those of 2**63 and more as negative numbers."""
    lengths: np.ndarray[Any, Any]
    """int64, in bytes."""
    device: torch.device
    memory: Any
    """Whatever owns the memory."""

    @property
    def count(self) -> int:
        return len(self.addresses)


AnyMessages = Messages | Addressed


def addressed(messages: Messages) -> Addressed:
    """Where the messages are, and how long."""
    import numpy as np

    if isinstance(messages, Rows):
        offsets = messages.stride * np.arange(messages.count, dtype=np.int64)
        lengths = np.clip(messages.total - offsets, 0, messages.length)
        addresses = np.uint64(messages.address) + offsets.view(np.uint64)
        return Addressed(addresses.view(np.int64), lengths, messages.device, messages.data)
    addresses = np.fromiter((view.data_ptr() for view in messages.views), np.uint64, messages.count)
    lengths = np.fromiter((view.numel() for view in messages.views), np.int64, messages.count)
    return Addressed(addresses.view(np.int64), lengths, messages.device, messages.views)


def rows_of(data: torch.Tensor) -> Rows:
    """The rows of a dense 2-D uint8 tensor as messages."""
    count, size = data.shape
    return Rows(data, data.data_ptr(), count, size, size, count * size)


def message(messages: Messages, i: int) -> Messages:
    """Message ``i`` alone."""
    if isinstance(messages, Ragged):
        return Ragged([messages.views[i]], messages.device)
    size, start = messages.row_length(i), i * messages.stride
    data = messages.data[i:] if messages.data.dim() == 2 else messages.data[start:]
    return Rows(data, messages.address + start, 1, messages.stride, size, size)


def view_of(messages: Messages, i: int) -> torch.Tensor:
    """Message ``i`` as a flat uint8 tensor over the same memory."""
    import torch

    if isinstance(messages, Ragged):
        return messages.views[i]
    if messages.data.dim() == 2:
        return messages.data[i].view(torch.uint8)
    start = i * messages.stride
    return messages.data[start : start + messages.row_length(i)]


class Stream(abc.ABC):
    """The running state of one message. ``digest`` leaves it as it was."""

    @abc.abstractmethod
    def update(self, data: Any) -> None:
        """Absorb ``data``: a flat memoryview of bytes, or a flat contiguous uint8 tensor."""

    @abc.abstractmethod
    def digest(self, length: int, seek: int) -> bytes:
        """``length`` bytes of output from byte ``seek`` on."""

    @abc.abstractmethod
    def copy(self) -> Stream: ...


class Backend(abc.ABC):
    """One way of running the algorithms. An instance holds no device memory until it is used."""

    name: ClassVar[str]
    summary: ClassVar[str]
    device_types: ClassVar[tuple[str, ...]] = ()
    """torch device types whose data this backend reads in place; others are copied to it."""

    @abc.abstractmethod
    def probe(self) -> Probe:
        """Find out whether this backend can run here. Called once; must not raise."""

    def driver_versions(self) -> tuple[str, ...]:
        """The versions of the drivers of the probe's devices, as far as they are known: for reports."""
        return ()

    def self_test(self) -> str | None:
        """When known answers are asked of what this backend runs, in words; None for libraries, which are
        not this package's to test."""
        return None

    @abc.abstractmethod
    def unsupported(self, algorithm: Algorithm) -> str | None:
        """Why this backend cannot run ``algorithm``, or None if it can."""

    @abc.abstractmethod
    def is_default(self, algorithm: Algorithm, device_type: str, *, messages: Messages | None) -> bool:
        """Whether automatic selection should take this backend, given that it can run: for a batch, or
        with ``messages`` of None for one message that comes in pieces."""

    @abc.abstractmethod
    def hash_batch(
        self, algorithm: Algorithm, parameters: Mapping[str, Any], messages: Messages, length: int
    ) -> torch.Tensor:
        """Digests of all messages: contiguous uint8 ``[n, length]`` on ``messages.device``."""

    def pbkdf2(
        self,
        algorithm: Algorithm,
        passwords: PerMessage,
        salts: bytes | PerMessage,
        iterations: int,
        length: int,
        device: torch.device,
    ) -> torch.Tensor:
        """PBKDF2 with ``algorithm``, an HMAC (RFC 8018, section 5.2): uint8 ``[n, length]`` on ``device``."""
        import torch

        size, count = algorithm.digest_size, len(passwords)
        blocks = -(-length // size)
        if count == 0:
            return torch.empty((0, length), dtype=torch.uint8, device=device)
        numbers = bytearray(b"".join(i.to_bytes(4, "big") for i in range(1, blocks + 1)))
        ends = torch.frombuffer(numbers, dtype=torch.uint8).view(blocks, 4)
        if isinstance(salts, bytes):
            before = torch.frombuffer(bytearray(salts + b"\0"), dtype=torch.uint8)[:-1].expand(blocks, -1)
            texts = torch.cat([before, ends], dim=1).to(device).repeat(count, 1)
            messages: Messages = rows_of(texts)
        else:
            ends = ends.to(device)
            views = [torch.cat([salt, end]) for salt in salts.views(device) for end in ends]
            messages = Ragged(views, device)
        keys = passwords.repeated(blocks)
        first = self.hash_batch(algorithm, {"key": keys}, messages, size)
        total = self.mac_chain(algorithm, keys, first, iterations - 1)
        return total.reshape(count, blocks * size)[:, :length].contiguous()

    def mac_chain(
        self, algorithm: Algorithm, keys: PerMessage, first: torch.Tensor, rounds: int
    ) -> torch.Tensor:
        """The exclusive or of tags, uint8 ``[n, digest_size]``, and of ``rounds`` more, each the tag of the
        one before under the same key."""
        total = first.clone()
        for _ in range(rounds):
            first = self.hash_batch(algorithm, {"key": keys}, rows_of(first), algorithm.digest_size)
            total ^= first
        return total

    @abc.abstractmethod
    def stream(
        self, algorithm: Algorithm, parameters: Mapping[str, Any], device: torch.device | None = None
    ) -> Stream:
        """A fresh stream; ``device`` is where its data is, where that is known."""
