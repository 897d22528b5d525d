"""How messages are divided among lanes: into the pieces of a CRC, BLAKE3's chunks, or Poly1305's parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..messages.layout import Places, Rows

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Division:
    """The shares into which messages are divided; they are numbered through all messages."""

    total: int
    """Shares of all messages together."""
    per_row: int
    """Shares of each message in rows; 1 for messages at addresses."""
    firsts: np.ndarray[Any, Any]
    """The number of each message's first share; empty for rows, where ``per_row`` tells it."""


def divide(places: Places, shares: Callable[[Any], Any]) -> Division:
    """``shares`` gives the number of shares for NumPy integers that are lengths of messages. A row that is
    shorter than the others is divided as they are: its last shares are empty."""
    import numpy as np

    if isinstance(places, Rows):
        per_row = int(shares(np.int64(places.longest())))
        return Division(places.count * per_row, per_row, np.empty(0, np.int64))
    counts = shares(places.lengths)
    return Division(int(counts.sum()), 1, np.cumsum(counts) - counts)


def table_of(places: Places, *facts: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """A table for ``Host.placement`` in the order of the batch: addresses, lengths, and ``facts`` about each
    message. None for rows."""
    import numpy as np

    return None if isinstance(places, Rows) else np.stack([places.addresses, places.lengths, *facts])
