"""Passes over a model: its memory in slices, each of which is compared with the baseline."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...messages.tensors import host_memory
from .baseline import Baseline, Piece, beside, one_thread, piece_bytes
from .changes import Target, compare
from .findings import Finding, Kind
from .locate import flips as flipped_bits
from .schedule import MOST_SLICE
from .tensors import Look, Place, place_of

if TYPE_CHECKING:
    import torch

_MOST_PIECES = 1024  # in a slice; each takes a few microseconds, whatever its size
_FIRST_SLICE = 4 << 20  # on the CPU, as long as the rate is not known
_RATE_SECONDS = 0.03
_MOST_BITS_TOLD = 8


class Moving(Exception):
    """A tensor is no longer where the last survey found it."""


@dataclass(frozen=True)
class _Part:
    """Neighbouring chunks of a target."""

    target: Target
    first: int
    last: int

    def covers(self, key: tuple[tuple[str, ...], int]) -> bool:
        names, chunk = key
        return self.target.names == names and self.first <= chunk < self.last


class Passes:
    """The slices of a model, when each was checked, and which chunks were found wrong.

    ``places`` are the tensors' places as far as they are known. Nothing here is safe to be used by two
    threads at once.
    """

    def __init__(self, baseline: Baseline, places: dict[str, Place]) -> None:
        self.baseline = baseline
        self.wrong: dict[tuple[tuple[str, ...], int], Finding] = {}
        """What is wrong now, by the names of the tensor and the number of the chunk."""
        self.offloaded: tuple[str, ...] = ()
        self.excluded: tuple[str, ...] = ()
        self._places = places
        self._targets: tuple[Target, ...] = ()
        self._slices: list[list[_Part]] = []
        self._slice_size = _FIRST_SLICE
        self._checked_at: list[float] = []
        self._structure: frozenset[Any] = frozenset()

    def __len__(self) -> int:
        """How many slices there are."""
        return len(self._slices)

    @property
    def nbytes(self) -> int:
        """The size of the model as the baseline has it."""
        return sum(unit.nbytes for unit in self.baseline.units)

    @property
    def places(self) -> dict[str, Place]:
        return dict(self._places)

    @property
    def oldest(self) -> float:
        """When the slice was checked that was checked least recently, by :func:`time.monotonic`."""
        return min(self._checked_at, default=time.monotonic())

    def restart_clock(self) -> None:
        """Count all slices as checked now."""
        self._checked_at = [time.monotonic()] * len(self._slices)

    def survey(self, now: Look) -> list[Finding]:
        """Compare what the model has with the baseline, without its bytes, and have the slices follow."""
        compared = compare(self.baseline, now, self._places)
        before = [(target.unit, target.place) for target in self._targets]
        self.offloaded, self.excluded = compared.offloaded, now.excluded
        if before != [(target.unit, target.place) for target in compared.targets]:
            moved = {target.names for target in self._targets if target.moved}
            for target in compared.targets:
                target.moved = target.moved or target.names in moved
                self._places.update(dict.fromkeys(target.names, target.place))
            self._targets = compared.targets
            self.cut(self._slice_size)
        else:  # another tensor object may have the same memory
            for target, seen in zip(self._targets, compared.targets, strict=True):
                target.ref = seen.ref
        return list(compared.findings)

    def new(self, found: Sequence[Finding]) -> list[Finding]:
        """Those findings of a survey that the survey before did not have."""
        known = self._structure
        self._structure = frozenset((f.kind, f.names, f.detail) for f in found)
        return [f for f in found if (f.kind, f.names, f.detail) not in known]

    def cut(self, size: int) -> None:
        """Divide all targets into slices of about ``size`` bytes, each on one device."""
        chunk_size = self.baseline.chunk_size
        step = max(1, size // chunk_size)
        slices: list[list[_Part]] = []
        by_device: dict[str, list[Target]] = {}
        for target in self._targets:
            by_device.setdefault(target.place.device, []).append(target)
        for targets in by_device.values():
            room = 0
            for target in targets:
                count, first = self.baseline.chunks(target.unit), 0
                while first < count:
                    if room <= 0 or len(slices[-1]) >= _MOST_PIECES:
                        slices.append([])
                        room = step * chunk_size
                    last = min(count, first + max(1, room // chunk_size))
                    slices[-1].append(_Part(target, first, last))
                    room -= min(last * chunk_size, target.unit.nbytes) - first * chunk_size
                    first = last
        oldest = self.oldest
        if len(slices) != len(self._slices):
            self._checked_at = [oldest] * len(slices)
        self._slices, self._slice_size = slices, size

    def measured_rate(self, told: list[Finding]) -> float:
        """Bytes a second at which slices are checked, in the way in which the thread checks them."""
        on_host = all(target.place.device == "cpu" for target in self._targets)
        self.cut(_FIRST_SLICE if on_host else MOST_SLICE)
        if not self._slices:
            return math.inf
        self.check(0, told, alone=True)  # the first call imports, and compiles kernels
        end = time.perf_counter() + _RATE_SECONDS
        measured: list[tuple[int, float]] = []
        while time.perf_counter() < end or not measured:
            began = time.perf_counter()
            size = self.check(len(measured) % len(self._slices), told, alone=True)
            measured.append((size, time.perf_counter() - began))
        largest = max(size for size, _ in measured)
        # The fastest one counts: what other programs took of the processor meanwhile is no work of the guard.
        return max(1.0, *(size / seconds for size, seconds in measured if 2 * size >= largest))

    def check(self, number: int, told: list[Finding], *, alone: bool) -> int:
        """Check one slice, and return its size in bytes. ``told`` receives the findings that are new.

        ``alone`` keeps the work to the calling thread. Raises :class:`Moving` if a tensor is elsewhere than
        at the last survey.
        """
        parts = self._slices[number]
        pieces = [Piece(p.target.unit, _still_there(p.target), p.first, p.last) for p in parts]
        part_of = {id(piece): part for piece, part in zip(pieces, parts, strict=True)}
        judged: dict[tuple[tuple[str, ...], int], Finding] = {}
        differing = set()
        with beside(pieces[0].tensor.device), one_thread(alone):
            for piece, chunk in self.baseline.differing(pieces):
                target = part_of[id(piece)].target
                _still_there(target)  # what was read may have been memory that was given away meanwhile
                key = (target.names, chunk)
                differing.add(key)
                if key not in self.wrong:
                    judged[key] = self._judge(piece, chunk, target)
        told += judged.values()
        self.wrong = {
            key: finding
            for key, finding in self.wrong.items()
            if key in differing or not any(part.covers(key) for part in parts)
        }
        self.wrong.update({key: finding for key, finding in judged.items() if finding.fails})
        self._checked_at[number] = time.monotonic()
        if number == len(self._slices) - 1:
            faulty = {names for names, _ in self.wrong}
            for target in self._targets:
                target.moved = target.moved and target.names in faulty
        size = self.baseline.chunk_size
        return sum(min(p.last * size, p.target.unit.nbytes) - p.first * size for p in parts)

    def _judge(self, piece: Piece, chunk: int, target: Target) -> Finding:
        """Read a chunk that differed once more, and say what is wrong with it."""
        unit, size = piece.unit, self.baseline.chunk_size
        start, end = chunk * size, min((chunk + 1) * size, unit.nbytes)
        # From this copy follow both whether the chunk differs and in which bits.
        data = _copied(piece_bytes(Piece(unit, piece.tensor, chunk, chunk + 1), size))
        device = str(piece.tensor.device)
        where = f"chunk {chunk} of {self.baseline.chunks(unit)} (bytes {start} to {end}) on {device}"

        def finding(
            kind: Kind, detail: str, first: int = start, last: int = end, flips: Sequence[Any] = ()
        ) -> Finding:
            names = target.names
            return Finding(kind, detail, names[0], names, device, chunk, first, last, tuple(flips))

        if self.baseline.matches(unit, chunk, data):
            return finding("transient", f"{where} differed once and was right when it was read again")
        if not self.baseline.intact:
            return finding("baseline", f"{where} differs, but the digests that the guard keeps were changed")
        if target.moved:
            return finding("replaced", f"{where} differs from the baseline, in memory to which it was moved")
        flips = [
            (start + offset, mask)
            for offset, mask in flipped_bits(
                data.cpu().numpy().tobytes(),
                unit.sums[chunk].tolist(),
                lambda was: self.baseline.matches(unit, chunk, _on_device(was, data)),
            )
        ]
        if not flips:
            return finding("content", f"{where} differs from the baseline")
        bits = [f"bit {bit} of byte {place}" for place, mask in flips for bit in range(8) if mask >> bit & 1]
        more = f" and {len(bits) - _MOST_BITS_TOLD} more" if len(bits) > _MOST_BITS_TOLD else ""
        text = f"{where} differs from the baseline in {', '.join(bits[:_MOST_BITS_TOLD])}{more}"
        return finding("content", text, flips[0][0], flips[-1][0] + 1, flips)


def _still_there(target: Target) -> torch.Tensor:
    """The tensor of a target, if it is where it was. Raises :class:`Moving` otherwise."""
    tensor = target.ref()
    try:
        if tensor is not None and place_of(tensor) == target.place:
            return tensor
    except RuntimeError:  # a tensor that has lost its storage has no address
        pass
    raise Moving


def _copied(data: torch.Tensor) -> torch.Tensor:
    if data.device.type != "cpu":
        return data.clone()
    import torch

    # torch would copy with threads of its own, for which this one waits long if the processors are busy.
    return torch.from_numpy(host_memory(data).copy())


def _on_device(data: bytes, like: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.frombuffer(bytearray(data), dtype=torch.uint8).to(like.device)
