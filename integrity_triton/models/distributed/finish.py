"""The end of a tree, at the rank that finishes it: the digests and pieces of leaves that the ranks sent are
compared where several hold the same, and joined up to the root.

All ranks divide what they hold at the same cuts. Between these, each of them has the same nodes, so that what
a rank sent is a few blocks of an array over all nodes, and no offsets of single nodes or bytes are needed.
"""

from __future__ import annotations

import hashlib
import itertools
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...batch import hash_batch
from ..errors import shown
from ..tensor_hash import TensorHash
from .agreement import Agreement, Lot
from .errors import DistributedError, ranks_text
from .layout import Layout, Pieces, Runs, last_cut
from .node_digests import digests_of, join
from .records import content_digest
from .spread import Halves, Spread
from .tree import Halving, halving_into, whole_parts

if TYPE_CHECKING:
    import torch

Slices = tuple[slice, ...]


def finish(
    lot: Lot, received: Sequence[torch.Tensor], hash_: TensorHash, backend: str | None
) -> tuple[torch.Tensor, list[str]]:
    """The roots of the trees of a lot, uint8 ``[n, digest_size]``, and a line for each tensor of which the
    copies differ. The roots are worth nothing if there is one.

    ``received`` has for each rank what it sent of the lot, flat uint8.
    """
    spread, count = lot.spread, len(lot.names)
    if not spread.holders:
        return _of_no_bytes(count, hash_), []
    parts = {rank: received[rank].view(count, -1) for rank in spread.holders}
    grid = _Grid.of(spread)
    whole = _Assembled.empty(grid, count, hash_.digest_size, next(iter(parts.values())).device)
    whole.fill(parts)
    unlike = whole.unlike.cpu().numpy()
    if unlike.any():
        lines = [
            f"tensor {shown(lot.names[i])}: {_fault(grid, parts, int(i), hash_.digest_size)}"
            for i in np.flatnonzero(unlike)
        ]
        return whole.unlike, lines
    return whole.roots(hash_, backend), []


def _of_no_bytes(count: int, hash_: TensorHash) -> torch.Tensor:
    import torch

    row = torch.frombuffer(bytearray(hash_.digest(b"")), dtype=torch.uint8)
    return row.expand(count, -1)


@dataclass(frozen=True)
class _Interval:
    """What lies between two neighbouring cuts in the dimension that is divided last."""

    first_node: int
    """Of the whole nodes in it, among all parts of the dimension."""
    nodes: int
    """How many these are."""
    fragments: tuple[tuple[int, int, int], ...]
    """For each fragment in it the number of its leaf among the leaves that are divided, its place in this
    leaf, and its length, both in bytes."""


