"""What drivers see of a backend: memory on its devices, and launches with their arguments by name.

Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from ..algorithms import load_constant
from ..messages.layout import Places, Rows
from ..messages.moving import moved
from .launch import BLOCK_FORMS, Address, Launch
from .launcher import Launcher, LaunchFunction

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Placement:
    """Where messages are, as kernels are told of it."""

    arguments: dict[str, int]
    """``address``, ``count``, ``stride``, ``length`` and ``total`` of rows; all but ``count`` are zero where
    there is a table. ``address`` is an :class:`Address`, whose owner owns the messages in a table, too."""
    table: torch.Tensor
    """int64 ``[k, count]``, see :meth:`Host.placement`; one unused element where ``has_table`` is false."""
    has_table: bool
    align: int
    """A power of two up to 16 that divides the address of every message."""


@cache
def _joined(references: tuple[str, ...], bits: int) -> tuple[np.ndarray[Any, Any], tuple[slice, ...]]:
    """Constants of device files in one array, in which each starts at a multiple of 16 bytes, and the slices
    where they are."""
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


def _alignment(bits: int) -> int:
    """The largest power of two up to 16 that divides every address in ``bits``, the bitwise or of them."""
    return (bits | 16) & -(bits | 16)


class Host:
    """A backend as a driver sees it."""

    def __init__(self, launcher: Launcher, launch: LaunchFunction) -> None:
        """``launch`` runs, or only records, what the driver launches."""
        self._launcher = launcher
        self._launch = launch

    # Launching

    def tuned(self, kernel: str) -> dict[str, int]:
        """The backend's configuration for a kernel."""
        return self._launcher.tuned(kernel)

    def run(
        self,
        kernel: str,
        lanes: int,
        device: torch.device,
        arguments: Mapping[str, Any],
        constants: Mapping[str, Any],
    ) -> None:
        """Launch a kernel with so many lanes; see :class:`~integrity_triton.launching.launch.Launch`."""
        plain: dict[str, Any] = {}
        memory = []
        for name, value in arguments.items():
            # NumPy's integers and subclasses of int pass for int in many places, but not in every compiler's
            # launcher.
            if type(value) is int or hasattr(value, "data_ptr"):
                plain[name] = value
            elif isinstance(value, Address):
                plain[name] = int(value)
                memory.append(value.owner)
            else:
                raise TypeError(f"{kernel}: argument {name} is a {type(value).__name__}")
        launch = Launch(kernel, lanes, plain, constants, device, tuple(memory))
        options = dict(self._launcher.options(launch))
        constants = dict(constants)
        for form in BLOCK_FORMS:
            if options.pop(form, 0):
                constants["BLOCK"] += f"_{form.lower()}"
        if "ALIGN" in constants:
            # Kernels load vectors, words or bytes. A finer alignment would only compile another binary. If
            # VECTOR is 0, they load 16 bytes at any address.
            align, vector = constants["ALIGN"], 4 * options["VECTOR"]
            used = 1 if vector == 0 or align < 4 else vector if align >= vector else 4
            constants["ALIGN"] = used
        self._launch(replace(launch, constants=constants), options)

    # Data

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Uninitialised memory for outputs and scratch."""
        return self._launcher.empty(shape, dtype, device)

    def upload(self, array: np.ndarray[Any, Any], device: torch.device) -> torch.Tensor:
        """A small host array on the device."""
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
        """Constants of device files as words of ``bits``, in one upload. Nothing may write to them."""
        import torch

        array, slices = _joined(references, bits)
        # A copy kept on a device could be read on another stream than the one on which it was made.
        words = torch.from_numpy(array) if device.type == "cpu" else self.upload(array, device)
        return tuple(words[part] for part in slices)

    def placement(self, places: Places, table: np.ndarray[Any, Any] | None) -> Placement:
        """Tell kernels where messages are. Rows need no ``table``. For messages at addresses it is int64
        ``[k, count]``: their addresses and lengths in the order in which lanes take them, and then whatever
        the driver's kernel wants to know of each."""
        import numpy as np
        import torch

        if isinstance(places, Rows):
            arguments = {
                "address": Address.owned(places.address, places),
                "count": places.count,
                "stride": places.stride,
                "length": places.length,
                "total": places.total,
            }
            no_table = torch.empty(1, dtype=torch.int64, device=places.device)
            return Placement(arguments, no_table, False, _alignment(places.address | places.stride))
        assert table is not None
        return Placement(
            {
                "address": Address.owned(0, places),
                "count": places.count,
                "stride": 0,
                "length": 0,
                "total": 0,
            },
            self.upload(table, places.device),
            True,
            _alignment(int(np.bitwise_or.reduce(places.addresses))),
        )
