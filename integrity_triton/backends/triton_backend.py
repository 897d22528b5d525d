"""What all backends that run the kernels have in common. A subclass says where its data lives and how it
launches a kernel; a :class:`Run` does everything else."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from ..algorithms import Algorithm
from ..drivers import Driver, driver_class
from ..drivers.run import Run
from ..launching.launch import Launch, tuned
from ..launching.launcher import TrialSize
from ..launching.request import Request
from ..messages.layout import Messages
from ..messages.per_message import PerMessage
from ..messages.stream import Stream
from ..self_tests.admission import SelfTests, described
from .base import Backend

if TYPE_CHECKING:
    import torch


class TritonBackend(Backend):
    """Runs the kernels in ``kernels/``."""

    torch_device_type: ClassVar[str]
    tuning: ClassVar[str] = ""
    """The name under which ``tuning.json`` has this backend's configurations, if it is not its own."""

    trial_size: ClassVar[TrialSize] = TrialSize(messages=5, lanes=257, volume=2 << 20)
    """How much a self-test hashes."""

    @abc.abstractmethod
    def launch(self, launch: Launch, options: Mapping[str, int]) -> None:
        """Queue one kernel. ``options`` are BLOCK_MSGS, VECTOR and the compiler's own."""

    def options(self, launch: Launch) -> dict[str, int]:
        """The tuned configuration for a launch."""
        return self.tuned(launch.kernel, launch.constants.get("BLOCK"))

    def tuned(self, kernel: str, block: str | None = None) -> dict[str, int]:
        """See :func:`integrity_triton.launching.launch.tuned`."""
        return tuned(self.tuning or self.name, kernel, block)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Uninitialised memory for outputs and scratch. Tests override this to poison and guard the
        memory."""
        import torch

        return torch.empty(shape, dtype=dtype, device=device)

    def unsupported(self, algorithm: Algorithm) -> str | None:
        try:
            driver_class(algorithm)
        except TypeError as error:
            return str(error)
        return None

    def is_default(self, algorithm: Algorithm, device_type: str, *, messages: Messages | None) -> bool:
        return device_type in self.device_types and (algorithm.parallel or messages is not None)

    def device_for(self, device: torch.device | None) -> torch.device:
        """The device on which data from ``device`` is processed: ``device`` itself if the backend reads it in
        place."""
        import torch

        if device is not None and device.type in self.device_types:
            return device
        if self.torch_device_type == "cpu":
            return torch.device("cpu")
        return torch.device(
            self.torch_device_type, torch.get_device_module(self.torch_device_type).current_device()
        )

    # Hashing

    def configuration(self, launch: Launch, options: Mapping[str, int]) -> tuple[Any, ...]:
        """A key that identifies the binary that a launch runs and the device that it runs on."""
        return (launch.device, launch.kernel, *launch.constants.values(), *options.values())

    @cached_property
    def self_tests(self) -> SelfTests:
        return SelfTests(self)

    def admit(self, request: Request, launch: Launch, options: Mapping[str, int]) -> None:
        """Called before each launch. Raises SelfTestError unless its configuration gives known answers."""
        self.self_tests.admit(request, launch, options)

    def self_test(self) -> str | None:
        return described()

    def may_wait(self, device: torch.device) -> None:
        """Called before a self-test, which waits for the device. Raises SelfTestError if waiting is
        impossible."""

    def driver(self, algorithm: Algorithm) -> Driver:
        """Raises TypeError for an algorithm that :meth:`unsupported` refuses."""
        return Run(self, algorithm).driver()

    def digest_batch(
        self, algorithm: Algorithm, parameters: Mapping[str, Any], messages: Messages, length: int
    ) -> torch.Tensor:
        return Run(self, algorithm).execute(parameters, messages, length)

    def mac_chain(
        self, algorithm: Algorithm, keys: PerMessage, first: torch.Tensor, rounds: int
    ) -> torch.Tensor:
        total = Run(self, algorithm).mac_chain(keys, first, rounds)
        return super().mac_chain(algorithm, keys, first, rounds) if total is None else total

    def chunk_values(self, algorithm: Algorithm, data: torch.Tensor, first: int) -> torch.Tensor:
        found = Run(self, algorithm).chunk_values(data, first)
        return super().chunk_values(algorithm, data, first) if found is None else found

    def parent_values(
        self, algorithm: Algorithm, children: torch.Tensor, *, root: bool = False
    ) -> torch.Tensor:
        found = Run(self, algorithm).parent_values(children, root)
        return super().parent_values(algorithm, children, root=root) if found is None else found

    def stream(
        self, algorithm: Algorithm, parameters: Mapping[str, Any], device: torch.device | None = None
    ) -> Stream:
        return Run(self, algorithm).stream(parameters, device)
