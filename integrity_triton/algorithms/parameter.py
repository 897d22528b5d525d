"""Parameters are the keywords that an algorithm takes besides its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class ValuesPerMessage:
    """Holds the values of a parameter of type bytes, one for each message of a batch. This class has only
    what a record needs to check them; ``messages/per_message.py`` implements it."""

    sizes: tuple[int, ...]
    """The length of each value in bytes."""


_INTEGERS = frozenset("cbBhHiIlLqQnN")  # formats of the buffer protocol


def octets(value: Any, label: str) -> bytes:
    """The octet string in a bytes-like object, which has one dimension.

    Raises as :func:`octet_view` does.
    """
    return bytes(octet_view(value, label, 1))


def octet_view(value: Any, label: str, dimensions: int) -> memoryview:
    """A bytes-like object as a view whose items are bytes or integers. Integers that are wider than a byte
    are taken as they lie in memory, as hashlib does.

    Raises TypeError for another object and for other items, such as floats and pointers to Python objects;
    ValueError for another number of dimensions, and BufferError for a buffer that is not C-contiguous.
    ``label`` names the value in the messages, which do not contain it, because it may be a key.
    """
    try:
        view = memoryview(value)
    except TypeError:
        hint = "; text must be encoded, for example text.encode()" if isinstance(value, str) else ""
        raise TypeError(f"{label} must be bytes-like, not {type(value).__name__}{hint}") from None
    except ValueError as error:  # for example from an array of datetime64
        raise TypeError(f"{label} must be bytes-like: {error}") from None
    if view.format.lstrip("@=<>!") not in _INTEGERS:
        kind = getattr(value, "dtype", None) or f"items of format {view.format!r}"
        raise TypeError(f"{label} must be bytes-like, that is of bytes or integers, not of {kind}")
    if view.ndim != dimensions:
        raise ValueError(f"{label} must be {dimensions}-D, not {view.ndim}-D")
    if not view.c_contiguous:
        raise BufferError(f"{label} must be a C-contiguous buffer")
    return view


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """Describes one keyword that a constructor takes besides its data."""

    name: str
    type: type
    doc: str
    default: Any = None
    min_size: int | None = None
    """For ``bytes``, the smallest length allowed; ``max_size`` is the largest."""
    max_size: int | None = None
    minimum: int | None = None
    """For ``int``, ``minimum`` and ``maximum`` are the ends of the range allowed, and belong to it."""
    maximum: int | None = None
    choices: tuple[Any, ...] | None = None
    sizes: tuple[int, ...] | None = None
    """For ``bytes``, the only lengths allowed, if these do not form a range."""
    excludes: tuple[str, ...] = ()
    """Parameters that may not be given together with this one."""
    required: bool = False
    """Whether the parameter must be given. For a parameter ``key``, the algorithm's ``keyed`` says so
    instead."""
    per_message: bool = False
    """For ``bytes``, whether each message of a batch may have a value of its own."""

    def check(self, algorithm: str, value: Any) -> Any:
        """Return ``value`` in canonical form.

        Raises TypeError for a value of the wrong type, ValueError for a value, a length or a number of
        dimensions that is not allowed, and BufferError for a buffer that is not C-contiguous. The messages
        say what is allowed. For ``bytes``, which may be a key, they contain the type or the length but never
        the value.
        """
        label = f"{algorithm}: {self.name}"
        if isinstance(value, ValuesPerMessage):
            return self._check_each(label, value)
        if self.type is bytes:
            value = octets(value, label)
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
            raise TypeError(f"{label} must be the same for all messages of a batch")
        for i, size in enumerate(values.sizes):
            if not size or not self.allows(size):
                raise ValueError(f"{label} of message {i} must be {self._sizes()} long, not {size}")
        return values

    def allows(self, size: int) -> bool:
        """For ``bytes``, return whether a value may be ``size`` bytes long."""
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
