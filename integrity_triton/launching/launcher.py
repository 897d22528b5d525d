"""What runs kernels, as seen from here: a backend, or what only takes note of the launches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from .launch import Launch

if TYPE_CHECKING:
    import torch

    from .host import Host


class Launcher(Protocol):
    """The part of a backend that hosts and self-tests use."""

    @property
    def name(self) -> str: ...

    @property
    def trial_messages(self) -> int:
        """How many messages a self-test hashes one after the other."""

    def launch(self, launch: Launch, options: Mapping[str, int]) -> None:
        """Queue one kernel. ``options`` are BLOCK_MSGS, VECTOR and the compiler's own."""

    def options(self, launch: Launch) -> dict[str, int]:
        """The tuned configuration for a launch."""

    def tuned(self, kernel: str, block: str | None = None) -> dict[str, int]:
        """See :func:`integrity_triton.launching.launch.tuned`."""

    def configuration(self, launch: Launch, options: Mapping[str, int]) -> tuple[Any, ...]:
        """What makes the binary that a launch runs, and where."""

    def admit(self, host: Host, launch: Launch, options: Mapping[str, int]) -> None:
        """Before a launch. Raises SelfTestError unless its configuration gives known answers."""

    def may_wait(self, device: torch.device) -> None:
        """Before a self-test, which waits for the device. Raises SelfTestError where that cannot be."""

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Uninitialised memory for outputs and scratch."""

    def device_for(self, device: torch.device | None) -> torch.device:
        """The device that serves data on ``device``: itself where kernels read it in place."""
