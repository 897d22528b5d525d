"""Which part of a tensor a rank holds, and what it sends of it: the nodes that it holds whole, and the pieces
of leaves that a cut divides."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np

from ..errors import ManifestError
from .tree import Form, whole_parts

Run = tuple[int, int]
Runs = tuple[Run, ...]


@dataclass(frozen=True)
class Layout:
    """The part of a tensor that a rank holds: in each dimension some ranges of indices, and everything at
    which they meet.

    ``runs`` has for each dimension ranges ``(start, stop)`` in the order in which they are in the local
    tensor. This covers all regular shardings: even and uneven, over several dimensions, strided, and none.
    """

    shape: tuple[int, ...]
    """Of the whole tensor."""
    runs: tuple[Runs, ...]

    @classmethod
    def of(cls, shape: Sequence[int], runs: Iterable[Iterable[Sequence[int]]]) -> Layout:
        """A checked layout. Neighbouring ranges are joined, and empty ones left out.

        Raises ManifestError for ranges outside of the shape, for an index that occurs twice in a dimension,
        and for another number of dimensions.
        """
        sizes = tuple(shape)
        dims = tuple(tuple((int(start), int(stop)) for start, stop in dim) for dim in runs)
        if len(dims) != len(sizes):
            raise ManifestError(
                f"there are ranges for {len(dims)} dimensions, and the shape has {len(sizes)}"
            )
        for size, dim in zip(sizes, dims, strict=True):
            end = 0
            for start, stop in sorted(run for run in dim if run[0] != run[1]):
                if not end <= start < stop <= size:
                    raise ManifestError(
                        f"the ranges {list(dim)} are not some of the indices 0 to {size}, each once"
                    )
                end = stop
        return cls(sizes, tuple(map(_joined, dims)))

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Layout:
        """That of a rank that holds the whole tensor."""
        return _whole(tuple(shape))

    @cached_property
    def local_shape(self) -> tuple[int, ...]:
        return tuple(sum(stop - start for start, stop in runs) for runs in self.runs)

    @property
    def empty(self) -> bool:
        """Whether this is no element of the tensor."""
        return 0 in self.local_shape

    @property
    def nontrivial(self) -> tuple[Runs, ...]:
        """The ranges in the dimensions of more than one index, as :class:`Form` has them."""
        return tuple(runs for size, runs in zip(self.shape, self.runs, strict=True) if size != 1)


@lru_cache(maxsize=4096)
def _whole(shape: tuple[int, ...]) -> Layout:
    return Layout(shape, tuple(((0, size),) if size else () for size in shape))


def _joined(runs: Runs) -> Runs:
    found: list[Run] = []
    for start, stop in runs:
        if start == stop:
            continue
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((start, stop))
    return tuple(found)


def sliced(runs: Runs, first: int, last: int) -> Runs:
    """Those of the indices in ``runs`` whose places in the list of all are from ``first`` on and before
    ``last``."""
    found = []
    place = 0
    for start, stop in runs:
        begin, end = max(first - place, 0), min(last - place, stop - start)
        if begin < end:
            found.append((start + begin, start + end))
        place += stop - start
    return _joined(tuple(found))


Cuts = tuple[tuple[int, ...], ...]


def cuts_of(form: Form, layouts: Iterable[Layout]) -> Cuts:
    """Where any of several layouts of a tensor begins or ends a range, in each dimension of its form.

    Every rank divides what it holds at all of these places. Two ranks that hold the same bytes then send the
    same nodes of them, however different their other parts are, so that copies can be compared.
    """
    cuts: list[set[int]] = [set() for _ in form.sizes]
    for layout in layouts:
        if not layout.empty:
            for here, runs in zip(cuts, layout.nontrivial, strict=True):
                here.update(end for run in runs for end in run)
    return tuple(tuple(sorted(here - {0, size})) for here, size in zip(cuts, form.sizes, strict=True))


@dataclass(frozen=True)
class Span:
    """Neighbouring indices of the dimension in which a tensor is divided last: a node for each index of the
    dimensions before it, or a piece of a leaf."""

    start: int
    stop: int
    local: int
    """The place of ``start`` in the local tensor."""


@dataclass(frozen=True)
class Pieces:
    """What a rank sends of a tensor: for each of ``nodes`` and then of ``fragments``, and for each index that
    it holds of the dimensions before ``dim``, a digest or the bytes."""

    dim: int
    """The dimension of the form in which the tensor is divided last; 0 if it is not divided."""
    length: int
    """How many indices of this dimension the rank holds."""
    inner: int
    """Bytes of one of these indices."""
    before: tuple[int, ...]
    """How many indices of each dimension before this one the rank holds."""
    nodes: tuple[Span, ...]
    fragments: tuple[Span, ...]

    @property
    def prefixes(self) -> int:
        """How many indices of the dimensions before ``dim`` the rank holds."""
        return math.prod(self.before)

    @property
    def node_count(self) -> int:
        return len(self.nodes) * self.prefixes

    @property
    def fragment_size(self) -> int:
        """Bytes of all fragments."""
        return sum(span.stop - span.start for span in self.fragments) * self.inner * self.prefixes

    def size(self, digest_size: int) -> int:
        """Bytes of everything."""
        return self.node_count * digest_size + self.fragment_size


def last_cut(cuts: Cuts) -> int:
    """The dimension in which a tensor is divided last; 0 if it is not divided.

    A node before that dimension is never whole, one in it is whole if a rank holds its indices, and the
    dimensions after it are whole.
    """
    return max((dim for dim, here in enumerate(cuts) if here), default=0)


def pieces_of(form: Form, layout: Layout, cuts: Cuts) -> Pieces:
    """What a rank with this layout, which is not empty, sends of a tensor that is divided at ``cuts``."""
    if not form.sizes:
        return Pieces(0, 1, form.itemsize, (), (Span(0, 1, 0),), ())
    dim = last_cut(cuts)
    runs = layout.nontrivial
    nodes, fragments = [], []
    local = 0
    for start, stop in runs[dim]:
        ends = [start, *cuts[dim][bisect_right(cuts[dim], start) : bisect_left(cuts[dim], stop)], stop]
        for first, last in pairwise(ends):
            place = local - start
            if dim > form.leaf_dim:
                fragments.append(Span(first, last, first + place))
                continue
            whole, broken = whole_parts(form.sizes[dim], form.inner[dim], first, last)
            nodes += [Span(a, b, a + place) for a, b in whole]
            fragments += [Span(piece.start, piece.stop, piece.start + place) for piece in broken]
        local += stop - start
    before = tuple(sum(stop - start for start, stop in own) for own in runs[:dim])
    return Pieces(dim, local, form.inner[dim], before, tuple(nodes), tuple(fragments))


def node_form(form: Form, pieces: Pieces, span: Span) -> Form:
    """The form of a node."""
    if not form.sizes:
        return form
    return Form.of((span.stop - span.start, *form.sizes[pieces.dim + 1 :]), form.itemsize)


def uncovered(form: Form, layouts: Iterable[Layout], cuts: Cuts) -> tuple[int, ...] | None:
    """The indices of an element that no layout holds, in the dimensions of the form; None if all are held."""
    bounds = [np.array([0, *here, size]) for here, size in zip(cuts, form.sizes, strict=True)]
    held = np.zeros(tuple(len(ends) - 1 for ends in bounds), bool)
    for layout in layouts:
        if layout.empty:
            continue
        chosen = []
        for ends, runs in zip(bounds, layout.nontrivial, strict=True):
            parts = np.zeros(len(ends) - 1, bool)
            for start, stop in runs:
                parts |= (start <= ends[:-1]) & (ends[1:] <= stop)
            chosen.append(np.flatnonzero(parts))
        held[np.ix_(*chosen)] = True
    if held.all():
        return None
    first = np.unravel_index(int(np.argmin(held)), held.shape)
    return tuple(int(ends[i]) for ends, i in zip(bounds, first, strict=True))


Box = tuple[Run, ...]
"""A node of a tensor's tree: a range of indices in each dimension of the form."""


def clipped(runs: Runs, start: int, stop: int) -> Runs:
    """Those of the indices in ``runs`` from ``start`` on and before ``stop``, counted from ``start``, in
    their order."""
    found = ((max(first, start) - start, min(last, stop) - start) for first, last in runs)
    return tuple((first, last) for first, last in found if first < last)


def places(runs: Runs, start: int, stop: int) -> list[Run]:
    """Where in a local tensor with the indices ``runs`` those from ``start`` on and before ``stop`` are."""
    found = []
    local = 0
    for first, last in runs:
        begin, end = max(first, start), min(last, stop)
        if begin < end:
            found.append((begin - first + local, end - first + local))
        local += last - first
    return found
