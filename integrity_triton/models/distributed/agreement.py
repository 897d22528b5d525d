"""What every rank concludes from all descriptions: which tensors there are, who holds which part, who
finishes which tree, and what each rank sends to each. No data is needed for it, and all ranks come to the
same conclusions, errors included."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import ManifestError, shown
from .description import Described
from .errors import ranks_text
from .layout import Cuts, Layout, Pieces, cuts_of, pieces_of, uncovered
from .tree import Form, Offsets

ROUND_SIZE = 64 << 20
"""Bytes that a rank sends, or receives, before what has come is joined; a tensor that needs more by itself
has a round of its own."""


@dataclass(frozen=True)
class Spread:
    """How one tensor is spread over ranks. Tensors that are spread alike share it."""

    form: Form
    dtype: str
    shape: tuple[int, ...]
    holders: Mapping[int, Layout]
    """The layout of each rank that holds an element of the tensor."""
    cuts: Cuts

    def pieces(self, rank: int) -> Pieces | None:
        """What a rank sends of the tensor; None if that is nothing."""
        layout = self.holders.get(rank)
        return None if layout is None else pieces_of(self.form, layout, self.cuts)

    def sizes(self, digest_size: int) -> tuple[Offsets, Offsets]:
        """The ranks that hold the tensor, and how many bytes each sends of it."""
        counted: dict[Layout, int] = {}
        for layout in self.holders.values():
            if layout not in counted:
                pieces = pieces_of(self.form, layout, self.cuts)
                counted[layout] = pieces.node_count * digest_size + pieces.fragment_size
        ranks = np.fromiter(self.holders, np.int64, len(self.holders))
        return ranks, np.array([counted[layout] for layout in self.holders.values()], np.int64)


@dataclass(frozen=True)
class Round:
    """Tensors whose digests travel together."""

    tensors: tuple[str, ...]
    """In order."""
    reducers: Mapping[str, int]
    """The rank that finishes the tree of each tensor."""

    def of(self, reducer: int) -> tuple[str, ...]:
        """The tensors of a reducer, in order."""
        return self._by_reducer.get(reducer, ())

    @cached_property
    def _by_reducer(self) -> dict[int, tuple[str, ...]]:
        found: dict[int, list[str]] = {}
        for name in self.tensors:
            found.setdefault(self.reducers[name], []).append(name)
        return {rank: tuple(names) for rank, names in found.items()}


class Agreement:
    """The conclusions from the descriptions of all ranks."""

    def __init__(self, descriptions: Sequence[Mapping[str, Described]], digest_size: int) -> None:
        """``descriptions`` has one for each rank. Ranks whose descriptions are equal should share the object.

        Raises ManifestError, which names the tensor and ranks, if ranks state another dtype or shape for the
        same name, and if an element of a tensor is held by no rank.
        """
        self.size = len(descriptions)
        self.digest_size = digest_size
        self.spreads = _spreads(descriptions)
        self.rounds = tuple(self._rounds())

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All tensors, in order."""
        return tuple(sorted(self.spreads, key=lambda name: name.encode("utf-8")))

    def sent(self, names: Iterable[str], rank: int) -> int:
        """How many bytes a rank sends of some tensors."""
        total = 0
        for name in names:
            pieces = self.spreads[name].pieces(rank)
            if pieces is not None:
                total += pieces.node_count * self.digest_size + pieces.fragment_size
        return total

    def reducer(self, name: str) -> int:
        """The rank that finishes the tree of a tensor."""
        return self._reducers[name]

    @cached_property
    def _reducers(self) -> dict[str, int]:
        return {name: rank for part in self.rounds for name, rank in part.reducers.items()}

    def finished_by(self, rank: int) -> tuple[str, ...]:
        """The tensors whose trees a rank finishes, in the order in which it does so."""
        return tuple(name for part in self.rounds for name in part.of(rank))

    def _rounds(self) -> Iterable[Round]:
        """Tensors in order, each for the rank that has received least so far."""
        received = np.zeros(self.size, np.int64)
        in_round = np.zeros((2, self.size), np.int64)  # bytes that each rank sends, and receives
        reducers: dict[str, int] = {}
        known: dict[int, tuple[Offsets, Offsets]] = {}
        for name in self.names:
            spread = self.spreads[name]
            if id(spread) not in known:
                known[id(spread)] = spread.sizes(self.digest_size)
            ranks, sizes = known[id(spread)]
            reducer = int(np.argmin(received))
            total = int(sizes.sum())
            after = max(int(in_round[1, reducer]) + total, int((in_round[0, ranks] + sizes).max(initial=0)))
            if reducers and after > ROUND_SIZE:
                yield Round(tuple(reducers), reducers)
                reducers, in_round = {}, np.zeros_like(in_round)
            in_round[0, ranks] += sizes
            in_round[1, reducer] += total
            received[reducer] += total + self.digest_size  # a tensor without bytes is some work, too
            reducers[name] = reducer
        if reducers:
            yield Round(tuple(reducers), reducers)


def _spreads(descriptions: Sequence[Mapping[str, Described]]) -> dict[str, Spread]:
    ranks_of: dict[int, list[int]] = {}
    distinct: dict[int, Mapping[str, Described]] = {}
    for rank, description in enumerate(descriptions):
        distinct[id(description)] = description
        ranks_of.setdefault(id(description), []).append(rank)
    stated: dict[str, list[tuple[int, Described]]] = {}
    for number, description in distinct.items():
        for name, described in description.items():
            stated.setdefault(name, []).append((number, described))
    known: dict[tuple[tuple[int, Described], ...], Spread] = {}
    spreads = {}
    for name, statements in stated.items():
        key = tuple(statements)
        if key not in known:
            known[key] = _spread(name, [(ranks_of[number], described) for number, described in statements])
        spreads[name] = known[key]
    return spreads


def _spread(name: str, statements: Sequence[tuple[Sequence[int], Described]]) -> Spread:
    kinds: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for ranks, described in statements:
        kinds.setdefault((described.dtype, described.shape), []).extend(ranks)
    if len(kinds) > 1:
        claims = "; ".join(
            f"{dtype} {list(shape)} by {ranks_text(ranks)}" for (dtype, shape), ranks in kinds.items()
        )
        raise ManifestError(f"ranks do not agree what tensor {shown(name)} is: {claims}")
    described = statements[0][1]
    form = Form.stored(described.dtype, described.shape)
    holders = {}
    for ranks, own in statements:
        for rank in ranks:
            layout = own.at(rank)
            if not layout.empty:
                holders[rank] = layout
    distinct = set(holders.values())
    cuts = cuts_of(form, distinct)
    missing = uncovered(form, distinct, cuts) if form.nbytes else None
    if missing is not None:
        dims = iter(missing)
        index = [0 if size == 1 else next(dims) for size in described.memory_shape]
        raise ManifestError(
            f"a part of tensor {shown(name)} is held by no rank, from the element {index} on; the ranks of "
            "the group must hold all of the model"
        )
    return Spread(form, described.dtype, described.shape, dict(sorted(holders.items())), cuts)
