"""The digests of a model's tensors and their root, the same for every sharding."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..._version import __version__
from ..dtypes import torch_type
from ..errors import ManifestError, shown
from ..folder import read_model
from ..stored import read_tensors
from ..tensor_hash import TensorHash
from .agreement import Agreement
from .description import Described, describe, parse
from .errors import DistributedError, ReplicaMismatch, ranks_text
from .exchange import Alone, Exchange, exchange_for
from .finish import conclude, told_apart
from .held import Held, held_by
from .layout import Layout
from .member import Member
from .records import VERSION, check_algorithm, model_root

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist

TIMEOUT = 300.0
"""Seconds that the ranks wait for each other at each step."""

_READ_TOGETHER = 8 << 20  # bytes of small tensors from files that are hashed together
_HELLO = struct.Struct("<I64s64s")


@dataclass(frozen=True)
class DistributedDigests:
    """The content digest of each tensor of a model, and the root over all of them.

    Two of them are equal if they hold the same tensors under the same names, however each was sharded.
    """

    algorithm: str
    digests: Mapping[str, bytes]
    """By the names of the tensors, in order. Each binds dtype, shape and bytes, and not the name."""
    root: bytes = field(default=b"")
    """Binds the algorithm, the names and the digests. It is computed from them."""

    def __post_init__(self) -> None:
        root = model_root(check_algorithm(self.algorithm), self.digests)
        if self.root not in (b"", root):
            raise ManifestError("the root is not that of the digests")
        object.__setattr__(self, "root", root)

    def __hash__(self) -> int:
        return hash((self.algorithm, self.root))

    def __repr__(self) -> str:
        return f"<DistributedDigests of {len(self.digests)} tensors, {self.algorithm} root {self.root.hex()}>"

    def differing(self, other: DistributedDigests) -> tuple[str, ...]:
        """The names of the tensors that are not the same in another model, or are in one of them alone.

        Raises ValueError for digests of another algorithm.
        """
        if self.algorithm != other.algorithm:
            raise ValueError(f"digests of {self.algorithm} and of {other.algorithm} cannot be compared")
        names = self.digests.keys() | other.digests.keys()
        return tuple(sorted(n for n in names if self.digests.get(n) != other.digests.get(n)))


def root(
    source: Any,
    group: dist.ProcessGroup | None = None,
    *,
    algorithm: str = "blake3",
    timeout: float = TIMEOUT,
    backend: str | None = None,
) -> DistributedDigests:
    """The digests of a model that the ranks of a group hold together. Every rank has to call it, and gets the
    same result.

    ``source`` is what this rank holds: an ``nn.Module``, a state dict, or a mapping from names to tensors,
    ``DTensor`` and :class:`LocalShard`. A plain tensor is the whole tensor. Ranks may hold different tensors,
    as the stages of a pipeline do, and copies of the same ones, which are compared. Without ``group``, the
    default group is used, or this process alone if torch.distributed is not initialised.

    Tensors are hashed where they are, with a hash of at least 32 bytes and without a key. Between ranks
    travel the digests of the largest nodes that each holds whole, and those pieces of leaves of 256 bytes
    that a cut divides; ``docs/distributed.md`` has the formulas.

    ``timeout`` is how many seconds the ranks wait for each other at each step.

    Raises RankTimeout, which names the ranks that did not arrive in time; DistributedError if another rank
    could not go on or runs another version or algorithm; ReplicaMismatch, which names tensors and ranks, if
    copies differ; ManifestError if a part of a tensor is held by no rank or ranks disagree about its dtype or
    shape; TypeError or ValueError, which names the tensor, for one without dense data or with a placement
    such as ``Partial``.
    """
    exchange = exchange_for(group, timeout)
    try:
        hash_ = check_algorithm(algorithm)
        held = held_by(source, exchange.global_ranks, exchange.rank)
        return together(held, exchange, hash_, backend)
    except BaseException as error:
        exchange.give_up(error)
        raise


def tensor_digest(tensor: torch.Tensor, *, algorithm: str = "blake3", backend: str | None = None) -> bytes:
    """The content digest of a whole tensor in this process, which binds its dtype, shape and bytes.

    Raises as :func:`root` does.
    """
    hash_ = check_algorithm(algorithm)
    held = held_by({"": tensor}, (0,), 0)
    if len(held) != 1:
        raise TypeError(
            f"a {type(tensor).__name__} consists of several tensors; pass them in a mapping to root"
        )
    return next(iter(together(held, Alone(), hash_, backend).digests.values()))


def root_of_files(
    path: str | os.PathLike[str], *, algorithm: str = "blake3", backend: str | None = None
) -> DistributedDigests:
    """The digests of a safetensors file, or of a folder of them with or without an index, in this process.
    The path may be a URL that fsspec takes.

    They equal those of the model that was saved there, whatever its sharding is. Names that the metadata
    states to be one tensor count, as they do for a manifest. A tensor at a time is in memory.

    Raises ManifestError for malformed files, and OSError for one that cannot be read.
    """
    hash_ = check_algorithm(algorithm)
    files = read_model(path)
    digests: dict[str, bytes] = {}
    for file in files:
        stored = {tensor.name: tensor for tensor in file.tensors}
        some: dict[str, Held] = {}
        size = 0
        for name, data in read_tensors([file], typed=False):
            if some and size + data.numel() > _READ_TOGETHER:
                digests.update(together(some, Alone(), hash_, backend).digests)
                some, size = {}, 0
            entry = stored[name]
            some[name] = _stored(entry.name, entry.dtype, entry.shape, data)
            size += data.numel()
        digests.update(together(some, Alone(), hash_, backend).digests)
        digests.update({name: digests[to] for name, to in file.ties.items()})
        file.check_unchanged()
    return DistributedDigests(hash_.name, _ordered(digests))


def _stored(name: str, dtype: str, shape: tuple[int, ...], data: torch.Tensor) -> Held:
    try:
        kind, memory_shape = torch_type(dtype, shape)
    except TypeError as error:
        raise ManifestError(f"tensor {shown(name)}: {error}") from None
    return Held(data.view(kind).view(memory_shape), dtype, shape, memory_shape, Layout.whole(memory_shape))


def _ordered(digests: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: digests[name] for name in sorted(digests, key=lambda name: name.encode("utf-8"))}


def together(
    held: Mapping[str, Held], exchange: Exchange, hash_: TensorHash, backend: str | None
) -> DistributedDigests:
    agreement = agree(held, exchange, hash_)
    member = Member(exchange.rank, held, agreement, hash_, backend)
    faults: list[str] = []
    for part in agreement.rounds:
        sent = member.contributions(part, exchange.device)
        lots = part.of(exchange.rank)
        sizes = [agreement.sent(lots, rank) for rank in range(exchange.size)]
        faults += member.receive(part, exchange.all_to_all(sent, sizes))
    return _share(member.digests, faults, agreement, exchange, hash_)


def agree(held: Mapping[str, Held], exchange: Exchange, hash_: TensorHash) -> Agreement:
    """Exchange what the ranks hold. Nothing is hashed before all run the same version and algorithm.

    Raises DistributedError, which names ranks, versions and algorithms, if they do not.
    """
    own = describe(held)
    greeted = [
        (int.from_bytes(x[:8], "little"), x[8:])
        for x in greet(exchange, hash_, len(own).to_bytes(8, "little") + hash_.digest(own)[:32])
    ]
    described: dict[tuple[int, bytes], dict[str, Described]] = {}
    for rank, (length, digest) in enumerate(greeted):
        if (length, digest) not in described:
            data = own if rank == exchange.rank else bytes(length)
            data = exchange.broadcast(data, rank)
            if hash_.digest(data)[:32] != digest:
                raise DistributedError(f"the description of rank {rank} was damaged on its way")
            described[length, digest] = parse(data)
    return Agreement([described[key] for key in greeted], hash_.digest_size)


def greet(exchange: Exchange, hash_: TensorHash, data: bytes) -> list[bytes]:
    """What each rank passes, once it is known that all run the same version of this package and the same
    algorithm.

    The first bytes of a greeting are the same in all versions of this package. Raises DistributedError, which
    names ranks, versions and algorithms, if they differ.
    """
    head = _HELLO.pack(VERSION, __version__.encode()[:64], hash_.name.encode()[:64])
    greetings = exchange.gather(head + data)
    kinds: dict[bytes, list[int]] = {}
    for rank, greeting in enumerate(greetings):
        kinds.setdefault(greeting[: _HELLO.size], []).append(rank)
    if len(kinds) > 1:
        raise DistributedError(
            "the ranks do not compute the same digests: "
            + "; ".join(f"{_spelled(kind)} on {ranks_text(ranks)}" for kind, ranks in kinds.items())
        )
    return [greeting[_HELLO.size :] for greeting in greetings]


def _spelled(head: bytes) -> str:
    version, package, algorithm = _HELLO.unpack(head)
    package, algorithm = (x.rstrip(b"\0").decode("ascii", "replace") for x in (package, algorithm))
    return f"integrity_triton {package} with {algorithm} (definition {version})"


def _share(
    digests: bytes,
    faults: Sequence[str],
    agreement: Agreement,
    exchange: Exchange,
    hash_: TensorHash,
) -> DistributedDigests:
    """Give all ranks the digests that each has finished, or what is wrong."""
    report = "\n".join(faults).encode("utf-8")
    lengths = [struct.unpack("<Q", x)[0] for x in exchange.gather(struct.pack("<Q", len(report)))]
    if any(lengths):
        reports = [
            exchange.broadcast(report if rank == exchange.rank else bytes(length), rank).decode("utf-8")
            for rank, length in enumerate(lengths)
            if length
        ]
        # Several ranks may have finished sections of one tensor.
        lines = sorted(set("\n".join(reports).splitlines()))
        raise ReplicaMismatch("copies of the model differ: " + "; ".join(lines))
    counts = [sum(len(lot.names) for lot in agreement.finished_by(rank)) for rank in range(exchange.size)]
    longest = max(counts) * hash_.digest_size
    finished = exchange.gather(digests.ljust(longest, b"\0"))
    result = DistributedDigests(hash_.name, _ordered(conclude(agreement, finished, hash_)))
    roots = exchange.gather(result.root)
    if len(set(roots)) > 1:
        raise DistributedError(f"roots were damaged on their way: {told_apart(dict(enumerate(roots)))}")
    return result
