"""One message that comes in pieces."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any

from .moving import capturing

if TYPE_CHECKING:
    import torch


class Stream(abc.ABC):
    """The running state of one message. ``digest`` leaves it as it was."""

    @abc.abstractmethod
    def update(self, data: Any) -> None:
        """Absorb ``data``: a flat memoryview of bytes, or a flat contiguous uint8 tensor."""

    @abc.abstractmethod
    def digest(self, length: int, seek: int) -> bytes:
        """``length`` bytes of output from byte ``seek`` on."""

    @abc.abstractmethod
    def copy(self) -> Stream:
        """An independent stream with the same state."""


def piece_on(data: Any, device: torch.device) -> torch.Tensor:
    """What :meth:`Stream.update` was given as a flat uint8 tensor on ``device``.

    Raises RuntimeError while a graph is being captured: replays would not change the stream.
    """
    import numpy as np
    import torch

    if capturing(device):
        raise RuntimeError(
            "a running hash cannot be updated while a graph is being captured, because a replay would not "
            "change it; capture hash_batch or hash_chunks instead"
        )
    if isinstance(data, torch.Tensor):
        return data.to(device)
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy()).to(device)
