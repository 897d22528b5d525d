"""The part of one rank in a digest over several: pure computation, without any communication.

``root.py`` lets one member run in each process and carries the bytes between them. Tests and the simulation
of a thousand ranks run all members in one process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...batch import hash_batch
from ...messages.tensors import tensor_bytes
from ..tensor_hash import TensorHash
from .agreement import Agreement, Lot, Round
from .errors import DistributedError
from .finish import finish
from .held import Held
from .layout import Pieces, node_form, places
from .node_digests import Nodes, write_digests
from .records import content_digest, content_head

if TYPE_CHECKING:
    import torch

_TOGETHER = 1 << 20  # bytes of small tensors that are copied to follow each other, and hashed as one
_STACKED = frozenset(
    {"float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"}
)
"""The dtypes that torch copies together on every device."""
_BATCH = 16  # content digests from which on a batch takes less time than one after the other


class Member:
    """A rank with the tensors that it holds."""

    def __init__(
        self,
        rank: int,
        held: Mapping[str, Held],
        agreement: Agreement,
        hash_: TensorHash,
        backend: str | None,
    ) -> None:
        self._rank = rank
        self._held = held
        self._agreement = agreement
        self._hash = hash_
        self._backend = backend
        self._digests = bytearray()

    def contributions(self, part: Round, device: torch.device | None = None) -> list[torch.Tensor]:
        """What this rank sends to each rank in a round: flat uint8 on ``device``, or where the tensors are.

        A tensor's nodes are hashed on its own device. Names of the same memory are hashed once.
        """
        import torch

        there = device or self._device_of(part)
        found = [torch.empty(0, dtype=torch.uint8, device=there)] * self._agreement.size
        known: dict[Any, tuple[_Work, int]] = {}
        work: list[_Work] = []
        copies: list[_Copies] = []
        for rank in sorted(set(part.reducers)):
            lots = part.of(rank)
            size = self._agreement.sent(lots, self._rank)
            found[rank] = torch.empty(size, dtype=torch.uint8, device=there)
            place = 0
            for lot in lots:
                length = lot.sent(self._rank, self._hash.digest_size)
                if length:
                    out = found[rank][place : place + length].view(len(lot.names), -1)
                    place += length
                    new, copied = self._work(lot, out, known)
                    work += new
                    copies += copied
        by_device: dict[torch.device, list[_Work]] = {}
        for own in work:
            by_device.setdefault(own.out.device, []).append(own)
        for together in by_device.values():
            write_digests(_nodes(together, self._hash.digest_size), self._hash, self._backend)
        for copied_rows in copies:
            copied_rows.make()
        return found

    def _device_of(self, part: Round) -> torch.device:
        """The device of the first tensor of which this rank sends something."""
        import torch

        for lot in part.lots:
            if self._rank in lot.spread.holders:
                return self._held[lot.names[0]].data.device
        return torch.device("cpu")

    def _work(
        self, lot: Lot, out: torch.Tensor, known: dict[Any, tuple[_Work, int]]
    ) -> tuple[list[_Work], list[_Copies]]:
        """What is to be hashed of a lot, and what is to be copied to ``out``, where the result belongs, since
        it is on another device or the same as that of another name. ``known`` has what was met before."""
        import torch

        pieces = lot.spread.pieces(self._rank)
        assert pieces is not None
        new: dict[torch.device, _Work] = {}
        chosen: dict[int, tuple[_Work, list[int], list[int]]] = {}
        for i, name in enumerate(lot.names):
            x = self._part(lot, name)
            key = lot.spread, x.device, _memory(x)
            if key not in known:
                work = new.get(x.device)
                if work is None:
                    work = new[x.device] = _Work(lot, pieces, [], out)
                known[key] = work, len(work.tensors)
                work.tensors.append(x)
            work, row = known[key]
            _, rows, places_out = chosen.setdefault(id(work), (work, [], []))
            rows.append(row)
            places_out.append(i)
        if list(new) == [out.device] and len(new[out.device].tensors) == len(lot.names):
            return list(new.values()), []
        for device, work in new.items():
            shape = len(work.tensors), out.shape[1]
            work.out = torch.empty(shape, dtype=torch.uint8, device=device)
        return list(new.values()), [
            _Copies(work, rows, out, places_out) for work, rows, places_out in chosen.values()
        ]

    def _part(self, lot: Lot, name: str) -> torch.Tensor:
        """What this rank holds of a tensor, or of the section of it."""
        import torch

        x = self._held[name].data
        if lot.section is None:
            return x
        layout = self._agreement.spreads[name].holders[self._rank]
        dims = [dim for dim, size in enumerate(layout.shape) if size != 1]
        for dim, (start, stop) in zip(dims, lot.section.box, strict=True):
            parts = places(layout.runs[dim], start, stop)
            if len(parts) == 1:
                first, last = parts[0]
                x = x.narrow(dim, first, last - first)
            else:
                x = torch.cat([x.narrow(dim, first, last - first) for first, last in parts], dim)
        return x

    def receive(self, part: Round, received: Sequence[torch.Tensor]) -> list[str]:
        """Finish the trees of this rank in a round, from what each rank has sent to it. Returns a line for
        each tensor of which the copies differ."""
        faults: list[str] = []
        size = self._hash.digest_size
        places_in = [0] * len(received)
        lots = part.of(self._rank)
        for rank, data in enumerate(received):
            if data.numel() != (expected := self._agreement.sent(lots, rank)):
                raise DistributedError(f"rank {rank} sent {data.numel()} bytes and not {expected}")
        for lot in lots:
            own: list[torch.Tensor] = []
            for rank, data in enumerate(received):
                length = lot.sent(rank, size)
                own.append(data[places_in[rank] : places_in[rank] + length])
                places_in[rank] += length
            roots, wrong = finish(lot, own, self._hash, self._backend)
            faults += wrong
            if not wrong:
                self._digests += self._content(lot, roots)
        return faults

    def _content(self, lot: Lot, roots: torch.Tensor) -> bytes:
        """The content digests of a lot's tensors; of a section the node itself."""
        import torch

        whole = lot.section is None
        if whole and len(lot.names) >= _BATCH:
            head = content_head(self._hash, lot.spread.dtype, lot.spread.shape)
            before = torch.frombuffer(bytearray(head), dtype=torch.uint8).to(roots.device)
            messages = torch.cat([before.expand(len(roots), -1), roots], 1)
            roots, whole = hash_batch(messages, self._hash.name, backend=self._backend), False
        nodes = roots.cpu().numpy().tobytes()
        if not whole:
            return nodes
        size, spread = self._hash.digest_size, lot.spread
        return b"".join(
            content_digest(self._hash, spread.dtype, spread.shape, nodes[place : place + size])
            for place in range(0, len(nodes), size)
        )

    @property
    def digests(self) -> bytes:
        """The content digests of the tensors, and the nodes of the sections, that this rank has finished, in
        the order of the lots."""
        return bytes(self._digests)


