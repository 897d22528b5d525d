"""What a backend is: how it is probed, what it can run, and how it runs batches and streams."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..algorithms import Algorithm
from ..errors import BackendUnavailable
from ..messages.copying import bytes_of_rows
from ..messages.layout import Messages, Ragged, Rows
from ..messages.per_message import PerMessage
from ..messages.stream import Stream

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Probe:
    """Whether a backend can run on this machine. Each process probes a backend once."""

    available: bool
    reason: str
    """If the backend is available, what it runs on; otherwise why it is not, and what would help."""
    devices: tuple[str, ...] = ()


class Backend(abc.ABC):
    """One way of running the algorithms. An instance holds no device memory until it is used."""

    name: ClassVar[str]
    summary: ClassVar[str]
    device_types: ClassVar[tuple[str, ...]] = ()
    """torch device types whose data this backend reads in place. Data on other devices is copied."""
    for_tests: ClassVar[bool] = False
    """Whether this backend is too slow for anything but tests. It then runs only if it is asked for."""

    @abc.abstractmethod
    def probe(self) -> Probe:
        """Find out whether this backend can run here. It is called once and must not raise."""

    def driver_versions(self) -> tuple[str, ...]:
        """The driver version of each device that the probe named, as far as it is known, for reports."""
        return ()

    def self_test(self) -> str | None:
        """A description of when this backend tests its kernels with known answers. None means that it runs
        libraries, which this package does not test."""
        return None

    @abc.abstractmethod
    def unsupported(self, algorithm: Algorithm) -> str | None:
        """Why this backend cannot run ``algorithm``, or None if it can."""

    @abc.abstractmethod
    def is_default(self, algorithm: Algorithm, device_type: str, *, messages: Messages | None) -> bool:
        """Whether automatic selection should take this backend, if it can run. ``messages`` is the batch, or
        None for one message that comes in pieces."""

    def comparison(self, algorithm: Algorithm, device_type: str, *, messages: Messages | None) -> str | None:
        """The figures that :meth:`is_default` compares, in words, or None if it compares no figures."""
        return None

    @abc.abstractmethod
    def digest_batch(
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
            messages: Messages = Rows.of(texts)
        else:
            ends = ends.to(device)
            views = [torch.cat([salt, end]) for salt in salts.views(device) for end in ends]
            messages = Ragged(views, device)
        keys = passwords.repeated(blocks)
        first = self.digest_batch(algorithm, {"key": keys}, messages, size)
        total = self.mac_chain(algorithm, keys, first, iterations - 1)
        return bytes_of_rows(total.reshape(count, blocks * size), 0, length)

    def mac_chain(
        self, algorithm: Algorithm, keys: PerMessage, first: torch.Tensor, rounds: int
    ) -> torch.Tensor:
        """The exclusive or of the tags ``first``, uint8 ``[n, digest_size]``, and of ``rounds`` further tags
        for each, where every tag is that of its predecessor under the same key."""
        total = first.clone()
        for _ in range(rounds):
            first = self.digest_batch(algorithm, {"key": keys}, Rows.of(first), algorithm.digest_size)
            total ^= first
        return total

    def chunk_values(self, algorithm: Algorithm, data: torch.Tensor, first: int) -> torch.Tensor:
        """The chaining values of the chunks of BLAKE3's tree, uint8 ``[n, 32]`` on the device of ``data``.

        ``data`` is flat, contiguous, uint8 and not empty, and is the part of a message of several chunks that
        starts at chunk ``first``. Raises BackendUnavailable for another algorithm, and if the backend does
        not give the nodes of trees.
        """
        raise BackendUnavailable(f"backend {self.name!r} gives no nodes of a tree of {algorithm.name}")

    def parent_values(
        self, algorithm: Algorithm, children: torch.Tensor, *, root: bool = False
    ) -> torch.Tensor:
        """The chaining values, uint8 ``[n, 32]``, of the parents of each two of the nodes ``children``, uint8
        ``[2 * n, 32]``; the digest of the message if the only parent is its root. Raises as
        :meth:`chunk_values` does."""
        raise BackendUnavailable(f"backend {self.name!r} gives no nodes of a tree of {algorithm.name}")

    @abc.abstractmethod
    def stream(
        self, algorithm: Algorithm, parameters: Mapping[str, Any], device: torch.device | None = None
    ) -> Stream:
        """A new stream; ``device`` is where its data is, or None if that is not known."""
