"""Whether the copies of a model in several ranks are equal, and if not, where they begin to differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...batch import hash_batch
from ...messages.tensors import tensor_bytes
from ..errors import shown
from ..tensor_hash import TensorHash
from .errors import DistributedError, ReplicaMismatch, ranks_text
from .exchange import Alone, Exchange, exchange_for
from .finish import told_apart
from .held import Held, held_by
from .node_digests import Nodes, write_digests
from .records import check_algorithm
from .root import TIMEOUT, greet, together
from .tree import LEAF_SIZE, Form

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist

_MOST_LOCATED = 16
"""In how many tensors the first difference is looked for."""
_SUMMARY_SIZE = 32


@dataclass(frozen=True)
class Difference:
    """A tensor of which the copies differ."""

    name: str
    groups: tuple[tuple[int, ...], ...]
    """The ranks, those with equal copies together; the largest group comes first. Ranks are counted in the
    process group that was compared."""
    start: int | None = None
    """Where the first chunk begins in which copies differ, in bytes from the start of the tensor that each
    rank holds. None if that was not looked for, since many tensors differ."""
    stop: int | None = None
    """Where this chunk, which has at most 256 bytes, ends."""

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks whose copy is not that of the majority; all ranks if there is no majority."""
        everyone = sorted(rank for group in self.groups for rank in group)
        if 2 * len(self.groups[0]) > len(everyone):
            return tuple(sorted(rank for group in self.groups[1:] for rank in group))
        return tuple(everyone)

    def __str__(self) -> str:
        values = {rank: bytes([i]) for i, group in enumerate(self.groups) for rank in group}
        where = "" if self.start is None else f", first in bytes {self.start} to {self.stop}"
        return f"tensor {shown(self.name)}: {told_apart(values)}{where}"


@dataclass(frozen=True)
class ReplicaReport:
    """What :func:`check_replicas` found. It is the same in all ranks."""

    tensors: int
    """How many tensors each rank holds."""
    ranks: int
    differences: tuple[Difference, ...] = ()
    """In the order of the tensors' names."""

    @property
    def ok(self) -> bool:
        """Whether all copies are equal."""
        return not self.differences

    def raise_for_mismatch(self) -> None:
        """Raise ReplicaMismatch, which names tensors and ranks, unless all copies are equal."""
        if not self.ok:
            raise ReplicaMismatch(str(self))

    def __str__(self) -> str:
        if self.ok:
            return f"{self.tensors} tensors are equal in {self.ranks} ranks"
        lines = [f"copies of {len(self.differences)} of {self.tensors} tensors differ"]
        return "\n  ".join([*lines, *map(str, self.differences)])


def check_replicas(
    source: Any,
    group: dist.ProcessGroup | None = None,
    *,
    algorithm: str = "blake3",
    timeout: float = TIMEOUT,
    backend: str | None = None,
) -> ReplicaReport:
    """Compare what the ranks of a group hold, all of which should be equal. Every rank has to call it.

    ``source`` is a module, a state dict, or a mapping from names to tensors. Of a ``DTensor`` the local part
    is compared, so that ``group`` has to be that of the ranks which replicate it: for
    ``DistributedDataParallel`` all of them, for hybrid sharding ``mesh["replicate"].get_group()``.

    32 bytes of each rank are gathered. If they differ, a second exchange tells which tensors differ in which
    ranks, and then an exchange for each level of the tree finds the first chunk that does; the tensors must
    not change before the call ends.

    Raises RankTimeout and DistributedError as :func:`root` does, and DistributedError also if the ranks hold
    other names, dtypes or shapes. Copies that differ are reported, and not raised.
    """
    exchange = exchange_for(group, timeout)
    try:
        hash_ = check_algorithm(algorithm)
        copies = Copies.of(source, hash_, backend)
        return compare(copies, exchange)
    except BaseException as error:
        exchange.give_up(error)
        raise


