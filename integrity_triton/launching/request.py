"""What was asked for when kernels are launched, as far as the choice of a self-test depends on it."""

from __future__ import annotations

from dataclasses import dataclass

from ..algorithms import Algorithm
from ..messages.layout import Messages, Rows


@dataclass(frozen=True)
class Request:
    """An algorithm, and the form in which its messages came."""

    algorithm: Algorithm
    shape: str
    """"table", "rows", "stream" or "chain"."""
    per_message: bool = False
    """Whether a parameter, such as the key, has one value for each message."""
    messages: Messages | None = None

    def longest(self) -> int | None:
        """The length of the longest message in bytes, or None where it is not known."""
        if isinstance(self.messages, Rows):
            return self.messages.length
        return None if self.messages is None else max(view.numel() for view in self.messages.views)
