"""The tree over the bytes of a tensor, which its shape and the size of its elements determine.

``docs/distributed.md`` defines it: a tensor of at most :data:`LEAF_SIZE` bytes is a leaf, and a larger one is
divided in two halves along its first dimension of more than one index. Every node covers neighbouring bytes
of the whole tensor, so that two offsets name it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from ..dtypes import DTYPE_BITS
from ..errors import ManifestError

LEAF_SIZE = 256
"""The most bytes of a leaf."""

Offsets = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Form:
    """What determines a tree: the sizes of the dimensions with more than one index, and the bytes of an
    element. Dimensions of one index do not matter to it."""

    sizes: tuple[int, ...]
    itemsize: int

    @classmethod
    def of(cls, shape: Sequence[int], itemsize: int) -> Form:
        """``shape`` is that of the tensor in memory, in elements of ``itemsize`` bytes."""
        return cls(tuple(size for size in shape if size != 1), itemsize)

    @classmethod
    def stored(cls, dtype: str, shape: Sequence[int]) -> Form:
        """The form of what safetensors stores under ``dtype``, a key of DTYPE_BITS, and ``shape``.

        Elements of less than a byte lie packed in the last dimension, which is then counted in bytes. Raises
        ManifestError if these are not a whole number of bytes.
        """
        bits = DTYPE_BITS[dtype]
        if bits % 8 == 0:
            return cls.of(shape, bits // 8)
        if not shape or shape[-1] * bits % 8:
            raise ManifestError(
                f"the last dimension of a tensor of {dtype} and shape {list(shape)} is not a whole number of "
                "bytes, so that it has no tree"
            )
        return cls.of((*shape[:-1], shape[-1] * bits // 8), 1)

    @cached_property
    def inner(self) -> tuple[int, ...]:
        """For each dimension, the bytes of one of its indices, with everything in later dimensions."""
        return tuple(math.prod(self.sizes[i + 1 :]) * self.itemsize for i in range(len(self.sizes)))

    @property
    def nbytes(self) -> int:
        return math.prod(self.sizes) * self.itemsize

    @cached_property
    def leaf_dim(self) -> int:
        """The dimension in which leaves are ranges of indices: the first one of which a single index fits
        into a leaf. 0 for a tensor of one element, which has no dimension."""
        return next((i for i, size in enumerate(self.inner) if size <= LEAF_SIZE), 0)

    def halving(self, dim: int) -> Halving:
        """The part of the tree that divides dimension ``dim``."""
        return halving(self.sizes[dim], self.inner[dim])


@dataclass(frozen=True)
class Level:
    """The nodes of one depth in a :class:`Halving`, in the order of their indices."""

    inner: Offsets
    """The places of the nodes that are divided further."""
    ends: Offsets
    """The places of the others."""
    end_numbers: Offsets
    """Which of ``Halving.starts`` these others are."""


@dataclass(frozen=True)
class Halving:
    """How a dimension of ``size`` indices is divided in halves, down to parts that begin at ``starts`` and
    have ``lengths`` indices."""

    size: int
    levels: tuple[Level, ...]
    """From the root on."""
    starts: Offsets
    lengths: Offsets


@lru_cache(maxsize=256)
def halving(size: int, unit: int) -> Halving:
    """The halving of ``size`` indices, of ``unit`` bytes each, which ends where a part has one index or fits
    into a leaf; ``size`` is positive."""
    return _halving(size, lambda starts, lengths: (lengths == 1) | (lengths * unit <= LEAF_SIZE))


def halving_into(size: int, parts: Sequence[tuple[int, int]]) -> Halving:
    """The halving of ``size`` indices that ends at ``parts``: nodes of it, as their first index and the one
    after their last, in order, which together have every index once."""
    begins, ends = np.array(parts, np.int64).reshape(-1, 2).T

    def is_part(starts: Offsets, lengths: Offsets) -> np.ndarray[Any, np.dtype[np.bool_]]:
        place = np.minimum(np.searchsorted(begins, starts), len(begins) - 1)
        found = (begins[place] == starts) & (ends[place] == starts + lengths)
        if (~found & (lengths == 1)).any():
            raise ValueError(f"the parts {list(parts)} do not make up a dimension of {size} indices")
        return np.asarray(found)

    return _halving(size, is_part)


def _halving(size: int, is_end: Callable[[Offsets, Offsets], np.ndarray[Any, np.dtype[np.bool_]]]) -> Halving:
    starts = np.zeros(1, np.int64)
    lengths = np.full(1, size, np.int64)
    ends, begins, sizes = [], [], []
    while len(starts):
        end = is_end(starts, lengths)
        ends.append(end)
        begins.append(starts[end])
        sizes.append(lengths[end])
        first = (lengths[~end] + 1) // 2
        starts = np.stack([starts[~end], starts[~end] + first], 1).reshape(-1)
        lengths = np.stack([first, lengths[~end] - first], 1).reshape(-1)
    all_starts, all_lengths = np.concatenate(begins), np.concatenate(sizes)
    order = np.argsort(all_starts)
    numbers = np.empty_like(order)
    numbers[order] = np.arange(len(order))
    counted = np.cumsum([len(begin) for begin in begins])[:-1]
    levels = tuple(
        Level(np.flatnonzero(~end), np.flatnonzero(end), number)
        for end, number in zip(ends, np.split(numbers, counted), strict=True)
    )
    return Halving(size, levels, all_starts[order], all_lengths[order])


@dataclass(frozen=True)
class Piece:
    """The indices from ``start`` on and before ``stop`` of a leaf, which has those from ``first`` to
    ``last``."""

    start: int
    stop: int
    first: int
    last: int


def whole_parts(size: int, unit: int, start: int, stop: int) -> tuple[list[tuple[int, int]], list[Piece]]:
    """The largest parts of a dimension's halving that lie within the indices from ``start`` on and before
    ``stop``, and what remains: at most two pieces of leaves. Both are in order.

    ``size`` and ``unit`` are as for :func:`halving`. It takes steps in proportion to the depth.
    """
    whole, pieces = [], []
    pending = [(0, size)]
    while pending:
        first, last = pending.pop()
        if start <= first and last <= stop:
            whole.append((first, last))
        elif max(first, start) < min(last, stop):
            if (last - first) * unit <= LEAF_SIZE:
                pieces.append(Piece(max(first, start), min(last, stop), first, last))
            else:
                middle = first + (last - first + 1) // 2
                pending += [(middle, last), (first, middle)]
    return whole, pieces
