"""HMAC over any hash (RFC 2104): the hash of an inner block and the message gives a digest, and the hash of
an outer block and this digest gives the tag. Both blocks are made from the key.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..algorithms import Algorithm
from ..launching.host import Host
from ..messages.copying import bytes_of_rows, copy_rows, exclusive_or, one_after_another
from ..messages.layout import Messages, Ragged, Rows
from ..messages.per_message import PerMessage
from ..messages.stream import Stream
from .base import Driver
from .iterated import IteratedDriver

if TYPE_CHECKING:
    import torch


HMAC_CHAIN = "integrity_triton.kernels.pbkdf2:hmac_chain"
_INNER, _OUTER = 0x36, 0x5C


class HmacDriver(Driver):
    """HMAC with the driver of its hash. An iterated hash absorbs the two blocks of each key once and reads
    the messages in place. For other hashes, each message is copied behind its block."""

    per_message = True

    def __init__(self, host: Host, algorithm: Algorithm, hash_: Driver) -> None:
        """``hash_`` is the driver of the hash, on the same host."""
        super().__init__(host, algorithm)
        self.hash = hash_
        self.hash.key_in_messages = True
        self.size = self.hash.algorithm.digest_size

    def references(self) -> tuple[str, ...]:
        return self.hash.references()

    def main_kernel(self) -> tuple[str, str | None]:
        return self.hash.main_kernel()

    def pads(self, key: bytes | PerMessage, device: torch.device) -> tuple[Rows, Rows]:
        """The inner and the outer blocks: one of each kind for all messages, or one of each kind for each
        message."""
        block = self.hash.algorithm.block_size
        keys = self.key_rows(self.short_keys(key, device), block, device).data
        inner, outer = (Rows.of(self.secret(exclusive_or(keys, byte))) for byte in (_INNER, _OUTER))
        return inner, outer

    def short_keys(self, key: bytes | PerMessage, device: torch.device) -> bytes | PerMessage:
        """The keys. Each key that is longer than a block is replaced by its digest."""
        block = self.hash.algorithm.block_size
        if isinstance(key, bytes):
            if len(key) <= block:
                return key
            key = PerMessage([self.secret(self.host.words(key, device, 8))])
        long = [i for i, size in enumerate(key.sizes) if size > block]
        if not long:
            return key
        views = key.views(device)
        digests = self.hash.enqueue({}, Ragged([views[i] for i in long], device), self.size)
        for i, digest in zip(long, self.secret(digests), strict=True):
            views[i] = digest
        return PerMessage(views)

    def enqueue(self, parameters: Mapping[str, Any], messages: Messages, length: int) -> torch.Tensor:
        inner, outer = self.pads(parameters["key"], messages.device)
        tags = self.hash_behind(outer, Rows.of(self.hash_behind(inner, messages)))
        return bytes_of_rows(tags, 0, length)

    def hash_behind(self, blocks: Rows, messages: Messages) -> torch.Tensor:
        """Digests of messages, each with a block before it. ``blocks`` holds one block for all messages, or
        one for each message."""
        if isinstance(self.hash, IteratedDriver):
            before = self.hash.finish(self.hash.start({}, messages.device), self.size)
            start = self.hash.behind_blocks(before, blocks)
            return self.hash.output(self.hash.iterate_behind(messages, before, blocks, start), self.size, 0)
        return self.hash.enqueue({}, self.joined(blocks, messages), self.size)

    def joined(self, blocks: Rows, messages: Messages) -> Messages:
        import torch

        whole, size = blocks.data.expand(messages.count, -1), blocks.length
        if (
            isinstance(messages, Rows)
            and messages.total >= (messages.count - 1) * messages.stride + messages.length
        ):
            out = torch.empty(
                (messages.count, size + messages.length), dtype=torch.uint8, device=messages.device
            )
            copy_rows(self.secret(out[:, :size]), whole)
            copy_rows(out[:, size:], messages.table())
            return Rows.of(out)
        views = [one_after_another([whole[i], messages.view(i)]) for i in range(messages.count)]
        for view in views:
            self.secret(view[:size])
        return Ragged(views, messages.device)

    def chain(self, keys: PerMessage, first: torch.Tensor, rounds: int) -> torch.Tensor:
        """See ``Backend.mac_chain``. The hash must be an iterated one."""
        import torch

        hash_, count, device = self.hash, first.shape[0], first.device
        assert isinstance(hash_, IteratedDriver)
        construction = hash_.construction
        before = hash_.finish(hash_.start({}, device), self.size)
        # On some devices, torch.cat does not support unsigned words.
        signed = torch.int64 if construction.word_bits == 64 else torch.int32
        sides = [hash_.behind_blocks(before, blocks).state for blocks in self.pads(keys, device)]
        states = self.secret(torch.cat([side.view(signed).view(count, -1) for side in sides]))
        word = construction.word_bits // 8
        words = -(-self.size // word)
        padded = torch.nn.functional.pad(first, (0, words * word - self.size))
        dtype = torch.uint64 if word == 8 else torch.uint32
        out = self.host.empty((count, words), dtype, device)
        self.host.run(
            HMAC_CHAIN,
            count,
            device,
            {
                "states_ptr": states.view(dtype),
                "first_ptr": padded.view(dtype),
                "constants_ptr": hash_.tables(device)[1],
                "out_ptr": out,
                "count": count,
                "rounds": rounds,
                "prefix": hash_.block_size,
                "size": self.size,
                "padding": before.padding,
                "flags": before.flags,
            },
            {
                "BLOCK": construction.block,
                "PAD": construction.pad,
                "BLOCK_BYTES": construction.largest_block or hash_.block_size,
                "WORD_BITS": construction.word_bits,
                "STATE_WORDS": construction.state_words,
                "DIGEST_WORDS": words,
                "BIG_ENDIAN": construction.byteorder == "big",
            },
        )
        return bytes_of_rows(out, 0, self.size)

    def stream(self, parameters: Mapping[str, Any], device: torch.device) -> Stream:
        return _HmacStream(self, parameters, device)


class _HmacStream(Stream):
    def __init__(self, driver: HmacDriver, parameters: Mapping[str, Any], device: torch.device) -> None:
        self._driver = driver
        inner, outer = driver.pads(parameters["key"], device)
        self._inner, self._outer = driver.hash.stream({}, device), driver.hash.stream({}, device)
        self._inner.update(inner.data.view(-1))
        self._outer.update(outer.data.view(-1))

    def update(self, data: Any) -> None:
        self._inner.update(data)

    def digest(self, length: int, seek: int) -> bytes:
        outer = self._outer.copy()
        outer.update(memoryview(self._inner.digest(self._driver.size, 0)))
        return outer.digest(self._driver.size, 0)[:length]

    def copy(self) -> Stream:
        twin = copy.copy(self)
        twin._inner = self._inner.copy()
        return twin
