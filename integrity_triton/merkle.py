"""Merkle trees as Certificate Transparency defines them: ``MerkleTree`` and ``TreeHead``.

RFC 9162, section 2.1 (also RFC 6962, section 2.1): a leaf is the hash of a byte 0x00 and the message, a node
is the hash of a byte 0x01 and its two children. The root of a tree without leaves is the hash of nothing.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import algorithms
from .algorithms import Algorithm
from .algorithms.record import LEAST_COLLISION_BITS
from .eager import digests_of, hash_prefixed
from .errors import BackendUnavailable, IntegrityError
from .files import MOST_IN_BLOCK, Progress, read_blocks, read_pieces
from .hashing import Hash, new
from .messages.batches import Prefixed
from .messages.from_caller import flat_bytes, prefixed_batch
from .messages.tensors import is_tensor, named

if TYPE_CHECKING:
    import torch

__all__ = ["MerkleTree", "TreeHead"]

_LEAF, _NODE = b"\0", b"\1"  # RFC 9162, section 2.1.1
_LEAST_SIZE = 2 * LEAST_COLLISION_BITS // 8  # bytes in the shortest digest that resists collisions
_MOST_LEAVES = 1 << 64  # a tree's size is a uint64 (RFC 9162, section 4.10)


def _checked(name: str, length: int | None, checksums: bool) -> tuple[Algorithm, int]:
    """The hash of a tree and the bytes in a digest. Raises ValueError for a hash that cannot be one."""
    record = algorithms.get(name)
    if record.keyed == "required":
        raise ValueError(f"{record.name} needs a key; a Merkle tree is made with a hash")
    if record.takes_tuples:
        raise ValueError(f"{record.name} hashes tuples of byte strings, and a leaf is not one")
    size = record.check_length(length, {})
    if not checksums:
        why = record.security_note if not record.collision_resistant else ""
        if not why and size < _LEAST_SIZE:
            why = f"{size} bytes are too short"
        if why:
            raise ValueError(
                f"a tree of {record.name} does not resist collisions ({why}); take another hash, or pass "
                "checksums=True if the tree only has to find accidents"
            )
    return record, size


def _index(value: Any, label: str, end: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{label} must be int, not {type(value).__name__}")
    if not 0 <= value < end:
        raise ValueError(f"{label} must be between 0 and {end - 1}, got {value}" if end else _NO_LEAF)
    return value


_NO_LEAF = "the tree has no leaf"


@dataclass(frozen=True)
class TreeHead:
    """What has to be trusted of a Merkle tree: its hash, the number of its leaves and its root.

    Both methods verify what comes from somebody who is not trusted. Whatever that is, they return None if it
    is proved, and otherwise raise :class:`integrity_triton.IntegrityError`, or TypeError for an argument of a
    wrong type.

    Raises ValueError for a hash that is unknown or keyed, for a root of another size than its digests and for
    a hash that does not resist collisions, unless ``checksums`` says that none is expected to.
    """

    algorithm: str
    size: int
    root: bytes
    checksums: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.root, bytes):
            raise TypeError(f"root must be bytes, not {type(self.root).__name__}")
        record = algorithms.get(self.algorithm)
        if not record.xof and len(self.root) != record.digest_size:
            raise ValueError(
                f"a root of {record.name} has {record.digest_size} bytes, not {len(self.root)}; check which "
                "hash the tree was made with"
            )
        _checked(self.algorithm, len(self.root) if record.xof else None, self.checksums)
        _index(self.size, "the size of a tree", _MOST_LEAVES)
        object.__setattr__(self, "algorithm", record.name)
        if self.size == 0 and self.root != self._hash(b""):
            raise ValueError("a tree without leaves has the hash of no bytes as its root, not this one")

    def _new(self, data: bytes) -> Hash:
        """A running hash on the host, where proofs are."""
        try:
            return new(self.algorithm, data, backend="native")
        except BackendUnavailable:
            return new(self.algorithm, data)

    def _hash(self, data: bytes) -> bytes:
        return _finish(self._new(data), len(self.root))

    def verify_inclusion(self, message: Any, index: int, proof: Sequence[bytes]) -> None:
        """Verify that leaf ``index`` of the tree is ``message``, bytes-like or a tensor (RFC 9162, section
        2.1.3.2)."""
        self._check_integer(index, "index")
        path = self._path(proof)
        hasher = self._new(_LEAF)
        hasher.update(message)
        found = _finish(hasher, len(self.root))
        if not 0 <= index < self.size:
            raise IntegrityError(f"a tree of {self.size} leaves has no leaf {index}")
        node, last = index, self.size - 1
        for sibling in path:
            if last == 0:
                raise IntegrityError(f"the proof of leaf {index} has more nodes than the tree has levels")
            if node & 1 or node == last:
                found = self._hash(_NODE + sibling + found)
                while node and not node & 1:  # a node without a sibling is its own parent
                    node, last = node >> 1, last >> 1
            else:
                found = self._hash(_NODE + found + sibling)
            node, last = node >> 1, last >> 1
        if last:
            raise IntegrityError(f"the proof of leaf {index} ends below the root")
        if not hmac.compare_digest(found, self.root):
            raise IntegrityError(f"the message is not leaf {index} of the tree with this root")

    def verify_consistency(self, old: TreeHead, proof: Sequence[bytes]) -> None:
        """Verify that the tree begins with all leaves of the tree ``old``, in the same order (RFC 9162,
        section 2.1.4.2)."""
        if not isinstance(old, TreeHead):
            raise TypeError(f"old must be a TreeHead, not {type(old).__name__}")
        path = self._path(proof)
        if (old.algorithm, len(old.root)) != (self.algorithm, len(self.root)):
            raise IntegrityError(
                f"a tree of {self.algorithm} with digests of {len(self.root)} bytes cannot begin with one of "
                f"{old.algorithm} with digests of {len(old.root)}"
            )
        if old.size > self.size:
            raise IntegrityError(f"a tree of {self.size} leaves cannot begin with one of {old.size}")
        if old.size in (0, self.size):
            if path:
                raise IntegrityError(
                    "trees of these sizes are consistent without any node, and here are some"
                )
            if old.size and not hmac.compare_digest(old.root, self.root):
                raise IntegrityError("two trees of the same size have different roots")
            return
        node, last = old.size - 1, self.size - 1
        while node & 1:
            node, last = node >> 1, last >> 1
        if node == 0:  # the old tree is a node of the new one
            path = (old.root, *path)
        if not path:
            raise IntegrityError("the proof of consistency is empty")
        was = now = path[0]
        for sibling in path[1:]:
            if last == 0:
                raise IntegrityError("the proof of consistency has more nodes than the tree has levels")
            if node & 1 or node == last:
                was = self._hash(_NODE + sibling + was)
                now = self._hash(_NODE + sibling + now)
                while node and not node & 1:
                    node, last = node >> 1, last >> 1
            else:
                now = self._hash(_NODE + now + sibling)
            node, last = node >> 1, last >> 1
        if last:
            raise IntegrityError("the proof of consistency ends below the root")
        if not (hmac.compare_digest(was, old.root) & hmac.compare_digest(now, self.root)):
            raise IntegrityError("the tree does not begin with the leaves of the old tree")

    @staticmethod
    def _check_integer(value: Any, label: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{label} must be int, not {type(value).__name__}")

    def _path(self, proof: Any) -> tuple[bytes, ...]:
        if not isinstance(proof, list | tuple):
            raise TypeError(f"a proof must be a list or tuple of bytes, not {type(proof).__name__}")
        if len(proof) > 64:
            raise IntegrityError(f"a proof has at most 64 nodes, and this one {len(proof)}")
        for node in proof:
            if not isinstance(node, bytes):
                raise TypeError(f"the nodes of a proof must be bytes, not {type(node).__name__}")
            if len(node) != len(self.root):
                raise IntegrityError(f"a node has {len(self.root)} bytes, and one of the proof {len(node)}")
        return tuple(proof)


def _finish(hasher: Hash, size: int) -> bytes:
    return hasher.digest(size if hasher._algorithm.xof else None)


class MerkleTree:
    """A Merkle tree over messages (RFC 9162, section 2.1), hashed level by level where the messages are.

    It is made by :meth:`of_messages`, :meth:`of_chunks`, :meth:`of_file` or :meth:`of_leaf_hashes`. All its
    nodes stay in memory on the device of the messages, twice the digest size for each leaf. ``algorithm`` is
    any hash without a key, and ``length`` the bytes of its digests if its output is extendable. A hash that
    does not resist collisions is refused unless ``checksums`` is true: such a tree finds accidents and no
    attacks.

    What the tree says has no proof of its own: somebody who trusts :attr:`head` verifies proofs with it. One
    thread at a time may change a tree. An exception during a change leaves it as it was.
    """

    __slots__ = ("_backend", "_checksums", "_chunk_size", "_length", "_levels", "_nbytes", "_record")

    _record: Algorithm
    _length: int
    _checksums: bool
    _backend: str | None
    _chunk_size: int | None
    _nbytes: int | None
    _levels: list[torch.Tensor]
    """Level k is uint8 ``[ceil(n / 2**k), digest size]``. A last node without a sibling is also on the next
    level, unchanged, which gives the tree of the RFC: its left subtrees are the largest complete ones."""

    def __init__(self) -> None:
        raise TypeError("a MerkleTree is made by of_messages, of_chunks, of_file or of_leaf_hashes")

    @classmethod
    def _made(
        cls, record: Algorithm, length: int, checksums: bool, backend: str | None, leaves: torch.Tensor
    ) -> MerkleTree:
        made = object.__new__(cls)
        made._record, made._length = record, length
        made._checksums, made._backend = checksums, backend
        made._chunk_size = made._nbytes = None
        made._levels = made._grown([leaves])
        return made

    @classmethod
    def of_messages(
        cls,
        messages: Any,
        algorithm: str = "sha256",
        *,
        length: int | None = None,
        checksums: bool = False,
        backend: str | None = None,
    ) -> MerkleTree:
        """The tree whose leaves are the messages of a batch, as :func:`integrity_triton.hash_batch` takes it.

        Raises as that function does, and ValueError for a hash that cannot make a tree.
        """
        record, size = _checked(algorithm, length, checksums)
        batch = prefixed_batch(messages, _LEAF)
        return cls._made(record, size, checksums, backend, digests_of(record, {}, batch, size, backend))

    @classmethod
    def of_chunks(
        cls,
        data: Any,
        algorithm: str = "sha256",
        *,
        chunk_size: int,
        length: int | None = None,
        checksums: bool = False,
        backend: str | None = None,
    ) -> MerkleTree:
        """The tree whose leaves are each ``chunk_size`` bytes of a tensor or bytes-like object, of which the
        last may be shorter. Empty data has no leaf. Raises as :func:`integrity_triton.hash_chunks` does, and
        ValueError for a hash that cannot make a tree."""
        record, size = _checked(algorithm, length, checksums)
        _check_chunk_size(chunk_size)
        flat = flat_bytes(data)
        leaves = hash_prefixed(record, _LEAF, flat, chunk_size, size, backend)
        made = cls._made(record, size, checksums, backend, leaves)
        made._chunk_size, made._nbytes = chunk_size, flat.numel()
        return made

    @classmethod
    def of_file(
        cls,
        path: str | os.PathLike[str],
        algorithm: str = "sha256",
        *,
        chunk_size: int,
        length: int | None = None,
        checksums: bool = False,
        backend: str | None = None,
        progress: Progress | None = None,
    ) -> MerkleTree:
        """The tree of :meth:`of_chunks` over the bytes of a file, of which few are in memory at a time.

        Raises as that method does, and OSError if the file cannot be read.
        """
        import torch

        record, size = _checked(algorithm, length, checksums)
        _check_chunk_size(chunk_size)
        parts: list[torch.Tensor] = [torch.empty((0, size), dtype=torch.uint8, device="cpu")]
        nbytes = 0
        for part, count in _file_leaves(path, record, size, chunk_size, backend):
            parts += [part] if part is not None else []
            nbytes += count
            if progress is not None:
                progress(count)
        made = cls._made(record, size, checksums, backend, torch.cat(parts))
        made._chunk_size, made._nbytes = chunk_size, nbytes
        return made

    @classmethod
    def of_leaf_hashes(
        cls,
        leaf_hashes: Any,
        algorithm: str = "sha256",
        *,
        checksums: bool = False,
        backend: str | None = None,
    ) -> MerkleTree:
        """The tree of leaves that were hashed before, such as :attr:`leaf_hashes` of a tree that was stored:
        a 2-D uint8 tensor of a digest in each row, which is copied.

        Raises TypeError for anything else, and ValueError for rows of a size that no digest of the hash has.
        """
        import torch

        if not is_tensor(leaf_hashes):
            raise TypeError(f"leaf_hashes must be a torch tensor, not {type(leaf_hashes).__name__}")
        with named("leaf_hashes"):
            flat = flat_bytes(leaf_hashes)
        if leaf_hashes.dtype is not torch.uint8 or leaf_hashes.dim() != 2:
            raise TypeError(
                f"leaf_hashes must be 2-D and uint8, not {leaf_hashes.dim()}-D {leaf_hashes.dtype}"
            )
        record, size = _checked(algorithm, int(leaf_hashes.shape[1]), checksums)
        return cls._made(record, size, checksums, backend, flat.view(-1, size).clone())

    # What it is

    def __len__(self) -> int:
        """The number of leaves."""
        return int(self._levels[0].shape[0])

    def __repr__(self) -> str:
        return f"<MerkleTree of {len(self)} leaves, {self.algorithm}>"

    @property
    def algorithm(self) -> str:
        return self._record.name

    @property
    def chunk_size(self) -> int | None:
        """Bytes in each chunk, or None if the leaves are messages of any size."""
        return self._chunk_size

    @property
    def leaf_hashes(self) -> torch.Tensor:
        """The hashes of the leaves, uint8 ``[n, digest size]`` on the device of the messages, as a copy."""
        return self._levels[0].clone()

    @property
    def root(self) -> bytes:
        """The Merkle tree hash. This waits for the device."""
        return self._subtree(0, len(self))

    @property
    def head(self) -> TreeHead:
        """The hash, the size and the root: what others have to get in a way that they trust."""
        return self.head_of(len(self))

    def head_of(self, size: int) -> TreeHead:
        """The head of the tree of the first ``size`` leaves. Raises ValueError if there are fewer."""
        _index(size, "size", len(self) + 1)
        return TreeHead(self.algorithm, size, self._subtree(0, size), self._checksums)

    # Proofs

    def inclusion_proof(self, index: int) -> tuple[bytes, ...]:
        """The nodes with which :meth:`TreeHead.verify_inclusion` shows that a message is leaf ``index`` (RFC
        9162, section 2.1.3.1), from the leaf's sibling upwards.

        Raises ValueError for a leaf that does not exist.
        """
        index = _index(index, "index", len(self))
        return tuple(
            _host_row(level, (index >> k) ^ 1)
            for k, level in enumerate(self._levels)
            if (index >> k) ^ 1 < level.shape[0]
        )

    def consistency_proof(self, old_size: int) -> tuple[bytes, ...]:
        """The nodes with which :meth:`TreeHead.verify_consistency` shows that the tree begins with the
        ``old_size`` leaves of an older one (RFC 9162, section 2.1.4.1).

        Raises ValueError if there are fewer leaves.
        """
        old = _index(old_size, "old_size", len(self) + 1)
        start, end = 0, len(self)
        known, proof = True, []  # whether the old tree's part of the subtree is the whole old tree
        if old == 0:
            return ()
        while old != end:
            middle = start + _largest_power_below(end - start)
            if old <= middle:
                proof.append(self._subtree(middle, end))
                end = middle
            else:
                proof.append(self._subtree(start, middle))
                start, known = middle, False
        if not known:
            proof.append(self._subtree(start, end))
        return tuple(reversed(proof))

    def _subtree(self, start: int, end: int) -> bytes:
        """The hash of the subtree over leaves ``[start, end)``, which begins at a multiple of the least power
        of two that is not less than its size."""
        if start == end:
            return self._host_hash(b"")
        level = (end - start - 1).bit_length()
        if end == len(self) or end - start == 1 << level:
            return _host_row(self._levels[level], start >> level)
        middle = start + _largest_power_below(end - start)
        return self._host_hash(_NODE + self._subtree(start, middle) + self._subtree(middle, end))

    def _host_hash(self, data: bytes) -> bytes:
        try:
            hasher = new(self.algorithm, data, backend=self._backend or "native")
        except BackendUnavailable:
            if self._backend is not None:
                raise
            hasher = new(self.algorithm, data)
        return _finish(hasher, self._length)

    # Changes

    def append(self, messages: Any) -> None:
        """Add the messages of a batch, which are on the tree's device, as further leaves. This hashes the new
        leaves and the nodes above them. Raises as :meth:`of_messages` does, ValueError for another device,
        and TypeError for a tree of chunks, whose last chunk may be incomplete."""
        import torch

        if self._chunk_size is not None:
            raise TypeError("a tree of chunks takes no further messages; make a new tree of the longer data")
        batch = prefixed_batch(messages, _LEAF)
        if batch.count == 0:
            return
        if batch.device != self._levels[0].device:
            raise ValueError(f"the tree is on {self._levels[0].device}, and the messages on {batch.device}")
        added = digests_of(self._record, {}, batch, self._length, self._backend)
        levels = self._levels
        kept = [torch.cat([levels[0], added])]
        first = len(self)  # the first node of the level that is not as it was
        for k in range((kept[0].shape[0] - 1).bit_length()):
            below = kept[k]
            # The last node of the old level may have had no sibling, and has one now.
            first >>= 1
            above = self._parents(below[2 * first :])
            kept.append(torch.cat([levels[k + 1][:first], above]) if k + 1 < len(levels) else above)
        self._levels = kept

    def update(self, messages: Mapping[int, Any]) -> None:
        """Replace leaves: ``messages`` maps their indices to their new messages, which are on the tree's
        device. Only these leaves and the nodes above them are hashed.

        In a tree of chunks each message has as many bytes as the chunk that it replaces. Raises as
        :meth:`of_messages` does, and ValueError for a leaf that does not exist, another device, or a chunk of
        another size.
        """
        if not isinstance(messages, Mapping):
            raise TypeError(f"messages must map indices to messages, not be a {type(messages).__name__}")
        indices = [_index(index, "the index of a leaf", len(self)) for index in messages]
        if not indices:
            return
        batch = prefixed_batch(list(messages.values()), _LEAF)
        assert isinstance(batch, Prefixed)
        for index, view in zip(indices, batch.sizes(), strict=True):
            if self._chunk_size is not None and view != self._size_of(index):
                raise ValueError(f"chunk {index} has {self._size_of(index)} bytes, and the new one {view}")
        if batch.device != self._levels[0].device:
            raise ValueError(f"the tree is on {self._levels[0].device}, and the messages on {batch.device}")
        self._replace(indices, digests_of(self._record, {}, batch, self._length, self._backend))

    def update_chunks(self, data: Any, indices: Iterable[int]) -> None:
        """Hash the chunks ``indices`` of ``data`` again, which is the whole changed data of a tree of chunks,
        and has as many bytes as before. Raises as :meth:`update` does, and TypeError for another tree."""
        if self._chunk_size is None or self._nbytes is None:
            raise TypeError("this tree has messages as its leaves; update() replaces them")
        flat = flat_bytes(data)
        if flat.numel() != self._nbytes:
            raise ValueError(f"the tree is over {self._nbytes} bytes, and the data has {flat.numel()}")
        size = self._chunk_size
        changed = sorted({_index(index, "the index of a chunk", len(self)) for index in indices})
        self.update({index: flat[index * size : (index + 1) * size] for index in changed})

    def _size_of(self, index: int) -> int:
        assert self._chunk_size is not None
        assert self._nbytes is not None
        return min(self._chunk_size, self._nbytes - index * self._chunk_size)

    def _replace(self, indices: Sequence[int], leaves: torch.Tensor) -> None:
        """Put new hashes of leaves in place, and hash the nodes above them. Nothing is written before all are
        there."""
        import torch

        device = leaves.device
        places, order = torch.tensor(indices, dtype=torch.int64).sort()
        values, written = leaves[order.to(device)], []
        for level in self._levels:
            written.append((level, places.to(device), values))
            if level.shape[0] == 1:
                break
            above = torch.unique(places >> 1)
            children = torch.stack([above * 2, above * 2 + 1], 1).view(-1)
            alone = children[-1] == level.shape[0]  # the last node has no sibling
            children = children[: len(children) - int(alone)]
            known = torch.searchsorted(places, children).clamp(max=len(places) - 1)
            changed = places[known] == children
            nodes = level[children.to(device)]
            nodes[changed.to(device)] = values[known[changed].to(device)]
            places, values = above, self._parents(nodes)
        for level, rows, hashes in written:
            level.index_copy_(0, rows, hashes)

    def _grown(self, levels: list[torch.Tensor]) -> list[torch.Tensor]:
        while levels[-1].shape[0] > 1:
            levels.append(self._parents(levels[-1]))
        return levels

    def _parents(self, nodes: torch.Tensor) -> torch.Tensor:
        """The level above ``nodes``."""
        import torch

        even = nodes.shape[0] // 2 * 2
        flat = nodes[:even].reshape(-1)
        above = hash_prefixed(self._record, _NODE, flat, 2 * self._length, self._length, self._backend)
        return above if even == nodes.shape[0] else torch.cat([above, nodes[even:]])

    # Differences

    def diff(self, other: MerkleTree) -> list[int]:
        """The indices of the leaves that differ between the two trees, in order. Leaves that only one of them
        has are among them. Subtrees with equal hashes are not looked into, so that k differences of n leaves
        take k * log2(n) comparisons.

        Raises TypeError for something that is not a tree, and ValueError for a tree of another hash or chunk
        size.
        """
        import torch

        if not isinstance(other, MerkleTree):
            raise TypeError(f"other must be a MerkleTree, not {type(other).__name__}")
        if (self.algorithm, self._length) != (other.algorithm, other._length):
            raise ValueError(f"a tree of {self.algorithm} cannot be compared with one of {other.algorithm}")
        if self._chunk_size != other._chunk_size:
            raise ValueError(
                f"trees of chunks of {self._chunk_size} and {other._chunk_size} bytes cannot be compared"
            )
        sizes = sorted((len(self), len(other)))
        beyond = list(range(sizes[0], sizes[1]))
        if not sizes[0]:
            return beyond
        nodes = torch.zeros(1, dtype=torch.int64)
        for k in range((sizes[1] - 1).bit_length(), -1, -1):
            nodes = nodes[nodes << k < sizes[0]]
            ends = (nodes + 1) << k
            alike = ends.clamp(max=sizes[0]) == ends.clamp(max=sizes[1])  # over the same leaves
            equal = torch.zeros(len(nodes), dtype=torch.bool)
            both = nodes[alike]
            if len(both):
                mine, others = (
                    tree._levels[k][both.to(tree._levels[k].device)].to("cpu") for tree in (self, other)
                )
                equal[alike] = (mine == others).all(1)
            nodes = nodes[~equal]
            if k:
                nodes = torch.stack([nodes * 2, nodes * 2 + 1], 1).view(-1)
        return [*nodes.tolist(), *beyond]


def _largest_power_below(size: int) -> int:
    """The largest power of two that is less than ``size``, which is at least 2."""
    return 1 << ((size - 1).bit_length() - 1)


def _host_row(level: torch.Tensor, row: int) -> bytes:
    found: bytes = level[row].cpu().numpy().tobytes()
    return found


def _check_chunk_size(chunk_size: Any) -> None:
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int):
        raise TypeError(f"chunk_size must be int, not {type(chunk_size).__name__}")
    if not 1 <= chunk_size < 1 << 62:
        raise ValueError(f"chunk_size must be between 1 and 2**62 - 1, got {chunk_size}")


def _file_leaves(
    path: str | os.PathLike[str], record: Algorithm, size: int, chunk_size: int, backend: str | None
) -> Iterator[tuple[torch.Tensor | None, int]]:
    """The hashes of chunks of a file, and how many bytes were read for them."""
    import numpy as np
    import torch

    if chunk_size <= MOST_IN_BLOCK:
        for block in read_blocks(path, chunk_size):
            leaves = hash_prefixed(record, _LEAF, flat_bytes(block), chunk_size, size, backend)
            yield leaves.cpu(), len(block)
        return

    def leaf() -> torch.Tensor:
        return torch.from_numpy(np.frombuffer(bytearray(_finish(hasher, size)), np.uint8)).view(1, size)

    hasher, used = new(record.name, _LEAF, backend=backend), 0
    for piece in read_pieces(path):
        view = piece
        while view:
            if used == chunk_size:
                yield leaf(), 0
                hasher, used = new(record.name, _LEAF, backend=backend), 0
            part = view[: chunk_size - used]
            hasher.update(part)
            used += len(part)
            view = view[len(part) :]
        yield None, len(piece)
    if used:
        yield leaf(), 0