@dataclass(frozen=True)
class _Grid:
    """The nodes of a tensor between its cuts, which are the same for every index of the dimensions before
    the one that is divided last."""

    spread: Spread
    dim: int
    """The dimension that is divided last."""
    intervals: tuple[_Interval, ...]
    tree: Halving | None
    """The halving of this dimension down to the nodes and leaves; None if every leaf is divided."""
    leaves: tuple[tuple[int, int], ...]
    """The number of each divided leaf among all parts of the dimension, and its bytes."""

    @classmethod
    def of(cls, spread: Spread) -> _Grid:
        form, dim = spread.form, last_cut(spread.cuts)
        if not form.sizes:
            return cls(spread, 0, (_Interval(0, 1, ()),), halving_into(1, [(0, 1)]), ())
        size, inner = form.sizes[dim], form.inner[dim]
        bounds = list(itertools.pairwise([0, *spread.cuts[dim], size]))
        if dim > form.leaf_dim:
            whole = tuple(_Interval(0, 0, ((0, a * inner, (b - a) * inner),)) for a, b in bounds)
            return cls(spread, dim, whole, None, ())
        found = [whole_parts(size, inner, first, last) for first, last in bounds]
        divided = sorted({(piece.first, piece.last) for _, pieces in found for piece in pieces})
        parts = sorted([part for nodes, _ in found for part in nodes] + divided)
        intervals = tuple(
            _Interval(
                bisect_left(parts, nodes[0]) if nodes else 0,
                len(nodes),
                tuple(
                    (
                        bisect_left(divided, (piece.first, piece.last)),
                        (piece.start - piece.first) * inner,
                        (piece.stop - piece.start) * inner,
                    )
                    for piece in pieces
                ),
            )
            for nodes, pieces in found
        )
        leaves = tuple((bisect_left(parts, (first, last)), (last - first) * inner) for first, last in divided)
        return cls(spread, dim, intervals, halving_into(size, parts), leaves)

    @property
    def before(self) -> tuple[int, ...]:
        """The sizes of the dimensions before the one that is divided last."""
        return self.spread.form.sizes[: self.dim]

    def cells(self, layout: Layout) -> tuple[list[int], ...]:
        """Between which cuts of each dimension, up to the one that is divided last, a rank has its part."""
        if not self.spread.form.sizes:
            return ([0],)
        return tuple(
            [cell for first, last in runs for cell in _cells(cuts, first, last)]
            for runs, cuts in zip(layout.nontrivial[: self.dim + 1], self.spread.cuts, strict=False)
        )

    def shape(self) -> tuple[int, ...]:
        """How many cells there are in each of these dimensions."""
        return tuple(len(cuts) + 1 for cuts in self.spread.cuts[: self.dim + 1]) or (1,)

    def blocks(
        self, layout: Layout, pieces: Pieces, data: torch.Tensor, digest_size: int, *, by_cell: bool
    ) -> Iterator[_Block]:
        """What a rank sent of some tensors, ``data`` with a row for each, in blocks: ranges of indices in the
        dimensions before the one that is divided last, and an interval of this one. If ``by_cell`` is set, no
        block has several cells."""
        count = len(data)
        middle = pieces.node_count * digest_size
        nodes = data[:, :middle].view(count, len(pieces.nodes), *pieces.before, digest_size)
        runs = layout.nontrivial[: self.dim]
        ranges = [
            list(_ranges(own, cuts if by_cell else ()))
            for own, cuts in zip(runs, self.spread.cuts, strict=False)
        ]
        for chosen in itertools.product(*ranges):
            here = tuple(slice(start, stop) for start, stop, _ in chosen)
            local = tuple(slice(at, at + stop - start) for start, stop, at in chosen)
            before = tuple(
                bisect_left(cuts, stop) for (_, stop, _), cuts in zip(chosen, self.spread.cuts, strict=False)
            )
            node, place = 0, middle
            for cell in self.cells(layout)[-1]:
                interval = self.intervals[cell]
                own = nodes[(slice(None), slice(node, node + interval.nodes), *local)]
                fragments = []
                for _, _, length in interval.fragments:
                    end = place + length * pieces.prefixes
                    of_all = data[:, place:end].view(count, *pieces.before, length)
                    fragments.append(of_all[(slice(None), *local)])
                    place = end
                node += interval.nodes
                yield _Block((*before, cell), here, own.movedim(1, -2), tuple(fragments))


@dataclass(frozen=True)
class _Block:
    cell: tuple[int, ...]
    """The last one in each dimension, if there are several."""
    here: Slices
    """The indices of the dimensions before the one that is divided last."""
    nodes: torch.Tensor
    """``[n, ..., nodes of the interval, digest_size]``"""
    fragments: tuple[torch.Tensor, ...]
    """``[n, ..., bytes]`` each."""


def _cells(cuts: Sequence[int], first: int, last: int) -> range:
    """Between which cuts the indices from ``first`` on and before ``last`` are; both are cuts or ends."""
    return range(bisect_left(cuts, first + 1), bisect_left(cuts, last) + 1)


