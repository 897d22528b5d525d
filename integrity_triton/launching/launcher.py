"""What runs kernels, as the rooms behind the backends see it: a backend, or a stand-in that only records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .launch import Launch
from .request import Request

if TYPE_CHECKING:
    import torch

LaunchFunction = Callable[[Launch, Mapping[str, int]], None]
"""Takes a launch and the configuration of its kernel."""


@dataclass(frozen=True)
class TrialSize:
    """How much a self-test hashes."""

    messages: int
    """The number of messages that are hashed one after the other."""
    lanes: int
    """The most messages in a batch. A batch fills more than one program of each kernel if this suffices."""
    volume: int
    """The bytes in a batch of copies of a long message, for algorithms that divide messages among lanes."""
    blocks: int | None = None
    """The number of blocks that one lane may have to hash one after the other, beyond the short messages that
    are always hashed; or None if there is no limit."""


class Launcher(Protocol):
    """The part of a backend that drivers and self-tests use."""

    @property
    def name(self) -> str: ...

    @property
    def trial_size(self) -> TrialSize:
        """How much a self-test hashes."""

    def launch(self, launch: Launch, options: Mapping[str, int]) -> None:
        """Queue one kernel. ``options`` are BLOCK_MSGS, VECTOR and the compiler's own."""

    def options(self, launch: Launch) -> dict[str, int]:
        """The tuned configuration for a launch."""

    def tuned(self, kernel: str, block: str | None = None) -> dict[str, int]:
        """See :func:`integrity_triton.launching.launch.tuned`."""

    def configuration(self, launch: Launch, options: Mapping[str, int]) -> tuple[Any, ...]:
        """What determines the binary that a launch runs, and the device that runs it."""

    def admit(self, request: Request, launch: Launch, options: Mapping[str, int]) -> None:
        """Called before a launch. Raises SelfTestError unless its configuration gives known answers."""

    def may_wait(self, device: torch.device) -> None:
        """Called before a self-test, which waits for the device. Raises SelfTestError where nothing may
        wait for it."""

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Uninitialised memory for outputs and scratch."""

    def device_for(self, device: torch.device | None) -> torch.device:
        """The device that serves data on ``device``: the same one where kernels read the data in place."""
