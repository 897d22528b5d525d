"""The keywords that an algorithm takes beside its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class ValuesPerMessage:
    """The values of a parameter of type bytes, one for each message of a batch, as far as a record checks
    them. ``messages/per_message.py`` implements it."""

    sizes: tuple[int, ...]
    """The length of each value in bytes."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One keyword that a constructor takes beside its data."""

    name: str
    type: type
    doc: str
    default: Any = None
    min_size: int | None = None
    """For ``bytes``: fewest bytes allowed."""
    max_size: int | None = None
    minimum: int | None = None
    """For ``int``: the range allowed, both ends included."""
    maximum: int | None = None
    choices: tuple[Any, ...] | None = None
    sizes: tuple[int, ...] | None = None
    """For ``bytes``: the only lengths allowed, where they are no range."""
    excludes: tuple[str, ...] = ()
    """Parameters that may not be given together with this one."""
    required: bool = False
    """Whether there is no default; a key's own is in the algorithm's ``keyed``."""
    per_message: bool = False
    """For ``bytes``: whether each message of a batch may have its own."""

    def check(self, algorithm: str, value: Any) -> Any:
        """Return ``value`` in canonical form, or raise TypeError or ValueError naming what is allowed.

        Errors tell lengths and types of bytes alone, which may be a key.
        """
        label = f"{algorithm}: {self.name}"
        if isinstance(value, ValuesPerMessage):
            return self._check_each(label, value)
        if self.type is bytes:
            try:
                view = memoryview(value)
            except TypeError:
                raise TypeError(f"{label} must be bytes-like, not {type(value).__name__}") from None
            if not view.c_contiguous:
                raise BufferError(f"{label} must be a C-contiguous buffer")
            value = bytes(view)
            if not self.allows(len(value)):
                raise ValueError(f"{label} must be {self._sizes()} long, not {len(value)}")
            return value
        if (self.type is int and isinstance(value, bool)) or not isinstance(value, self.type):
            raise TypeError(f"{label} must be {self.type.__name__}, not {type(value).__name__}")
        if self.choices is not None and value not in self.choices:
            raise ValueError(f"{label} must be one of {', '.join(map(repr, self.choices))}, not {value!r}")
        if isinstance(value, int):
            self._check_range(label, value)
        return value

    def _check_each(self, label: str, values: ValuesPerMessage) -> ValuesPerMessage:
        if not self.per_message:
            raise TypeError(f"{label} is one for all messages of a batch")
        for i, size in enumerate(values.sizes):
            if not size or not self.allows(size):
                raise ValueError(f"{label} of message {i} must be {self._sizes()} long, not {size}")
        return values

    def allows(self, size: int) -> bool:
        """For ``bytes``: whether a value may be so many long."""
        if self.sizes is not None:
            return size in self.sizes
        return size >= (self.min_size or 0) and (self.max_size is None or size <= self.max_size)

    def _sizes(self) -> str:
        if self.sizes is not None:
            return " or ".join(map(str, self.sizes)) + " bytes"
        low, high = self.min_size or 0, self.max_size
        if high is None:
            return f"at least {low} bytes"
        return f"{low} bytes" if low == high else f"{low} to {high} bytes"

    def _check_range(self, label: str, value: int) -> None:
        below = self.minimum is not None and value < self.minimum
        if below or (self.maximum is not None and value > self.maximum):
            raise ValueError(f"{label} must be {self._range()}, not {value}")

    def _range(self) -> str:
        if self.minimum is None or self.maximum is None:
            return f"at least {self.minimum}" if self.maximum is None else f"at most {self.maximum}"
        return f"between {self.minimum} and {self.maximum}"
