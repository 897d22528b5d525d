"""What the checks are made of: an algorithm on a backend and a device, and how much is checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ..algorithms import Algorithm
from ..algorithms.known_answers import Answer, Answers, Question, basis, usual
from ..batch import hash_batch, hash_chunks
from ..hashing import Hash, new
from .watch import Watch

if TYPE_CHECKING:
    import numpy as np
    import torch

_Item = TypeVar("_Item")
_LINE = 64
_POISON = 0xFF
_GUARD = 32  # bytes of poison after a message


@dataclass(frozen=True)
class Effort:
    """How much is checked."""

    name: str
    longest: int
    """The size in bytes of the longest message of a known answer, and of the longest stream."""
    offsets: tuple[int, ...]
    """Where messages start in memory: the distances in bytes from an address that is a multiple of 64."""
    messages: int
    """The number of random messages in a batch."""
    blocks: int
    """The length of the longest of them, in blocks of the algorithm."""
    long_message: int
    """The size in bytes of one random message, for algorithms that spread a message over the device; or 0."""
    digests: int
    """The number of digests taken of a stream while it grows."""
    flips: int
    """The number of bits of a message, a key and a tag that are flipped, each in a case of its own."""
    timeout: float = 1800.0
    """The number of seconds that an algorithm may take on a backend, unless the caller gives another."""

    @property
    def few_cases(self) -> bool:
        """Whether a check makes only a few cases of each kind, because each of them takes long."""
        return self.messages <= 10


EFFORTS = {
    effort.name: effort
    for effort in (
        Effort("quick", 50_000, tuple(range(18)), 48, 4, 200_001, 6, 3),
        Effort("standard", 1 << 20, tuple(range(18)), 200, 9, 3_000_017, 40, 8),
        Effort("full", 1 << 20, tuple(range(18)), 3000, 40, 50_000_017, 1000, 64, timeout=4 * 3600.0),
    )
}
# For a backend that takes up to a tenth of a second for one block.
SLOW_EFFORTS = {
    effort.name: effort
    for effort in (
        Effort("quick", 150, (0, 1, 3, 16), 3, 1, 0, 1, 1),
        Effort("standard", 400, (0, 1, 2, 3, 8, 17), 8, 2, 0, 2, 1),
        Effort("full", 6000, tuple(range(18)), 40, 3, 0, 4, 2),
    )
}


@dataclass(frozen=True)
class Case:
    """One comparison: bytes with bytes, or words with words."""

    label: str
    expected: bytes | str
    found: bytes | str

    @property
    def good(self) -> bool:
        return self.expected == self.found


@dataclass
class Subject:
    """An algorithm on a backend and a device, and what it is checked with."""

    record: Algorithm
    backend: str
    device: torch.device
    effort: Effort
    known: Answers | None
    random: np.random.Generator
    partner: str | None
    """Another backend, which has to give the same digests."""
    watch: Watch

    @property
    def answers(self) -> list[Answer]:
        """The known answers whose messages are not too long."""
        found = () if self.known is None else self.known.answers
        return [a for a in found if a.size <= self.effort.longest]

    @property
    def plain(self) -> list[Answer]:
        """The known answers for the fewest parameters and the shortest usual output, sorted by length."""
        return usual(self.record, self.answers)

    @property
    def given(self) -> dict[str, Any]:
        """The fewest parameters with which the algorithm runs."""
        return Question(0, basis(self.record)).values(self.record)

    @property
    def length(self) -> int | None:
        """The length of a digest in bytes that :func:`hash_batch` has to be given; None if it needs none."""
        return 32 if self.record.xof and not self.record.digest_size else None

    def tensor(self, data: bytes) -> torch.Tensor:
        """``data`` on the device, as uint8 of shape [len(data)]."""
        import torch

        if not data:
            return torch.empty(0, dtype=torch.uint8, device=self.device)
        return torch.frombuffer(bytearray(data), dtype=torch.uint8).to(self.device)

    def placed(self, content: bytes, offset: int) -> torch.Tensor:
        """``content`` on the device, ``offset`` bytes after a multiple of 64, in memory that is filled with
        0xFF."""
        import torch

        size = len(content) + offset + _LINE + _GUARD
        memory = torch.full((size,), _POISON, dtype=torch.uint8, device=self.device)
        start = -memory.data_ptr() % _LINE + offset
        memory[start : start + len(content)] = self.tensor(content)
        return memory[start : start + len(content)]

    def on_device(self, message: Any) -> Any:
        """A message, which may be a tuple of byte strings, as tensors on the device."""
        return tuple(map(self.tensor, message)) if self.record.takes_tuples else self.tensor(message)

    def batch(self, messages: Any, **keywords: Any) -> list[bytes]:
        """The digests of messages that are on the device."""
        return self._rows(hash_batch(messages, self.record.name, backend=self.backend, **keywords))

    def chunks(self, data: torch.Tensor, size: int, **keywords: Any) -> list[bytes]:
        """The digests of the chunks of ``size`` bytes of a tensor on the device."""
        name = self.record.name
        return self._rows(hash_chunks(data, name, chunk_size=size, backend=self.backend, **keywords))

    def _rows(self, digests: torch.Tensor) -> list[bytes]:
        if digests.device != self.device or digests.dtype.itemsize != 1 or digests.dim() != 2:
            raise ValueError(f"digests are {digests.dtype} on {digests.device}, not uint8 on {self.device}")
        return [row.tobytes() for row in digests.cpu().numpy()]

    def new(self, **keywords: Any) -> Hash:
        """A stream on the backend."""
        return new(self.record.name, backend=self.backend, **keywords)

    def bytes(self, size: int) -> bytes:
        """``size`` random bytes."""
        return self.random.bytes(size)

    def sizes(self, count: int, largest: int) -> list[int]:
        """``count`` random sizes from 0 to ``largest``."""
        return [int(n) for n in self.random.integers(0, largest + 1, count)]


def spread(found: Sequence[_Item], count: int) -> list[_Item]:
    """At most ``count`` items, evenly spread from the first to the last; if ``count`` is 1, the last."""
    if len(found) <= count:
        return list(found)
    if count == 1:
        return [found[-1]]
    return [found[i * (len(found) - 1) // (count - 1)] for i in range(count)]
