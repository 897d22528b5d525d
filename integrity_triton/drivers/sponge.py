"""Keccak's modes: the state in which a sponge starts, what follows the message, and output of any length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..algorithms import Algorithm, Sponge
from ..algorithms.encoding import bytepad, encode_string, left_encode, right_encode
from ..launching.host import Host
from ..messages.copying import bytes_of_rows
from ..messages.layout import Messages, Ragged, Rows
from ..messages.per_message import PerMessage
from .iterated import IteratedDriver, Start

if TYPE_CHECKING:
    import torch


KECCAK_SQUEEZE = "integrity_triton.kernels.keccak:keccak_squeeze"
_ROUNDS = 24
_CSHAKE_SUFFIX = 0x04
_RATE_SHIFT = 48


class SpongeDriver(IteratedDriver):
    """``construction`` may differ from the algorithm's: tree modes run several sponges."""

    construction: Sponge

    def __init__(self, host: Host, algorithm: Algorithm, construction: Sponge | None = None) -> None:
        super().__init__(host, algorithm, construction)
        self.block_size = self.construction.rate

    def references(self) -> tuple[str, ...]:
        return (self.construction.block, KECCAK_SQUEEZE)

    def start(self, parameters: Mapping[str, Any], device: torch.device) -> Start:
        construction = self.construction
        begin = self._followed(
            replace(super().start(parameters, device), flags=_ROUNDS - construction.rounds),
            bytes([parameters.get("domain", construction.suffix)]),
        )
        name = parameters.get("function_name", construction.function_name)
        customization = parameters.get("customization", b"")
        if not construction.customizable or not (name or customization):
            return begin
        prefix = bytepad(encode_string(name) + encode_string(customization), construction.rate)
        message = Rows.single(self.host.words(prefix, device, 8))
        states = self.iterate(message, begin, final=False)
        return self._followed(replace(begin, state=states[0], prefix=len(prefix)), bytes([_CSHAKE_SUFFIX]))

    def finish(self, start: Start, length: int) -> Start:
        tells = self.construction.tells
        if tells == "nothing":
            return start
        return self.behind(start, right_encode(8 * length if tells == "length" else 0))

    def behind(self, start: Start, data: bytes) -> Start:
        """The start of messages that are followed by ``data``, at most five bytes. No message is copied."""
        suffix = start.padding & ((1 << _RATE_SHIFT) - 1)
        return self._followed(start, data + suffix.to_bytes(start.minimum_padding, "little"))

    def _followed(self, start: Start, suffix: bytes) -> Start:
        """See ``pad_sponge`` in kernels/padding.py."""
        padding = int.from_bytes(suffix, "little") | self.construction.rate << _RATE_SHIFT
        return replace(start, padding=padding, minimum_padding=len(suffix))

    def output(self, states: torch.Tensor, length: int, seek: int) -> torch.Tensor:
        import torch

        rate = self.construction.rate
        if seek + length <= rate:
            return super().output(states, length, seek)
        blocks = -(-(seek + length) // rate)
        out = self.host.empty((states.shape[0], blocks * rate // 8), torch.uint64, states.device)
        self.host.run(
            KECCAK_SQUEEZE,
            states.shape[0],
            states.device,
            {
                "state_ptr": states,
                "constants_ptr": self.tables(states.device)[1],
                "out_ptr": out,
                "count": states.shape[0],
                "blocks": blocks,
                "rate": rate // 8,
                "first_round": _ROUNDS - self.construction.rounds,
            },
            {},
        )
        return bytes_of_rows(out, seek, seek + length)


class KmacDriver(SpongeDriver):
    """A sponge that takes in the blocks of the key once, for all messages (SP 800-185, section 4.3)."""

    per_message = True

    def start(self, parameters: Mapping[str, Any], device: torch.device) -> Start:
        return self.behind_blocks(super().start(parameters, device), self.encoded(parameters["key"], device))

    def encoded(self, key: bytes | PerMessage, device: torch.device) -> Messages:
        """``bytepad(encode_string(K), rate)`` of one key, or of the key of each message."""
        import torch

        rate = self.construction.rate
        if isinstance(key, bytes):
            return Rows.of(
                self.secret(self.host.words(bytepad(encode_string(key), rate), device, 8)).view(1, -1)
            )
        keys: list[torch.Tensor] = [key.rows(device)] if key.size() else [k[None] for k in key.views(device)]
        blocks = []
        for rows in keys:
            before = left_encode(rate) + left_encode(8 * rows.shape[1])
            used = len(before) + rows.shape[1]
            padded = self.secret(
                torch.zeros((len(rows), -(-used // rate) * rate), dtype=torch.uint8, device=device)
            )
            padded[:, : len(before)] = self.host.words(before, device, 8)
            padded[:, len(before) : used] = rows
            blocks.append(padded)
        return Rows.of(blocks[0]) if key.size() else Ragged([block[0] for block in blocks], device)
