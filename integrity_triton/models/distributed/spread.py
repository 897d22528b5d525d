"""How a tensor is spread over ranks, and how the work of finishing its tree is divided."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from .layout import Box, Cuts, Layout, Pieces, Runs, clipped, last_cut, pieces_of
from .tree import LEAF_SIZE, Form, Offsets

Halves = int | tuple["Halves", "Halves"]
"""A tree whose leaves are numbers of sections."""


@dataclass(frozen=True, eq=False)
class Spread:
    """How one tensor is spread over ranks. Tensors that are spread alike share it."""

    form: Form
    dtype: str
    shape: tuple[int, ...]
    holders: Mapping[int, Layout]
    """The layout of each rank that holds an element of the tensor, in the order of the ranks."""
    cuts: Cuts
    _pieces: dict[Layout, Pieces] = field(default_factory=dict)

    def pieces(self, rank: int) -> Pieces | None:
        """What a rank sends of the tensor; None if that is nothing."""
        layout = self.holders.get(rank)
        return None if layout is None else self._of(layout)

    def _of(self, layout: Layout) -> Pieces:
        found = self._pieces.get(layout)
        if found is None:
            found = self._pieces[layout] = pieces_of(self.form, layout, self.cuts)
        return found

    def sent(self, rank: int, digest_size: int) -> int:
        """How many bytes a rank sends of the tensor."""
        pieces = self.pieces(rank)
        return 0 if pieces is None else pieces.size(digest_size)

    def sizes(self, digest_size: int) -> tuple[Offsets, Offsets]:
        """The ranks that hold the tensor, and how many bytes each sends of it."""
        counted = {layout: self._of(layout).size(digest_size) for layout in set(self.holders.values())}
        ranks = np.fromiter(self.holders, np.int64, len(self.holders))
        return ranks, np.array([counted[layout] for layout in self.holders.values()], np.int64)

    def sections(self, count: int) -> Sections:
        """The tree divided into at least ``count`` nodes of one depth or, where that is not possible, into as
        many as there are. None of them divides what a rank sends as one digest."""
        boxes, halves = _divided(self.form, last_cut(self.cuts), count)
        return Sections(tuple(self._within(boxes)), halves)

    def _within(self, boxes: list[Box]) -> Iterator[Section]:
        """The parts of this spread in some boxes. Boxes that are held alike share a spread."""
        known: dict[tuple[tuple[int, int, tuple[int, ...]], ...], Spread] = {}
        for box in boxes:
            # Between two neighbouring cuts the same ranks hold every index.
            key = tuple(
                (stop - start, bisect_right(cuts, start), _within(cuts, start, stop))
                for (start, stop), cuts in zip(box, self.cuts, strict=True)
            )
            if key not in known:
                known[key] = self._clipped(box, tuple(cuts for size, _, cuts in key if size != 1))
            yield Section(box, known[key])

    def _clipped(self, box: Box, cuts: Cuts) -> Spread:
        shape = tuple(stop - start for start, stop in box)
        runs: dict[tuple[int, Runs], Runs] = {}
        layouts: dict[Layout, Layout] = {}
        holders = {}
        for rank, layout in self.holders.items():
            own = layouts.get(layout)
            if own is None:
                parts = []
                for dim, (start, stop) in enumerate(box):
                    here = dim, layout.nontrivial[dim]
                    if here not in runs:
                        runs[here] = clipped(here[1], start, stop)
                    parts.append(runs[here])
                own = layouts[layout] = Layout(shape, tuple(parts))
            if not own.empty:
                holders[rank] = own
        return Spread(Form.of(shape, self.form.itemsize), self.dtype, self.shape, holders, cuts)


@dataclass(frozen=True)
class Section:
    """A node of a tensor's tree that one rank computes from what the others send."""

    box: Box
    spread: Spread
    """Of what lies in the box."""


@dataclass(frozen=True)
class Sections:
    """The nodes into which a tree is divided, in order, and the tree above them."""

    parts: tuple[Section, ...]
    halves: Halves


def _within(cuts: tuple[int, ...], start: int, stop: int) -> tuple[int, ...]:
    return tuple(cut - start for cut in cuts[bisect_right(cuts, start) : bisect_left(cuts, stop)])


def _divided(form: Form, dim: int, count: int) -> tuple[list[Box], Halves]:
    """At least ``count`` nodes of a tree, if there are so many that consist of whole indices of the
    dimensions before ``dim``, and the tree above them."""
    level: list[Box] = [tuple((0, size) for size in form.sizes)]
    divided: set[Box] = set()
    while len(level) < count:
        found = [half for box in level for half in (_halves(box, form, dim) or (box,))]
        if len(found) == len(level):
            break
        divided.update(box for box in level if _halves(box, form, dim))
        level = found
    numbers = {box: number for number, box in enumerate(level)}

    def above(box: Box) -> Halves:
        if box not in divided:
            return numbers[box]
        first, second = _halves(box, form, dim) or (box, box)
        return above(first), above(second)

    return level, above(tuple((0, size) for size in form.sizes))


def _halves(box: Box, form: Form, dim: int) -> tuple[Box, Box] | None:
    """The two nodes of which a node consists; None if it is not to be divided."""
    sizes = [stop - start for start, stop in box]
    at = next((i for i, size in enumerate(sizes) if size > 1), dim)
    if at >= dim or math.prod(sizes) * form.itemsize <= LEAF_SIZE:
        return None
    start, stop = box[at]
    middle = start + (stop - start + 1) // 2
    first, second = ((*box[:at], half, *box[at + 1 :]) for half in ((start, middle), (middle, stop)))
    return first, second
