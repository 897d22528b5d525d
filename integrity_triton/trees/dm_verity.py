"""dm-verity: the hash tree with which the Linux kernel verifies a block device, and its root.

Linux 6.12, Documentation/admin-guide/device-mapper/verity.rst, section "Hash Tree", and for the superblock
cryptsetup 2.6, ``lib/verity/verity.c``. Only hash type 1 is here; type 0 is that of the first Chrome OS. What
is written is what ``veritysetup format`` writes.

Roots alone do not say how large an image is: the blocks of hashes of an image are themselves an image with
the same root and one level less. Whoever verifies has to know the size, too.
"""

from __future__ import annotations

import hmac
import os
import uuid as uuids
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .. import algorithms
from ..algorithms import Algorithm
from ..errors import IntegrityError
from ..files import Progress, read_blocks
from ..messages.from_caller import flat_bytes
from ..messages.tensors import host_memory
from ..strict_json import shown
from .blocks import BlockTree, check_block_size, check_salt

if TYPE_CHECKING:
    import torch

__all__ = ["HASHES", "HashTree", "Superblock", "format", "format_file", "verify", "verify_files"]

HASHES: Mapping[str, str] = MappingProxyType(
    {
        "sha1": "sha1",
        "sha224": "sha224",
        "sha256": "sha256",
        "sha384": "sha384",
        "sha512": "sha512",
        "sha3_224": "sha3-224",
        "sha3_256": "sha3-256",
        "sha3_384": "sha3-384",
        "sha3_512": "sha3-512",
        "blake2b": "blake2b-512",
        "blake2s": "blake2s-256",
        "ripemd160": "ripemd160",
        "sm3": "sm3",
    }
)
"""The hashes for dm-verity, with the names that the kernel and a superblock have for them. Which of them a
kernel or a ``veritysetup`` has depends on how it was built."""
_OURS = {kernel: name for name, kernel in HASHES.items()} | {"rmd160": "ripemd160"}

_NO_UUID = uuids.UUID(int=0)
_SIGNATURE = b"verity\0\0"
_SUPERBLOCK_SIZE = 512
_MOST_SALT = 256
_LEAST_BLOCK, _MOST_BLOCK = 512, 524288
_SECTOR = 512
_MOST_DATA = 1 << 63  # bytes; the kernel counts sectors in 64 bits, and files have no more
_SHOWN = 3  # blocks that an error names