@dataclass(frozen=True)
class Copies:
    """What one rank holds, with its digests."""

    held: Mapping[str, Held]
    digests: Mapping[str, bytes]
    hash_: TensorHash
    backend: str | None

    @classmethod
    def of(cls, source: Any, hash_: TensorHash, backend: str | None) -> Copies:
        """Hash the local parts of some tensors. Raises as :func:`held_by` does."""
        held = held_by(local_parts(source), (0,), 0)
        if hash_.algorithm.construction.leaf_size is None:  # or each tensor would occupy one lane of a device
            digests = together(held, Alone(), hash_, backend).digests
        else:
            digests = _whole(held, hash_, backend)
        return cls(held, digests, hash_, backend)

    @property
    def structure(self) -> bytes:
        """The names, dtypes and shapes."""
        rows = [[name, x.dtype, list(x.shape)] for name, x in sorted(self.held.items())]
        return json.dumps(rows, separators=(",", ":")).encode("ascii")

    @property
    def summary(self) -> bytes:
        """32 bytes that are equal in two ranks if everything is."""
        parts = [b"integrity_triton copies", self.hash_.name.encode("ascii"), self.structure]
        head = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
        return self.hash_.digest(head + b"".join(self.digests[name] for name in sorted(self.digests)))[
            :_SUMMARY_SIZE
        ]


def _whole(held: Mapping[str, Held], hash_: TensorHash, backend: str | None) -> dict[str, bytes]:
    """The digest of each tensor's bytes as one message, which takes a hash that is itself a tree less time
    than the tree of :func:`~.root` over leaves of 256 bytes. Names of the same memory are hashed once."""
    keys = {name: (x.data.device, _memory(x.data)) for name, x in held.items()}
    by_device: dict[torch.device, dict[Any, torch.Tensor]] = {}
    for name, (device, key) in keys.items():
        by_device.setdefault(device, {})[key] = held[name].data
    found: dict[Any, bytes] = {}
    for device, tensors in by_device.items():
        rows = hash_batch(list(tensors.values()), hash_.name, backend=backend).cpu().numpy()
        found.update(((device, key), row.tobytes()) for key, row in zip(tensors, rows, strict=True))
    return {name: found[key] for name, key in keys.items()}


def _memory(x: torch.Tensor) -> Any:
    """A key that is equal for tensors that are the same memory in the same order."""
    return x.data_ptr(), x.dtype, x.shape, x.stride(), x.is_conj(), x.is_neg()


def local_parts(source: Any) -> dict[str, Any]:
    """The tensors of a module or mapping, with the local part in place of each DTensor."""
    state = source.state_dict() if hasattr(source, "state_dict") else source
    if not isinstance(state, Mapping):
        raise TypeError(
            f"replicas are compared of an nn.Module or a mapping from names to tensors, not of a "
            f"{type(source).__name__}"
        )
    return {name: _local(x) for name, x in state.items()}


def _local(x: Any) -> Any:
    return x.to_local() if hasattr(x, "to_local") and hasattr(x, "device_mesh") else x


def compare(copies: Copies, exchange: Exchange) -> ReplicaReport:
    """Compare what was hashed with the other ranks."""
    everywhere = (len(copies.held), exchange.size)
    if len(set(exchange.gather(copies.summary))) == 1:
        return ReplicaReport(*everywhere)
    structures = greet(exchange, copies.hash_, hashlib.sha256(copies.structure).digest())
    if len(set(structures)) > 1:
        raise _other_structures(copies, exchange, structures)
    names = sorted(copies.held)
    size = copies.hash_.digest_size
    gathered = exchange.gather(b"".join(copies.digests[name] for name in names))
    found: list[Difference] = []
    for i, name in enumerate(names):
        groups = _groups([digests[i * size : (i + 1) * size] for digests in gathered])
        if len(groups) > 1:
            found.append(Difference(name, groups))
    if not found:
        raise DistributedError("the ranks' digests of all copies are equal, and those over them were damaged")
    places = _locate(copies, exchange, [difference.name for difference in found[:_MOST_LOCATED]])
    located = [
        Difference(difference.name, difference.groups, *place)
        for difference, place in zip(found, places, strict=False)
    ]
    return ReplicaReport(*everywhere, (*located, *found[len(located) :]))


