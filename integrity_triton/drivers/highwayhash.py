"""HighwayHash: each lane takes one message (``kernels/highwayhash.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..algorithms import HighwayHash, load_constant
from ..messages.copying import exclusive_or, side_by_side
from ..messages.layout import AnyMessages
from .iterated import ChainingDriver, Start, by_length

if TYPE_CHECKING:
    import torch


_KERNEL_FILE = "integrity_triton.kernels.highwayhash"
HIGHWAYHASH_MESSAGES = f"{_KERNEL_FILE}:highwayhash_messages"
_STATE_WORDS = 16


class HighwayHashDriver(ChainingDriver):
    """It does not use ``hash_messages``, since HighwayHash does not pad the end of a message as other hashes
    do."""

    construction: HighwayHash
    per_message = True

    def references(self) -> tuple[str, ...]:
        return (HIGHWAYHASH_MESSAGES,)

    def main_kernel(self) -> tuple[str, str | None]:
        return HIGHWAYHASH_MESSAGES, None

    def start(self, parameters: Mapping[str, Any], device: torch.device) -> Start:
        import torch

        init = [load_constant(f"{_KERNEL_FILE}:HIGHWAYHASH_INIT{i}") for i in (0, 1)]
        constants = self.host.words([*init[0], *init[1]] * 2, device, 64).view(torch.uint8).view(1, -1)
        keys = self.key_rows(parameters["key"], 32, device).data
        # v1 takes the key with the halves of each word exchanged.
        turned = [keys[:, at ^ 4 :][:, :4] for at in range(0, 32, 4)]
        zeros = torch.zeros((1, 64), dtype=torch.uint8, device=device).expand(len(keys), -1)
        mixed = self.secret(side_by_side([keys, *turned, zeros]))
        states = self.secret(exclusive_or(mixed, constants)).view(torch.uint64)
        return Start(states if len(states) > 1 else states[0], minimum_padding=1)

    def iterate(
        self, messages: AnyMessages, start: Start, *, final: bool, step: int | None = None
    ) -> torch.Tensor:
        import torch

        places = messages.places()
        placement = self.host.placement(places, by_length(places))
        out_words = self.algorithm.digest_size // 8
        words = out_words if final else _STATE_WORDS
        out = self.host.empty((messages.count, words), torch.uint64, messages.device)
        self.host.run(
            HIGHWAYHASH_MESSAGES,
            messages.count,
            messages.device,
            {
                "table_ptr": placement.table,
                "state_ptr": start.state,
                "out_ptr": out,
                **placement.arguments,
                "rounds": self.construction.rounds,
                "out_words": out_words,
            },
            {
                "TABLE": placement.has_table,
                "STATE_PER_MESSAGE": start.state.dim() == 2,
                "FINAL": final,
                "ALIGN": placement.align,
            },
        )
        return out
