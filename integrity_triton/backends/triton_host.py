"""The host half of the kernels in ``kernels/``: what every backend that runs them has in common.

A subclass says where its data lives and how a kernel is launched; this module lays messages out,
allocates, and launches drivers with arguments by name. Nothing here waits for the device, but for
a stream's ``digest``, which returns bytes.
"""

from __future__ import annotations

import abc
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, ClassVar

from ..algorithms import Algorithm, load_constant
from .base import Addressed, AnyMessages, Backend, Messages, Ragged, Rows, Stream, addressed, message
from .drivers import Driver, HmacDriver, IteratedDriver, driver_class
from .memory import moved
from .per_message import PerMessage

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Launch:
    """One kernel launch. ``arguments`` are in the kernel's order: tensors and 64-bit integers."""

    kernel: str
    lanes: int
    arguments: Mapping[str, Any]
    constants: Mapping[str, Any]
    """Compile-time arguments; device functions by reference, ``"module:name"``."""
    device: torch.device


@dataclass(frozen=True)
class Layout:
    """Where messages are, as the drivers take it."""

    arguments: dict[str, int]
    table: torch.Tensor
    """int64 ``[3, count]``; one unused element where ``has_table`` is false."""
    has_table: bool
    align: int
    lengths: Sequence[int] | None  # of a table's messages, in the table's order

    def largest(self) -> int:
        if self.lengths is not None:
            return int(max(self.lengths, default=0))
        return max(0, min(self.arguments["length"], self.arguments["total"]))


@cache
def _tuning() -> dict[str, dict[str, dict[str, int]]]:
    data: dict[str, dict[str, dict[str, int]]] = json.loads(
        resources.files(__package__).joinpath("tuning.json").read_text("utf-8")
    )
    return data


def tuned(backend: str, kernel: str, block: str | None = None) -> dict[str, int]:
    """A backend's configuration for a kernel, and for the block function that it is compiled with if
    it takes one; both named as in a :class:`Launch`."""
    data = _tuning()[backend]
    found = dict(data["default"])
    for reference in (kernel, block):
        if reference is not None:
            found.update(data.get(reference.partition(":")[2], {}))
    return found


