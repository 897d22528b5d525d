"""CRCs: long messages folded to short rows by many lanes, then a lane for each piece (``kernels/crc.py``)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from ..algorithms import Algorithm, Crc, load_constant
from ..algorithms.binary_field import BinaryField, reflected
from ..launching.host import Host, signed
from ..messages.layout import Messages, Ragged
from ..messages.stream import Stream
from .base import Driver

if TYPE_CHECKING:
    import torch


_KERNEL_FILE = "integrity_triton.kernels.crc"
CRC_FOLD = f"{_KERNEL_FILE}:crc_fold"
CRC_FINISH = f"{_KERNEL_FILE}:crc_finish"

PIECE_BYTES = 4096
"""What one lane takes of a message that is not folded."""
_BLOCKS_WORTH_FOLDING = 8  # of a message on average; a row that is left is as long as one
_CHUNKS = 4096  # as many groups of lanes, and rows, as a large batch is worth


@cache
def powers(width: int, polynomial: int, shift: int) -> tuple[int, ...]:
    """The table that ``crc_finish`` finds at ``powers_ptr``, row 0 times x**(-8 * shift)."""
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
    def __init__(self, host: Host, algorithm: Algorithm) -> None:
        super().__init__(host, algorithm)
        assert isinstance(algorithm.construction, Crc)
        self.construction = algorithm.construction

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
        """The check of each message put behind data whose check is ``start``: uint8 ``[n, digest_size]``."""
        import numpy as np
        import torch

        device, width = messages.device, self.construction.width
        lanes = self.host.tuned(CRC_FOLD)["BLOCK_MSGS"]
        block = 4 * width * lanes
        folded, unit, chunk = False, PIECE_BYTES, PIECE_BYTES

        def counts(lengths: Any) -> tuple[Any, Any]:
            """Of messages, how many pieces and how many of them are chunks."""
            chunks = -(-(lengths // unit * unit) // chunk)
            return np.maximum(chunks + (lengths % unit > 0), 1), chunks

        def table(addresses: Any, lengths: Any) -> tuple[Any, Any]:
            nonlocal folded, unit, chunk
            folded, unit, chunk = self._cut(int(lengths.sum()), len(lengths), block)
            pieces, chunks = counts(lengths)
            ends = np.cumsum(pieces) - pieces, np.cumsum(chunks) - chunks
            return np.stack([addresses, lengths, *ends]), lengths

        layout = self.host.layout(messages, table)
        largest = layout.largest()
        if layout.lengths is None:
            folded, unit, chunk = self._cut(largest * messages.count, messages.count, block)
            per_row, chunks_per_row = (int(n) for n in counts(np.int64(largest)))
            pieces, chunks = messages.count * per_row, messages.count * chunks_per_row
        else:
            pieces, chunks = (int(n.sum()) for n in counts(np.asarray(layout.lengths)))
            per_row = chunks_per_row = 1
        out = self.host.empty((messages.count, self.algorithm.digest_size), torch.uint8, device).zero_()
        begin = start.view(torch.uint32)
        constants = {
            "REFLECTED": reflected(self.construction.polynomial, width),
            "WIDTH": width,
            "TABLE": layout.has_table,
        }
        rows = self.host.empty((chunks if folded else 1, block // 4 if folded else 1), torch.uint32, device)
        if folded and chunks:
            self.host.run(
                CRC_FOLD,
                chunks * lanes,
                device,
                {
                    "table_ptr": layout.table,
                    "start_ptr": begin,
                    "rows_ptr": rows,
                    **layout.arguments,
                    "per_row": max(1, chunks_per_row),
                    "chunk_bits": chunk.bit_length() - 1,
                },
                {**constants, "LANES": lanes, "ALIGN": layout.align},
            )
        longest = max(unit if chunks else 0, min(largest, unit - 1))
        self.host.run(
            CRC_FINISH,
            pieces,
            device,
            {
                "table_ptr": layout.table,
                "start_ptr": begin,
                "powers_ptr": self.host.words(
                    powers(width, self.construction.polynomial, 4 * width + (2 if folded else 1) * unit),
                    device,
                    width,
                ),
                "out_ptr": out.view(torch.uint32),
                "address": layout.arguments["address"],
                "rows": signed(rows.data_ptr()),
                **layout.arguments,
                "pieces": pieces,
                "per_row": per_row,
                "chunks_per_row": chunks_per_row,
                "chunk_bits": chunk.bit_length() - 1,
                "unit_bits": unit.bit_length() - 1,
                "blocks": max(1, -(-longest // (4 * self._finish_words()))),
                "digits": -(-(largest + 2 * unit).bit_length() // 4),
            },
            {**constants, "FOLDED": folded, "ALIGN": layout.align},
        )
        return out

    @staticmethod
    def _finish_words() -> int:
        return int(load_constant(f"{_KERNEL_FILE}:FINISH_WORDS"))

    @staticmethod
    def _cut(total: int, count: int, block: int) -> tuple[bool, int, int]:
        """For messages of ``total`` bytes together: whether to fold, bytes of a unit and of a chunk."""
        if total < count * _BLOCKS_WORTH_FOLDING * block:
            return False, PIECE_BYTES, PIECE_BYTES
        wanted = max(total // _CHUNKS, 4 * block)
        return True, block, 1 << (wanted - 1).bit_length()


class _CrcStream(Stream):
    """The check so far is all there is to keep."""

    def __init__(self, driver: CrcDriver, device: torch.device) -> None:
        self._driver, self._device = driver, device
        self._check = driver.empty_check(device)

    def update(self, data: Any) -> None:
        view = self._driver.host.bytes_view(data, self._device)
        self._check = self._driver.extend(self._check, Ragged([view], self._device))[0]

    def digest(self, length: int, seek: int) -> bytes:
        return self._check.cpu().numpy().tobytes()[seek : seek + length]

    def copy(self) -> Stream:
        return copy.copy(self)
