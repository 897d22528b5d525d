"""SipHash: each lane takes one message (``kernels/siphash.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..algorithms import Algorithm, SipHash, load_constant
from ..launching.host import Host
from ..messages.copying import exclusive_or, side_by_side
from ..messages.layout import AnyMessages
from .iterated import ChainingDriver, Start, by_length

if TYPE_CHECKING:
    import torch


SIPHASH_MESSAGES = "integrity_triton.kernels.siphash:siphash_messages"
SIPHASH_IV = "integrity_triton.kernels.siphash:SIPHASH_IV"
_STATE_WORDS = 4
# Bytes of a message that the kernel takes in one turn of its loop.
_TURN = 32
# Added by exclusive or to the second word of the state for two words of output (reference implementation).
_WIDE = 0xEE


class SipHashDriver(ChainingDriver):
    """It does not use ``hash_messages``, since the last rounds of SipHash differ from the others."""

    construction: SipHash
    per_message = True

    def __init__(self, host: Host, algorithm: Algorithm) -> None:
        super().__init__(host, algorithm)
        self.block_size = _TURN

    def references(self) -> tuple[str, ...]:
        return (SIPHASH_MESSAGES,)

    def main_kernel(self) -> tuple[str, str | None]:
        return SIPHASH_MESSAGES, None

    def start(self, parameters: Mapping[str, Any], device: torch.device) -> Start:
        """``flags`` of the start is the number of words of output."""
        import torch

        words = self.algorithm.size(parameters) // 8
        iv = list(load_constant(SIPHASH_IV))
        iv[1] ^= _WIDE if words == 2 else 0
        constants = self.host.words(iv, device, 64).view(torch.uint8).view(1, -1)
        keys = self.key_rows(parameters["key"], 16, device).data
        twice = self.secret(side_by_side([keys, keys]))
        states = self.secret(exclusive_or(twice, constants)).view(torch.uint64)
        return Start(states if len(states) > 1 else states[0], minimum_padding=1, flags=words)

    def iterate(
        self, messages: AnyMessages, start: Start, *, final: bool, step: int | None = None
    ) -> torch.Tensor:
        import torch

        places = messages.places()
        placement = self.host.placement(places, by_length(places))
        words = start.flags if final else _STATE_WORDS
        out = self.host.empty((messages.count, words), torch.uint64, messages.device)
        c, d = self.construction.rounds
        self.host.run(
            SIPHASH_MESSAGES,
            messages.count,
            messages.device,
            {
                "table_ptr": placement.table,
                "state_ptr": start.state,
                "out_ptr": out,
                **placement.arguments,
                "prefix": start.prefix,
                "out_words": words,
            },
            {
                "C": c,
                "D": d,
                "TABLE": placement.has_table,
                "STATE_PER_MESSAGE": start.state.dim() == 2,
                "FINAL": final,
                "ALIGN": placement.align,
            },
        )
        return out
