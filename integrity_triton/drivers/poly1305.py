"""Poly1305: a lane takes a message, or a program or a row of a matrix takes a part of one
(``kernels/poly1305*.py``)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..algorithms import load_constant
from ..messages.copying import clear
from ..messages.layout import AnyMessages, Messages, Places, Rows
from ..messages.per_message import PerMessage
from ..messages.stream import Stream
from .base import BlockStream, Driver, Secrets
from .division import divide, table_of
from .iterated import by_length

if TYPE_CHECKING:
    import numpy as np
    import torch

_KERNELS = "integrity_triton.kernels"
POLY1305 = f"{_KERNELS}.poly1305:poly1305"
"""The name under which the tuning data say which way is taken."""
POLY1305_POWERS = f"{_KERNELS}.poly1305:poly1305_powers"
POLY1305_MATRIX = f"{_KERNELS}.poly1305_matrix:poly1305_matrix"
POLY1305_OFFSETS = f"{_KERNELS}.poly1305_matrix:poly1305_offsets"
POLY1305_MESSAGES = f"{_KERNELS}.poly1305:poly1305_messages"
POLY1305_PARTS = f"{_KERNELS}.poly1305_parts:poly1305_parts"
POLY1305_ROWS = f"{_KERNELS}.poly1305_matrix:poly1305_rows"
POLY1305_SUM = f"{_KERNELS}.poly1305:poly1305_sum"
POLY1305_FINISH = f"{_KERNELS}.poly1305:poly1305_finish"

_BLOCK = 16
_PARTS = 4096  # a large batch is cut into about so many parts
_LEAST_PART_BITS, _MOST_PART_BITS = 8, 16


@dataclass(frozen=True)
class Shape:
    """How ``poly1305_parts`` deals a message out to lanes."""

    lane_bits: int
    item_bits: int
    words: int
    """Words of 32 bits that a lane takes of an item: half a block, or a block."""

    @property
    def items(self) -> int:
        return 1 << self.item_bits

    @property
    def row_bits(self) -> int:
        """log2 of the blocks that all lanes together take of an item."""
        return self.lane_bits - (1 if self.words == 2 else 0)


class Key:
    """r of one key for all messages, or of one key for each, on the device, and what is computed from it."""

    def __init__(self, words: torch.Tensor, count: int, stride: int) -> None:
        """``words`` is flat uint32: r of each key is the first four of every ``stride`` words."""
        self.words, self.count = words, count
        self.stride = stride if count > 1 else 0
        self._own_words = stride
        self.bits = 0
        self._powers: torch.Tensor | None = None
        self._matrix: tuple[torch.Tensor, torch.Tensor] | None = None

    def powers(self, driver: Poly1305Driver, bits: int) -> torch.Tensor:
        """uint32 ``[count, n, 5]``: the powers r, r**2, r**4 and so on, ``self.bits`` of them and at least
        ``bits``, and then the factors of parts."""
        import torch

        if self._powers is None or bits > self.bits:
            shape = driver.shape()
            count = bits + shape.items * (shape.words + 1)
            powers = driver.host.empty((self.count, count, 5), torch.uint32, self.words.device)
            driver.host.run(
                POLY1305_POWERS,
                self.count,
                self.words.device,
                {
                    "key_ptr": self.words,
                    "power_ptr": driver.secret(powers),
                    "count": self.count,
                    "stride": self._own_words,
                    "bits": bits,
                    "row_bits": shape.row_bits,
                    "items": shape.items,
                    "words": shape.words,
                },
                {},
            )
            self._powers, self.bits = powers, bits
        return self._powers

    def power_stride(self) -> int:
        """Words from one key's powers to the next's."""
        return 0 if self._powers is None or self.count == 1 else 5 * self._powers.shape[1]

    def matrix(self, driver: Poly1305Driver, row_bits: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The matrix of one key and the offsets of its rows."""
        import torch

        if self._matrix is None:
            device, row = self.words.device, 1 << row_bits
            columns = int(load_constant(f"{_KERNELS}.poly1305_matrix:COLUMNS"))
            powers = self.powers(driver, row_bits - 3)
            digits = clear(driver.secret(driver.host.empty((columns, row), torch.int8, device)))
            driver.host.run(
                POLY1305_MATRIX,
                row,
                device,
                {"power_ptr": powers, "digits_ptr": digits},
                {"ROW_BITS": row_bits},
            )
            entries = row // _BLOCK + 2
            offsets = driver.secret(driver.host.empty((5, entries), torch.uint32, device))
            driver.host.run(
                POLY1305_OFFSETS,
                entries,
                device,
                {"power_ptr": powers, "offsets_ptr": offsets},
                {"ROW_BITS": row_bits},
            )
            self._matrix = digits, offsets
        return self._matrix


