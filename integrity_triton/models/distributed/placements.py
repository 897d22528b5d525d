"""Layouts that a mesh of ranks and torch's placements on it determine.

What the placements mean is as in torch 2.13.0, ``torch/distributed/tensor/placement_types.py``: ``Shard``
cuts as ``torch.chunk`` does, the dimensions of the mesh from the first on; ``_StridedShard`` cuts into
``split_factor`` parts first, cuts each of these for the ranks, and gives a rank its share of each part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .layout import Layout, Runs, sliced

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

REPLICATE = (-1, 0)
"""The rule of a dimension of a mesh whose ranks hold the same."""

Rule = tuple[int, int]
"""For a dimension of a mesh: the dimension of the tensor that it divides, and the factor of a strided shard,
which is 1 for others."""


@dataclass(frozen=True)
class OnMesh:
    """A tensor that is distributed over a mesh of ranks."""

    mesh: tuple[int, ...]
    """The shape of the mesh."""
    ranks: tuple[int, ...]
    """The ranks in the mesh, in C order, as they are numbered in the group; -1 for one outside of it."""
    rules: tuple[Rule, ...]
    """One for each dimension of the mesh."""

    def layout(self, rank: int, shape: tuple[int, ...]) -> Layout:
        """What a rank holds of a tensor of this shape."""
        place = _places(self.ranks).get(rank)
        if place is None:
            return Layout(shape, tuple(() for _ in shape) or ((),))
        return _layout(self.mesh, self.rules, shape, place)


@lru_cache(maxsize=64)
def _places(ranks: tuple[int, ...]) -> dict[int, int]:
    return {rank: place for place, rank in enumerate(ranks)}


@lru_cache(maxsize=1 << 15)
def _layout(mesh: tuple[int, ...], rules: tuple[Rule, ...], shape: tuple[int, ...], place: int) -> Layout:
    coordinate = []
    for size in reversed(mesh):
        place, index = divmod(place, size)
        coordinate.append(index)
    runs: list[Runs] = [((0, size),) if size else () for size in shape]
    for size, index, (dim, factor) in zip(mesh, reversed(coordinate), rules, strict=True):
        if dim >= 0:
            runs[dim] = _share(runs[dim], size, index, factor)
    return Layout(shape, tuple(runs))


def _share(runs: Runs, count: int, index: int, factor: int) -> Runs:
    """The indices of one of ``count`` ranks."""
    total = sum(stop - start for start, stop in runs)
    found: list[tuple[int, int]] = []
    for first, last in _chunks(total, factor):
        begin, end = _chunks(last - first, count)[index]
        found += sliced(runs, first + begin, first + end)
    return sliced(tuple(found), 0, total)


@lru_cache(maxsize=1024)
def _chunks(size: int, count: int) -> tuple[tuple[int, int], ...]:
    """The ranges in which ``torch.chunk`` divides ``size`` indices, with empty ones at the end."""
    step = -(-size // count)
    return tuple((min(i * step, size), min((i + 1) * step, size)) for i in range(count))


def of_dtensor(x: DTensor, group_ranks: Sequence[int]) -> OnMesh:
    """How a ``DTensor`` is distributed. ``group_ranks`` are the global ranks of the group's members.

    Raises TypeError for a placement whose parts are no parts of the tensor, such as ``Partial``.
    """
    from torch.distributed.tensor import Replicate, Shard

    try:
        from torch.distributed.tensor.placement_types import _StridedShard
    except ImportError:
        strided: tuple[type[Any], ...] = ()
    else:
        strided = (_StridedShard,)
    rules: list[Rule] = []
    for placement in x.placements:
        if isinstance(placement, Replicate):
            rules.append(REPLICATE)
        elif isinstance(placement, strided):
            rules.append((placement.dim % x.dim(), int(placement.split_factor)))
        elif type(placement) is Shard:
            rules.append((placement.dim % x.dim(), 1))
        else:
            raise TypeError(
                f"a DTensor with the placement {placement!r} does not hold parts of the tensor; redistribute "
                "it to Shard or Replicate first"
            )
    numbers = {rank: i for i, rank in enumerate(group_ranks)}
    mesh = x.device_mesh.mesh
    ranks = tuple(numbers.get(rank, -1) for rank in mesh.reshape(-1).tolist())
    return OnMesh(tuple(mesh.shape), ranks, tuple(rules))
