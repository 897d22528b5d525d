"""What every rank concludes from all descriptions: which tensors there are, who holds which part, who
finishes which tree, and what each rank sends to each. No data is needed for it, and all ranks come to the
same conclusions, errors included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import ManifestError, shown
from .description import Described
from .errors import ranks_text
from .layout import cuts_of, uncovered
from .spread import Section, Sections, Spread
from .tree import Form, Offsets

ROUND_SIZE = 64 << 20
"""Bytes that a rank sends, or receives, before what has come is joined; a lot that needs more by itself has a
round of its own."""
LOT_SIZE = 4 << 20
"""Bytes that a rank receives to finish one lot. A tensor that needs more is divided into sections."""
LEAST_SECTION = 1 << 20
"""Bytes below which a tensor is not divided, since every section costs launches and a digest at the end."""
_SHARES = 8  # into how many lots the work of a rank is divided at least, so that all get the same


@dataclass(frozen=True, eq=False)
class Lot:
    """What a rank finishes in one go: the trees of tensors that are spread alike, or a section of one."""

    names: tuple[str, ...]
    """In order."""
    spread: Spread
    """Of the tensors, or of the section."""
    section: Section | None = None
    number: int = 0
    """Of the section."""

    def sent(self, rank: int, digest_size: int) -> int:
        """How many bytes a rank sends of it: for each tensor in turn its nodes and its fragments."""
        return len(self.names) * self.spread.sent(rank, digest_size)


@dataclass(frozen=True, eq=False)
class Round:
    """Lots whose digests travel together."""

    lots: tuple[Lot, ...]
    reducers: tuple[int, ...]
    """The rank that finishes each."""

    def of(self, reducer: int) -> tuple[Lot, ...]:
        """The lots of a reducer, in order."""
        return self._by_reducer.get(reducer, ())

    @cached_property
    def _by_reducer(self) -> dict[int, tuple[Lot, ...]]:
        found: dict[int, list[Lot]] = {}
        for lot, reducer in zip(self.lots, self.reducers, strict=True):
            found.setdefault(reducer, []).append(lot)
        return {rank: tuple(lots) for rank, lots in found.items()}


class Agreement:
    """The conclusions from the descriptions of all ranks."""

    def __init__(self, descriptions: Sequence[Mapping[str, Described]], digest_size: int) -> None:
        """``descriptions`` has one for each rank. Ranks whose descriptions are equal should share the object,
        and so should tensors whose parts of it are.

        Raises ManifestError, which names the tensor and ranks, if ranks state another dtype or shape for the
        same name, and if an element of a tensor is held by no rank.
        """
        self.size = len(descriptions)
        self.digest_size = digest_size
        self.spreads = _spreads(descriptions)
        self.sections: dict[str, Sections] = {}
        """Of the tensors that are divided into sections."""
        self.rounds = tuple(self._rounds())

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All tensors, in order."""
        return tuple(sorted(self.spreads, key=lambda name: name.encode("utf-8")))

    def sent(self, lots: Iterable[Lot], rank: int) -> int:
        """How many bytes a rank sends of some lots."""
        return sum(lot.sent(rank, self.digest_size) for lot in lots)

    def finished_by(self, rank: int) -> tuple[Lot, ...]:
        """The lots that a rank finishes, in the order in which it does so."""
        return tuple(lot for part in self.rounds for lot in part.of(rank))

    def _rounds(self) -> Iterator[Round]:
        """Lots in order, each for the rank that has least to do so far.

        A digest at the end counts as much as the bytes that are received for one on average, so that no rank
        has many more of them than others: what they gather is padded to the longest.
        """
        in_round = np.zeros((2, self.size), np.int64)  # bytes that each rank sends, and receives
        lots: list[Lot] = []
        reducers: list[int] = []
        known: dict[Spread, tuple[Offsets, Offsets]] = {}
        every = list(self._lots())
        for lot in every:
            if lot.spread not in known:
                known[lot.spread] = lot.spread.sizes(self.digest_size)
        bytes_in_all = sum(int(known[lot.spread][1].sum()) * len(lot.names) for lot in every)
        price = self.digest_size + bytes_in_all // max(1, sum(len(lot.names) for lot in every))
        work = np.zeros(self.size, np.int64)
        for lot in every:
            ranks, sizes = known[lot.spread]
            sizes = sizes * len(lot.names)
            reducer = int(np.argmin(work))
            total = int(sizes.sum())
            after = max(int(in_round[1, reducer]) + total, int((in_round[0, ranks] + sizes).max(initial=0)))
            if lots and after > ROUND_SIZE:
                yield Round(tuple(lots), tuple(reducers))
                lots, reducers, in_round = [], [], np.zeros_like(in_round)
            in_round[0, ranks] += sizes
            in_round[1, reducer] += total
            work[reducer] += total + len(lot.names) * price
            lots.append(lot)
            reducers.append(reducer)
        if lots:
            yield Round(tuple(lots), tuple(reducers))

    def _lots(self) -> Iterator[Lot]:
        alike: dict[Spread, list[str]] = {}
        for name in self.names:
            alike.setdefault(self.spreads[name], []).append(name)
        sizes = {spread: int(spread.sizes(self.digest_size)[1].sum()) for spread in alike}
        total = sum((sizes[spread] + self.digest_size) * len(names) for spread, names in alike.items())
        most = min(LOT_SIZE, total // (_SHARES * self.size) + 1)
        most_names = len(self.names) // (_SHARES * self.size) + 1
        least = max(most, LEAST_SECTION)
        for spread, names in alike.items():
            sections = spread.sections(-(-sizes[spread] // least)) if sizes[spread] > least else None
            if sections is not None and len(sections.parts) > 1:
                for name in names:
                    self.sections[name] = sections
                    for number, section in enumerate(sections.parts):
                        yield Lot((name,), section.spread, section, number)
                continue
            step = max(1, min(most_names, most // (sizes[spread] + self.digest_size)))
            for first in range(0, len(names), step):
                yield Lot(tuple(names[first : first + step]), spread)


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
    # Most tensors share their descriptions, so that few of these have to be compared by what they say.
    numbers: dict[Described, int] = {}
    seen: dict[int, int] = {}

    def number_of(described: Described) -> int:
        if id(described) not in seen:
            seen[id(described)] = numbers.setdefault(described, len(numbers))
        return seen[id(described)]

    known: dict[tuple[tuple[int, int], ...], Spread] = {}
    spreads = {}
    for name, statements in stated.items():
        key = tuple((number, number_of(described)) for number, described in statements)
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