def _groups(values: Sequence[bytes]) -> tuple[tuple[int, ...], ...]:
    """The ranks with equal values together, the largest group first."""
    groups: dict[bytes, list[int]] = {}
    for rank, value in enumerate(values):
        groups.setdefault(value, []).append(rank)
    return tuple(sorted((tuple(ranks) for ranks in groups.values()), key=lambda ranks: (-len(ranks), ranks)))


def _other_structures(copies: Copies, exchange: Exchange, digests: Sequence[bytes]) -> DistributedError:
    """What to say if ranks hold other tensors. The structures of the two largest groups are exchanged."""
    groups = _groups(digests)
    sent = []
    for ranks in groups[:2]:
        length = exchange.gather(len(copies.structure).to_bytes(8, "little"))[ranks[0]]
        own = copies.structure if exchange.rank == ranks[0] else bytes(int.from_bytes(length, "little"))
        sent.append(json.loads(exchange.broadcast(own, ranks[0])))
    one, other = ({name: (dtype, shape) for name, dtype, shape in rows} for rows in sent)
    names = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    first = names[0]
    spelled = [
        f"{'absent' if first not in x else f'{x[first][0]} {x[first][1]}'} on {ranks_text(ranks)}"
        for x, ranks in zip((one, other), groups[:2], strict=True)
    ]
    return DistributedError(
        f"the ranks do not hold the same tensors: {shown(first)} is {' and '.join(spelled)}"
        + (f", and {len(names) - 1} more tensors differ" if len(names) > 1 else "")
    )


def _locate(copies: Copies, exchange: Exchange, names: Sequence[str]) -> list[tuple[int, int]]:
    """Where the first leaf begins and ends in which the copies of each tensor differ.

    Each step goes down one level in all of these trees. Only the first half of a node is hashed: if the
    copies of it are equal, the difference is in the second half.
    """
    nodes = [_Node.root(copies.held[name]) for name in names]
    while any(not node.is_leaf for node in nodes):
        halves = [None if node.is_leaf else node.halves for node in nodes]
        own = b"".join(half[0].digest(copies.hash_, copies.backend) for half in halves if half is not None)
        gathered = exchange.gather(own)
        size = copies.hash_.digest_size
        place = 0
        for i, half in enumerate(halves):
            if half is not None:
                equal = len({digests[place : place + size] for digests in gathered}) == 1
                nodes[i] = half[1] if equal else half[0]
                place += size
    return [(node.start, node.start + node.form.nbytes) for node in nodes]


@dataclass(frozen=True)
class _Node:
    """A node of a local tensor's tree."""

    data: torch.Tensor
    """The local tensor."""
    form: Form
    start: int
    """In bytes."""

    @classmethod
    def root(cls, held: Held) -> _Node:
        return cls(held.data, Form.stored(held.dtype, held.shape), 0)

    @property
    def is_leaf(self) -> bool:
        return self.form.nbytes <= LEAF_SIZE

    @property
    def halves(self) -> tuple[_Node, _Node]:
        first = (self.form.sizes[0] + 1) // 2
        forms = [
            Form.of((size, *self.form.sizes[1:]), self.form.itemsize)
            for size in (first, self.form.sizes[0] - first)
        ]
        return (
            _Node(self.data, forms[0], self.start),
            _Node(self.data, forms[1], self.start + first * self.form.inner[0]),
        )

    def digest(self, hash_: TensorHash, backend: str | None) -> bytes:
        import torch

        data = tensor_bytes(self.data)[self.start : self.start + self.form.nbytes].view(1, -1)
        out = torch.empty((1, hash_.digest_size), dtype=torch.uint8, device=data.device)
        write_digests([Nodes(self.form, data, out)], hash_, backend)
        return out.cpu().numpy().tobytes()
