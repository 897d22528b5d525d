"""One tensor of a manifest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from .dtypes import DTYPE_BITS, LARGEST_SIZE, byte_length
from .errors import ManifestError, shown


def check_name(name: Any) -> None:
    """Raise TypeError unless ``name`` is a str, ManifestError unless it is Unicode text."""
    if not isinstance(name, str):
        raise TypeError(f"a tensor is named by a str, not {type(name).__name__}")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise ManifestError(f"tensor name {shown(name)} has a lone surrogate, which is not text") from None


@dataclass(frozen=True, order=True)
class TensorEntry:
    """A tensor's names, dtype, shape and digest.

    Raises ManifestError if they contradict each other, and TypeError for a field of another type.
    """

    name: str
    """The first of its names, in the order of Unicode code points."""
    dtype: str
    """safetensors' spelling, for example ``F32``, ``BF16``, ``F8_E4M3``."""
    shape: tuple[int, ...]
    nbytes: int
    digest: bytes
    """The digest of the tensor's bytes, which are its elements in C order, little-endian."""
    tied: tuple[str, ...] = ()
    """Further names of the same tensor, in order. In a live model they must be the same memory."""

    def __post_init__(self) -> None:
        check_name(self.name)
        label = f"tensor {shown(self.name)}"
        if not isinstance(self.shape, tuple) or not isinstance(self.digest, bytes):
            raise TypeError(f"{label}: shape must be a tuple and digest bytes")
        if not isinstance(self.tied, tuple):
            raise TypeError(f"{label}: tied must be a tuple of names")
        for name in self.tied:
            check_name(name)
        for before, after in pairwise(self.names):
            if before >= after:
                raise ManifestError(
                    f"{label}: its names must be in order and not occur twice, but {shown(before)} comes "
                    f"before {shown(after)}"
                )
        if self.dtype not in DTYPE_BITS:
            raise ManifestError(f"{label}: unknown dtype {shown(str(self.dtype))}")
        for size in (*self.shape, self.nbytes):
            if type(size) is not int or not 0 <= size <= LARGEST_SIZE:
                raise ManifestError(f"{label}: a size must be an integer from 0 to 2**63 - 1, got {size!r}")
        if byte_length(self.dtype, self.shape) != self.nbytes:
            raise ManifestError(f"{label}: its dtype and shape do not take {self.nbytes} bytes")

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the tensor, in order."""
        return (self.name, *self.tied)

    def called(self, names: Iterable[str]) -> TensorEntry:
        """The same tensor under other names, in any order."""
        first, *others = sorted(names)
        return replace(self, name=first, tied=tuple(others))

    def to_dict(self) -> dict[str, Any]:
        """The entry as in a manifest's JSON."""
        return {
            "name": self.name,
            **({"tied": list(self.tied)} if self.tied else {}),
            "dtype": self.dtype,
            "shape": list(self.shape),
            "nbytes": self.nbytes,
            "digest": self.digest.hex(),
        }
