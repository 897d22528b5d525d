"""The digests of nodes, computed where their bytes are: leaves as one batch of rows, then a batch for each
level of the tree. No Python code runs for each leaf."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...batch import hash_batch
from ..tensor_hash import TensorHash
from .tree import Form, Halving, Offsets

if TYPE_CHECKING:
    import torch

CHUNK_SIZE = 64 << 20
"""Bytes that are hashed at a time. The digests of their leaves take an eighth of that besides, and a copy of
them is made if the nodes' bytes do not follow one another."""
_IN_PLACE = 1 << 20  # nodes of fewer bytes are copied together, so that few batches serve many small tensors


@dataclass(frozen=True)
class Nodes:
    """Nodes of one form: uint8 ``[n, form.nbytes]``, a row for each, with dense rows; and where their digests
    go: uint8 ``[..., digest_size]``, with n digests in C order."""

    form: Form
    rows: torch.Tensor
    out: torch.Tensor


def write_digests(nodes: Iterable[Nodes], hash_: TensorHash, backend: str | None) -> None:
    """Write the digests of nodes, all on one device, to their places."""
    small: dict[Form, list[Nodes]] = {}
    held = 0
    for group in nodes:
        if group.rows.numel() >= _IN_PLACE:
            _put(group, digests_of(group.form, group.rows, hash_, backend))
            continue
        small.setdefault(group.form, []).append(group)
        held += group.rows.numel()
        if held >= CHUNK_SIZE:
            _write_together(small, hash_, backend)
            held = 0
    _write_together(small, hash_, backend)


def _write_together(small: dict[Form, list[Nodes]], hash_: TensorHash, backend: str | None) -> None:
    import torch

    for form, groups in small.items():
        rows = groups[0].rows if len(groups) == 1 else torch.cat([group.rows for group in groups])
        digests = digests_of(form, rows, hash_, backend)
        for group, own in zip(
            groups, torch.split(digests, [len(group.rows) for group in groups]), strict=True
        ):
            _put(group, own)
    small.clear()


def _put(nodes: Nodes, digests: torch.Tensor) -> None:
    nodes.out.copy_(digests.view(nodes.out.shape))


def digests_of(form: Form, rows: torch.Tensor, hash_: TensorHash, backend: str | None) -> torch.Tensor:
    """The digests of nodes of one form: uint8 ``[n, digest_size]``."""
    import torch

    size = hash_.digest_size
    if not form.sizes or not form.nbytes:
        return hash_batch(rows.contiguous(), hash_.name, backend=backend)
    lowest = form.leaf_dim
    per_row = form.sizes[lowest] * form.inner[lowest]
    leaves_in = form.halving(lowest)
    count = len(rows) * (form.nbytes // per_row)
    found = torch.empty((count, size), dtype=torch.uint8, device=rows.device)
    done = 0
    for part in _parts(rows, per_row):
        leaves = _leaf_digests(leaves_in, form.inner[lowest], part, hash_, backend)
        found[done : done + len(part)] = join(leaves_in, leaves, hash_, backend)
        done += len(part)
    for dim in reversed(range(lowest)):
        found = join(form.halving(dim), found.view(-1, form.sizes[dim], size), hash_, backend)
    return found


def _parts(rows: torch.Tensor, per_row: int) -> Iterator[torch.Tensor]:
    """The bytes of ``rows`` as contiguous uint8 ``[n, per_row]``, as many as are hashed at a time."""
    step = max(1, CHUNK_SIZE // rows.shape[1])
    for first in range(0, len(rows), step):
        together = rows[first : first + step].contiguous().view(-1, per_row)
        at_a_time = max(1, CHUNK_SIZE // per_row)
        for start in range(0, len(together), at_a_time):
            yield together[start : start + at_a_time]


def _leaf_digests(
    leaves: Halving, unit: int, rows: torch.Tensor, hash_: TensorHash, backend: str | None
) -> torch.Tensor:
    """The digests of the leaves in each row, in the order of their bytes: ``[n, leaves, digest_size]``. An
    index has ``unit`` bytes."""
    import torch

    count, size = len(leaves.starts), hash_.digest_size
    lengths = sorted({int(length) for length in leaves.lengths})
    if len(lengths) == 1:
        messages = rows.view(-1, lengths[0] * unit)
        return hash_batch(messages, hash_.name, backend=backend).view(len(rows), count, size)
    out = torch.empty((len(rows), count, size), dtype=torch.uint8, device=rows.device)
    flat = rows.view(-1)
    row_starts = torch.arange(len(rows), device=rows.device) * rows.shape[1]
    for length in lengths:  # leaves of a row have at most four lengths
        nbytes = length * unit
        chosen = torch.from_numpy((leaves.lengths == length).nonzero()[0]).to(rows.device)
        starts = torch.from_numpy(leaves.starts).to(rows.device)[chosen] * unit
        places = (row_starts[:, None] + starts).reshape(-1)
        # A window at every byte, of which only those at the leaves are copied.
        windows = flat.as_strided((flat.numel() - nbytes + 1, nbytes), (1, 1), flat.storage_offset())
        digests = hash_batch(windows.index_select(0, places), hash_.name, backend=backend)
        out[:, chosen] = digests.view(len(rows), len(chosen), size)
    return out


def join(tree: Halving, digests: torch.Tensor, hash_: TensorHash, backend: str | None) -> torch.Tensor:
    """The digests of the roots over ``digests``, ``[n, parts, digest_size]``, which holds those of the parts
    in which the halving ends: ``[n, digest_size]``."""
    import torch

    count, _, size = digests.shape
    below: torch.Tensor | None = None
    for level in reversed(tree.levels):
        if not len(level.ends):
            assert below is not None
            below = joined_pairs(below, hash_, backend)
        elif not len(level.inner):
            below = (
                digests
                if len(level.ends) == digests.shape[1]
                else digests[:, _index(level.end_numbers, digests)]
            )
        else:
            assert below is not None
            here = torch.empty(
                (count, len(level.inner) + len(level.ends), size), dtype=torch.uint8, device=digests.device
            )
            here[:, _index(level.inner, digests)] = joined_pairs(below, hash_, backend)
            here[:, _index(level.ends, digests)] = digests[:, _index(level.end_numbers, digests)]
            below = here
    assert below is not None
    return below.reshape(count, size)


def joined_pairs(digests: torch.Tensor, hash_: TensorHash, backend: str | None) -> torch.Tensor:
    """The digests of nodes from those of their halves, which follow each other: ``[n, 2 * m, digest_size]``
    gives ``[n, m, digest_size]``."""
    count, halves, size = digests.shape
    messages = digests.reshape(-1, 2 * size)
    return hash_batch(messages, hash_.name, backend=backend).view(count, halves // 2, size)


def _index(places: Offsets, like: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.from_numpy(places).to(like.device)