class Poly1305Driver(Driver):
    per_message = True
    ways = ("messages", "parts", "rows")
    undivided = ("messages",)

    def references(self) -> tuple[str, ...]:
        return (POLY1305_MESSAGES, POLY1305_PARTS, POLY1305_FINISH)

    def main_kernel(self) -> tuple[str, str | None]:
        return POLY1305_PARTS, None

    def choice(self) -> dict[str, int]:
        """From how many bytes on a message is cut into parts (PARTS_FROM). Where all messages have one key:
        from how many on into rows of a matrix (ROWS_FROM, 0 for never), of ``1 << ROW_BITS`` bytes. A
        ROW_BITS of 0 says that the compiler for the device makes no use of matrix units, so that there are no
        rows even where that way is asked for."""
        return self.host.tuned(POLY1305)

    def shape(self) -> Shape:
        tuning = self.host.tuned(POLY1305_PARTS)
        return Shape(tuning["BLOCK_MSGS"].bit_length() - 1, tuning["ITEM_BITS"], tuning["WORDS"])

    def ways_of(self, lengths: np.ndarray[Any, Any], key: Key) -> np.ndarray[Any, Any]:
        """For each of ``lengths``, the index in ``ways`` of the way that a message of that length takes.
        Making a matrix pays for many bytes under one key."""
        import numpy as np

        choice = self.choice()
        no_rows = key.count > 1 or not choice["ROW_BITS"]
        if self.way is not None and not (self.way == "rows" and no_rows):
            return np.full(len(lengths), self.ways.index(self.way))
        found = (lengths >= choice["PARTS_FROM"]).astype(np.int64)
        if choice["ROWS_FROM"] and not no_rows:
            found[lengths >= choice["ROWS_FROM"]] = 2
        return found

    # Batches and streams

    def enqueue(self, parameters: Mapping[str, Any], messages: Messages, length: int) -> torch.Tensor:
        given = parameters["key"]
        keys = self.keys(given, messages.device)
        # If all keys have the same r, its powers and its matrix serve all messages.
        one = isinstance(given, PerMessage) and given.shared >= _BLOCK
        return self.tags(messages, Key(keys.view(-1), 1 if one else len(keys), 8), keys.view(-1)[4:], 8)

    def stream(self, parameters: Mapping[str, Any], device: torch.device) -> Stream:
        return Poly1305Stream(self, self.keys(parameters["key"], device), device)

    def keys(self, key: bytes | PerMessage, device: torch.device) -> torch.Tensor:
        """One key, or one for each message, as words: uint32 ``[n, 8]``, r followed by s."""
        import torch

        return self.key_rows(key, 32, device).data.contiguous().view(torch.uint32)

    def tags(self, messages: AnyMessages, key: Key, pads: torch.Tensor, stride: int) -> torch.Tensor:
        """Tags of messages under r of ``key``: uint8 ``[n, 16]``. ``pads``, flat uint32, holds s of every
        message, the first four of every ``stride`` words; or, if it is not longer than ``stride``, s for all
        messages."""
        import torch

        per_message = pads.numel() > stride
        values = self.values(messages, key)
        out = self.finish(values, key, self.zeros(messages.device), pads, stride if per_message else 0)
        return out.view(torch.uint8)

    def zeros(self, device: torch.device) -> torch.Tensor:
        """The value of an empty message: uint64 ``[5]``."""
        import torch

        return self.host.empty((5,), torch.int64, device).zero_().view(torch.uint64)

    def extend(self, start: torch.Tensor, message: torch.Tensor, key: Key) -> torch.Tensor:
        """The value, uint64 ``[5]``, of a message that consists of whole blocks with the value ``start``,
        followed by ``message``."""
        secrets = Secrets()
        values = self.values(Rows.single(message), key, secrets)
        value = self.finish(values, key, start, None, 0, -(-message.numel() // _BLOCK)).view(-1)
        secrets.wipe()
        return value

    def finish(
        self,
        values: torch.Tensor,
        key: Key,
        start: torch.Tensor,
        pads: torch.Tensor | None,
        stride: int,
        blocks: int = 0,
    ) -> torch.Tensor:
        """Add ``start`` times r**blocks to the values of messages: uint64 ``[5, n]``. With ``pads``, add
        these as well, which gives the tags: uint32 ``[n, 4]``."""
        import torch

        count, device = values.shape[1], values.device
        bits = blocks.bit_length()
        if pads is None:
            out = self.host.empty((5, count), torch.uint64, device)
        else:
            out = self.host.empty((count, 4), torch.uint32, device)
        self.host.run(
            POLY1305_FINISH,
            count,
            device,
            {
                "values_ptr": values,
                "power_ptr": key.powers(self, bits) if bits else key.words,
                "start_ptr": start,
                "pad_ptr": key.words if pads is None else pads,
                "out_ptr": out,
                "count": count,
                "pad_stride": stride,
                "blocks": blocks,
                "bits": bits,
            },
            {"FINAL": pads is not None},
        )
        return out

    # Values of messages

    def values(self, messages: AnyMessages, key: Key, secrets: Secrets | None = None) -> torch.Tensor:
        """The polynomials of messages at r of ``key``: uint64 ``[5, n]``, limbs of 26 bits in 64.
        ``secrets``, by default the driver's, holds them and all intermediate results."""
        secrets = self.secrets if secrets is None else secrets
        import numpy as np
        import torch

        count, device = messages.count, messages.device
        out = secrets.hold(clear(self.host.empty((5, count), torch.int64, device))).view(torch.uint64)
        places = messages.places()
        if isinstance(places, Rows):
            (way,) = self.ways_of(np.array([places.longest()]), key).tolist()
            self._run(way, places, None, key, out, secrets)
            return out
        ways = self.ways_of(places.lengths, key)
        for way in range(len(self.ways)):
            chosen = np.flatnonzero(ways == way)
            if len(chosen) == count:
                self._run(way, places, None, key, out, secrets)
            elif len(chosen):
                self._run(way, places.chosen(chosen), chosen, key, out, secrets)
        return out

    def _run(
        self,
        way: int,
        places: Places,
        rows: np.ndarray[Any, Any] | None,
        key: Key,
        out: torch.Tensor,
        secrets: Secrets,
    ) -> None:
        """Add the values of messages to ``out``: to all its columns, or to those that ``rows`` names."""
        if way == 0:
            self._run_messages(places, rows, key, out)
        else:
            self._run_parts(way == 2, places, rows, key, out, secrets)

    def _run_messages(
        self, places: Places, rows: np.ndarray[Any, Any] | None, key: Key, out: torch.Tensor
    ) -> None:
        placement = self.host.placement(places, by_length(places, rows))
        self.host.run(
            POLY1305_MESSAGES,
            places.count,
            places.device,
            {
                "table_ptr": placement.table,
                "key_ptr": key.words,
                "out_ptr": out,
                **placement.arguments,
                "key_stride": key.stride,
                "results": out.shape[1],
            },
            {"TABLE": placement.has_table, "ALIGN": placement.align},
        )

    def _run_parts(
        self,
        matrix: bool,
        places: Places,
        rows: np.ndarray[Any, Any] | None,
        key: Key,
        out: torch.Tensor,
        secrets: Secrets,
    ) -> None:
        import numpy as np
        import torch

        device = places.device
        row_bits = self.choice()["ROW_BITS"]
        shape = self.shape()
        step_bits = shape.row_bits + shape.item_bits
        part_bits = row_bits - 4 if matrix else self._part_bits(places.volume(), step_bits)

        def parts_of(lengths: Any) -> Any:
            return np.maximum(-(-lengths // (_BLOCK << part_bits)), 1)

        division = divide(places, parts_of)
        results = np.arange(len(division.firsts)) if rows is None else rows
        placement = self.host.placement(places, table_of(places, division.firsts, results))
        parts = division.total
        most_bits = (int(parts_of(np.int64(places.longest()))) - 1).bit_length()
        bits = max(part_bits + most_bits, step_bits + 1, part_bits + 1)
        powers = key.powers(self, bits)
        shared = {"parts": parts, "per_row": division.per_row}
        constants = {"TABLE": placement.has_table, "ALIGN": placement.align}
        if matrix:
            digits, offsets = key.matrix(self, row_bits)
            columns = digits.shape[0]
            values = secrets.hold(self.host.empty((parts, columns), torch.int32, device))
            self.host.run(
                POLY1305_ROWS,
                parts,
                device,
                {
                    "table_ptr": placement.table,
                    "digits_ptr": digits,
                    "sums_ptr": values,
                    **placement.arguments,
                    **shared,
                },
                {"ROW_BITS": row_bits, **constants},
            )
        else:
            offsets = powers
            values = secrets.hold(self.host.empty((5, parts), torch.uint32, device))
            self.host.run(
                POLY1305_PARTS,
                parts << shape.lane_bits,
                device,
                {
                    "table_ptr": placement.table,
                    "power_ptr": powers,
                    "values_ptr": values,
                    **placement.arguments,
                    **shared,
                    "part_bits": part_bits,
                    "power_stride": key.power_stride(),
                    "bits": key.bits,
                },
                {"LANE_BITS": shape.lane_bits, **constants},
            )
        arguments = {k: v for k, v in placement.arguments.items() if k != "address"}
        self.host.run(
            POLY1305_SUM,
            parts,
            device,
            {
                "table_ptr": placement.table,
                "power_ptr": powers,
                "values_ptr": values,
                "offsets_ptr": offsets,
                "out_ptr": out,
                **arguments,
                **shared,
                "part_bits": part_bits,
                "power_stride": key.power_stride(),
                "most_bits": most_bits,
                "results": out.shape[1],
            },
            {"MATRIX": matrix, "TABLE": placement.has_table},
        )

    @staticmethod
    def _part_bits(total: int, least: int) -> int:
        """log2 of the blocks of a part, at least ``least``, for messages of ``total`` bytes together."""
        wanted = (max(total // (_BLOCK * _PARTS), 1) - 1).bit_length()
        return max(least, min(max(wanted, _LEAST_PART_BITS), _MOST_PART_BITS))


class Poly1305Stream(BlockStream):
    """The value of the blocks so far and the pending bytes are on the device."""

    _driver: Poly1305Driver

    def __init__(self, driver: Poly1305Driver, keys: torch.Tensor, device: torch.device) -> None:
        """``keys`` holds r and s: uint32 of eight elements."""
        super().__init__(driver, device, _BLOCK)
        self._key, self._pad = Key(keys.view(-1), 1, 8), keys.view(-1)[4:]
        self._value = driver.zeros(device)
        self._secrets = Secrets()

    def _absorb(self, view: torch.Tensor) -> None:
        self._value = self._driver.extend(self._value, view, self._key)
        self._secrets = Secrets()  # copies may still use the old value
        self._secrets.hold(self._value)

    def copy(self) -> Poly1305Stream:
        """Copies may be used by several threads, so each remembers powers of its own."""
        twin = super().copy()
        twin._key = copy.copy(self._key)
        return twin

    def digest(self, length: int, seek: int) -> bytes:
        driver, rest = self._driver, self._pending.data
        secrets = Secrets()
        values = driver.values(Rows.single(rest), self._key, secrets)
        blocks = 1 if rest.numel() else 0
        tag = driver.finish(values, self._key, self._value, self._pad, 0, blocks)
        secrets.wipe()
        return tag.cpu().numpy().tobytes()[seek : seek + length]
