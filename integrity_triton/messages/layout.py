"""Where messages are in memory: in rows of one tensor, in a view each, or at addresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Rows:
    """Messages at equal distances in one tensor: row i starts ``i * stride`` bytes into ``data``.

    Every row is ``length`` bytes long but for the last, which may be shorter: ``total`` bytes end
    the data as seen from its first byte.
    """

    data: torch.Tensor
    """Flat uint8, or a 2-D tensor of any dtype with dense rows; it starts with row 0."""
    address: int
    count: int
    stride: int
    length: int
    total: int

    @property
    def device(self) -> torch.device:
        return self.data.device

    def row_length(self, i: int) -> int:
        return max(0, min(self.length, self.total - i * self.stride))


@dataclass(frozen=True)
class Ragged:
    """Messages of any lengths, each a flat contiguous uint8 tensor on ``device``."""

    views: Sequence[torch.Tensor]
    device: torch.device

    @property
    def count(self) -> int:
        return len(self.views)


Messages = Rows | Ragged


@dataclass(frozen=True)
class Addressed:
    """Messages that drivers make out of callers' messages, by address: parts of them, in place."""

    addresses: np.ndarray[Any, Any]
    """int64, those of 2**63 and more as negative numbers."""
    lengths: np.ndarray[Any, Any]
    """int64, in bytes."""
    device: torch.device
    memory: Any
    """Whatever owns the memory."""

    @property
    def count(self) -> int:
        return len(self.addresses)


AnyMessages = Messages | Addressed


def addressed(messages: Messages) -> Addressed:
    """Where the messages are, and how long."""
    import numpy as np

    if isinstance(messages, Rows):
        offsets = messages.stride * np.arange(messages.count, dtype=np.int64)
        lengths = np.clip(messages.total - offsets, 0, messages.length)
        addresses = np.uint64(messages.address) + offsets.view(np.uint64)
        return Addressed(addresses.view(np.int64), lengths, messages.device, messages.data)
    addresses = np.fromiter((view.data_ptr() for view in messages.views), np.uint64, messages.count)
    lengths = np.fromiter((view.numel() for view in messages.views), np.int64, messages.count)
    return Addressed(addresses.view(np.int64), lengths, messages.device, messages.views)


def rows_of(data: torch.Tensor) -> Rows:
    """The rows of a dense 2-D uint8 tensor as messages."""
    count, size = data.shape
    return Rows(data, data.data_ptr(), count, size, size, count * size)


def message(messages: Messages, i: int) -> Messages:
    """Message ``i`` alone."""
    if isinstance(messages, Ragged):
        return Ragged([messages.views[i]], messages.device)
    size, start = messages.row_length(i), i * messages.stride
    data = messages.data[i:] if messages.data.dim() == 2 else messages.data[start:]
    return Rows(data, messages.address + start, 1, messages.stride, size, size)


def on_device(messages: Messages, device: torch.device) -> Messages:
    """The messages on ``device``: the same ones where they are there already, else a copy."""
    if device == messages.device:
        return messages
    if isinstance(messages, Rows):
        data = messages.data.to(device)
        stride = data.stride(0) * data.element_size() if data.dim() == 2 else messages.stride
        return replace(messages, data=data, address=data.data_ptr(), stride=stride)
    return Ragged([view.to(device) for view in messages.views], device)


def view_of(messages: Messages, i: int) -> torch.Tensor:
    """Message ``i`` as a flat uint8 tensor over the same memory."""
    import torch

    if isinstance(messages, Ragged):
        return messages.views[i]
    if messages.data.dim() == 2:
        return messages.data[i].view(torch.uint8)
    start = i * messages.stride
    return messages.data[start : start + messages.row_length(i)]
