"""Moving tensors between the host and devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


_captured: list[torch.Tensor] = []
"""Host memory from which graphs copy at each replay. It is kept until the process ends, since torch does
not tell when a graph is released."""


def capturing(device: torch.device) -> bool:
    """Whether what is queued on the device's current stream is not run, but recorded as part of a graph."""
    import torch

    if device.type == "cpu":
        return False
    ask = getattr(torch.get_device_module(device), "is_current_stream_capturing", None)
    return ask is not None and bool(ask())


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``tensor`` on ``device``, without waiting for the device. A copy from pageable memory could wait, so it
    is made from pinned memory, which torch's caching host allocator keeps until the copy is done.

    While a graph is being captured, the pinned memory is a copy that nobody else has, and is never released.
    Each replay therefore copies the same bytes.
    """
    if not _is_upload(tensor, device):
        return tensor.to(device)
    pinned = _pinned(tensor)
    if capturing(device):
        _captured.append(pinned)
    return pinned.to(device, non_blocking=True, copy=True)


def _is_upload(tensor: torch.Tensor, device: torch.device) -> bool:
    return tensor.device.type == "cpu" and device.type != "cpu"


def _pinned(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in pinned memory, also of a tensor that is pinned itself, since its owner may change it."""
    import torch

    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor)
