"""One message that comes in pieces."""

from __future__ import annotations

import abc
from typing import Any


class Stream(abc.ABC):
    """The running state of one message. ``digest`` leaves it as it was."""

    @abc.abstractmethod
    def update(self, data: Any) -> None:
        """Absorb ``data``: a flat memoryview of bytes, or a flat contiguous uint8 tensor."""

    @abc.abstractmethod
    def digest(self, length: int, seek: int) -> bytes:
        """``length`` bytes of output from byte ``seek`` on."""

    @abc.abstractmethod
    def copy(self) -> Stream: ...
