"""What a driver is, and what the streams of several have in common."""

from __future__ import annotations

import abc
import copy
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ..algorithms import Algorithm, Construction
from ..launching.host import Host
from ..messages.copying import clear
from ..messages.layout import Messages, Rows
from ..messages.per_message import PerMessage
from ..messages.stream import Stream, piece_on

if TYPE_CHECKING:
    import torch


class Secrets:
    """Device memory that holds key material. :meth:`wipe` overwrites it with zeros, as does the end of this
    object, which lives as long as the last stream that uses it. The overwriting is queued on the device's
    stream on which :meth:`hold` was called, behind what was queued there before; nothing waits for the
    device."""

    _held: list[tuple[torch.Tensor, Any]]

    def __init__(self) -> None:
        self._held = []

    def hold(self, memory: torch.Tensor) -> torch.Tensor:
        """Remember ``memory`` and return it. Of a view, only the part that it shows is overwritten."""
        self._held.append((memory, _current_stream(memory.device)))
        return memory

    def wipe(self) -> None:
        while self._held:
            memory, stream = self._held[-1]
            with _on_stream(memory.device, stream):
                clear(memory)
            self._held.pop()  # only now, so that an interrupt before it leaves the memory to the next call

    def __del__(self) -> None:
        if not sys.is_finalizing() and hasattr(self, "_held"):  # an interrupt can prevent __init__
            try:
                self.wipe()
            finally:
                self.wipe()  # Python swallows an interrupt here, after which nobody would call again


def _current_stream(device: torch.device) -> Any:
    import torch

    return None if device.type == "cpu" else torch.get_device_module(device).current_stream(device)


def _on_stream(device: torch.device, stream: Any) -> Any:
    import torch

    return nullcontext() if stream is None else torch.get_device_module(device).stream(stream)


class Driver(abc.ABC):
    """Runs one algorithm on the backend behind ``host``. Each batch has a driver of its own; a stream and its
    copies share one."""

    per_message: ClassVar[bool] = False
    """Whether ``enqueue`` takes parameters with one value for each message."""

    ways: ClassVar[tuple[str, ...]] = ()
    """Names of the ways to the same result, where there are several; the driver takes the fastest."""
    undivided: ClassVar[tuple[str, ...]] = ()
    """Those of ``ways`` that give a lane a whole message, however long it is."""

    way: str | None = None
    """The only one of ``ways`` that is taken, if not None: for tests, and to build all kernels."""

    key_in_messages: bool = False
    """Whether streams take in a key as part of the message."""

    construction: Construction
    """A subclass declares the type of its construction, with which ``driver_class`` pairs it."""

    def __init__(self, host: Host, algorithm: Algorithm) -> None:
        self.host = host
        self.algorithm = algorithm
        self.construction = algorithm.construction
        self.secrets = Secrets()

    def secret(self, memory: torch.Tensor) -> torch.Tensor:
        """Return ``memory``, which is overwritten with zeros when this driver has done its work."""
        return self.secrets.hold(memory)

    def key_rows(self, key: bytes | PerMessage, size: int, device: torch.device) -> Rows:
        """A key, or the keys of all messages, as rows of ``size`` bytes, with zeros behind shorter keys."""
        if isinstance(key, PerMessage):
            return Rows.of(self.secret(key.rows(device, size)))
        return Rows.of(self.secret(self.host.words(key.ljust(size, b"\0"), device, 8)).view(1, size))

    def pending(self, device: torch.device) -> PendingBytes:
        """A stream's end of the message, still empty."""
        return PendingBytes(device, self.key_in_messages)

    @abc.abstractmethod
    def references(self) -> tuple[str, ...]:
        """The kernels and device functions that the algorithm needs, as ``"module:name"``."""

    @abc.abstractmethod
    def main_kernel(self) -> tuple[str, str | None]:
        """The kernel that does most of the work, and the block function with which it is compiled, if any."""

    @abc.abstractmethod
    def enqueue(self, parameters: Mapping[str, Any], messages: Messages, length: int) -> torch.Tensor:
        """The digests of ``messages``: contiguous uint8 ``[n, length]``. There is at least one message, the
        kernels can read all of them where they are, and ``length`` is at least 1. Nothing waits for the
        device. A value of ``parameters`` is a ``PerMessage`` only if the class has ``per_message``."""

    @abc.abstractmethod
    def stream(self, parameters: Mapping[str, Any], device: torch.device) -> Stream:
        """A fresh stream for data on ``device``. Only its ``digest`` waits for the device."""


class PendingBytes:
    """The end of a message that does not fill a block yet, on the device. Where a key precedes the message,
    these bytes may include key material: with ``secret`` they are overwritten when they are not needed any
    more."""

    def __init__(self, device: torch.device, secret: bool = False) -> None:
        import torch

        self.secrets = Secrets() if secret else None
        self.data = torch.empty(0, dtype=torch.uint8, device=device)

    def take(self, view: torch.Tensor, wanted: int) -> torch.Tensor:
        """Copy bytes from the front of ``view`` until ``wanted`` are here; return the rest of ``view``."""
        import torch

        moved = min(max(wanted - self.data.numel(), 0), view.numel())
        # A copy and never a view of the caller's memory, which may change after update() returns.
        self.data = torch.cat([self.data, view[:moved]])
        if self.secrets is not None:
            self.secrets = Secrets()  # copies may still use the old bytes
            self.secrets.hold(self.data)
        return view[moved:]


AnyStream = TypeVar("AnyStream", bound="BlockStream")


class BlockStream(Stream):
    """A stream that absorbs blocks of ``block`` bytes as they come, and keeps the end of the message: what
    does not fill a block, and always the last ``held_back`` bytes, for algorithms that absorb a block in
    another way if nothing follows it."""

    _driver: Driver

    def __init__(self, driver: Driver, device: torch.device, block: int, held_back: int = 0) -> None:
        self._driver, self._device = driver, device
        self._block, self._held_back = block, held_back
        self._pending = driver.pending(device)

    @abc.abstractmethod
    def _absorb(self, view: torch.Tensor) -> None:
        """Take in one or more whole blocks, which may be in the caller's memory."""

    def update(self, data: Any) -> None:
        view = piece_on(data, self._device)
        held = self._pending.data.numel()
        whole = max(0, held + view.numel() - self._held_back) // self._block * self._block
        # First the blocks that begin with pending bytes, which are copied together, then those of ``view``.
        first = min(-(-held // self._block) * self._block, whole)
        if first:
            view = self._pending.take(view, first)
            filled = self._pending
            self._absorb(filled.data[:first])
            self._pending = self._driver.pending(self._device)
            if held > first:
                self._pending.take(filled.data[first:], held)
        if whole > first:
            self._absorb(view[: whole - first])
        self._pending.take(view[whole - first :], self._block + self._held_back)

    def copy(self: AnyStream) -> AnyStream:
        """A shallow copy is enough: streams replace their tensors and never write into them."""
        twin = copy.copy(self)
        twin._pending = copy.copy(self._pending)
        return twin
