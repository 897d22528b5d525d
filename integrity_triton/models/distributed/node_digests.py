"""The digests of nodes, computed where their bytes are. The trees of many tensors are hashed in step: the
leaves of all of them, then a level of all of them in one batch. No Python code runs for each leaf."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...batch import hash_batch
from ..tensor_hash import TensorHash
from .tree import Form, Halving, Offsets

if TYPE_CHECKING:
    import torch

    Hashing = Generator[Sequence[torch.Tensor], Sequence[torch.Tensor], torch.Tensor]
    """A computation that asks for the digests of messages, uint8 ``[n, length]`` each, and is sent them,
    uint8 ``[n, digest_size]`` each. So many such computations can have their messages hashed together."""

CHUNK_SIZE = 64 << 20
"""Bytes that are hashed at a time. The digests of their leaves take an eighth to a quarter of that besides,
and a copy of them is made if the nodes' bytes do not follow one another or are few."""
_IN_PLACE = 1 << 20  # messages of fewer bytes are copied together, so that few batches serve many of them


@dataclass(frozen=True)
class Nodes:
    """Nodes of one form: uint8 ``[n, form.nbytes]``, a row for each, with dense rows; and where their digests
    go: uint8 ``[..., digest_size]``, with n digests in C order."""

    form: Form
    rows: torch.Tensor
    out: torch.Tensor


def write_digests(nodes: Iterable[Nodes], hash_: TensorHash, backend: str | None) -> None:
    """Write the digests of nodes, all on one device, to their places."""
    at_a_time: dict[Form, list[Nodes]] = {}
    held = 0
    for group in nodes:
        if held and held + group.rows.numel() > CHUNK_SIZE:
            _write_together(at_a_time, hash_, backend)
            held = 0
        at_a_time.setdefault(group.form, []).append(group)
        held += group.rows.numel()
    _write_together(at_a_time, hash_, backend)


def _write_together(nodes: dict[Form, list[Nodes]], hash_: TensorHash, backend: str | None) -> None:
    trees = [_trees(form, [group.rows for group in groups], hash_) for form, groups in nodes.items()]
    for groups, digests in zip(nodes.values(), _in_step(trees, hash_, backend), strict=True):
        place = 0
        for group in groups:
            group.out.copy_(digests[place : place + len(group.rows)].view(group.out.shape))
            place += len(group.rows)
    nodes.clear()


def digests_of(form: Form, rows: torch.Tensor, hash_: TensorHash, backend: str | None) -> torch.Tensor:
    """The digests of nodes of one form: uint8 ``[n, digest_size]``."""
    return _in_step([_trees(form, [rows], hash_)], hash_, backend)[0]


def join(tree: Halving, digests: torch.Tensor, hash_: TensorHash, backend: str | None) -> torch.Tensor:
    """The digests of the roots over ``digests``, ``[n, parts, digest_size]``, which holds those of the parts
    in which the halving ends: ``[n, digest_size]``."""
    return _in_step([_joined(tree, digests)], hash_, backend)[0]


def _in_step(trees: Sequence[Hashing], hash_: TensorHash, backend: str | None) -> list[torch.Tensor]:
    """The results of some computations, which take each step together."""
    results: list[Any] = [None] * len(trees)
    asked: dict[int, Sequence[torch.Tensor]] = {}
    answers: dict[int, Sequence[torch.Tensor] | None] = dict.fromkeys(range(len(trees)))
    while answers:
        asked.clear()
        for i, answer in answers.items():
            try:
                asked[i] = trees[i].send(answer)  # type: ignore[arg-type]  # None starts it
            except StopIteration as end:
                results[i] = end.value
        digests = iter(_hashed([x for messages in asked.values() for x in messages], hash_, backend))
        answers = {i: [next(digests) for _ in messages] for i, messages in asked.items()}
    return results


def _hashed(messages: Sequence[torch.Tensor], hash_: TensorHash, backend: str | None) -> list[torch.Tensor]:
    """The digests of messages ``[n, length]`` of several lengths, in as few batches as are worth a copy."""
    import torch

    found: list[Any] = [None] * len(messages)
    small: dict[int, list[int]] = {}
    for i, x in enumerate(messages):
        if x.numel() >= _IN_PLACE:
            found[i] = hash_batch(x, hash_.name, backend=backend)
        else:
            small.setdefault(x.shape[1], []).append(i)
    for numbers in small.values():
        own = [messages[i] for i in numbers]
        digests = hash_batch(torch.cat(own) if len(own) > 1 else own[0], hash_.name, backend=backend)
        for i, part in zip(numbers, torch.split(digests, [len(x) for x in own]), strict=True):
            found[i] = part
    return found


