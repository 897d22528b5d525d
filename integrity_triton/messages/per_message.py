"""A parameter with one value for each message of a batch, such as a key or a nonce."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..algorithms import ValuesPerMessage
from .copying import clear, copy_rows
from .moving import moved
from .tensors import host_memory

if TYPE_CHECKING:
    import torch


class PerMessage(ValuesPerMessage):
    """The values of one parameter for the messages of a batch, as flat uint8 tensors.

    Its ``repr`` does not show them, since they may be keys.
    """

    __slots__ = ("_rows", "_views", "shared", "sizes")

    def __init__(self, values: torch.Tensor | Sequence[torch.Tensor], *, shared: int = 0) -> None:
        """``values`` is uint8 ``[n, size]``, or n flat uint8 tensors. The first ``shared`` bytes are the same
        in all values."""
        self.shared = shared
        self._rows: torch.Tensor | None = None
        if isinstance(values, Sequence):
            self._views = tuple(values)
            self.sizes = tuple(view.numel() for view in self._views)
        else:
            self._rows, self._views = values, ()
            self.sizes = (int(values.shape[1]),) * int(values.shape[0])

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, i: int) -> bytes:
        """The value of message ``i``. Waits for the device that holds it."""
        view = self._views[i] if self._rows is None else self._rows[i]
        return host_memory(view.cpu().contiguous()).tobytes()

    def __repr__(self) -> str:
        return f"<one value for each of {len(self)} messages>"

    def size(self) -> int | None:
        """The length of every value in bytes; None if lengths differ."""
        return self.sizes[0] if len(set(self.sizes)) == 1 else None

    def repeated(self, times: int) -> PerMessage:
        """Each value ``times`` times."""
        if self._rows is not None:
            return PerMessage(self._rows.repeat_interleave(times, dim=0))
        return PerMessage([view for view in self._views for _ in range(times)])

    def between(self, first: int, last: int) -> PerMessage:
        """The values of the messages from index ``first`` on and before ``last``."""
        values = self._views[first:last] if self._rows is None else self._rows[first:last]
        return PerMessage(values, shared=self.shared)

    def views(self, device: torch.device) -> list[torch.Tensor]:
        """Each value, flat uint8, on ``device``."""
        values = list(self._views) if self._rows is None else list(self._rows.contiguous())
        return [moved(value, device) for value in values]

    def rows(self, device: torch.device, size: int | None = None) -> torch.Tensor:
        """A copy of all values on ``device``: uint8 ``[n, size]``, in which zeros follow the shorter ones. By
        default ``size`` is the length of every value. Nothing waits for the device.

        Raises ValueError if a value is longer than ``size``, and if lengths differ where no size is given.
        """
        import torch

        if size is None:
            size = self.size()
            if size is None:
                raise ValueError("the values are of different lengths")
        if max(self.sizes) > size:
            raise ValueError(f"a value is longer than {size} bytes")
        if self._rows is not None:
            out = torch.empty((len(self), size), dtype=torch.uint8, device=device)
            copy_rows(out[:, : self.sizes[0]], moved(self._rows, device))
            clear(out[:, self.sizes[0] :])
            return out
        if {view.device.type for view in self._views} == {"cpu"}:
            joined = bytearray(len(self) * size)
            for i, view in enumerate(self._views):
                joined[i * size : i * size + view.numel()] = host_memory(view).tobytes()
            host = torch.frombuffer(joined, dtype=torch.uint8).view(len(self), size)
            return moved(host, device)
        padded = [torch.nn.functional.pad(v, (0, size - v.numel())) for v in self.views(device)]
        return torch.stack(padded)
