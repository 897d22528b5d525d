"""fs-verity: the digest that the Linux kernel gives to a file, and the Merkle tree behind it.

Linux 6.12, Documentation/filesystems/fsverity.rst, sections "Merkle tree" and "fs-verity descriptor". The
program ``fsverity`` (fsverity-utils) computes the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from .. import algorithms
from ..files import Progress, read_blocks
from ..hashing import new
from .blocks import BlockTree, check_block_size, check_salt

__all__ = ["HASHES", "Measurement", "Running", "measure", "measure_file"]

# The numbers of FS_VERITY_HASH_ALG_SHA256 and _SHA512 in the kernel's include/uapi/linux/fsverity.h.
HASHES: Mapping[str, int] = MappingProxyType({"sha256": 1, "sha512": 2})
"""The hashes that fs-verity has, with their numbers in a descriptor."""
_VERSION = 1
_LEAST_BLOCK, _MOST_BLOCK = 1024, 65536
_MOST_SALT = 32
_ROOT_FIELD, _RESERVED = 64, 144  # bytes in fields of the descriptor


@dataclass(frozen=True)
class Measurement:
    """What fs-verity says of a file."""

    algorithm: str
    block_size: int
    salt: bytes
    size: int
    """Bytes in the file."""
    root: bytes
    """The root of the Merkle tree, which is zero for an empty file."""
    merkle_tree: bytes | None
    """The blocks of the tree, the root's level first, as ``fsverity digest --out-merkle-tree`` writes them;
    None if the tree was not asked for."""

    @property
    def descriptor(self) -> bytes:
        """The 256 bytes of ``struct fsverity_descriptor``, without a signature."""
        return (
            bytes((_VERSION, HASHES[self.algorithm], self.block_size.bit_length() - 1, len(self.salt)))
            + bytes(4)
            + self.size.to_bytes(8, "little")
            + self.root.ljust(_ROOT_FIELD, b"\0")
            + self.salt.ljust(_MOST_SALT, b"\0")
            + bytes(_RESERVED)
        )

    @property
    def digest(self) -> bytes:
        """The file digest: the hash of the descriptor."""
        return new(self.algorithm, self.descriptor).digest()


class Running:
    """The digest of a file whose bytes come in pieces. Raises as :func:`measure` does."""

    def __init__(
        self,
        algorithm: str = "sha256",
        *,
        block_size: int = 4096,
        salt: bytes = b"",
        keep_tree: bool = False,
        backend: str | None = None,
    ) -> None:
        record = algorithms.get(algorithm)
        if record.name not in HASHES:
            raise ValueError(f"fs-verity has {' and '.join(HASHES)}, not {record.name}")
        check_block_size(block_size, "block_size", _LEAST_BLOCK, _MOST_BLOCK)
        check_salt(salt, _MOST_SALT)
        self._algorithm, self._block_size, self._salt = record.name, block_size, salt
        padded = salt + bytes(-len(salt) % record.block_size)
        self._keep = keep_tree
        self._root_size = record.digest_size
        self._tree = BlockTree(record, block_size, block_size, salt=padded, keep=keep_tree, backend=backend)
        self._found: Measurement | None = None

    def update(self, data: Any, /) -> None:
        """Append bytes-like data, or a tensor, which is hashed where it is.

        Raises RuntimeError once the digest was asked for.
        """
        if self._found is not None:
            raise RuntimeError("the file has ended: its digest was asked for")
        self._tree.update(data)

    def measurement(self) -> Measurement:
        if self._found is None:
            root = self._tree.finish() or bytes(self._root_size)
            tree = b"".join(reversed(self._tree.levels())) if self._keep else None
            self._found = Measurement(
                self._algorithm, self._block_size, self._salt, self._tree.size, root, tree
            )
        return self._found

    def digest(self) -> bytes:
        return self.measurement().digest


def measure(
    data: Any,
    algorithm: str = "sha256",
    *,
    block_size: int = 4096,
    salt: bytes = b"",
    keep_tree: bool = False,
    backend: str | None = None,
) -> Measurement:
    """The measurement of a file with these bytes: a bytes-like object, or a tensor on any device.

    ``algorithm`` is ``"sha256"`` or ``"sha512"``, ``block_size`` a power of two from 1024 to 65536, and
    ``salt`` has at most 32 bytes. ``keep_tree`` asks for the blocks of the tree.

    Raises ValueError for another value of these, and as :func:`integrity_triton.hash_chunks` does.
    """
    running = Running(algorithm, block_size=block_size, salt=salt, keep_tree=keep_tree, backend=backend)
    running.update(data)
    return running.measurement()


def measure_file(
    path: str | os.PathLike[str],
    algorithm: str = "sha256",
    *,
    block_size: int = 4096,
    salt: bytes = b"",
    keep_tree: bool = False,
    backend: str | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """The measurement of a file, which need not be under fs-verity. Unless the tree is kept, the memory that
    this takes does not depend on the file's size. Raises as :func:`measure` does, and OSError if the file
    cannot be read."""
    running = Running(algorithm, block_size=block_size, salt=salt, keep_tree=keep_tree, backend=backend)
    for piece in read_blocks(path, block_size):
        running.update(piece)
        if progress is not None:
            progress(len(piece))
    return running.measurement()
