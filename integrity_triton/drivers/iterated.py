"""Hashes that apply a block function block by block; each lane takes one message."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..algorithms import Algorithm, IteratedHash
from ..launching.host import Host
from ..messages.copying import bytes_of_rows
from ..messages.layout import AnyMessages, Messages, Places, Rows
from ..messages.stream import Stream
from .base import BlockStream, Driver, Secrets

if TYPE_CHECKING:
    import numpy as np
    import torch


HASH_MESSAGES = "integrity_triton.kernels.batch:hash_messages"


@dataclass(frozen=True)
class Start:
    """Where the hashing of a message begins."""

    state: torch.Tensor
    """Words ``[state_words]``, or ``[n, state_words]`` with a state for each message."""
    prefix: int = 0
    """Bytes that were absorbed into the state."""
    padding: int = 0
    minimum_padding: int = 0
    flags: int = 0
    constants: torch.Tensor | None = None
    """Words that the block function finds where the algorithm's constants would be: ``[k]``, or ``[n, k]``
    with a row for each message."""

    def constants_per_message(self) -> int:
        """How many words of constants there are for each message; 0 if all messages share them."""
        return self.constants.shape[1] if self.constants is not None and self.constants.dim() == 2 else 0


def by_length(places: Places, results: np.ndarray[Any, Any] | None = None) -> np.ndarray[Any, Any] | None:
    """A table for ``Host.placement`` in which the longest messages come first: addresses, lengths, and where
    the result of each goes, by default its place in the batch. None for rows.

    The lanes of a program wait for the longest message among theirs, so neighbours should be of similar
    length.
    """
    import numpy as np

    if isinstance(places, Rows):
        return None
    table = np.empty((3, places.count), np.int64)
    order = np.argsort(-places.lengths, kind="stable")
    table[0], table[1] = places.addresses[order], places.lengths[order]
    table[2] = order if results is None else results[order]
    return table


class ChainingDriver(Driver):
    """Takes messages block by block into a state, from which the output is made at the end. Subclasses say
    where messages begin (``start``) and launch the kernel (``iterate``)."""

    def __init__(self, host: Host, algorithm: Algorithm) -> None:
        super().__init__(host, algorithm)
        self.block_size = algorithm.block_size

    @abc.abstractmethod
    def start(self, parameters: Mapping[str, Any], device: torch.device) -> Start:
        """Where messages begin under ``parameters``."""

    @abc.abstractmethod
    def iterate(
        self, messages: AnyMessages, start: Start, *, final: bool, step: int | None = None
    ) -> torch.Tensor:
        """The states of messages that begin at ``start``: words ``[n, state_words]``. With ``final`` they are
        the states after padding, in the algorithm's byte order; otherwise those after the whole blocks.

        ``step`` is the distance in bytes between the starts of a message's blocks; by default the blocks
        touch.
        """

    def finish(self, start: Start, length: int) -> Start:
        """``start`` as the last block needs it, if ``length`` bytes of output follow."""
        return start

    def behind_blocks(self, before: Start, blocks: Messages) -> Start:
        """The start of messages that follow secret blocks, which themselves begin at ``before``. ``blocks``
        holds one message for all, or one for each message; each is a multiple of the block size long. Where
        lengths differ, the number of bytes absorbed is not counted: the algorithm must not depend on it."""
        states = self.secret(self.iterate(blocks, before, final=False))
        absorbed = blocks.length if isinstance(blocks, Rows) else 0
        return replace(
            before, state=states if blocks.count > 1 else states[0], prefix=before.prefix + absorbed
        )

    def iterate_behind(self, messages: Messages, before: Start, blocks: Rows, start: Start) -> torch.Tensor:
        """Final states of messages that begin at ``start``, the result of :meth:`behind_blocks`."""
        return self.iterate(messages, start, final=True)

    def output(self, states: torch.Tensor, length: int, seek: int) -> torch.Tensor:
        """``length`` bytes of output of final states, from byte ``seek`` on: uint8 ``[n, length]``."""

        return bytes_of_rows(states, seek, seek + length)

    def enqueue(self, parameters: Mapping[str, Any], messages: Messages, length: int) -> torch.Tensor:
        start = self.finish(self.start(parameters, messages.device), length)
        return self.output(self.iterate(messages, start, final=True), length, 0)

    def stream(self, parameters: Mapping[str, Any], device: torch.device) -> Stream:
        return IteratedStream(self, self.start(parameters, device), device)


class IteratedDriver(ChainingDriver):
    """Applies a block function with the kernel ``hash_messages``. Subclasses may replace the state in which
    messages begin (``start``) and what becomes of the final state (``output``)."""

    construction: IteratedHash

    def __init__(self, host: Host, algorithm: Algorithm, construction: IteratedHash | None = None) -> None:
        """``construction`` takes the place of the algorithm's construction, if it is given."""
        super().__init__(host, algorithm)
        if construction is not None:
            self.construction = construction

    def references(self) -> tuple[str, ...]:
        return (self.construction.block,)

    def main_kernel(self) -> tuple[str, str | None]:
        return HASH_MESSAGES, self.construction.block

    def start(self, parameters: Mapping[str, Any], device: torch.device) -> Start:
        construction = self.construction
        return Start(
            self.tables(device)[0],
            padding=construction.padding,
            minimum_padding=construction.minimum_padding,
        )

    def tables(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """The initial state and the block function's constants."""
        construction = self.construction
        assert construction.iv is not None
        references = (construction.iv, *([construction.constants] if construction.constants else []))
        found = self.host.constants(references, construction.word_bits, device)
        return found[0], found[-1]

    def iterate(
        self, messages: AnyMessages, start: Start, *, final: bool, step: int | None = None
    ) -> torch.Tensor:
        import torch

        construction, block = self.construction, self.block_size
        places = messages.places()
        placement = self.host.placement(places, by_length(places))
        # Whole states are stored: hashes that differ only in truncation share a kernel.
        dtype = torch.uint64 if construction.word_bits == 64 else torch.uint32
        out = self.host.empty((messages.count, construction.state_words), dtype, messages.device)
        self.host.run(
            HASH_MESSAGES,
            messages.count,
            messages.device,
            {
                "table_ptr": placement.table,
                "state_ptr": start.state,
                "constants_ptr": self.tables(messages.device)[1]
                if start.constants is None
                else start.constants,
                "out_ptr": out,
                **placement.arguments,
                "prefix": start.prefix,
                "step": step or block,
                "padding": start.padding,
                "minimum_padding": start.minimum_padding,
                "flags": start.flags,
            },
            {
                "BLOCK": construction.block,
                "PAD": construction.pad,
                "BLOCK_BYTES": construction.largest_block or block,
                "VARIABLE_BLOCK": construction.largest_block is not None,
                "WORD_BITS": construction.word_bits,
                "STATE_WORDS": construction.state_words,
                "BIG_ENDIAN": construction.byteorder == "big",
                "TABLE": placement.has_table,
                "STATE_PER_MESSAGE": start.state.dim() == 2,
                "CONSTANTS_PER_MESSAGE": start.constants_per_message(),
                "FINAL": final,
                # Every block has to be aligned, not only the first of a message.
                "ALIGN": min(placement.align, (step or block) & -(step or block)),
            },
        )
        return out


class IteratedStream(BlockStream):
    _driver: ChainingDriver

    def __init__(self, driver: ChainingDriver, start: Start, device: torch.device) -> None:
        # If padding may add nothing, the last block must not be absorbed before the end is known.
        super().__init__(driver, device, driver.block_size, 1 if start.minimum_padding == 0 else 0)
        self._at = start

    def _absorb(self, view: torch.Tensor) -> None:
        at = self._at
        states = self._driver.iterate(Rows.single(view), at, final=False)
        if self._driver.key_in_messages:
            self._secrets = Secrets()  # copies may still use the old state
            self._secrets.hold(states)
        self._at = replace(at, state=states[0], prefix=at.prefix + view.numel())

    def final_states(self, length: int) -> torch.Tensor:
        """The state after padding, before ``length`` bytes of output: words ``[1, state_words]``."""
        last = self._driver.finish(self._at, length)
        return self._driver.iterate(Rows.single(self._pending.data), last, final=True)

    def digest(self, length: int, seek: int) -> bytes:
        if length == 0:
            return b""
        states = self.final_states(length)
        return self._driver.output(states, length, seek).cpu().numpy().tobytes()
