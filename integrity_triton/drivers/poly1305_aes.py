"""Poly1305-AES: the pad of a message is AES of its nonce (D. J. Bernstein, 2005)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..messages.layout import Messages, Rows
from ..messages.per_message import PerMessage
from ..messages.stream import Stream
from .aes import AES_ENCRYPT_BLOCKS, AES_EXPAND_KEYS, encrypt, expand_keys, rounds_of
from .poly1305 import Key, Poly1305Driver, Poly1305Stream

if TYPE_CHECKING:
    import torch

_AES_BYTES = 16


class Poly1305AesDriver(Poly1305Driver):
    def references(self) -> tuple[str, ...]:
        return (*super().references(), AES_EXPAND_KEYS, AES_ENCRYPT_BLOCKS)

    def enqueue(self, parameters: Mapping[str, Any], messages: Messages, length: int) -> torch.Tensor:
        keys, pads = self.parts(parameters, messages.device)
        return self.tags(messages, Key(keys.view(-1)[4:], len(keys), 8), pads.view(-1), 4)

    def stream(self, parameters: Mapping[str, Any], device: torch.device) -> Stream:
        import torch

        keys, pads = self.parts(parameters, device)
        # torch.cat lacks unsigned words on some devices.
        one_time = torch.cat([keys[0, 4:].view(torch.int32), pads[0].view(torch.int32)])
        return Poly1305Stream(self, self.secret(one_time).view(torch.uint32), device)

    def parts(self, parameters: Mapping[str, Any], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys, k followed by r, uint32 ``[n, 8]``, and the pads that the nonces give, uint32 ``[m, 4]``.
        There is one of either for all messages, or one for each."""
        import torch

        keys = self.keys(parameters["key"], device)
        first = self.secret(keys.view(torch.uint8)[:, :_AES_BYTES].contiguous())
        round_keys = self.secret(expand_keys(self.host, Rows.of(first)))
        nonce = parameters["nonce"]
        nonces = nonce.rows(device) if isinstance(nonce, PerMessage) else self.host.words(nonce, device, 8)
        nonces = nonces.view(-1, _AES_BYTES).expand(max(len(keys), len(nonces.view(-1)) // _AES_BYTES), -1)
        pads = encrypt(self.host, round_keys, nonces.contiguous(), rounds_of(_AES_BYTES))
        return keys, self.secret(pads).view(torch.uint32)
