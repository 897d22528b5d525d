"""Moving tensors between the host and devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``tensor`` on ``device``, without waiting for the device. A copy from pageable memory could wait, so it
    is made from pinned memory, which torch's caching host allocator keeps until the copy is done."""
    if tensor.device == device or tensor.device.type != "cpu" or device.type == "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
