"""CRCs: many lanes fold long messages into short rows, then each takes one piece (``kernels/crc.py``)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from ..algorithms import Crc, load_constant
from ..algorithms.binary_field import BinaryField, reflected
from ..launching.launch import Address
from ..messages.copying import clear
from ..messages.layout import Messages, Rows
from ..messages.stream import Stream, piece_on
from .base import Driver
from .division import divide, table_of

if TYPE_CHECKING:
    import torch


_KERNEL_FILE = "integrity_triton.kernels.crc"
CRC_FOLD = f"{_KERNEL_FILE}:crc_fold"
CRC_FINISH = f"{_KERNEL_FILE}:crc_finish"

PIECE_BYTES = 4096
"""Bytes of a message that one lane takes if the message is not folded."""
_BLOCKS_WORTH_FOLDING = 8  # blocks of an average message; folding leaves a row as long as one block
_CHUNKS = 4096  # a large batch is folded into about so many rows, each by a group of lanes


@cache
def powers(width: int, polynomial: int, shift: int) -> tuple[int, ...]:
    """The table that ``crc_finish`` finds at ``powers_ptr``; row 0 is multiplied by x**(-8 * shift)."""
    field = BinaryField(width, polynomial)
    found = []
    for k in range(16):
        factor = field.x_to(8 << (4 * k))
        value = field.x_to(-8 * shift) if k == 0 else 1
        for _ in range(16):
            found.append(reflected(value, width))
            value = field.multiply(value, factor)
    return tuple(found)


class CrcDriver(Driver):
    construction: Crc

    def references(self) -> tuple[str, ...]:
        return (CRC_FOLD, CRC_FINISH)

    def main_kernel(self) -> tuple[str, str | None]:
        return CRC_FOLD, None

    def enqueue(self, parameters: Mapping[str, Any], messages: Messages, length: int) -> torch.Tensor:
        return self.extend(self.empty_check(messages.device), messages)

    def stream(self, parameters: Mapping[str, Any], device: torch.device) -> Stream:
        return _CrcStream(self, device)

    def empty_check(self, device: torch.device) -> torch.Tensor:
        """The check of an empty message, uint8 ``[digest_size]``."""
        import torch

        return self.host.empty((self.algorithm.digest_size,), torch.uint8, device).zero_()

    def extend(self, start: torch.Tensor, messages: Messages) -> torch.Tensor:
        """The check of some data followed by each message: uint8 ``[n, digest_size]``. ``start`` is the check
        of the data."""
        import numpy as np
        import torch

        places, device, width = messages.places(), messages.device, self.construction.width
        lanes = self.host.tuned(CRC_FOLD)["BLOCK_MSGS"]
        block = 4 * width * lanes
        folded, unit, chunk = self._cut(places.volume(), places.count, block)

        def chunks_of(lengths: Any) -> Any:
            return -(-(lengths // unit * unit) // chunk)

        chunks = divide(places, chunks_of)
        pieces = divide(places, lambda n: np.maximum(chunks_of(n) + (n % unit > 0), 1))
        placement = self.host.placement(places, table_of(places, pieces.firsts, chunks.firsts))
        out = clear(self.host.empty((messages.count, self.algorithm.digest_size), torch.uint8, device))
        begin = start.view(torch.uint32)
        constants = {
            "REFLECTED": reflected(self.construction.polynomial, width),
            "WIDTH": width,
            "TABLE": placement.has_table,
        }
        shape = (chunks.total, block // 4) if folded else (1, 1)
        rows = self.host.empty(shape, torch.uint32, device)
        if folded and chunks.total:
            self.host.run(
                CRC_FOLD,
                chunks.total * lanes,
                device,
                {
                    "table_ptr": placement.table,
                    "start_ptr": begin,
                    "rows_ptr": rows,
                    **placement.arguments,
                    "per_row": max(1, chunks.per_row),
                    "chunk_bits": chunk.bit_length() - 1,
                },
                {**constants, "LANES": lanes, "ALIGN": placement.align},
            )
        longest = places.longest()
        most = max(unit if chunks.total else 0, min(longest, unit - 1))
        self.host.run(
            CRC_FINISH,
            pieces.total,
            device,
            {
                "table_ptr": placement.table,
                "start_ptr": begin,
                "powers_ptr": self.host.words(
                    powers(width, self.construction.polynomial, 4 * width + (2 if folded else 1) * unit),
                    device,
                    width,
                ),
                "out_ptr": out.view(torch.uint32),
                "address": placement.arguments["address"],
                "rows": Address.of(rows),
                **placement.arguments,
                "pieces": pieces.total,
                "per_row": pieces.per_row,
                "chunks_per_row": chunks.per_row,
                "chunk_bits": chunk.bit_length() - 1,
                "unit_bits": unit.bit_length() - 1,
                "blocks": max(1, -(-most // (4 * self._finish_words()))),
                "digits": -(-(longest + 2 * unit).bit_length() // 4),
            },
            {**constants, "FOLDED": folded, "ALIGN": placement.align},
        )
        return out

    @staticmethod
    def _finish_words() -> int:
        return int(load_constant(f"{_KERNEL_FILE}:FINISH_WORDS"))

    @staticmethod
    def _cut(total: int, count: int, block: int) -> tuple[bool, int, int]:
        """Whether to fold messages of ``total`` bytes together, and the bytes of a unit and of a chunk."""
        if total < count * _BLOCKS_WORTH_FOLDING * block:
            return False, PIECE_BYTES, PIECE_BYTES
        wanted = max(total // _CHUNKS, 4 * block)
        return True, block, 1 << (wanted - 1).bit_length()


class _CrcStream(Stream):
    """The check of the data so far is the whole state."""

    def __init__(self, driver: CrcDriver, device: torch.device) -> None:
        self._driver, self._device = driver, device
        self._check = driver.empty_check(device)

    def update(self, data: Any) -> None:
        view = piece_on(data, self._device)
        self._check = self._driver.extend(self._check, Rows.single(view))[0]

    def digest(self, length: int, seek: int) -> bytes:
        return self._check.cpu().numpy().tobytes()[seek : seek + length]

    def copy(self) -> Stream:
        return copy.copy(self)
