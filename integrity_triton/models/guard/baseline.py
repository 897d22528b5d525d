"""What the bytes of a model were: a digest for each chunk of each tensor, kept on the host."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from ... import algorithms
from ...backends import registry
from ...backends.native import in_calling_thread
from ...eager import digests_of
from ...mac import KEY_SIZE, NONCE_SIZE, chunk_tags, tensor_identity
from ...messages.from_caller import chunks_of_tensors
from ...messages.parameters import checked_parameters, octet_string
from ...messages.tensors import byte_range, bytes_in_place
from .locate import SUMS, sums_of_chunks
from .tensors import Look, Seen

if TYPE_CHECKING:
    import numpy as np
    import torch

LEAST_CHUNK = 1024
MOST_CHUNK = 64 << 20
_BATCH_SIZE = 32 << 20  # bytes that are read at once for a baseline
_MOST_PIECES = 4096


@dataclass(frozen=True)
class Form:
    """The dtype and shape of a tensor, without which its bytes cannot be compared."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype.removeprefix('torch.')}{list(self.shape)}"


@dataclass(frozen=True, eq=False)
class Unit:
    """One tensor with all its names, as the baseline has it."""

    names: tuple[str, ...]
    form: Form
    nbytes: int
    identity: bytes
    """What binds name, dtype and shape into tags; empty for hashes, in which they are no part."""
    digests: bytes
    """The digests of its chunks, one after the other."""
    sums: np.ndarray[Any, Any]
    """The sums by which flipped bits are located: int64 ``[chunks, 3]``."""

    @property
    def name(self) -> str:
        return self.names[0]


@dataclass(frozen=True)
class Piece:
    """Neighbouring chunks of a tensor in memory."""

    unit: Unit
    tensor: torch.Tensor
    first: int
    last: int
    """The chunks are those from ``first`` on and before ``last``."""


@dataclass
class _Measuring:
    """A tensor whose chunks are being read for the first time."""

    start: Unit
    tensor: torch.Tensor
    digests: list[bytes] = field(default_factory=list)
    sums: list[Any] = field(default_factory=list)

    def unit(self) -> Unit:
        import numpy as np

        sums = np.concatenate(self.sums) if self.sums else self.start.sums
        return replace(self.start, digests=b"".join(self.digests), sums=sums)


class Digester(Protocol):
    """Computes the digests of chunks."""

    name: str
    size: int
    """Bytes of a digest."""

    def identity(self, name: str, tensor: torch.Tensor) -> bytes: ...

    def digests(
        self, data: Sequence[torch.Tensor], identities: Sequence[bytes], firsts: Sequence[int]
    ) -> torch.Tensor:
        """The digests of all chunks of ``data``, which is flat uint8 tensors on one device: uint8
        ``[chunks, size]`` on it."""
        ...


class _Hash:
    """A hash of each chunk, under a key if the algorithm takes one."""

    def __init__(self, record: algorithms.Algorithm, key: Any, chunk_size: int, backend: str | None) -> None:
        given = {} if key is None else {"key": key}
        self._record = record
        self._parameters = checked_parameters(record, given)
        self._chunk_size, self._backend = chunk_size, backend
        self.name, self.size = record.name, record.check_length(None, self._parameters)

    def identity(self, name: str, tensor: torch.Tensor) -> bytes:
        return b""

    def digests(
        self, data: Sequence[torch.Tensor], identities: Sequence[bytes], firsts: Sequence[int]
    ) -> torch.Tensor:
        batch = chunks_of_tensors(data, self._chunk_size)
        backend = backend_for(self._record, data[0].device, self._backend)
        return digests_of(self._record, self._parameters, batch, self.size, backend)


class _Tags:
    """Poly1305 of each chunk, as ``mac_tensors`` computes it: its tags of chunks, which bind the tensor's
    name, dtype and shape and the number of the chunk."""

    def __init__(self, key: Any, chunk_size: int, backend: str | None) -> None:
        self._key = octet_string(key, "key")
        if len(self._key) != KEY_SIZE:
            raise ValueError(f"key must be {KEY_SIZE} bytes long, not {len(self._key)}")
        self._nonce = secrets.token_bytes(NONCE_SIZE)
        self._chunk_size, self._backend = chunk_size, backend
        self.name, self.size = "poly1305", 16

    def identity(self, name: str, tensor: torch.Tensor) -> bytes:
        return tensor_identity(name, tensor)

    def digests(
        self, data: Sequence[torch.Tensor], identities: Sequence[bytes], firsts: Sequence[int]
    ) -> torch.Tensor:
        import torch

        backend = backend_for(algorithms.get("poly1305"), data[0].device, self._backend)
        # The nonce is used again for each check. That is safe since the tags are never told.
        return torch.cat(
            chunk_tags(data, identities, self._key, self._nonce, self._chunk_size, backend, firsts=firsts)
        )


