"""BLAKE2: parameters determine the initial state, and a key is the first block (RFC 7693, section 2.9)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .. import algorithms
from ..algorithms import Algorithm, Blake2Parallel, Blake2X, load_constant
from ..launching.host import Host
from ..messages.copying import bytes_of_rows, repeated
from ..messages.layout import Addressed, Messages, Rows
from ..messages.per_message import PerMessage
from ..messages.stream import Stream
from .base import BlockStream, Driver
from .iterated import IteratedDriver, IteratedStream, Start

if TYPE_CHECKING:
    import numpy as np
    import torch


BLAKE2X_OUTPUT = "integrity_triton.kernels.blake2x:blake2x_output"


class Blake2Driver(IteratedDriver):
    per_message = True

    def start_words(self, parameters: Mapping[str, Any]) -> np.ndarray[Any, Any]:
        """The initial state, words ``[8]``: the initial value and the parameter block (the BLAKE2 paper,
        section 2.8). With a key for each message there is a state for each, ``[n, 8]``."""
        import numpy as np

        key = parameters.get("key", b"")
        if isinstance(key, PerMessage):
            shared = self.start_words({**parameters, "key": b""})
            states = np.tile(shared, (len(key), 1))
            states[:, 0] ^= np.array(key.sizes, shared.dtype) << np.array(8, shared.dtype)
            return states
        word = self.construction.word_bits // 8

        def integer(name: str, default: int, size: int) -> bytes:
            return int(parameters.get(name, default)).to_bytes(size, "little")

        block = (
            integer("digest_size", self.algorithm.digest_size, 1)
            + len(key).to_bytes(1, "little")
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
        assert self.construction.iv is not None
        words: np.ndarray[Any, Any] = np.array(load_constant(self.construction.iv), kind)
        words ^= np.frombuffer(block, kind)
        return words

    def key_block(self, parameters: Mapping[str, Any], device: torch.device) -> Rows | None:
        """The block that precedes the messages: one for all, or one for each. None without a key."""
        key = parameters.get("key", b"")
        return self.key_rows(key, self.algorithm.block_size, device) if len(key) else None

    def unkeyed(self, parameters: Mapping[str, Any], device: torch.device) -> Start:
        """The start of the block that holds the key, or without a key that of the message."""
        state = self.host.upload(self.start_words(parameters), device)
        return Start(state, flags=int(parameters.get("last_node", False)))

    def start(self, parameters: Mapping[str, Any], device: torch.device) -> Start:
        before = self.unkeyed(parameters, device)
        key_block = self.key_block(parameters, device)
        return before if key_block is None else self.behind_blocks(before, key_block)

    def enqueue(self, parameters: Mapping[str, Any], messages: Messages, length: int) -> torch.Tensor:
        return self.output(self.final_states(parameters, messages), length, 0)

    def final_states(self, parameters: Mapping[str, Any], messages: Messages) -> torch.Tensor:
        before = self.unkeyed(parameters, messages.device)
        key_block = self.key_block(parameters, messages.device)
        if key_block is None:
            return self.iterate(messages, before, final=True)
        return self.iterate_behind(messages, before, key_block, self.behind_blocks(before, key_block))

    def iterate_behind(self, messages: Messages, before: Start, blocks: Rows, start: Start) -> torch.Tensor:
        states = super().iterate_behind(messages, before, blocks, start)
        empty = messages.addressed().lengths == 0
        if not empty.any():
            return states
        # The key's block of an empty message is its last block.
        return self.replace_rows(states, empty, self.iterate(blocks, before, final=True))

    def replace_rows(
        self, states: torch.Tensor, rows: np.ndarray[Any, Any], values: torch.Tensor
    ) -> torch.Tensor:
        """``states``, in which ``values`` replace the rows where the host array ``rows`` is true. ``values``
        broadcast."""
        import torch

        signed = torch.int64 if self.construction.word_bits == 64 else torch.int32
        mask = self.host.upload(rows, states.device)[:, None]
        # torch.where lacks unsigned words on some devices.
        return torch.where(mask, values.view(signed), states.view(signed)).view(states.dtype)

    def stream(self, parameters: Mapping[str, Any], device: torch.device) -> IteratedStream:
        key_block = self.key_block(parameters, device)
        self.key_in_messages |= key_block is not None
        stream = IteratedStream(self, self.unkeyed(parameters, device), device)
        if key_block is not None:
            stream.update(key_block.data.view(-1))
        return stream


class Blake2ParallelDriver(Driver):
    """One launch hashes the leaves of all messages, another the roots (the BLAKE2 paper, section 2.10)."""

    construction: Blake2Parallel

    def __init__(self, host: Host, algorithm: Algorithm) -> None:
        super().__init__(host, algorithm)
        node = algorithms.get(self.construction.node)
        self.root = Blake2Driver(host, node)
        # A leaf's words are its chaining state, and a flag: whether it is the last of its level.
        leaf = replace(self.root.construction, block=self.construction.leaf_block, state_words=9)
        self.leaf = Blake2Driver(host, replace(node, construction=leaf))
        self.block_size = node.block_size
        self.stripe = node.block_size * self.construction.leaves

    def references(self) -> tuple[str, ...]:
        return (self.construction.leaf_block, self.root.construction.block)

    def main_kernel(self) -> tuple[str, str | None]:
        return self.leaf.main_kernel()

    def node_parameters(self, parameters: Mapping[str, Any], **node: int) -> dict[str, Any]:
        return {
            "digest_size": self.algorithm.digest_size,
            **parameters,
            "fanout": self.construction.leaves,
            "depth": 2,
            "inner_size": self.root.algorithm.digest_size,
            **node,
        }

    def leaf_start(self, parameters: Mapping[str, Any], device: torch.device) -> Start:
        """The start of each of a message's leaves, before the key's block."""
        import numpy as np

        leaves = self.construction.leaves
        kind = np.uint64 if self.root.construction.word_bits == 64 else np.uint32
        words = np.zeros((leaves, 9), kind)
        for i in range(leaves):
            words[i, :8] = self.leaf.start_words(self.node_parameters(parameters, node_offset=i))
        words[-1, 8] = np.iinfo(kind).max
        return Start(self.host.upload(words, device))

    def key_blocks(self, parameters: Mapping[str, Any], device: torch.device) -> torch.Tensor | None:
        """The key's block once for each leaf, as a stripe that precedes the message. None without a key."""
        block = self.leaf.key_block(parameters, device)
        return None if block is None else self.secret(block.data.repeat(1, self.construction.leaves).view(-1))

    def leaf_states(self, messages: Addressed, start: Start, *, final: bool) -> torch.Tensor:
        """States of the leaves of all messages: words ``[n * leaves, 9]``. The leaves of every message begin
        at the states of ``start``, ``[leaves, 9]``."""
        import numpy as np

        leaves, block = self.construction.leaves, self.block_size
        offsets = block * np.arange(leaves, dtype=np.int64)
        stripes, rest = np.divmod(messages.lengths[:, None], self.stripe)
        lengths = stripes * block + np.clip(rest - offsets, 0, block)
        places = Addressed(
            (messages.addresses[:, None] + offsets).reshape(-1),
            lengths.reshape(-1),
            messages.device,
            messages,
        )
        start = replace(start, state=repeated(start.state, messages.count))
        return self.leaf.iterate(places, start, final=final, step=self.stripe)

    def root_states(self, parameters: Mapping[str, Any], leaves: torch.Tensor) -> torch.Tensor:
        count = leaves.shape[0] // self.construction.leaves
        digests = bytes_of_rows(leaves, 0, 8 * leaves.element_size()).reshape(count, -1)
        size = digests.shape[1]
        rows = Rows(digests, digests.data_ptr(), count, size, size, count * size)
        words = self.root.start_words(self.node_parameters(parameters, node_depth=1))
        start = Start(self.host.upload(words, leaves.device), flags=1)
        return self.root.iterate(rows, start, final=True)

    def enqueue(self, parameters: Mapping[str, Any], messages: Messages, length: int) -> torch.Tensor:
        import numpy as np

        places, device = messages.addressed(), messages.device
        before = start = self.leaf_start(parameters, device)
        key_blocks = self.key_blocks(parameters, device)
        if key_blocks is not None:
            keys = Rows.single(key_blocks).addressed()
            start = Start(self.secret(self.leaf_states(keys, before, final=False)), self.block_size)
        states = self.leaf_states(places, start, final=True)
        if key_blocks is not None:
            # Where no byte of a message reaches a leaf, the key's block is the last of the leaf.
            firsts = self.block_size * np.arange(self.construction.leaves)
            empty = (places.lengths[:, None] <= firsts).reshape(-1)
            if empty.any():
                only_keys = self.leaf_states(keys, before, final=True)
                states = self.leaf.replace_rows(states, empty, repeated(only_keys, places.count))
        return self.root.output(self.root_states(parameters, states), length, 0)

    def stream(self, parameters: Mapping[str, Any], device: torch.device) -> Stream:
        key_blocks = self.key_blocks(parameters, device)
        self.key_in_messages |= key_blocks is not None
        stream = _Blake2ParallelStream(self, parameters, device)
        if key_blocks is not None:
            stream.update(key_blocks)
        return stream