@dataclass(frozen=True)
class Superblock:
    """What a hash device says of itself. The root protects nothing of it.

    Raises ValueError for anything that no superblock of hash type 1 can say, and TypeError for a field of
    another type.
    """

    algorithm: str = "sha256"
    data_block_size: int = 4096
    hash_block_size: int = 4096
    data_blocks: int = 1
    salt: bytes = b""
    uuid: uuids.UUID = _NO_UUID

    def __post_init__(self) -> None:
        record = algorithms.get(self.algorithm)
        if record.name not in HASHES:
            raise ValueError(f"dm-verity has {', '.join(HASHES)}, not {record.name}")
        object.__setattr__(self, "algorithm", record.name)
        check_block_size(self.data_block_size, "data_block_size", _LEAST_BLOCK, _MOST_BLOCK)
        check_block_size(self.hash_block_size, "hash_block_size", _LEAST_BLOCK, _MOST_BLOCK)
        check_salt(self.salt, _MOST_SALT)
        if isinstance(self.data_blocks, bool) or not isinstance(self.data_blocks, int):
            raise TypeError(f"data_blocks must be int, not {type(self.data_blocks).__name__}")
        most = _MOST_DATA // self.data_block_size
        if not 1 <= self.data_blocks <= most:
            raise ValueError(f"data_blocks must be between 1 and {most}, got {self.data_blocks}")
        if not isinstance(self.uuid, uuids.UUID):
            raise TypeError(f"uuid must be a uuid.UUID, not {type(self.uuid).__name__}")

    @property
    def record(self) -> Algorithm:
        return algorithms.get(self.algorithm)

    @property
    def slot(self) -> int:
        """Bytes that a hash takes in a block of hashes: the least power of two that is enough."""
        return 1 << (self.record.digest_size - 1).bit_length()

    @property
    def data_size(self) -> int:
        """Bytes of data that the tree covers."""
        return self.data_blocks * self.data_block_size

    def level_blocks(self) -> list[int]:
        """Blocks of hashes on each level, that of the hashes of data first. One block of data has none: its
        hash is the root."""
        blocks, found = self.data_blocks, []
        while blocks > 1:
            blocks = -(-blocks // (self.hash_block_size // self.slot))
            found.append(blocks)
        return found

    def pack(self) -> bytes:
        """The 512 bytes of the superblock."""
        return b"".join(
            (
                _SIGNATURE,
                (1).to_bytes(4, "little"),  # version
                (1).to_bytes(4, "little"),  # hash type
                self.uuid.bytes,
                HASHES[self.algorithm].encode().ljust(32, b"\0"),
                self.data_block_size.to_bytes(4, "little"),
                self.hash_block_size.to_bytes(4, "little"),
                self.data_blocks.to_bytes(8, "little"),
                len(self.salt).to_bytes(2, "little"),
                bytes(6),
                self.salt.ljust(_MOST_SALT, b"\0"),
                bytes(168),
            )
        )

    @classmethod
    def parse(cls, data: bytes) -> Superblock:
        """The superblock in 512 bytes. Raises IntegrityError, which says why, for bytes that are none."""
        if len(data) != _SUPERBLOCK_SIZE:
            raise IntegrityError(f"a superblock has {_SUPERBLOCK_SIZE} bytes, and here are {len(data)}")
        if data[:8] != _SIGNATURE:
            raise IntegrityError("there is no dm-verity superblock here: it does not begin with 'verity'")

        def number(start: int, size: int) -> int:
            return int.from_bytes(data[start : start + size], "little")

        if number(8, 4) != 1:
            raise IntegrityError(f"version {number(8, 4)} of the superblock is not known; 1 is")
        if number(12, 4) != 1:
            raise IntegrityError(f"hash type {number(12, 4)} is not supported; take one of type 1")
        name, _, after = data[32:64].partition(b"\0")
        kernel_name = name.decode("ascii", "replace")
        if kernel_name not in _OURS or any(after):
            raise IntegrityError(f"the superblock names the hash {shown(kernel_name)}, which is not known")
        size = number(80, 2)
        if size > _MOST_SALT:
            raise IntegrityError(f"a salt has at most {_MOST_SALT} bytes, and the superblock says {size}")
        if any(data[82:88]) or any(data[88 + size :]):
            raise IntegrityError("bytes of the superblock that must be zero are not")
        try:
            return cls(
                _OURS[kernel_name],
                number(64, 4),
                number(68, 4),
                number(72, 8),
                data[88 : 88 + size],
                uuids.UUID(bytes=data[16:32]),
            )
        except ValueError as error:
            raise IntegrityError(f"the superblock is not valid: {error}") from None

    def tree(self, *, keep: bool, backend: str | None) -> BlockTree:
        return BlockTree(
            self.record,
            self.data_block_size,
            self.hash_block_size,
            salt=self.salt,
            slot=self.slot,
            keep=keep,
            backend=backend,
        )


@dataclass(frozen=True)
class HashTree:
    """What ``veritysetup format`` makes of an image."""

    superblock: Superblock
    root: bytes
    blocks: bytes
    """The blocks of hashes, the root's level first."""

    @property
    def hash_file(self) -> bytes:
        """The content of the hash device: the superblock, filled to a block, and the blocks of hashes."""
        return _padded_superblock(self.superblock) + self.blocks


def _padded_superblock(superblock: Superblock) -> bytes:
    return superblock.pack().ljust(superblock.hash_block_size, b"\0")


def _described(
    size: int,
    algorithm: str,
    data_block_size: int,
    hash_block_size: int,
    salt: bytes,
    uuid: uuids.UUID | None,
) -> Superblock:
    check_block_size(data_block_size, "data_block_size", _LEAST_BLOCK, _MOST_BLOCK)
    blocks, rest = divmod(size, data_block_size)
    if rest or not blocks:
        raise ValueError(
            f"an image consists of one or more whole blocks of {data_block_size} bytes, and this one has "
            f"{size} bytes; fill it with zeros, or take another data_block_size"
        )
    return Superblock(
        algorithm, data_block_size, hash_block_size, blocks, salt, uuids.uuid4() if uuid is None else uuid
    )


def format(
    data: Any,
    algorithm: str = "sha256",
    *,
    data_block_size: int = 4096,
    hash_block_size: int = 4096,
    salt: bytes = b"",
    uuid: uuids.UUID | None = None,
    backend: str | None = None,
) -> HashTree:
    """The hash tree of an image, bytes-like or a tensor on any device.

    ``algorithm`` is one of ``HASHES``; block sizes are powers of two from 512 to 524288, and ``salt`` has
    at most 256 bytes. ``uuid`` is chosen at random by default.

    Raises ValueError for another value of these and for an image that is not made of whole blocks, and as
    :func:`integrity_triton.hash_chunks` does.
    """
    flat = flat_bytes(data)
    superblock = _described(flat.numel(), algorithm, data_block_size, hash_block_size, salt, uuid)
    return _made(superblock, [flat], backend, None)


def format_file(
    path: str | os.PathLike[str],
    algorithm: str = "sha256",
    *,
    data_block_size: int = 4096,
    hash_block_size: int = 4096,
    salt: bytes = b"",
    uuid: uuids.UUID | None = None,
    backend: str | None = None,
    progress: Progress | None = None,
) -> HashTree:
    """The hash tree of an image in a file or block device, of which few bytes are in memory at a time: the
    tree has 1/128 of them with the default values. Raises as :func:`format` does, OSError if the file cannot
    be read, and EOFError if it becomes shorter."""
    superblock = _described(_size_of(path), algorithm, data_block_size, hash_block_size, salt, uuid)
    return _made(superblock, read_blocks(path, data_block_size, 0, superblock.data_size), backend, progress)


def _size_of(path: str | os.PathLike[str]) -> int:
    """Bytes in a file or block device, whose ``st_size`` would be 0."""
    with open(path, "rb", buffering=0) as file:
        return file.seek(0, os.SEEK_END)


def _made(superblock: Superblock, pieces: Any, backend: str | None, progress: Progress | None) -> HashTree:
    tree = superblock.tree(keep=True, backend=backend)
    for piece in pieces:
        tree.update(piece)
        if progress is not None:
            progress(len(piece))
    root = tree.finish()
    assert root is not None  # there is a block
    return HashTree(superblock, root, b"".join(reversed(tree.levels())))


def verify(
    data: Any,
    hash_file: Any,
    root: bytes,
    *,
    size: int | None = None,
    hash_offset: int = 0,
    backend: str | None = None,
) -> Superblock:
    """Verify an image, bytes-like or a tensor on any device, with its hash file and a root that is trusted,
    and return the superblock.

    ``size`` is the size of the image in bytes, from where the root comes: without it, the blocks of hashes of
    an image pass for an image with the same root. ``hash_offset`` says where in ``hash_file`` the superblock
    is. With an offset, the hash file may be the image itself with the tree behind the data.

    Raises :class:`integrity_triton.IntegrityError`, which names the blocks, if anything differs, if the hash
    file is no valid one or is truncated, and if the image has another size than the tree covers; ValueError
    or TypeError for other arguments that are not valid.
    """
    stored = hash_file if isinstance(hash_file, bytes) else host_memory(flat_bytes(hash_file).cpu()).tobytes()
    flat = flat_bytes(data)

    def read(start: int, count: int) -> bytes:
        return stored[start : start + count]

    superblock = _superblock_at(read, hash_offset, root, size)
    covered = superblock.data_size
    _check_size(superblock, flat.numel(), hash_offset if data is hash_file else None)
    _verify(superblock, read, hash_offset, root, [flat[:covered]], backend, None)
    return superblock


def verify_files(
    path: str | os.PathLike[str],
    hash_path: str | os.PathLike[str],
    root: bytes,
    *,
    size: int | None = None,
    hash_offset: int = 0,
    backend: str | None = None,
    progress: Progress | None = None,
) -> Superblock:
    """Verify an image in a file or block device with its hash file, as :func:`verify` does. The hashes are in
    memory, 1/128 of the image with the usual values. Raises OSError too if a file cannot be read, and
    EOFError if the image becomes shorter."""
    with open(hash_path, "rb") as file:

        def read(start: int, count: int) -> bytes:
            file.seek(start)
            return file.read(count)

        superblock = _superblock_at(read, hash_offset, root, size)
        alike = hash_offset if os.path.samefile(path, hash_path) else None
        _check_size(superblock, _size_of(path), alike)
        pieces = read_blocks(path, superblock.data_block_size, 0, superblock.data_size)
        _verify(superblock, read, hash_offset, root, pieces, backend, progress)
    return superblock


def _superblock_at(read: Any, offset: int, root: bytes, size: int | None) -> Superblock:
    if isinstance(offset, bool) or not isinstance(offset, int):
        raise TypeError(f"hash_offset must be int, not {type(offset).__name__}")
    if offset < 0 or offset % _SECTOR:
        raise ValueError(f"hash_offset must be a multiple of {_SECTOR}, got {offset}")
    if not isinstance(root, bytes):
        raise TypeError(f"root must be bytes, not {type(root).__name__}")
    superblock = Superblock.parse(read(offset, _SUPERBLOCK_SIZE))
    if len(root) != superblock.record.digest_size:
        raise IntegrityError(
            f"the root has {len(root)} bytes, and one of {superblock.algorithm}, which the superblock names, "
            f"has {superblock.record.digest_size}"
        )
    if size is not None and size != superblock.data_size:
        raise IntegrityError(f"the tree covers {superblock.data_size} bytes, and {size} were expected")
    return superblock


def _check_size(superblock: Superblock, size: int, own_tree_at: int | None) -> None:
    covered = superblock.data_size
    if size < covered:
        raise IntegrityError(f"the image has {size} bytes, and the tree covers {covered}")
    if own_tree_at is not None:
        if own_tree_at < covered:
            raise IntegrityError(
                f"the tree at byte {own_tree_at} would lie in the {covered} bytes that it covers"
            )
    elif size > covered:
        raise IntegrityError(f"the image has {size} bytes, of which the tree covers only {covered}")


def _verify(
    superblock: Superblock,
    read: Any,
    offset: int,
    root: bytes,
    pieces: Any,
    backend: str | None,
    progress: Progress | None,
) -> None:
    tree = superblock.tree(keep=False, backend=backend)
    block = superblock.hash_block_size
    at = -(-(offset + _SUPERBLOCK_SIZE) // block) * block
    expected, label = root, "root"
    counts = superblock.level_blocks()
    below = [superblock.data_blocks, *counts]  # what each level has hashes of
    for level in reversed(range(len(counts))):
        stored = read(at, counts[level] * block)
        if len(stored) < counts[level] * block:
            raise IntegrityError(
                f"the hash file ends within the blocks of hashes at byte {at}; it is truncated"
            )
        wrong = _different(tree.hashes(flat_bytes(stored), block), expected)
        if wrong:
            raise IntegrityError(
                f"the block of hashes at byte {at + wrong[0] * block} of the hash file does not match "
                f"the {label}"
            )
        expected = _hashes_in(superblock, stored, below[level], at)
        at += counts[level] * block
        label = "block of hashes above it"
    width, first = superblock.record.digest_size, 0
    bad: list[int] = []
    for piece in pieces:
        found = tree.hashes(flat_bytes(piece), superblock.data_block_size)
        count = found.shape[0]
        bad += [first + i for i in _different(found, expected[first * width : (first + count) * width])]
        first += count
        if progress is not None:
            progress(len(piece))
    if first != superblock.data_blocks:
        raise IntegrityError(f"the image ended after {first} of {superblock.data_blocks} blocks")
    if bad:
        size = superblock.data_block_size
        named = ", ".join(f"{i} (bytes {i * size} to {(i + 1) * size})" for i in bad[:_SHOWN])
        more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise IntegrityError(f"data does not match in {len(bad)} blocks: {named}{more}")


def _hashes_in(superblock: Superblock, stored: bytes, count: int, at: int) -> bytes:
    """The hashes in blocks of hashes, one after another.

    Raises IntegrityError if what is not a hash is not zero: the tree of a shorter image would pass otherwise.
    """
    import numpy as np

    slot, width = superblock.slot, superblock.record.digest_size
    each = superblock.hash_block_size // slot
    slots = np.frombuffer(stored, np.uint8).reshape(-1, superblock.hash_block_size)
    spare = slots[:, each * slot :].any()
    entries = slots[:, : each * slot].reshape(-1, slot)
    if spare or entries[:count, width:].any() or entries[count:].any():
        raise IntegrityError(f"the blocks of hashes at byte {at} have bytes that must be zero and are not")
    return entries[:count, :width].tobytes()


def _different(found: torch.Tensor, expected: bytes) -> list[int]:
    """The indices of the rows that are not as expected."""
    import numpy as np

    rows = found.cpu().numpy()
    if hmac.compare_digest(rows.tobytes(), expected):
        return []
    if rows.size != len(expected):
        raise IntegrityError(
            f"there are {rows.shape[0]} blocks, and {len(expected)} bytes of hashes for them"
        )
    wanted = np.frombuffer(expected, np.uint8).reshape(rows.shape)
    return [int(i) for i in np.flatnonzero((rows != wanted).any(1))]
