"""Where messages are in memory: in rows of one tensor, in a tensor each, or at addresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch


def signed(address: int) -> int:
    """An address as an int64, which is how kernels take it: some device drivers give out addresses of 2**63
    and more."""
    return address - (1 << 64) if address >> 63 else address


@dataclass(frozen=True)
class Rows:
    """Messages at equal distances in one tensor: row i starts ``i * stride`` bytes into ``data``.

    Every row is ``length`` bytes long except the last, which may be shorter: the data end ``total`` bytes
    after their first byte.
    """

    data: torch.Tensor
    """Flat uint8, or a 2-D tensor of any dtype with dense rows; it starts with row 0."""
    address: int
    count: int
    stride: int
    length: int
    total: int

    @classmethod
    def of(cls, data: torch.Tensor) -> Rows:
        """The rows of a dense uint8 tensor, ``[n, size]``."""
        count, size = data.shape
        return cls(data, data.data_ptr(), count, size, size, count * size)

    @classmethod
    def single(cls, data: torch.Tensor) -> Rows:
        """One message: a flat contiguous uint8 tensor."""
        size = data.numel()
        return cls(data, data.data_ptr(), 1, 0, size, size)

    @property
    def device(self) -> torch.device:
        return self.data.device

    def row_length(self, i: int) -> int:
        return max(0, min(self.length, self.total - i * self.stride))

    def longest(self) -> int:
        """The length of the longest row in bytes."""
        return self.row_length(0)

    def volume(self) -> int:
        """Bytes in all rows together, as though the last were as long as the others."""
        return self.count * self.longest()

    def view(self, i: int) -> torch.Tensor:
        """Message ``i`` as a flat uint8 tensor over the same memory."""
        import torch

        if self.data.dim() == 2:
            return self.data[i].view(torch.uint8)
        start = i * self.stride
        return self.data[start : start + self.row_length(i)]

    def table(self) -> torch.Tensor:
        """All messages over the same memory, uint8 ``[count, length]``. All have to be of the same length."""
        import torch

        if self.data.dim() == 2:
            return self.data.view(torch.uint8)[: self.count]
        return self.data.as_strided((self.count, self.length), (self.stride, 1))

    def beginnings(self, count: int, size: int) -> torch.Tensor:
        """The first ``size`` bytes of the first ``count`` messages over the same memory, uint8 ``[count,
        size]``. Each of them has to have as many."""
        import torch

        if self.data.dim() == 2:
            return self.data.view(torch.uint8)[:count, :size]
        return self.data.as_strided((count, size), (self.stride, 1))

    def only(self, i: int) -> Rows:
        """A batch of nothing but message ``i``."""
        return replace(self.between(i, i + 1), length=self.row_length(i))

    def between(self, first: int, last: int) -> Rows:
        """The messages from index ``first`` on and before ``last``, which are not none."""
        start = first * self.stride
        end = min(self.total, (last - 1) * self.stride + self.length)
        data = self.data[first:] if self.data.dim() == 2 else self.data[start:]
        return replace(
            self, data=data, address=self.address + start, count=last - first, total=max(0, end - start)
        )

    def to(self, device: torch.device) -> Rows:
        """The same messages on ``device``: a copy unless they are there already."""
        if device == self.device:
            return self
        data = self.data.to(device)
        stride = data.stride(0) * data.element_size() if data.dim() == 2 else self.stride
        return replace(self, data=data, address=data.data_ptr(), stride=stride)

    def places(self) -> Rows:
        return self

    def addressed(self) -> Addressed:
        """The same messages, each by its address and length."""
        import numpy as np

        offsets = self.stride * np.arange(self.count, dtype=np.int64)
        lengths = np.clip(self.total - offsets, 0, self.length)
        addresses = np.uint64(self.address) + offsets.view(np.uint64)
        return Addressed(addresses.view(np.int64), lengths, self.device, self.data)


@dataclass(frozen=True)
class Ragged:
    """Messages of any lengths, each a flat contiguous uint8 tensor on ``device``."""

    views: Sequence[torch.Tensor]
    device: torch.device

    @property
    def count(self) -> int:
        return len(self.views)

    def view(self, i: int) -> torch.Tensor:
        """Message ``i`` as a flat uint8 tensor over the same memory."""
        return self.views[i]

    def only(self, i: int) -> Ragged:
        """A batch of nothing but message ``i``."""
        return Ragged([self.views[i]], self.device)

    def to(self, device: torch.device) -> Ragged:
        """The same messages on ``device``: a copy unless they are there already."""
        return self if device == self.device else Ragged([view.to(device) for view in self.views], device)

    def places(self) -> Places:
        """The same messages as kernels are told of them: a single one is a row, several have addresses."""
        return Rows.single(self.views[0]) if self.count == 1 else self.addressed()

    def addressed(self) -> Addressed:
        """The same messages, each by its address and length."""
        import numpy as np

        addresses = np.fromiter((view.data_ptr() for view in self.views), np.uint64, self.count)
        lengths = np.fromiter((view.numel() for view in self.views), np.int64, self.count)
        return Addressed(addresses.view(np.int64), lengths, self.device, self.views)


@dataclass(frozen=True)
class Addressed:
    """Messages each by its address and length. Drivers make them of parts of the caller's messages, which
    stay where they are."""

    addresses: np.ndarray[Any, Any]
    """int64; addresses of 2**63 and more are negative (see :func:`signed`)."""
    lengths: np.ndarray[Any, Any]
    """int64, in bytes."""
    device: torch.device
    memory: Any
    """Whatever owns the memory; it is kept alive as long as this object."""

    @property
    def count(self) -> int:
        return len(self.addresses)

    def longest(self) -> int:
        """The length of the longest message in bytes."""
        return int(max(self.lengths, default=0))

    def volume(self) -> int:
        """Bytes in all messages together."""
        return int(self.lengths.sum())

    def chosen(self, indices: np.ndarray[Any, Any]) -> Addressed:
        """The messages at ``indices``, in that order."""
        return replace(self, addresses=self.addresses[indices], lengths=self.lengths[indices])

    def places(self) -> Addressed:
        return self


Messages = Rows | Ragged
"""What a caller's batch becomes."""
Places = Rows | Addressed
"""What kernels can be told of: rows in their arguments, addresses in a table."""
AnyMessages = Rows | Ragged | Addressed