class _Blake2ParallelStream(BlockStream):
    _driver: Blake2ParallelDriver

    def __init__(
        self, driver: Blake2ParallelDriver, parameters: Mapping[str, Any], device: torch.device
    ) -> None:
        # Every leaf's last block is held back: a stripe is absorbed once each leaf has another byte.
        super().__init__(driver, device, driver.stripe, driver.stripe - driver.block_size + 1)
        self._parameters = parameters
        self._at = driver.leaf_start(parameters, device)

    def _absorb(self, view: torch.Tensor) -> None:
        messages = Rows.single(view).addressed()
        states = self._driver.leaf_states(messages, self._at, final=False)
        absorbed = view.numel() // self._driver.construction.leaves
        self._at = replace(self._at, state=states, prefix=self._at.prefix + absorbed)

    def digest(self, length: int, seek: int) -> bytes:
        driver = self._driver
        pending = Rows.single(self._pending.data).addressed()
        leaves = driver.leaf_states(pending, self._at, final=True)
        return (
            driver.root.output(driver.root_states(self._parameters, leaves), length, seek)
            .cpu()
            .numpy()
            .tobytes()
        )


class Blake2XDriver(Driver):
    """A root hash for each message; one launch then gives any blocks of output ("BLAKE2X", section 2)."""

    construction: Blake2X
    per_message = True

    def __init__(self, host: Host, algorithm: Algorithm) -> None:
        super().__init__(host, algorithm)
        self.node = Blake2Driver(host, algorithms.get(self.construction.node))

    def references(self) -> tuple[str, ...]:
        return (BLAKE2X_OUTPUT, self.node.construction.block)

    def main_kernel(self) -> tuple[str, str | None]:
        return self.node.main_kernel()

    def root_parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        bound = parameters.get("digest_size", self.construction.unknown_length)
        # The node offset keeps its lower four bytes; the length of the output is in those above.
        return {**parameters, "digest_size": self.node.algorithm.digest_size, "node_offset": bound << 32}

    def enqueue(self, parameters: Mapping[str, Any], messages: Messages, length: int) -> torch.Tensor:
        roots = self.node.final_states(self.root_parameters(parameters), messages)
        return self.output(parameters, roots, length, 0)

    def output(
        self, parameters: Mapping[str, Any], roots: torch.Tensor, length: int, seek: int
    ) -> torch.Tensor:
        """``length`` bytes of output of root hashes, from byte ``seek`` on: uint8 ``[n, length]``."""

        size, count = self.node.algorithm.digest_size, roots.shape[0]
        tree = {"fanout": 0, "depth": 0, "leaf_size": size, "inner_size": size, "key": b""}
        start = self.node.start_words({**self.root_parameters(parameters), **tree})
        final, rest = divmod(parameters.get("digest_size", 0), size)
        first, skip = divmod(seek, size)
        blocks = -(-(skip + length) // size)
        out = self.host.empty((count, blocks * 8), roots.dtype, roots.device)
        self.host.run(
            BLAKE2X_OUTPUT,
            count * blocks,
            roots.device,
            {
                "roots_ptr": roots,
                "state_ptr": self.host.upload(start, roots.device),
                "out_ptr": out,
                "count": count,
                "per_message": blocks,
                "first_block": first,
                "final_block": final if rest else -1,
                "change": size ^ rest,
                "flags": 0,
            },
            {"BLOCK": self.node.construction.block, "WORD_BITS": self.node.construction.word_bits},
        )
        return bytes_of_rows(out, skip, skip + length)

    def stream(self, parameters: Mapping[str, Any], device: torch.device) -> Stream:
        return _Blake2XStream(self, parameters, device)


class _Blake2XStream(Stream):
    def __init__(self, driver: Blake2XDriver, parameters: Mapping[str, Any], device: torch.device) -> None:
        self._driver, self._parameters = driver, parameters
        self._root = driver.node.stream(driver.root_parameters(parameters), device)

    def update(self, data: Any) -> None:
        self._root.update(data)

    def digest(self, length: int, seek: int) -> bytes:
        if length == 0:
            return b""
        output = self._driver.output(self._parameters, self._root.final_states(length), length, seek)
        return output.cpu().numpy().tobytes()

    def copy(self) -> Stream:
        twin = copy.copy(self)
        twin._root = self._root.copy()
        return twin
