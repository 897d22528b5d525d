"""The host half of the kernels in ``kernels/``: lays messages out, allocates, and launches what drivers
name, with arguments by name.

Nothing here waits for the device, but for a stream's ``digest``, which returns bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from ..algorithms import load_constant
from ..messages.layout import Addressed, AnyMessages, Ragged, Rows, addressed
from ..messages.moving import moved
from .launch import Launch
from .launcher import Launcher, LaunchFunction

if TYPE_CHECKING:
    import numpy as np
    import torch


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


class Host:
    """What a driver sees of a backend: memory on its devices, and the launching of kernels."""

    def __init__(self, launcher: Launcher, launch: LaunchFunction) -> None:
        """``launch`` runs or records what the driver launches."""
        self._launcher = launcher
        self._launch = launch

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
        for name, value in arguments.items():
            # NumPy's integers pass for int in many places, but not in every compiler's launcher.
            if type(value) is not int and not hasattr(value, "data_ptr"):
                raise TypeError(f"{kernel}: argument {name} is a {type(value).__name__}")
        launch = Launch(kernel, lanes, arguments, constants, device)
        options = self._launcher.options(launch)
        if "ALIGN" in constants:
            # Of the alignments that hold, what the kernel makes use of: a vector's, or a word's.
            align, vector = constants["ALIGN"], 4 * options["VECTOR"]
            used = vector if align >= vector else 4 if align >= 4 else 1
            launch = replace(launch, constants={**constants, "ALIGN": used})
        self._launch(launch, options)

    # Data

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return self._launcher.empty(shape, dtype, device)

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