def _trees(form: Form, rows: Sequence[torch.Tensor], hash_: TensorHash) -> Hashing:
    """The digests of nodes of one form: uint8 ``[n, digest_size]`` for all of ``rows`` in order."""
    size = hash_.digest_size
    if not form.sizes or not form.nbytes:
        return _together((yield [x.contiguous() for x in rows]))
    lowest = form.leaf_dim
    leaves_in = form.halving(lowest)
    found = []
    for part in _parts(rows, form.sizes[lowest] * form.inner[lowest]):
        leaves = yield from _leaf_digests(leaves_in, form.inner[lowest], part, size)
        found.append((yield from _joined(leaves_in, leaves)))
    digests = _together(found)
    for dim in reversed(range(lowest)):
        digests = yield from _joined(form.halving(dim), digests.view(-1, form.sizes[dim], size))
    return digests


def _together(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    import torch

    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _parts(rows: Sequence[torch.Tensor], per_row: int) -> Iterator[list[torch.Tensor]]:
    """The bytes of ``rows`` as contiguous uint8 ``[n, per_row]``, as many as are hashed at a time."""
    if sum(x.numel() for x in rows) <= CHUNK_SIZE:
        yield [x.contiguous().view(-1, per_row) for x in rows]
        return
    for x in rows:
        step = max(1, CHUNK_SIZE // x.shape[1])
        for first in range(0, len(x), step):
            together = x[first : first + step].contiguous().view(-1, per_row)
            at_a_time = max(1, CHUNK_SIZE // per_row)
            for start in range(0, len(together), at_a_time):
                yield [together[start : start + at_a_time]]


def _leaf_digests(leaves: Halving, unit: int, parts: Sequence[torch.Tensor], size: int) -> Hashing:
    """The digests of the leaves in each row, in the order of their bytes: ``[n, leaves, digest_size]``. An
    index has ``unit`` bytes."""
    import torch

    count = len(leaves.starts)
    lengths = sorted({int(length) for length in leaves.lengths})
    if len(lengths) == 1:
        digests = yield [x.view(-1, lengths[0] * unit) for x in parts]
        return _together(digests).view(-1, count, size)
    rows = _together(parts)
    flat = rows.view(-1)
    row_starts = torch.arange(len(rows), device=rows.device) * rows.shape[1]
    messages, numbers = [], []
    for length in lengths:  # leaves of a row have at most four lengths
        nbytes = length * unit
        chosen = torch.from_numpy((leaves.lengths == length).nonzero()[0]).to(rows.device)
        starts = torch.from_numpy(leaves.starts).to(rows.device)[chosen] * unit
        places = (row_starts[:, None] + starts).reshape(-1)
        # A window at every byte, of which only those at the leaves are copied.
        windows = flat.as_strided((flat.numel() - nbytes + 1, nbytes), (1, 1), flat.storage_offset())
        messages.append(windows.index_select(0, places))
        numbers.append(chosen)
    digests = yield messages
    out = torch.empty((len(rows), count, size), dtype=torch.uint8, device=rows.device)
    for chosen, own in zip(numbers, digests, strict=True):
        out[:, chosen] = own.view(len(rows), len(chosen), size)
    return out


def _joined(tree: Halving, digests: torch.Tensor) -> Hashing:
    """See :func:`join`."""
    import torch

    count, _, size = digests.shape
    below: torch.Tensor | None = None
    for level in reversed(tree.levels):
        joined = None
        if len(level.inner):
            assert below is not None
            (pairs,) = yield [below.reshape(-1, 2 * size)]
            joined = pairs.view(count, len(level.inner), size)
        if not len(level.ends):
            below = joined
        elif joined is None:
            below = (
                digests
                if len(level.ends) == digests.shape[1]
                else digests[:, _index(level.end_numbers, digests)]
            )
        else:
            below = torch.empty(
                (count, len(level.inner) + len(level.ends), size), dtype=torch.uint8, device=digests.device
            )
            below[:, _index(level.inner, digests)] = joined
            below[:, _index(level.ends, digests)] = digests[:, _index(level.end_numbers, digests)]
    assert below is not None
    return below.reshape(count, size)


def _index(places: Offsets, like: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.from_numpy(places).to(like.device)
