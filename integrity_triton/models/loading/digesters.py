"""The hashes of what is loaded: those of the registry, and those that are made of them for whole files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ... import algorithms
from ...hashing import new
from ...trees import fs_verity
from ..errors import ManifestError
from ..file_digests import FSVERITY_SIZES, GIT_SIZES

_GIT_HASHES = {"git-sha1": "sha1", "git-sha256": "sha256"}


class Running(Protocol):
    """A hash of one message that comes in pieces."""

    def update(self, data: Any, /) -> None: ...

    def digest(self) -> bytes: ...


@dataclass(frozen=True)
class Digester:
    """How the bytes of one message become a digest.

    ``algorithm`` is a name of this package, or a key of :data:`FSVERITY_SIZES` or :data:`GIT_SIZES`.
    ``length`` is in bytes. Raises ManifestError for any other algorithm.
    """

    algorithm: str
    length: int
    salt: bytes = b""

    def __post_init__(self) -> None:
        if self.algorithm not in {*FSVERITY_SIZES, *GIT_SIZES}:
            try:
                algorithms.get(self.algorithm)
            except ValueError:
                raise ManifestError(
                    f"{self.algorithm} cannot be checked while a model is loaded; check the files with it "
                    "first, or take a list of another algorithm"
                ) from None

    @property
    def plain(self) -> algorithms.Algorithm | None:
        """The record of the algorithm; None if it is one for whole files that is made of another."""
        if self.algorithm in {*FSVERITY_SIZES, *GIT_SIZES}:
            return None
        return algorithms.get(self.algorithm)

    def start(self, size: int, backend: str | None, *, alone: bool = True) -> Running:
        """A running hash of a message of ``size`` bytes.

        If the hash is not ``alone``, others run on the other processors at the same time: the CPU library
        then hashes on the calling thread. Dividing pieces among threads that are busy takes twice as long.
        """
        record = self.plain
        if record is not None and not alone and record.native is not None and record.native_one_message:
            hasher = algorithms.load_reference(record.native)()
            return _Extendable(hasher, self.length) if record.xof else hasher
        if record is not None:
            hasher = new(record.name, backend=backend)
            return _Extendable(hasher, self.length) if record.xof else hasher
        if self.algorithm in GIT_SIZES:
            return new(_GIT_HASHES[self.algorithm], b"blob %d\0" % size, backend=backend)
        hash_name = self.algorithm.removeprefix("fsverity-")
        return fs_verity.Running(hash_name, salt=self.salt, backend=backend)


class _Extendable:
    def __init__(self, hasher: Any, length: int) -> None:
        self.update = hasher.update
        self._hasher = hasher
        self._length = length

    def digest(self) -> bytes:
        found: bytes = self._hasher.digest(self._length)
        return found