@dataclass
class _Work:
    """Tensors of one lot that a rank holds, on one device."""

    lot: Lot
    pieces: Pieces
    tensors: list[torch.Tensor]
    out: torch.Tensor
    """What is sent of each, in rows."""


@dataclass(frozen=True)
class _Copies:
    """Rows of a result that are needed elsewhere."""

    work: _Work
    rows: Sequence[int]
    out: torch.Tensor
    places: Sequence[int]

    def make(self) -> None:
        import torch

        there = self.out.device
        rows = self.work.out[torch.tensor(self.rows, device=self.work.out.device)]
        self.out[torch.tensor(self.places, device=there)] = rows.to(there)


def _memory(x: torch.Tensor) -> Any:
    """A key that is equal for tensors of one dtype and shape that are the same memory."""
    return x.data_ptr(), x.stride(), x.is_conj(), x.is_neg()


def _bytes_of(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The bytes of tensors of one dtype and shape, one after the other."""
    import torch

    if len(tensors) == 1:
        return tensor_bytes(tensors[0])
    if str(tensors[0].dtype).removeprefix("torch.") in _STACKED:
        return tensor_bytes(torch.stack(list(tensors)))
    return torch.cat([tensor_bytes(x) for x in tensors])


def _nodes(work: Sequence[_Work], digest_size: int) -> Iterator[Nodes]:
    """The nodes of some tensors. The fragments are copied to their places on the way, since a tensor's bytes
    may be a copy that is made here and not kept."""
    for own in work:
        form, pieces = own.lot.spread.form, own.pieces
        local = pieces.prefixes * pieces.length * pieces.inner
        step = max(1, _TOGETHER // local)
        for first in range(0, len(own.tensors), step):
            some = own.tensors[first : first + step]
            count = len(some)
            data = _bytes_of(some).view(count, pieces.prefixes, pieces.length, pieces.inner)
            out = own.out[first : first + count]
            middle = pieces.node_count * digest_size
            digests = out[:, :middle].view(count, len(pieces.nodes), pieces.prefixes, digest_size)
            for i, span in enumerate(pieces.nodes):
                part = data[:, :, span.local : span.local + span.stop - span.start]
                rows = part.reshape(count * pieces.prefixes, -1) if count > 1 else part[0].flatten(1)
                yield Nodes(node_form(form, pieces, span), rows, digests[:, i])
            place = middle
            for span in pieces.fragments:
                part = data[:, :, span.local : span.local + span.stop - span.start]
                size = (span.stop - span.start) * pieces.inner * pieces.prefixes
                out[:, place : place + size].view(part.shape).copy_(part)
                place += size
