"""The hashes of what is loaded: those of the registry, and those that are made of them for whole files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ... import algorithms
from ...batch import hash_chunks
from ...hashing import new
from ...messages.tensors import is_tensor
from ..errors import ManifestError
from ..file_digests import FSVERITY_SIZES, GIT_SIZES

_FSVERITY_BLOCK = 4096
_FSVERITY_VERSION = 1
_FSVERITY_HASHES = {"fsverity-sha256": (1, "sha256", 64), "fsverity-sha512": (2, "sha512", 128)}
_GIT_HASHES = {"git-sha1": "sha1", "git-sha256": "sha256"}
_PIECE = 1 << 20


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
        return _FsVerity(self.algorithm, self.salt, backend)


class _Extendable:
    def __init__(self, hasher: Any, length: int) -> None:
        self.update = hasher.update
        self._hasher = hasher
        self._length = length

    def digest(self) -> bytes:
        found: bytes = self._hasher.digest(self._length)
        return found


class _FsVerity:
    """The digest of a file under fs-verity with blocks of 4096 bytes.

    Linux, Documentation/filesystems/fsverity.rst, sections "Merkle tree" and "fs-verity descriptor". A salt
    is padded to the block size of the hash, and comes before each block.
    """

    def __init__(self, algorithm: str, salt: bytes, backend: str | None) -> None:
        self._number, self._hash, block = _FSVERITY_HASHES[algorithm]
        self._salt = salt
        self._padded_salt = salt + bytes(-len(salt) % block)
        self._backend = backend
        self._size = 0
        self._rest = bytearray()
        self._leaves: list[bytes] = []

    def update(self, data: Any) -> None:
        view = memoryview(data.cpu().numpy().data if is_tensor(data) else data).cast("B")
        self._size += len(view)
        if self._rest:
            missing = _FSVERITY_BLOCK - len(self._rest)
            self._rest += view[:missing]
            view = view[missing:]
            if len(self._rest) < _FSVERITY_BLOCK:
                return
            self._leaves.append(self._blocks(memoryview(bytes(self._rest))))
            self._rest.clear()
        whole = len(view) - len(view) % _FSVERITY_BLOCK
        for start in range(0, whole, _PIECE):
            self._leaves.append(self._blocks(view[start : min(start + _PIECE, whole)]))
        self._rest += view[whole:]

    def _blocks(self, view: memoryview) -> bytes:
        """The hashes of whole blocks, one after the other."""
        if not self._padded_salt:
            digests = hash_chunks(view, self._hash, chunk_size=_FSVERITY_BLOCK, backend=self._backend)
            return digests.cpu().numpy().tobytes()
        parts = (view[i : i + _FSVERITY_BLOCK] for i in range(0, len(view), _FSVERITY_BLOCK))
        return b"".join(self._digest_of([self._padded_salt, part]) for part in parts)

    def _digest_of(self, parts: Sequence[bytes | memoryview]) -> bytes:
        hasher = new(self._hash, backend=self._backend)
        for part in parts:
            hasher.update(part)
        return hasher.digest()

    def digest(self) -> bytes:
        if self._rest:
            self._leaves.append(self._blocks(memoryview(bytes(self._rest.ljust(_FSVERITY_BLOCK, b"\0")))))
        level = b"".join(self._leaves)
        width = FSVERITY_SIZES[f"fsverity-{self._hash}"]
        while len(level) > width:
            level = self._blocks(memoryview(level + bytes(-len(level) % _FSVERITY_BLOCK)))
        root = level if self._size else bytes(width)  # the root of an empty file is zero
        descriptor = (
            bytes((_FSVERITY_VERSION, self._number, _FSVERITY_BLOCK.bit_length() - 1, len(self._salt)))
            + bytes(4)
            + self._size.to_bytes(8, "little")
            + root.ljust(64, b"\0")
            + self._salt.ljust(32, b"\0")
            + bytes(144)
        )
        return self._digest_of([descriptor])
