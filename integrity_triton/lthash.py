"""LtHash: a digest of a multiset that is updated element by element.

Lattice-based homomorphic hashing: M. Bellare, D. Micciancio, "A New Paradigm for Collision-Free Hashing:
Incrementality at Reduced Cost", 1997, with the parameters of K. Lewi, W. Kim, I. Maykov, S. Weis,
"Securing Update Propagation with Homomorphic Hashing", 2019: 1024 lanes of 16 bits. docs/guide/lthash.md has
the definition and the attacks that it resists.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import algorithms
from .batch import hash_batch, hash_chunks
from .hashing import new
from .messages.from_caller import message_view, sequence_batch
from .messages.moving import moved
from .messages.parameters import checked_parameters, octet_string
from .messages.tensors import check_has_bytes, is_tensor

if TYPE_CHECKING:
    import torch

__all__ = ["LANES", "SIZE", "LtHash", "TensorChunks"]

LANES = 1024
SIZE = 2 * LANES
"""Bytes in a digest."""

_EXPANSIONS: Mapping[str, Mapping[str, Any]] = {"blake3": {"length": SIZE}, "blake2xb": {"digest_size": SIZE}}
_DOMAIN = b"integrity_triton lthash chunk"
_CHUNK_SIZE = 1 << 20
_MOST_AT_ONCE = 1 << 14  # elements: 32 MiB of lanes


def _counted(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little") + data


@dataclass(frozen=True)
class TensorChunks:
    """The digests of one tensor's chunks, with which an :class:`LtHash` can remove the tensor again without
    its old values."""

    name: str
    nbytes: int
    chunk_size: int
    digests: torch.Tensor
    """uint8 ``[n, 32]``: BLAKE3 of each chunk of ``chunk_size`` bytes. The last chunk may be shorter. A
    tensor without bytes has one empty chunk."""

    @classmethod
    def of(
        cls, name: str, tensor: Any, *, chunk_size: int = _CHUNK_SIZE, backend: str | None = None
    ) -> TensorChunks:
        """Hash a tensor (or bytes-like object) where it is. Raises as :func:`integrity_triton.hash_chunks`
        does, and TypeError for a name that is not a str."""
        if not isinstance(name, str):
            raise TypeError(f"a tensor is named by a str, not {type(name).__name__}")
        digests = hash_chunks(tensor, "blake3", chunk_size=chunk_size, backend=backend)
        nbytes = message_view(tensor).nbytes
        if not nbytes:
            digests = hash_batch([b""], "blake3", backend=backend).to(digests.device)
        return cls(name, nbytes, chunk_size, digests)

    def elements(self) -> torch.Tensor:
        """The chunks as elements of an LtHash: uint8 ``[n, ...]`` on the digests' device."""
        import numpy as np
        import torch

        check_has_bytes(self.digests)
        count = self.digests.shape[0]
        head = _counted(_DOMAIN) + _counted(self.name.encode())
        numbers = np.empty((count, 2), "<u8")
        numbers[:, 0] = np.arange(count, dtype=np.uint64)
        numbers[:, 1] = self.chunk_size
        numbers[-1:, 1] = self.nbytes - (count - 1) * self.chunk_size
        heads = np.broadcast_to(np.frombuffer(head, np.uint8), (count, len(head)))
        known = torch.from_numpy(np.concatenate([heads, numbers.view(np.uint8).reshape(count, 16)], axis=1))
        return torch.cat([moved(known, self.digests.device), self.digests], dim=1)


_adding = threading.RLock()  # threads may add to one sum


