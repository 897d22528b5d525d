"""Which hashes a manifest may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import algorithms
from ..algorithms import Algorithm
from ..algorithms.record import LEAST_COLLISION_BITS
from ..errors import BackendUnavailable
from ..hashing import new
from .errors import ManifestError

LEAST_SIZE = 2 * LEAST_COLLISION_BITS // 8
"""Bytes in the shortest digest that resists collisions."""
_LARGEST_SIZE = 1024  # far beyond any use; it bounds the text of a manifest


@dataclass(frozen=True)
class TensorHash:
    """The hash of a manifest's tensors and root."""

    algorithm: Algorithm
    length: int | None
    """Bytes of extendable output; None for the default."""

    @classmethod
    def of(cls, name: str, length: int | None = None) -> TensorHash:
        """The hash that is called ``name``, with ``length`` bytes of output if that is extendable.

        Raises ManifestError, which says what is allowed, for an algorithm that is unknown, keyed or not
        collision resistant, or that hashes tuples, and for a length that it does not offer or that is too
        short. Raises TypeError for a length that is not an int.
        """
        try:
            record = algorithms.get(name)
        except ValueError as error:
            raise ManifestError(str(error)) from None
        if record.keyed == "required":
            raise ManifestError(f"{record.name} needs a key; a manifest is made with a hash")
        if record.takes_tuples:
            raise ManifestError(
                f"{record.name} hashes tuples of byte strings, and a tensor is not one; a manifest takes "
                f"{_allowed()}"
            )
        if not collision_resistant(record):
            raise ManifestError(
                f"{record.name} is not collision resistant enough for a manifest ({record.security_note}); "
                f"a manifest takes {_allowed()}"
            )
        if length is None and record.digest_size == 0:
            raise ManifestError(
                f"{record.name} has no default length; state the length of the digests in bytes, from "
                f"{LEAST_SIZE} to {_LARGEST_SIZE}"
            )
        try:
            size = record.check_length(length, {})
        except ValueError as error:
            raise ManifestError(str(error)) from None
        if not LEAST_SIZE <= size <= _LARGEST_SIZE:
            raise ManifestError(
                f"digests in a manifest have {LEAST_SIZE} to {_LARGEST_SIZE} bytes, not {size}; shorter "
                "ones are not collision resistant enough"
            )
        return cls(record, None if size == record.digest_size else size)

    @property
    def name(self) -> str:
        return self.algorithm.name

    @property
    def digest_size(self) -> int:
        """Bytes in a digest."""
        return self.algorithm.digest_size if self.length is None else self.length

    def __reduce__(self) -> tuple[Any, ...]:
        return TensorHash.of, (self.name, self.length)  # a record cannot be pickled

    def digest(self, data: bytes) -> bytes:
        """The digest of ``data``. It comes from the CPU library if that has the algorithm, and from any
        other backend otherwise, since no device holds the data."""
        try:
            hasher = new(self.name, data, backend="native")
        except BackendUnavailable:
            hasher = new(self.name, data)
        return hasher.digest(self.length)


def collision_resistant(record: Algorithm) -> bool:
    """Whether nobody can find two messages with the same digest."""
    return record.collision_resistant


def _allowed() -> str:
    names = []
    for record in algorithms.all_algorithms():
        if record.keyed != "required" and not record.takes_tuples and collision_resistant(record):
            names.append(f"{record.name} (with a length)" if record.digest_size == 0 else record.name)
    return ", ".join(names)