def digester(algorithm: str, key: Any, chunk_size: int, backend: str | None) -> Digester:
    """Raises ValueError for an algorithm that is unknown, takes tuples, or has no default length, and for a
    key that is missing, impossible or not taken."""
    record = algorithms.get(algorithm)
    if record.takes_tuples or not record.digest_size:
        raise ValueError(
            f"{record.name} cannot be used for chunks: it hashes tuples or has no default length"
        )
    if key is None and record.keyed == "required":
        raise ValueError(f"{record.name} needs a key; pass key")
    if key is not None and record.keyed == "no":
        raise ValueError(f"{record.name} takes no key; take blake3 or poly1305, or leave the key out")
    if record.name == "poly1305":
        return _Tags(key, chunk_size, backend)
    return _Hash(record, key, chunk_size, backend)


def backend_for(record: algorithms.Algorithm, device: torch.device, backend: str | None) -> str | None:
    """The backend to name: on the CPU the libraries, which can be kept to one thread, unless another one was
    asked for."""
    asked = registry.requested(backend)
    if asked is None and device.type == "cpu" and registry.get("native").unsupported(record) is None:
        return "native"
    return asked


class Baseline:
    """The units of a model, and the seal over what the guard keeps of them.

    Digests are on the host, apart from the weights: they are 32 bytes for each chunk, and a copy of them that
    no write to the device reaches.
    """

    def __init__(self, digester: Digester, chunk_size: int) -> None:
        self.digester = digester
        self.chunk_size = chunk_size
        self.units: tuple[Unit, ...] = ()
        self.by_name: Mapping[str, Unit] = {}
        self._seal = b""

    def take(self, seen: Look, *, keep: Mapping[str, Unit]) -> None:
        """Read all tensors of ``seen`` and replace the units, except those whose names are in ``keep``."""
        _settle(tensor.device for tensor in seen.tensors.values())
        groups: dict[Any, list[str]] = {}
        for name, tensor in seen.tensors.items():
            if name not in keep:
                groups.setdefault(tensor.place if tensor.nbytes else name, []).append(name)
        units = list(dict.fromkeys(keep.values()))
        by_device: dict[str, list[_Measuring]] = {}
        for names in groups.values():
            tensor = seen.tensors[names[0]]
            by_device.setdefault(tensor.device, []).append(self._begun(sorted(names), tensor))
        for measuring in by_device.values():
            for batch in self._batches(measuring):
                self._measure(batch)
            units += [one.unit() for one in measuring]
        self.replace(units)

    def replace(self, units: Sequence[Unit]) -> None:
        self.units = tuple(sorted(units, key=lambda unit: unit.names))
        self.by_name = {name: unit for unit in self.units for name in unit.names}
        self._seal = self._sealed()

    @property
    def intact(self) -> bool:
        """Whether the digests that are kept are still those that were taken."""
        return self._seal == self._sealed()

    def _sealed(self) -> bytes:
        hasher = hashlib.sha256()
        for unit in self.units:
            hasher.update(unit.digests)
        return hasher.digest()

    def _begun(self, names: Sequence[str], seen: Seen) -> _Measuring:
        import numpy as np

        tensor = seen.ref()
        if tensor is None:
            raise RuntimeError(f"tensor {names[0]!r} was deleted while its baseline was taken")
        identity = self.digester.identity(names[0], tensor)
        form, sums = Form(seen.dtype, seen.shape), np.empty((0, SUMS), np.int64)
        return _Measuring(Unit(tuple(names), form, seen.nbytes, identity, b"", sums), tensor)

    def _batches(self, measuring: Sequence[_Measuring]) -> Iterator[list[tuple[_Measuring, Piece]]]:
        """All chunks of tensors on one device, in batches of bounded size."""
        batch: list[tuple[_Measuring, Piece]] = []
        room, step = _BATCH_SIZE, max(1, _BATCH_SIZE // self.chunk_size)
        for one in measuring:
            count = self.chunks(one.start)
            for first in range(0, count, step):
                last = min(count, first + step)
                batch.append((one, Piece(one.start, one.tensor, first, last)))
                room -= (last - first) * self.chunk_size
                if room <= 0 or len(batch) >= _MOST_PIECES:
                    yield batch
                    batch, room = [], _BATCH_SIZE
        if batch:
            yield batch

    def _measure(self, batch: Sequence[tuple[_Measuring, Piece]]) -> None:
        pieces = [piece for _, piece in batch]
        with beside(pieces[0].tensor.device):
            data = [piece_bytes(piece, self.chunk_size) for piece in pieces]
            # A change between these two readings makes the sums those of other bytes than the digests, and
            # then no place is told. The digests alone decide whether there is a change.
            sums = sums_of_chunks(data, self.chunk_size).cpu().numpy()
            firsts, identities = [p.first for p in pieces], [p.unit.identity for p in pieces]
            digests = self.digester.digests(data, identities, firsts).cpu().numpy()
        done = 0
        for one, piece in batch:
            count = piece.last - piece.first
            one.digests.append(digests[done : done + count].tobytes())
            one.sums.append(sums[done : done + count])
            done += count

    def chunks(self, unit: Unit) -> int:
        """How many chunks a unit has."""
        return -(-unit.nbytes // self.chunk_size)

    def differing(self, pieces: Sequence[Piece]) -> list[tuple[Piece, int]]:
        """The chunks of some pieces on one device that differ from the baseline, each with its number."""
        import numpy as np

        data = [piece_bytes(piece, self.chunk_size) for piece in pieces]
        identities = [piece.unit.identity for piece in pieces]
        found = self.digester.digests(data, identities, [piece.first for piece in pieces]).cpu().numpy()
        size = self.digester.size
        expected = b"".join(piece.unit.digests[piece.first * size : piece.last * size] for piece in pieces)
        if found.tobytes() == expected:
            return []
        wrong = (found != np.frombuffer(expected, np.uint8).reshape(found.shape)).any(axis=1)
        chunks = [(piece, chunk) for piece in pieces for chunk in range(piece.first, piece.last)]
        return [chunk for chunk, differs in zip(chunks, wrong.tolist(), strict=True) if differs]

    def matches(self, unit: Unit, chunk: int, data: torch.Tensor) -> bool:
        """Whether the bytes of a chunk, flat uint8, are those of the baseline."""
        found = self.digester.digests([data], [unit.identity], [chunk]).cpu().numpy().tobytes()
        size = self.digester.size
        return found == unit.digests[chunk * size : (chunk + 1) * size]


def piece_bytes(piece: Piece, chunk_size: int) -> torch.Tensor:
    """The bytes of a piece, flat uint8. They are not copied if the tensor is contiguous."""
    start, end = piece.first * chunk_size, min(piece.last * chunk_size, piece.unit.nbytes)
    view = bytes_in_place(piece.tensor)
    if view is not None:
        return view[start:end]
    whole = piece.tensor
    if whole.is_conj() or whole.is_neg():
        whole = whole.resolve_conj().resolve_neg()
    return byte_range(whole, start, end)


def one_thread(alone: bool) -> AbstractContextManager[None]:
    return in_calling_thread() if alone else nullcontext()


_streams: dict[str, Any] = {}


@contextmanager
def beside(device: torch.device) -> Iterator[None]:
    """A context in which work for an accelerator goes to a stream of its own, of the lowest priority.

    The calling thread's stream is as before afterwards. On the CPU the context does nothing.
    """
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None or accelerator.type != device.type:
        yield
        return
    stream = _streams.get(str(device))
    if stream is None:  # 0 is the lowest priority that torch gives to a stream
        stream = _streams[str(device)] = torch.Stream(device=device, priority=0)
    before = torch.accelerator.current_stream(device)
    torch.accelerator.set_stream(stream)
    try:
        yield
    finally:
        torch.accelerator.set_stream(before)


def _settle(devices: Iterable[str]) -> None:
    """Wait until what is queued on accelerators is done, or writes could come after the baseline is read."""
    import torch

    for device in map(torch.device, dict.fromkeys(devices)):
        if device.type not in ("cpu", "meta"):
            torch.accelerator.synchronize(device)
