"""BLAKE2: a start that its parameters make, and a key that is the first block (RFC 7693, section 2.9)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...algorithms import load_constant
from ..base import Messages, Ragged, Rows, Stream
from .iterated import IteratedDriver, IteratedStream, Start

if TYPE_CHECKING:
    import numpy as np
    import torch


def message_lengths(messages: Messages) -> np.ndarray[Any, Any]:
    """Bytes in each message, int64."""
    import numpy as np

    if isinstance(messages, Rows):
        ends = messages.total - messages.stride * np.arange(messages.count, dtype=np.int64)
        return np.clip(ends, 0, messages.length)
    return np.fromiter((view.numel() for view in messages.views), np.int64, messages.count)


class Blake2Driver(IteratedDriver):
    def start_words(self, parameters: Mapping[str, Any], **fields: int) -> np.ndarray[Any, Any]:
        """The initial state: the initial value and the parameter block (the BLAKE2 paper, section 2.8).

        ``fields`` take the place of ``parameters``.
        """
        import numpy as np

        word = self.construction.word_bits // 8
        given = {**parameters, **fields}

        def integer(name: str, default: int, size: int) -> bytes:
            return int(given.get(name, default)).to_bytes(size, "little")

        block = (
            integer("digest_size", self.algorithm.digest_size, 1)
            + len(parameters.get("key", b"")).to_bytes(1, "little")
            + integer("fanout", 1, 1)
            + integer("depth", 1, 1)
            + integer("leaf_size", 0, 4)
            + integer("node_offset", 0, 8 if word == 8 else 6)
            + integer("node_depth", 0, 1)
            + integer("inner_size", 0, 1)
        ).ljust(4 * word, b"\0")
        for name in ("salt", "person"):
            block += parameters.get(name, b"").ljust(2 * word, b"\0")
        kind = np.dtype(f"<u{word}")
        words: np.ndarray[Any, Any] = np.array(load_constant(self.construction.iv), kind)
        words ^= np.frombuffer(block, kind)
        return words

    def key_block(self, parameters: Mapping[str, Any]) -> bytes:
        """What goes before the message; nothing without a key."""
        key: bytes = parameters.get("key", b"")
        return key.ljust(self.algorithm.block_size, b"\0") if key else b""

    def unkeyed(self, parameters: Mapping[str, Any], device: torch.device) -> Start:
        """The start before the key's block."""
        state = self.host.upload(self.start_words(parameters), device)
        return Start(state, flags=int(parameters.get("last_node", False)))

    def start(self, parameters: Mapping[str, Any], device: torch.device) -> Start:
        return self.after_key(self.unkeyed(parameters, device), self.key_block(parameters), device)

    def after_key(self, start: Start, key_block: bytes, device: torch.device) -> Start:
        if not key_block:
            return start
        key = self.host.bytes_view(key_block, device)
        states = self.iterate(Ragged([key], device), start, final=False)
        return Start(states[0], len(key_block), flags=start.flags)

    def hash_batch(self, parameters: Mapping[str, Any], messages: Messages, length: int) -> torch.Tensor:
        return self.output(self.final_states(parameters, messages), length, 0)

    def final_states(self, parameters: Mapping[str, Any], messages: Messages) -> torch.Tensor:
        device, key_block = messages.device, self.key_block(parameters)
        before = self.unkeyed(parameters, device)
        states = self.iterate(messages, self.after_key(before, key_block, device), final=True)
        if not key_block:
            return states
        empty = message_lengths(messages) == 0
        if not empty.any():
            return states
        # With no message after it, the key's block is the last.
        key = self.host.bytes_view(key_block, device)
        return self.replace_rows(states, empty, self.iterate(Ragged([key], device), before, final=True))

    def replace_rows(
        self, states: torch.Tensor, rows: np.ndarray[Any, Any], values: torch.Tensor
    ) -> torch.Tensor:
        """``states`` with ``values``, which broadcast, in the rows where the host array ``rows`` is true."""
        import torch

        signed = torch.int64 if self.construction.word_bits == 64 else torch.int32
        mask = self.host.upload(rows, states.device)[:, None]
        # torch.where lacks unsigned words on some devices.
        return torch.where(mask, values.view(signed), states.view(signed)).view(states.dtype)

    def stream(self, parameters: Mapping[str, Any], device: torch.device) -> Stream:
        stream = IteratedStream(self, self.unkeyed(parameters, device), device)
        stream.update(self.key_block(parameters))
        return stream
