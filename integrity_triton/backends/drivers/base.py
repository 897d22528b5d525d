"""What a driver is, and what the streams of several have in common."""

from __future__ import annotations

import abc
import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ...algorithms import Algorithm
from ..base import Messages, Stream

if TYPE_CHECKING:
    import torch

    from ..triton_host import TritonBackend


class Driver(abc.ABC):
    """Runs one algorithm on one backend, its ``host``."""

    def __init__(self, host: TritonBackend, algorithm: Algorithm) -> None:
        self.host = host
        self.algorithm = algorithm

    @abc.abstractmethod
    def references(self) -> tuple[str, ...]:
        """Kernels and device functions, ``"module:name"``, without which the algorithm does not run."""

    @abc.abstractmethod
    def main_kernel(self) -> tuple[str, str | None]:
        """The kernel that does most of the work, and the block function that it is compiled with."""

    @abc.abstractmethod
    def hash_batch(self, parameters: Mapping[str, Any], messages: Messages, length: int) -> torch.Tensor:
        """Digests of at least one message, which the kernels can read where it is, of at least one byte:
        contiguous uint8 ``[n, length]``. Nothing waits for the device."""

    @abc.abstractmethod
    def stream(self, parameters: Mapping[str, Any], device: torch.device) -> Stream:
        """A fresh stream of data on ``device``. Only its ``digest`` waits for the device."""


class PendingBytes:
    """The end of a message that does not fill a block yet, on the device."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self.data = torch.empty(0, dtype=torch.uint8, device=device)

    def take(self, view: torch.Tensor, wanted: int) -> torch.Tensor:
        """Move bytes from the front of ``view`` here until there are ``wanted``; returns the rest."""
        import torch

        moved = min(max(wanted - self.data.numel(), 0), view.numel())
        # Never a view of the caller's memory, which may change after update() returns.
        self.data = torch.cat([self.data, view[:moved]])
        return view[moved:]


AnyStream = TypeVar("AnyStream", bound=Stream)


def copy_stream(stream: AnyStream) -> AnyStream:
    """A copy of a stream that keeps the end of its message in ``_pending``. A shallow one is enough:
    streams replace their tensors and never write into them."""
    twin = copy.copy(stream)
    twin._pending = copy.copy(stream._pending)  # type: ignore[attr-defined]
    return twin
