"""Launches through Triton's JIT on a torch device, which all GPU backends share."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..algorithms import load_reference
from ..errors import SelfTestError
from ..launching.launch import Launch
from ..messages.moving import capturing
from .base import Probe
from .interpreter.language import language_lock
from .triton_backend import TritonBackend
from .triton_cache import launch_with_cache

if TYPE_CHECKING:
    import torch


class JitBackend(TritonBackend):
    """A subclass names its kind of device and says what a torch build lacks that does not support it."""

    device_kind: str
    """The kind of device that torch has to find, as messages name it."""

    @abc.abstractmethod
    def unfit(self) -> str | None:
        """Why the torch and Triton installed cannot serve this kind of device, or None."""

    def probe(self) -> Probe:
        try:
            import torch
            import triton
        except ImportError as error:
            return Probe(False, f"{error.name} cannot be imported; pip install {error.name}")
        reason = self.unfit()
        if reason is not None:
            return Probe(False, reason)
        devices = torch.get_device_module(self.torch_device_type)
        if not devices.is_available():
            return Probe(False, f"torch finds no usable {self.device_kind}, or no driver for it")
        names = tuple(
            f"{self.torch_device_type}:{i} {devices.get_device_name(i)}"
            for i in range(devices.device_count())
        )
        return Probe(True, f"torch {torch.__version__}, Triton {triton.__version__}", names)

    def driver_versions(self) -> tuple[str, ...]:
        import torch

        devices = torch.get_device_module(self.torch_device_type)
        found = []
        for i in range(devices.device_count()):
            properties = devices.get_device_properties(i)
            # Some torch builds know the driver's version, others only that of its interface.
            version = getattr(properties, "driver_version", None)
            ask = getattr(torch._C, f"_{self.torch_device_type}_getDriverVersion", None)
            if version is None and ask is not None:
                version = f"interface {ask()}"
            found.append("not known" if version is None else str(version))
        return tuple(found)

    def may_wait(self, device: torch.device) -> None:
        if capturing(device):
            raise SelfTestError(
                f"{self.name}: a kernel that is new to this process cannot be self-tested while a graph is "
                "being captured; run the same calls once before capturing"
            )

    def compiler_options(self, options: Mapping[str, int]) -> dict[str, Any]:
        """``options`` under the names, and with the values, that the installed Triton knows."""
        return dict(options)

    def launch(self, launch: Launch, options: Mapping[str, int]) -> None:
        import torch

        kernel = load_reference(launch.kernel)
        constants = {
            name: load_reference(value) if isinstance(value, str) else value
            for name, value in launch.constants.items()
        }
        named = self.compiler_options(options)
        programs = -(-launch.lanes // options["BLOCK_MSGS"])
        # The guard makes the tensors' device current; Triton takes that device's current stream.
        with language_lock, torch.get_device_module(launch.device).device(launch.device):
            launch_with_cache(lambda: kernel[(programs,)](**launch.arguments, **constants, **named))
