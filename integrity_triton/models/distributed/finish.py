"""The end of a tree, at the rank that finishes it: the digests and pieces of leaves that the ranks sent are
compared where several hold the same, and joined up to the root."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...batch import hash_batch
from ..errors import shown
from ..tensor_hash import TensorHash
from .agreement import Agreement
from .errors import DistributedError, ranks_text
from .layout import Pieces
from .tree import LEAF_SIZE, Form, Offsets

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class _Nodes:
    """Nodes of all trees at once. Each tensor has offsets of its own, so that two of them name a node."""

    start: Offsets
    stop: Offsets
    rank: Offsets
    digests: torch.Tensor


def finish(
    agreement: Agreement,
    names: Sequence[str],
    received: Sequence[torch.Tensor],
    hash_: TensorHash,
    backend: str | None,
) -> tuple[list[bytes], list[str]]:
    """The roots of the trees of some tensors, and a line for each tensor of which the copies differ.

    ``received`` has for each rank what it sent of them, flat uint8, in the order of ``names``: the digests of
    a tensor's nodes, and then its fragments. A root is worth nothing if the copies of its tensor differ.
    """
    forms = [agreement.spreads[name].form for name in names]
    bases = np.concatenate([[0], np.cumsum([form.nbytes for form in forms])]).astype(np.int64)
    nodes, faults = _collect(agreement, names, forms, bases, received, hash_, backend)
    nodes, more = _without_copies(nodes, bases)
    for place, fault in more.items():
        faults.setdefault(place, fault)
    lines = [f"tensor {shown(names[place])}: {faults[place]}" for place in sorted(faults)]
    if lines or not names:
        return [], lines
    return _roots(forms, bases, nodes, hash_, backend), []


def _collect(
    agreement: Agreement,
    names: Sequence[str],
    forms: Sequence[Form],
    bases: Offsets,
    received: Sequence[torch.Tensor],
    hash_: TensorHash,
    backend: str | None,
) -> tuple[_Nodes, dict[int, str]]:
    """What the ranks sent, with the digests of the leaves that fragments make up."""
    import torch

    size = hash_.digest_size
    places = [0] * len(received)
    starts, stops, ranks, digests = [], [], [], []
    faults = {}
    for number, name in enumerate(names):
        spread = agreement.spreads[name]
        fragments: list[tuple[int, Pieces, torch.Tensor]] = []
        for rank in spread.holders:
            pieces = spread.pieces(rank)
            assert pieces is not None
            middle = places[rank] + pieces.node_count * size
            end = middle + pieces.fragment_size
            if pieces.node_count:
                begin, stop = pieces.node_ranges
                starts.append(begin + bases[number])
                stops.append(stop + bases[number])
                ranks.append(np.full(len(begin), rank, np.int64))
                digests.append(received[rank][places[rank] : middle].view(-1, size))
            if middle < end:
                fragments.append((rank, pieces, received[rank][middle:end]))
            places[rank] = end
        if fragments:
            begin, stop, rows, fault = _leaves(forms[number], fragments)
            if fault:
                faults[number] = fault
            starts.append(begin + bases[number])
            stops.append(stop + bases[number])
            ranks.append(np.full(len(begin), -1, np.int64))
            digests.append(_leaf_digests(rows, stop - begin, hash_, backend))
    for rank, data in enumerate(received):
        if places[rank] != data.numel():
            raise DistributedError(f"rank {rank} sent {data.numel()} bytes and not {places[rank]}")
    if not starts:
        none = np.zeros(0, np.int64)
        return _Nodes(none, none, none, torch.empty((0, size), dtype=torch.uint8)), faults
    return (
        _Nodes(np.concatenate(starts), np.concatenate(stops), np.concatenate(ranks), torch.cat(digests)),
        faults,
    )


def _leaves(
    form: Form, fragments: Sequence[tuple[int, Pieces, torch.Tensor]]
) -> tuple[Offsets, Offsets, torch.Tensor, str]:
    """The leaves of one tensor that several ranks hold parts of: where they begin and end, their bytes in
    rows of LEAF_SIZE, and what is wrong with the parts, if anything is."""
    import torch

    halving = form.halving(form.leaf_dim)
    row = halving.size * halving.unit  # bytes of the dimension in which leaves are ranges
    bounds = np.append(halving.starts, halving.size) * halving.unit

    def leaf_of(offsets: Offsets) -> tuple[Offsets, Offsets]:
        number = np.searchsorted(bounds, offsets % row, side="right") - 1
        before = offsets - offsets % row
        return before + bounds[number], before + bounds[number + 1]

    found = [leaf_of(pieces.fragment_ranges[0]) for _, pieces, _ in fragments]
    start, first = np.unique(np.concatenate([begin for begin, _ in found]), return_index=True)
    stop = np.concatenate([end for _, end in found])[first]
    device = fragments[0][2].device
    rows = torch.zeros(len(start) * LEAF_SIZE, dtype=torch.uint8, device=device)
    owners = np.full(len(start) * LEAF_SIZE, -1, np.int64)
    differing: dict[int, set[int]] = {}
    for (rank, pieces, data), (leaf, _) in zip(fragments, found, strict=True):
        begin, end = pieces.fragment_ranges
        lengths = end - begin
        target = np.searchsorted(start, leaf) * LEAF_SIZE + begin - leaf
        within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        places = np.repeat(target, lengths) + within
        places_there = torch.from_numpy(places).to(device)
        again = owners[places] >= 0
        if again.any():
            unlike = (rows[places_there] != data).cpu().numpy() & again
            for owner in np.unique(owners[places[unlike]]):
                differing.setdefault(int(owner), set()).add(rank)
        fresh = torch.from_numpy(np.flatnonzero(~again)).to(device)
        rows[places_there[fresh]] = data[fresh]
        owners[places[~again]] = rank
    filled = np.add.reduceat(owners >= 0, np.arange(0, len(owners), LEAF_SIZE))
    if not np.array_equal(filled, stop - start):
        raise DistributedError(
            "a leaf is not made up by the fragments of it; this is a fault of this package"
        )
    fault = "; ".join(
        f"copies of {ranks_text(sorted(others))} differ from that of rank {owner}"
        for owner, others in sorted(differing.items())
    )
    return start, stop, rows.view(-1, LEAF_SIZE), fault


def _leaf_digests(
    rows: torch.Tensor, lengths: Offsets, hash_: TensorHash, backend: str | None
) -> torch.Tensor:
    import torch

    out = torch.empty((len(rows), hash_.digest_size), dtype=torch.uint8, device=rows.device)
    for length in np.unique(lengths):
        chosen = torch.from_numpy(np.flatnonzero(lengths == length)).to(rows.device)
        out[chosen] = hash_batch(rows[chosen, : int(length)].contiguous(), hash_.name, backend=backend)
    return out


def _without_copies(nodes: _Nodes, bases: Offsets) -> tuple[_Nodes, dict[int, str]]:
    """Each node once, in order, and for the numbers of tensors whose copies differ, which ranks do."""
    import torch

    order = np.lexsort((nodes.rank, nodes.start))
    start, rank = nodes.start[order], nodes.rank[order]
    digests = nodes.digests[torch.from_numpy(order).to(nodes.digests.device)]
    first = np.append(True, start[1:] != start[:-1])[: len(start)]
    unlike = np.zeros(len(start), bool)
    if len(start) > 1:
        unlike[1:] = (digests[1:] != digests[:-1]).any(1).cpu().numpy() & ~first[1:]
    faults = _faults(start, rank, digests, first, unlike, bases) if unlike.any() else {}
    kept = np.flatnonzero(first)
    return _Nodes(start[kept], nodes.stop[order][kept], rank[kept], digests[torch.from_numpy(kept)]), faults


def _faults(
    start: Offsets,
    rank: Offsets,
    digests: torch.Tensor,
    first: np.ndarray[Any, np.dtype[np.bool_]],
    unlike: np.ndarray[Any, np.dtype[np.bool_]],
    bases: Offsets,
) -> dict[int, str]:
    """Which ranks differ, by the numbers of the tensors. Nodes that the same ranks hold are taken together,
    so that all ranks with another value somewhere are named."""
    group = np.cumsum(first) - 1
    begin = np.flatnonzero(first)
    end = np.append(begin[1:], len(first))
    values: dict[int, dict[tuple[int, ...], list[list[bytes]]]] = {}
    for wrong in np.unique(group[unlike]).tolist():
        here = slice(int(begin[wrong]), int(end[wrong]))
        tensor = int(np.searchsorted(bases, start[here.start], side="right")) - 1
        rows = [row.tobytes() for row in digests[here].cpu().numpy()]
        values.setdefault(tensor, {}).setdefault(tuple(rank[here].tolist()), []).append(rows)
    return {
        tensor: "; ".join(
            told_apart({r: b"".join(rows[i] for rows in nodes) for i, r in enumerate(ranks)})
            for ranks, nodes in by_ranks.items()
        )
        for tensor, by_ranks in values.items()
    }


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


def _roots(
    forms: Sequence[Form], bases: Offsets, nodes: _Nodes, hash_: TensorHash, backend: str | None
) -> list[bytes]:
    """The roots over nodes that make up the trees. All trees are divided at the same time, a level of all in
    one step, down to the nodes that are given; then the digests are joined upwards."""
    import torch

    size = hash_.digest_size
    device = nodes.digests.device
    deepest = max((len(form.sizes) for form in forms), default=0)
    sizes = np.ones((len(forms), deepest + 1), np.int64)
    inner = np.ones_like(sizes)
    for i, form in enumerate(forms):
        inner[i] = form.itemsize
        sizes[i, : len(form.sizes)] = form.sizes
        inner[i, : len(form.sizes)] = form.inner
    filled = np.array([i for i, form in enumerate(forms) if form.nbytes], np.int64)
    tensor, dim = filled, np.zeros_like(filled)
    length, start = sizes[tensor, dim], bases[tensor]
    levels = []
    while len(tensor):
        place = np.minimum(np.searchsorted(nodes.start, start), max(len(nodes.start) - 1, 0))
        stop = start + length * inner[tensor, dim]
        ends = (nodes.start[place] == start) & (nodes.stop[place] == stop)
        levels.append((np.flatnonzero(ends), np.flatnonzero(~ends), place[ends]))
        tensor, dim, length, start = (x[~ends] for x in (tensor, dim, length, start))
        if (length * inner[tensor, dim] <= LEAF_SIZE).any():
            raise DistributedError("a leaf is held by no rank; this is a fault of this package")
        first = (length + 1) // 2
        second_start = start + first * inner[tensor, dim]
        tensor, dim = np.repeat(tensor, 2), np.repeat(dim, 2)
        length = np.stack([first, length - first], 1).reshape(-1)
        start = np.stack([start, second_start], 1).reshape(-1)
        single = length == 1
        dim = np.where(single, dim + 1, dim)
        length = np.where(single, sizes[tensor, np.minimum(dim, deepest)], length)
    below = torch.empty((0, size), dtype=torch.uint8, device=device)
    for ends, divided, numbers in reversed(levels):
        here = torch.empty((len(ends) + len(divided), size), dtype=torch.uint8, device=device)
        if len(divided):
            joined = hash_batch(below.view(-1, 2 * size), hash_.name, backend=backend)
            here[torch.from_numpy(divided).to(device)] = joined
        here[torch.from_numpy(ends).to(device)] = nodes.digests[torch.from_numpy(numbers).to(device)]
        below = here
    empty = hash_.digest(b"")
    roots = [empty] * len(forms)
    for i, row in zip(filled.tolist(), below.cpu().numpy(), strict=True):
        roots[i] = row.tobytes()
    return roots