@cache
def _table(references: tuple[str, ...], bits: int) -> tuple[np.ndarray[Any, Any], tuple[slice, ...]]:
    """Constants of device files behind each other, each from a multiple of 16 bytes on, and where."""
    import numpy as np

    parts, slices, end = [], [], 0
    for reference in references:
        part = np.array(load_constant(reference), dtype=f"<u{bits // 8}")
        slices.append(slice(end, end + part.size))
        padded = np.zeros(-(-part.size // 4) * 4, part.dtype)
        padded[: part.size] = part
        parts.append(padded)
        end += padded.size
    return np.concatenate(parts), tuple(slices)


def alignment(bits: int) -> int:
    """The largest power of two up to 16 that divides every address in ``bits``, the bitwise or of them."""
    return (bits | 16) & -(bits | 16)


def signed(address: int) -> int:
    """An address as kernels take it, in an int64: some drivers hand out addresses of 2**63 and more."""
    return address - (1 << 64) if address >> 63 else address


class TritonBackend(Backend):
    """Runs the kernels; see the module's docstring."""

    torch_device_type: ClassVar[str]

    @abc.abstractmethod
    def launch(self, launch: Launch, options: Mapping[str, int]) -> None:
        """Queue one kernel. ``options`` are BLOCK_MSGS, VECTOR and the compiler's own."""

    def options(self, launch: Launch) -> dict[str, int]:
        """The tuned configuration for a launch."""
        return tuned(self.name, launch.kernel, launch.constants.get("BLOCK"))

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Uninitialised memory for outputs and scratch; tests put poison and canaries here."""
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

    def run(
        self,
        kernel: str,
        lanes: int,
        device: torch.device,
        arguments: Mapping[str, Any],
        constants: Mapping[str, Any],
    ) -> None:
        for name, value in arguments.items():
            # NumPy's integers pass for int in many places, but not in every compiler's launcher.
            if type(value) is not int and not hasattr(value, "data_ptr"):
                raise TypeError(f"{kernel}: argument {name} is a {type(value).__name__}")
        launch = Launch(kernel, lanes, arguments, constants, device)
        options = self.options(launch)
        if "ALIGN" in constants:
            # Of the alignments that hold, what the kernel makes use of: a vector's, or a word's.
            align, vector = constants["ALIGN"], 4 * options["VECTOR"]
            used = vector if align >= vector else 4 if align >= 4 else 1
            launch = replace(launch, constants={**constants, "ALIGN": used})
        self.launch(launch, options)

    # Data

    def device_for(self, device: torch.device | None) -> torch.device:
        """The device that serves data on ``device``: itself where this backend reads it in place."""
        import torch

        if device is not None and device.type in self.device_types:
            return device
        if self.torch_device_type == "cpu":
            return torch.device("cpu")
        return torch.device(
            self.torch_device_type, torch.get_device_module(self.torch_device_type).current_device()
        )

    def upload(self, array: np.ndarray[Any, Any], device: torch.device) -> torch.Tensor:
        """A small host array on the device, without waiting for the device."""
        import torch

        return moved(torch.from_numpy(array), device)

    def words(self, data: bytes | Sequence[int], device: torch.device, bits: int = 32) -> torch.Tensor:
        """Unsigned words of ``bits`` on the device, from integers or from little-endian bytes."""
        import numpy as np

        kind = np.dtype(f"<u{bits // 8}")
        array = np.frombuffer(data, kind).copy() if isinstance(data, bytes) else np.array(data, kind)
        return self.upload(array, device)

    def constants(
        self, references: tuple[str, ...], bits: int, device: torch.device
    ) -> tuple[torch.Tensor, ...]:
        """Constants of device files as words of ``bits``, in one upload; nothing may write to them."""
        import torch

        array, slices = _table(references, bits)
        # Kept on a device, they could be read on another stream than the one that they are copied on.
        words = torch.from_numpy(array) if device.type == "cpu" else self.upload(array, device)
        return tuple(words[part] for part in slices)

    def bytes_view(self, data: Any, device: torch.device) -> torch.Tensor:
        """A stream's input as a flat uint8 tensor on ``device``."""
        import numpy as np
        import torch

        if isinstance(data, torch.Tensor):
            return data.to(device)
        return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy()).to(device)

    def localize(self, messages: Messages) -> Messages:
        """The messages in memory that the kernels can read; copied only where they cannot."""
        device = self.device_for(messages.device)
        if device == messages.device:
            return messages
        if isinstance(messages, Rows):
            data = messages.data.to(device)
            stride = data.stride(0) * data.element_size() if data.dim() == 2 else messages.stride
            return replace(messages, data=data, address=data.data_ptr(), stride=stride)
        return Ragged([view.to(device) for view in messages.views], device)

    def layout(self, messages: AnyMessages, make_table: Callable[[Any, Any], Any]) -> Layout:
        """``make_table(addresses, lengths)`` builds the int64 table of a ragged batch, and returns
        it with the lengths in its order."""
        import numpy as np
        import torch

        if isinstance(messages, Ragged) and messages.count == 1:
            view = messages.views[0]
            messages = Rows(view, view.data_ptr(), 1, 0, view.numel(), view.numel())
        if isinstance(messages, Rows):
            arguments = {
                "address": signed(messages.address),
                "count": messages.count,
                "stride": messages.stride,
                "length": messages.length,
                "total": messages.total,
            }
            no_table = torch.empty(1, dtype=torch.int64, device=messages.device)
            align = alignment(messages.address | messages.stride)
            return Layout(arguments, no_table, False, align, None)
        places = messages if isinstance(messages, Addressed) else addressed(messages)
        table, ordered = make_table(places.addresses, places.lengths)
        return Layout(
            {"address": 0, "count": messages.count, "stride": 0, "length": 0, "total": 0},
            self.upload(table, messages.device),
            True,
            alignment(int(np.bitwise_or.reduce(places.addresses))),
            ordered,
        )

    # Hashing

    def driver(self, algorithm: Algorithm) -> Driver:
        """Raises TypeError for an algorithm that :meth:`unsupported` refuses."""
        return driver_class(algorithm)(self, algorithm)

    def hash_batch(
        self, algorithm: Algorithm, parameters: Mapping[str, Any], messages: Messages, length: int
    ) -> torch.Tensor:
        import torch

        home = messages.device
        if messages.count == 0 or length == 0:
            return torch.empty((messages.count, length), dtype=torch.uint8, device=home)
        local = self.localize(messages)
        driver = self.driver(algorithm)
        try:
            if driver.keys_per_message or not any(isinstance(v, PerMessage) for v in parameters.values()):
                digests = driver.hash_batch(parameters, local, length)
            else:
                digests = self._one_by_one(driver, parameters, local, length)
        finally:
            driver.secrets.wipe()
        return digests.to(home)

    def _one_by_one(
        self, driver: Driver, parameters: Mapping[str, Any], messages: Messages, length: int
    ) -> torch.Tensor:
        """Digests of messages with parameters of their own, for a driver that cannot take these."""
        import torch

        digests = []
        for i in range(messages.count):
            own = {k: v[i] if isinstance(v, PerMessage) else v for k, v in parameters.items()}
            digests.append(driver.hash_batch(own, message(messages, i), length))
        return torch.cat(digests)

    def mac_chain(
        self, algorithm: Algorithm, keys: PerMessage, first: torch.Tensor, rounds: int
    ) -> torch.Tensor:
        driver = self.driver(algorithm)
        if rounds == 0 or not isinstance(driver, HmacDriver) or not isinstance(driver.hash, IteratedDriver):
            return super().mac_chain(algorithm, keys, first, rounds)
        try:
            return driver.chain(keys, first.to(self.device_for(first.device)), rounds).to(first.device)
        finally:
            driver.secrets.wipe()

    def stream(
        self, algorithm: Algorithm, parameters: Mapping[str, Any], device: torch.device | None = None
    ) -> Stream:
        return self.driver(algorithm).stream(parameters, self.device_for(device))