def _ranges(runs: Runs, cuts: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """The ranges in ``runs``, divided at ``cuts``, and the place of each in the local tensor."""
    local = 0
    for start, stop in runs:
        ends = [start, *(cut for cut in cuts if start < cut < stop), stop]
        for first, last in itertools.pairwise(ends):
            yield first, last, local
            local += last - first


@dataclass(frozen=True)
class _Assembled:
    """What the ranks sent of some tensors that are spread alike, put together."""

    grid: _Grid
    nodes: torch.Tensor
    """``[n, ..., parts, digest_size]``, with the dimensions before the one that is divided last."""
    leaves: tuple[torch.Tensor, ...]
    """The bytes of the divided leaves, ``[n, ..., bytes]`` each; if every leaf is divided, of all of them
    together."""
    unlike: torch.Tensor
    """For each of the tensors whether two ranks sent something else."""

    @classmethod
    def empty(cls, grid: _Grid, count: int, digest_size: int, device: torch.device) -> _Assembled:
        import torch

        def allocated(*shape: int) -> torch.Tensor:
            return torch.empty((count, *grid.before, *shape), dtype=torch.uint8, device=device)

        unlike = torch.zeros(count, dtype=torch.bool, device=device)
        if grid.tree is None:
            form = grid.spread.form
            return cls(
                grid,
                allocated(0, digest_size),
                (allocated(form.sizes[grid.dim] * form.inner[grid.dim]),),
                unlike,
            )
        parts = len(grid.tree.starts)
        return cls(
            grid,
            allocated(parts, digest_size),
            tuple(allocated(size) for _, size in grid.leaves),
            unlike,
        )

    def fill(self, parts: Mapping[int, torch.Tensor]) -> None:
        """Put in what each rank sent, a row for each tensor. What another has sent before is compared."""
        grid = self.grid
        filled = np.zeros(grid.shape(), bool)
        for rank, layout in grid.spread.holders.items():
            pieces = grid.spread.pieces(rank)
            assert pieces is not None
            own = np.ix_(*grid.cells(layout))
            again = bool(filled[own].any())
            size = self.nodes.shape[-1]
            for block in grid.blocks(layout, pieces, parts[rank], size, by_cell=again):
                for target, source in self._targets(block):
                    if again and filled[block.cell]:
                        self.unlike.logical_or_((target != source).flatten(1).any(1))
                    else:
                        target.copy_(source)
            filled[own] = True
        if not filled.all():
            raise DistributedError("a part of a tree was sent by no rank; this is a fault of this package")

    def _targets(self, block: _Block) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        interval = self.grid.intervals[block.cell[-1]]
        here = (slice(None), *block.here)
        if interval.nodes:
            places = slice(interval.first_node, interval.first_node + interval.nodes)
            yield self.nodes[(*here, places)], block.nodes
        for (leaf, place, length), source in zip(interval.fragments, block.fragments, strict=True):
            yield self.leaves[leaf][here][..., place : place + length], source

    def roots(self, hash_: TensorHash, backend: str | None) -> torch.Tensor:
        """The roots of the trees, ``[n, digest_size]``."""
        grid, form = self.grid, self.grid.spread.form
        count, size = len(self.nodes), hash_.digest_size
        if grid.tree is None:
            return digests_of(form, self.leaves[0].view(count, -1), hash_, backend)
        by_length: dict[int, list[int]] = {}
        for i, (_, length) in enumerate(grid.leaves):
            by_length.setdefault(length, []).append(i)
        for length, chosen in by_length.items():
            for i, digests in zip(chosen, self._leaf_digests(chosen, length, hash_, backend), strict=True):
                self.nodes[..., grid.leaves[i][0], :] = digests.view(*self.nodes.shape[:-2], size)
        below = join(grid.tree, self.nodes.view(-1, self.nodes.shape[-2], size), hash_, backend)
        for dim in reversed(range(grid.dim)):
            below = join(form.halving(dim), below.view(-1, form.sizes[dim], size), hash_, backend)
        return below

    def _leaf_digests(
        self, chosen: Sequence[int], length: int, hash_: TensorHash, backend: str | None
    ) -> Sequence[torch.Tensor]:
        import torch

        rows = [self.leaves[i].view(-1, length) for i in chosen]
        if len(rows[0]) * length < _COPIED:
            together = hash_batch(torch.cat(rows), hash_.name, backend=backend)
            return torch.split(together, len(rows[0]))
        return [hash_batch(own, hash_.name, backend=backend) for own in rows]


_COPIED = 1 << 16  # leaves of fewer bytes are copied together, so that one batch serves many


def _fault(grid: _Grid, parts: Mapping[int, torch.Tensor], number: int, digest_size: int) -> str:
    """Which ranks sent something else of one tensor. Cells that the same ranks hold are taken together, so
    that all ranks with another value somewhere are named."""
    cells: dict[tuple[int, ...], dict[int, bytes]] = {}
    for rank, layout in grid.spread.holders.items():
        pieces = grid.spread.pieces(rank)
        assert pieces is not None
        data = parts[rank][number : number + 1]
        for block in grid.blocks(layout, pieces, data, digest_size, by_cell=True):
            hasher = hashlib.sha256()
            for part in (block.nodes, *block.fragments):
                hasher.update(part.contiguous().cpu().numpy().tobytes())
            cells.setdefault(block.cell, {})[rank] = hasher.digest()
    by_ranks: dict[tuple[int, ...], list[dict[int, bytes]]] = {}
    for _, values in sorted(cells.items()):
        if len(set(values.values())) > 1:
            by_ranks.setdefault(tuple(values), []).append(values)
    return "; ".join(
        told_apart({rank: b"".join(values[rank] for values in found) for rank in ranks})
        for ranks, found in by_ranks.items()
    )


def told_apart(values: Mapping[int, bytes]) -> str:
    """Which ranks have other values than most, or which have the same if there is no majority."""
    groups: dict[bytes, list[int]] = {}
    for rank, value in values.items():
        groups.setdefault(value, []).append(rank)
    by_size = sorted(groups.values(), key=lambda ranks: (-len(ranks), ranks))
    if 2 * len(by_size[0]) > len(values):
        others = sorted(rank for ranks in by_size[1:] for rank in ranks)
        return f"{ranks_text(others)} differ from the majority, {ranks_text(by_size[0])}".replace(
            "differ", "differs" if len(others) == 1 else "differ"
        )
    return "there is no majority: " + " and ".join(ranks_text(ranks) for ranks in by_size) + " differ"


def conclude(agreement: Agreement, finished: Sequence[bytes], hash_: TensorHash) -> dict[str, bytes]:
    """The content digests of all tensors, from what each rank has finished: see :attr:`Member.digests`."""
    size = hash_.digest_size
    found: dict[str, bytes] = {}
    divided: dict[str, list[bytes]] = {
        name: [b""] * len(sections.parts) for name, sections in agreement.sections.items()
    }
    for rank, data in enumerate(finished):
        place = 0
        for lot in agreement.finished_by(rank):
            for name in lot.names:
                digest = data[place : place + size]
                place += size
                if lot.section is None:
                    found[name] = digest
                else:
                    divided[name][lot.number] = digest
    for name, digests in divided.items():
        spread = agreement.spreads[name]
        node = _above(agreement.sections[name].halves, digests, hash_)
        found[name] = content_digest(hash_, spread.dtype, spread.shape, node)
    return found


def _above(halves: Halves, digests: Sequence[bytes], hash_: TensorHash) -> bytes:
    """The root over the digests of sections."""
    if isinstance(halves, int):
        return digests[halves]
    first, second = halves
    return hash_.digest(_above(first, digests, hash_) + _above(second, digests, hash_))
