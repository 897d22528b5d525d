"""The tree that fs-verity and dm-verity have in common: blocks of data are hashed, their hashes are packed
into blocks, and these are hashed, until one hash is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..algorithms import Algorithm
from ..eager import hash_prefixed
from ..messages.copying import side_by_side
from ..messages.from_caller import flat_bytes

if TYPE_CHECKING:
    import torch


class BlockTree:
    """The tree over data that comes in pieces, each hashed where it is. ``update`` takes bytes-like objects
    and tensors.

    ``salt`` precedes each block. A last block of data that is not whole is filled with zeros, and so is a
    last block of hashes. Each hash takes ``slot`` bytes, of which those after it are zero. Full blocks of
    hashes are hashed at once, so that only the ends of the levels are kept, unless ``keep`` asks for all.
    """

    def __init__(
        self,
        record: Algorithm,
        data_block: int,
        hash_block: int,
        *,
        salt: bytes = b"",
        slot: int | None = None,
        keep: bool = False,
        backend: str | None = None,
    ) -> None:
        self._record, self._salt, self._backend = record, salt, backend
        self._data_block, self._hash_block = data_block, hash_block
        self._slot = slot or record.digest_size
        self._keep = keep
        self._rest: torch.Tensor | None = None
        self._pending: list[torch.Tensor] = []
        self._counts: list[int] = []
        self._kept: list[list[torch.Tensor]] = []
        self.size = 0
        """Bytes of data so far."""

    def update(self, data: Any) -> None:
        flat = flat_bytes(data)
        self.size += flat.numel()
        if self._rest is not None and self._rest.numel():
            missing = self._data_block - self._rest.numel()
            joined = _joined(self._rest, flat[:missing])
            if joined.numel() < self._data_block:
                self._rest = joined
                return
            self._add(0, self.hashes(joined, self._data_block))
            flat = flat[missing:]
        whole = flat.numel() // self._data_block * self._data_block
        if whole:
            self._add(0, self.hashes(flat[:whole], self._data_block))
        self._rest = flat[whole:].clone()  # the caller may change the data later

    def hashes(self, blocks: torch.Tensor, size: int) -> torch.Tensor:
        """The hash of each block of ``size`` bytes: uint8 ``[n, digest size]``."""
        return hash_prefixed(self._record, self._salt, blocks, size, self._record.digest_size, self._backend)

    def _add(self, level: int, hashes: torch.Tensor) -> None:
        import torch

        if level == len(self._pending):
            self._pending.append(torch.empty(0, dtype=torch.uint8, device=hashes.device))
            self._counts.append(0)
            self._kept.append([])
        self._counts[level] += hashes.shape[0]
        spare = self._slot - hashes.shape[1]
        flat = torch.nn.functional.pad(hashes, (0, spare)).view(-1) if spare else hashes.reshape(-1)
        if self._keep:
            self._kept[level].append(flat)
        waiting = _joined(self._pending[level], flat)
        whole = waiting.numel() // self._hash_block * self._hash_block
        self._pending[level] = waiting[whole:].clone()
        if whole:
            self._add(level + 1, self.hashes(waiting[:whole], self._hash_block))

    def finish(self) -> bytes | None:
        """The hash that is left, or None if there was no data. Nothing may be added afterwards."""
        if self._rest is not None and self._rest.numel():
            self._add(0, self.hashes(_filled(self._rest, self._data_block), self._data_block))
            self._rest = None
        level = 0
        while level < len(self._counts):
            rest = self._pending[level]
            if self._counts[level] == 1:
                self._kept = self._kept[:level]
                found: bytes = rest[: self._record.digest_size].cpu().numpy().tobytes()
                return found
            if rest.numel():
                self._add(level + 1, self.hashes(_filled(rest, self._hash_block), self._hash_block))
            level += 1
        return None

    def levels(self) -> list[bytes]:
        """After :meth:`finish`, the blocks of hashes of each level, the hashes of data first."""
        import torch

        found = []
        for parts in self._kept:
            level = torch.cat([part.cpu() for part in parts]).numpy().tobytes()
            found.append(level + bytes(-len(level) % self._hash_block))
        return found


def _joined(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Flat bytes, one after the other, on the device of the first."""
    if not first.numel():
        return second.to(first.device)
    second = second.to(first.device)
    return side_by_side([first.view(1, -1), second.view(1, -1)]).view(-1)


def _filled(block: torch.Tensor, size: int) -> torch.Tensor:
    import torch

    return torch.nn.functional.pad(block, (0, size - block.numel()))


def check_block_size(value: Any, label: str, least: int, most: int) -> None:
    """Raise TypeError or ValueError unless ``value`` is a power of two from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{label} must be int, not {type(value).__name__}")
    if not least <= value <= most or value & (value - 1):
        raise ValueError(f"{label} must be a power of two from {least} to {most}, got {value}")


def check_salt(value: Any, most: int) -> None:
    """Raise TypeError or ValueError unless ``value`` is bytes, and at most ``most``."""
    if not isinstance(value, bytes):
        raise TypeError(f"a salt must be bytes, not {type(value).__name__}")
    if len(value) > most:
        raise ValueError(f"a salt has at most {most} bytes, not {len(value)}")