class LtHash:
    """The sum of a multiset's elements, each expanded to 1024 lanes of 16 bits: LtHash<16, 1024>.

    Elements are messages as :func:`integrity_triton.hash_batch` takes them. ``xof`` expands them:
    ``"blake2xb"`` with 2048 bytes of output, as in Facebook's folly, or ``"blake3"``, as in Solana's accounts
    hash. ``key`` is the key of that hash. The sum is kept on ``device``, by default that of the first
    element; only :meth:`digest`, :meth:`checksum` and ``==`` wait for the device.

    The order of additions does not matter. Equal elements are counted, modulo 2**16. Anyone who has the
    elements can compute a sum, and anyone can add sums without the elements: an LtHash is not a MAC, not even
    with a key.

    Raises ValueError for another ``xof`` and as :func:`integrity_triton.new` for a key.
    """

    __slots__ = ("_backend", "_device", "_key", "_lanes", "_xof")
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self, xof: str = "blake3", *, key: Any = None, backend: str | None = None, device: Any = None
    ) -> None:
        if xof not in _EXPANSIONS:
            raise ValueError(f"LtHash expands elements with {' or '.join(_EXPANSIONS)}, not {xof!r}")
        self._xof = xof
        self._key: bytes | None = checked_parameters(algorithms.get(xof), {"key": key}).get("key") or None
        self._backend = backend
        self._device = device
        # int32, each from 0 to 2**16 - 1; None before the first element.
        self._lanes: torch.Tensor | None = None

    @classmethod
    def from_digest(cls, digest: Any, xof: str = "blake3", **options: Any) -> LtHash:
        """An LtHash that continues from a :meth:`digest`. Raises ValueError unless it has 2048 bytes."""
        import numpy as np
        import torch

        data = octet_string(digest, "digest")
        if len(data) != SIZE:
            raise ValueError(f"an LtHash has a digest of {SIZE} bytes, not {len(data)}")
        made = cls(xof, **options)
        lanes = torch.from_numpy(np.frombuffer(data, "<u2").astype(np.int32))
        made._lanes = lanes if made._device is None else lanes.to(made._device)
        return made

    @property
    def xof(self) -> str:
        return self._xof

    def add(self, element: Any) -> LtHash:
        """Add one element; returns this object, as :meth:`remove` and the batches do."""
        return self.add_batch([element])

    def remove(self, element: Any) -> LtHash:
        """Subtract one element. It is not checked whether the element was added before."""
        return self.remove_batch([element])

    def add_batch(self, elements: Any) -> LtHash:
        """Add every element of a batch: a sequence of messages, or a 2-D tensor whose rows are messages."""
        return self._change(elements, 1)

    def remove_batch(self, elements: Any) -> LtHash:
        return self._change(elements, -1)

    def add_tensor(self, name: str, tensor: Any, *, chunk_size: int = _CHUNK_SIZE) -> TensorChunks:
        """Add a tensor in chunks of ``chunk_size`` bytes, hashed where it is. Returns what
        :meth:`update_tensor` and :meth:`remove_tensor` need once the tensor has changed."""
        chunks = TensorChunks.of(name, tensor, chunk_size=chunk_size, backend=self._backend)
        self.add_batch(chunks.elements())
        return chunks

    def remove_tensor(self, chunks: TensorChunks) -> LtHash:
        """Remove a tensor that was added."""
        return self.remove_batch(chunks.elements())

    def update_tensor(self, old: TensorChunks, tensor: Any) -> TensorChunks:
        """Replace the tensor ``old`` by ``tensor``, with the same name and chunk size."""
        new_chunks = TensorChunks.of(old.name, tensor, chunk_size=old.chunk_size, backend=self._backend)
        self.replace_tensor(old, new_chunks)
        return new_chunks

    def replace_tensor(self, old: TensorChunks, new_chunks: TensorChunks) -> LtHash:
        """Do as :meth:`update_tensor` does, with a tensor that was already hashed."""
        return self.remove_batch(old.elements()).add_batch(new_chunks.elements())

    def _change(self, elements: Any, sign: int) -> LtHash:
        # All elements are checked before the first is added, and before a tensor is cut into parts.
        if is_tensor(elements):
            check_has_bytes(elements)
        else:
            elements = sequence_batch(elements).given
        total = None
        for start in range(0, len(elements), _MOST_AT_ONCE):
            part = self._sum(elements[start : start + _MOST_AT_ONCE])
            total = part if total is None else total + part
        if total is not None:
            self._add(total if sign > 0 else -total)
        return self

    def _sum(self, elements: Any) -> torch.Tensor:
        """The sum of the elements' lanes, int32 ``[1024]``, correct modulo 2**16."""
        import torch

        expansion = _EXPANSIONS[self._xof]
        rows = hash_batch(elements, self._xof, key=self._key, backend=self._backend, **expansion)
        return rows.view(torch.int16).sum(0, dtype=torch.int32)

    def _add(self, lanes: torch.Tensor) -> None:
        with _adding:
            if self._lanes is None:
                self._lanes = (lanes if self._device is None else lanes.to(self._device)) & 0xFFFF
            else:
                self._lanes = (self._lanes + lanes.to(self._lanes.device)) & 0xFFFF

    def digest(self) -> bytes:
        """2048 bytes: the lanes, each little-endian. They are zero if there are no elements."""
        if self._lanes is None:
            return bytes(SIZE)
        lanes: bytes = self._lanes.cpu().numpy().astype("<u2").tobytes()
        return lanes

    def hexdigest(self) -> str:
        return self.digest().hex()

    def checksum(self) -> bytes:
        """32 bytes: BLAKE3 of :meth:`digest`. It cannot be updated, but collisions are as hard to find."""
        return new("blake3", self.digest(), backend=self._backend).digest()

    def copy(self) -> LtHash:
        twin = LtHash(self._xof, key=self._key, backend=self._backend, device=self._device)
        twin._lanes = self._lanes  # replaced by every change, never written to
        return twin

    def _alike(self, other: LtHash) -> bool:
        return self._xof == other._xof and hmac.compare_digest(self._key or b"", other._key or b"")

    def _plus(self, other: LtHash, sign: int) -> LtHash:
        if not self._alike(other):
            raise ValueError("LtHashes with different expansions or keys cannot be combined")
        made = self.copy()
        if other._lanes is not None:
            made._add(other._lanes if sign > 0 else -other._lanes)
        return made

    def __add__(self, other: Any) -> LtHash:
        """The LtHash of the elements of both. Raises ValueError if they expand elements differently."""
        return self._plus(other, 1) if isinstance(other, LtHash) else NotImplemented

    def __sub__(self, other: Any) -> LtHash:
        """The LtHash of the elements of this one without those of the other."""
        return self._plus(other, -1) if isinstance(other, LtHash) else NotImplemented

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LtHash):
            return NotImplemented
        return self._alike(other) and hmac.compare_digest(self.digest(), other.digest())

    def __repr__(self) -> str:
        return f"<LtHash of {self._xof}>"
