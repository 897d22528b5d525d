"""A replacement for ``torch.hash_tensor`` that notices the order of the elements.

``torch.hash_tensor`` (PyTorch 2.13.0, ``torch/_torch_docs.py``) converts every element to 64 bits and
combines them by XOR. It is the same for every order of the elements,
two equal changes cancel, and anyone can compute a change that leaves it as it is. :func:`hash_tensor` has
the same call and the same shape of result, and hashes the bytes.

Its callers include the weight synchronisation of verl (``verl/checkpoint_engine/delta_sync/encode.py``,
function ``checksum``), and in PyTorch itself the comparison of the random states of ranks
(``torch/distributed/collective_utils.py``) and the tensor hashes of ``torch.utils._debug_mode``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import algorithms
from ..batch import hash_batch
from ..messages.tensors import check_has_bytes, is_tensor, is_traced, named

if TYPE_CHECKING:
    import torch

__all__ = ["digest_tensor", "hash_tensor"]

_WORD_SIZE = 8  # bytes of the result's dtype, torch.uint64


def hash_tensor(
    tensor: torch.Tensor,
    dim: int | Sequence[int] | None = (),
    *,
    keepdim: bool = False,
    mode: int = 0,
    algorithm: str = "blake3",
    key: Any = None,
    backend: str | None = None,
) -> torch.Tensor:
    """A 64-bit hash of each slice of ``tensor`` along the dimensions ``dim``, by default of the whole tensor.

    Returns a uint64 tensor on the device of ``tensor``, of the shape that ``torch.hash_tensor`` gives:
    without the dimensions ``dim``, or with size 1 in their places if ``keepdim`` is set. Each value is the
    first 8 bytes, read as a little-endian number, of the digest of a slice. The message is the bytes of the
    slice's elements in their own dtype, in C order, which is the order of the dimensions of ``tensor``.
    Shape and dtype are no part of it.

    On an accelerator the work is queued on the current stream, and the host does not wait for it. Slices that
    do not lie together in memory are copied.

    There are four differences from ``torch.hash_tensor``. The order counts. Elements are not converted to 64
    bits first, so that ``float32`` and ``float64`` tensors of the same numbers have different hashes. Every
    dtype is taken that has bytes, which includes complex and float8 dtypes. A slice without elements has the
    hash of the empty message, where ``torch.hash_tensor`` raises an error.

    Two tensors that differ by accident have equal hashes with a probability of 2**-64. Whoever chooses both
    tensors finds a pair with equal hashes after about 2**32 attempts, which is little work; ``key``, which
    is bytes-like, prevents this with a keyed algorithm as long as it is secret. Use :func:`digest_tensor`
    against an adversary otherwise.

    Raises ValueError for a ``mode`` other than 0, for an algorithm with digests of fewer than 8 bytes, and
    for a tensor without data; IndexError for a dimension that ``tensor`` does not have; RuntimeError for
    one that is given twice, as torch does; TypeError for anything but a tensor with dense bytes. It raises
    as :func:`integrity_triton.hash_batch` does, too.
    """
    import torch

    if mode != 0:
        raise ValueError(f"mode must be 0, not {mode}; choose another hash by its name, with algorithm=")
    record = algorithms.get(algorithm)
    length = None if record.digest_size else _WORD_SIZE  # an extendable output may have no default length
    if 0 < record.digest_size < _WORD_SIZE:
        raise ValueError(
            f"{record.name} has digests of {record.digest_size} bytes, and a 64-bit hash needs {_WORD_SIZE}"
        )
    digests = digest_tensor(
        tensor, dim, keepdim=keepdim, algorithm=algorithm, key=key, length=length, backend=backend
    )
    return digests[..., :_WORD_SIZE].contiguous().view(torch.uint64).squeeze(-1)


def digest_tensor(
    tensor: torch.Tensor,
    dim: int | Sequence[int] | None = (),
    *,
    keepdim: bool = False,
    algorithm: str = "blake3",
    key: Any = None,
    length: int | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """The whole digest of each slice of ``tensor`` along the dimensions ``dim``.

    It is as :func:`hash_tensor`, and returns a uint8 tensor with one more dimension at the end, which holds
    the bytes of the digest: 32 for BLAKE3, or ``length`` bytes of an extendable output. For an algorithm
    that is collision resistant (``integrity_triton.algorithms.get(name).collision_bits``), different slices
    have different digests even if an adversary chose them.
    """
    if not is_tensor(tensor):
        raise TypeError(f"tensor must be a torch tensor, not {type(tensor).__name__}")
    if not is_traced():  # the memory of a traced tensor does not exist yet
        with named("tensor"):
            check_has_bytes(tensor)
    reduced = _dimensions(dim, tensor.dim())
    kept = [d for d in range(tensor.dim()) if d not in reduced]
    shape = [tensor.shape[d] for d in kept]
    if keepdim:
        shape = [1 if d in reduced else tensor.shape[d] for d in range(tensor.dim())]
    if kept:
        digests = _hash_slices(tensor, kept, reduced, algorithm, key, length, backend)
    else:
        digests = hash_batch([tensor], algorithm, key=key, length=length, backend=backend)
    return digests.reshape(*shape, digests.shape[-1])


def _hash_slices(
    tensor: torch.Tensor,
    kept: Sequence[int],
    reduced: Sequence[int],
    algorithm: str,
    key: Any,
    length: int | None,
    backend: str | None,
) -> torch.Tensor:
    """A row with the digest of each slice, in the order of the dimensions ``kept``."""
    count = math.prod([tensor.shape[d] for d in kept])  # torch.compile does not trace generators here
    size = math.prod([tensor.shape[d] for d in reduced])
    rows = tensor.detach().permute(*kept, *reduced).reshape(count, size)
    if rows.numel():
        return hash_batch(rows, algorithm, key=key, length=length, backend=backend)
    # A tensor without elements has no memory in which rows could lie.
    return hash_batch([b""] * count, algorithm, key=key, length=length, backend=backend).to(tensor.device)


def _dimensions(dim: int | Sequence[int] | None, rank: int) -> list[int]:
    """The dimensions that are reduced, in ascending order; all of them if none is named, as in torch."""
    named = [dim] if isinstance(dim, int) else list(dim or ())
    limit = max(rank, 1)  # torch lets a tensor without dimensions have dimension 0
    found: set[int] = set()
    for d in named:
        if isinstance(d, bool) or not isinstance(d, int):
            raise TypeError(f"dim must be an int or a sequence of ints, not {type(d).__name__} in it")
        if not -limit <= d < limit:
            raise IndexError(f"the tensor has no dimension {d}; dim must be from {-limit} to {limit - 1}")
        if d % limit in found:
            raise RuntimeError(f"dimension {d % limit} is given twice in dim")
        found.add(d % limit)
    return [d for d in range(rank) if not found or d in found]
