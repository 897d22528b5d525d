"""The part of one rank in a digest over several: pure computation, without any communication.

``root.py`` lets one member run in each process and carries the bytes between them. Tests and the simulation
of a thousand ranks run all members in one process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...messages.tensors import tensor_bytes
from ..tensor_hash import TensorHash
from .agreement import Agreement, Round
from .finish import finish
from .held import Held
from .layout import Pieces, node_form
from .node_digests import Nodes, write_digests
from .records import content_digest
from .tree import Form

if TYPE_CHECKING:
    import torch


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
        self._digests: list[bytes] = []

    def contributions(self, part: Round, device: torch.device | None = None) -> list[torch.Tensor]:
        """What this rank sends to each rank in a round: flat uint8 on ``device``, or where the tensors are.

        A tensor's nodes are hashed on its own device. Names of the same memory are hashed once.
        """
        import torch

        size = self._hash.digest_size
        sent = self._sent(part)
        filled: dict[Any, torch.Tensor] = {}
        by_device: dict[torch.device, list[tuple[Form, Pieces, torch.Tensor, torch.Tensor]]] = {}
        for name, pieces in sent.items():
            x = self._held[name].data
            key = _memory(x, pieces)
            if key not in filled:
                out = torch.empty(
                    pieces.node_count * size + pieces.fragment_size, dtype=torch.uint8, device=x.device
                )
                filled[key] = out
                form = self._agreement.spreads[name].form
                by_device.setdefault(x.device, []).append((form, pieces, x, out))
        for work in by_device.values():
            write_digests(_nodes(work, size), self._hash, self._backend)
        there = device or (next(iter(by_device)) if by_device else torch.device("cpu"))
        found = [torch.empty(0, dtype=torch.uint8, device=there)] * self._agreement.size
        for rank in {part.reducers[name] for name in sent}:
            found[rank] = torch.cat(
                [
                    filled[_memory(self._held[name].data, sent[name])].to(there)
                    for name in part.of(rank)
                    if name in sent
                ]
            )
        return found

    def _sent(self, part: Round) -> dict[str, Pieces]:
        found = {}
        for name in part.tensors:
            pieces = self._agreement.spreads[name].pieces(self._rank)
            if pieces is not None and name in self._held:
                found[name] = pieces
        return found

    def receive(self, part: Round, received: Sequence[torch.Tensor]) -> list[str]:
        """Finish the trees of this rank in a round, from what each rank has sent to it. Returns a line for
        each tensor of which the copies differ."""
        names = part.of(self._rank)
        roots, faults = finish(self._agreement, names, received, self._hash, self._backend)
        if not faults:
            for name, root in zip(names, roots, strict=True):
                spread = self._agreement.spreads[name]
                self._digests.append(content_digest(self._hash, spread.dtype, spread.shape, root))
        return faults

    @property
    def digests(self) -> list[bytes]:
        """The content digests of the tensors whose trees this rank has finished, in that order."""
        return self._digests


def _memory(x: torch.Tensor, pieces: Pieces) -> Any:
    """A key that is equal for names of the same memory that are spread alike."""
    return x.data_ptr(), x.dtype, x.shape, x.stride(), x.is_conj(), x.is_neg(), x.device, id(pieces)


def _nodes(
    work: Sequence[tuple[Form, Pieces, torch.Tensor, torch.Tensor]], digest_size: int
) -> Iterator[Nodes]:
    """The nodes of some tensors. The fragments are copied to their places on the way, since a tensor's bytes
    may be a copy that is made here and not kept."""
    for form, pieces, x, out in work:
        data = tensor_bytes(x).view(len(pieces.prefixes), pieces.length, pieces.inner)
        digests = out[: pieces.node_count * digest_size].view(-1, digest_size)
        place = 0
        for span in pieces.nodes:
            part = data[:, span.local : span.local + span.stop - span.start]
            rows = part.flatten(1)
            yield Nodes(node_form(form, pieces, span), rows, digests[place : place + len(rows)])
            place += len(rows)
        place = pieces.node_count * digest_size
        for span in pieces.fragments:
            part = data[:, span.local : span.local + span.stop - span.start]
            out[place : place + part.numel()].view(part.shape).copy_(part)
            place += part.numel()
