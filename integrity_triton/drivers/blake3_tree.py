"""BLAKE3's tree: one launch hashes all chunks, and one each level of parents (specification, section 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..algorithms import Blake3Tree, load_constant
from ..messages.copying import bytes_of_rows
from ..messages.layout import Messages, Rows
from ..messages.stream import Stream
from .base import BlockStream, Driver
from .division import divide, table_of

if TYPE_CHECKING:
    import torch

_KERNELS = "integrity_triton.kernels"
BLAKE3_CHUNKS = f"{_KERNELS}.blake3_tree:blake3_chunks"
BLAKE3_PARENTS = f"{_KERNELS}.blake3_tree:blake3_parents"
BLAKE3_OUTPUT = f"{_KERNELS}.blake3_tree:blake3_output"

# What becomes of a message's root (see kernels/blake3_tree.py).
_INNER, _DIGEST, _NODE = 0, 1, 2
_BLAKE3_OUTPUT_BLOCK = 64


class Blake3TreeDriver(Driver):
    per_message = True

    def references(self) -> tuple[str, ...]:
        return (BLAKE3_CHUNKS,)

    def main_kernel(self) -> tuple[str, str | None]:
        return BLAKE3_CHUNKS, None

    def enqueue(self, parameters: Mapping[str, Any], messages: Messages, length: int) -> torch.Tensor:
        key, flags = self.mode(parameters, messages.device)
        return self.digests(messages, key, flags, length, seek=0)

    def stream(self, parameters: Mapping[str, Any], device: torch.device) -> Stream:
        return _Blake3Stream(self, parameters, device)

    def mode(self, parameters: Mapping[str, Any], device: torch.device) -> tuple[torch.Tensor, int]:
        """Key words and mode flags for BLAKE3's parameters (specification, section 2.3)."""

        import torch

        def constant(name: str) -> Any:
            return load_constant(f"{_KERNELS}.blake3:{name}")

        if "key" in parameters:
            keys = self.key_rows(parameters["key"], 32, device)
            words = keys.data.view(torch.uint32)
            return words if keys.count > 1 else words[0], constant("KEYED_HASH")
        (iv,) = self.host.constants((f"{_KERNELS}.blake3:BLAKE3_IV",), 32, device)
        if "derive_key_context" not in parameters:
            return iv, 0
        context = self.host.words(parameters["derive_key_context"].encode(), device, 8)
        message = Rows.single(context)
        derived = self.digests(message, iv, constant("DERIVE_KEY_CONTEXT"), 32, seek=0)
        return derived.view(torch.uint32).reshape(8), constant("DERIVE_KEY_MATERIAL")

    def digests(
        self, messages: Messages, key: torch.Tensor, flags: int, length: int, *, seek: int
    ) -> torch.Tensor:
        """``length`` bytes of output for each message, from byte ``seek`` on: uint8 ``[n, length]``."""
        import torch

        if length == 32 and seek == 0:
            out = self.host.empty((messages.count, 8), torch.uint32, messages.device)
            self._tree(messages, key, flags, out, _DIGEST)
            return out.view(torch.uint8)
        nodes = self.host.empty((messages.count, self._node_words()), torch.uint32, messages.device)
        self._tree(messages, key, flags, nodes, _NODE)
        return self.output(nodes, length, seek)

    def output(self, nodes: torch.Tensor, length: int, seek: int) -> torch.Tensor:
        """``length`` bytes of output of root nodes, uint32 ``[n, 28]``, from byte ``seek`` on: uint8
        ``[n, length]``."""
        import torch

        first, skip = divmod(seek, _BLAKE3_OUTPUT_BLOCK)
        blocks = -(-(skip + length) // _BLAKE3_OUTPUT_BLOCK)
        count = nodes.shape[0]
        out = self.host.empty((count, blocks * 16), torch.uint32, nodes.device)
        self.host.run(
            BLAKE3_OUTPUT,
            count * blocks,
            nodes.device,
            {"nodes_ptr": nodes, "out_ptr": out, "count": count, "per_message": blocks, "first_block": first},
            {},
        )
        return bytes_of_rows(out, skip, skip + length)

    @staticmethod
    def _node_words() -> int:
        return int(load_constant(f"{_KERNELS}.blake3_tree:NODE_WORDS"))

    def subtree(self, view: torch.Tensor, key: torch.Tensor, flags: int, counter: int) -> torch.Tensor:
        """The chaining value, uint32 ``[8]``, of a subtree: the part of a longer message that starts at chunk
        ``counter``."""
        message = Rows.single(view)
        return self._tree(message, key, flags, key, _INNER, counter)[0]

    def chunk_values(self, view: torch.Tensor, key: torch.Tensor, flags: int, counter: int) -> torch.Tensor:
        """The chaining values, uint32 ``[n, 8]``, of the chunks of a part of a longer message that starts at
        chunk ``counter``."""
        return self._tree(Rows.single(view), key, flags, key, _INNER, counter, until=0)

    def _tree(
        self,
        messages: Messages,
        key: torch.Tensor,
        flags: int,
        out: torch.Tensor,
        roots: int,
        counter: int = 0,
        until: int | None = None,
    ) -> torch.Tensor:
        """Run the chunk level and all levels of parents, or those up to level ``until``; return the chaining
        values of the last level."""
        import numpy as np
        import torch

        chunk, device = Blake3Tree.chunk_size, messages.device
        places = messages.places()
        chunks = divide(places, lambda n: np.maximum(-(-n // chunk), 1))
        placement = self.host.placement(places, table_of(places, chunks.firsts))
        longest = places.longest()
        widest = max(1, -(-longest // chunk))
        nodes, per_row = chunks.total, 0 if placement.has_table else chunks.per_row
        shared = {
            "table_ptr": placement.table,
            "key_ptr": key,
        }
        constants = {"TABLE": placement.has_table, "KEY_PER_MESSAGE": key.dim() == 2, "ROOTS": roots}
        # Where every message is a single chunk, and so a root, nothing is stored here.
        rows = nodes + messages.count if placement.has_table else nodes
        stored = rows if widest > 1 or roots == _INNER else 1
        values = self.host.empty((stored, 8), torch.uint32, device)
        self.host.run(
            BLAKE3_CHUNKS,
            nodes,
            device,
            {
                **shared,
                "cv_ptr": values,
                "out_ptr": out,
                **placement.arguments,
                "nodes": nodes,
                "per_row": per_row,
                "most_blocks": max(1, -(-min(longest, chunk) // 64)),
                "counter": counter,
                "flags": flags,
            },
            {**constants, "ALIGN": placement.align},
        )
        total, level = nodes, 0
        while (widest >> level) + (widest % (1 << level) > 0) > 1 and level != until:
            if placement.has_table:
                parents = (total >> (level + 1)) + messages.count
            else:
                parents = messages.count * -(-per_row // 2)
            above = self.host.empty((parents, 8), torch.uint32, device)
            self.host.run(
                BLAKE3_PARENTS,
                parents,
                device,
                {
                    **shared,
                    "cv_ptr": values,
                    "parent_ptr": above,
                    "out_ptr": out,
                    "count": messages.count,
                    "stride": placement.arguments["stride"],
                    "length": placement.arguments["length"],
                    "total": placement.arguments["total"],
                    "nodes": parents,
                    "per_row": per_row,
                    "level": level,
                    "flags": flags,
                },
                constants,
            )
            values, per_row, level = above, -(-per_row // 2), level + 1
        return values

    def join(
        self, left: torch.Tensor, right: torch.Tensor, key: torch.Tensor, flags: int, roots: int
    ) -> torch.Tensor:
        """The parent of two chaining values: its chaining value, or its root node where ``roots`` says so."""
        import torch

        # torch.cat lacks uint32 on some devices.
        children = torch.cat([left.view(torch.int32), right.view(torch.int32)])
        parents, node = self._parents(children.view(torch.uint32), 1, key, flags, roots)
        return node if roots == _NODE else parents[0]

    def root(self, left: torch.Tensor, right: torch.Tensor, key: torch.Tensor, flags: int) -> torch.Tensor:
        """The digest, uint8 ``[1, 32]``, of a message whose root has these children."""
        return self.output(self.join(left, right, key, flags, _NODE), 32, 0)

    def parent_values(self, children: torch.Tensor, key: torch.Tensor, flags: int) -> torch.Tensor:
        """The chaining values, uint32 ``[n, 8]``, of the parents of each two of ``2 * n`` nodes."""
        return self._parents(children, children.numel() // 16, key, flags, _INNER)[0]

    def _parents(
        self, children: torch.Tensor, count: int, key: torch.Tensor, flags: int, roots: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        chunk = Blake3Tree.chunk_size
        node = self.host.empty((1, self._node_words()), torch.uint32, key.device)
        parents = self.host.empty((count, 8), torch.uint32, key.device)
        self.host.run(
            BLAKE3_PARENTS,
            count,
            key.device,
            {
                "table_ptr": torch.empty(1, dtype=torch.int64, device=key.device),
                "key_ptr": key,
                "cv_ptr": children,
                "parent_ptr": parents,
                "out_ptr": node,
                "count": 1,
                "stride": 0,
                "length": 2 * count * chunk,
                "total": 2 * count * chunk,
                "nodes": count,
                "per_row": 2 * count,
                "level": 0,
                "flags": flags,
            },
            {"TABLE": False, "KEY_PER_MESSAGE": False, "ROOTS": roots},
        )
        return parents, node


class _Blake3Stream(BlockStream):
    """Complete subtrees are hashed as they come; their chaining values wait on a stack."""

    _driver: Blake3TreeDriver

    def __init__(self, driver: Blake3TreeDriver, parameters: Mapping[str, Any], device: torch.device) -> None:
        # The last chunk, whole or not, is held back: whether it is a root depends on what follows.
        super().__init__(driver, device, Blake3Tree.chunk_size, held_back=1)
        self._key, self._flags = driver.mode(parameters, device)
        self._stack: tuple[torch.Tensor, ...] = ()
        self._chunks = 0

    def _push(self, view: torch.Tensor, chunks: int) -> None:
        """Add a subtree of ``chunks`` whole chunks, a power of two that divides the chunks so far."""
        driver = self._driver
        value = driver.subtree(view, self._key, self._flags, self._chunks)
        self._chunks += chunks
        rank = self._chunks // chunks
        # Every pair of equal subtrees has a parent; it is not the root, since more bytes follow.
        while rank % 2 == 0:
            value = driver.join(self._stack[-1], value, self._key, self._flags, _INNER)
            self._stack = self._stack[:-1]
            rank //= 2
        self._stack += (value,)

    def _absorb(self, view: torch.Tensor) -> None:
        while view.numel():
            chunks = 1 << ((view.numel() // self._block).bit_length() - 1)
            if self._chunks:
                chunks = min(chunks, self._chunks & -self._chunks)
            self._push(view[: chunks * self._block], chunks)
            view = view[chunks * self._block :]

    def digest(self, length: int, seek: int) -> bytes:
        if length == 0:
            return b""
        driver, key, flags = self._driver, self._key, self._flags
        if not self._stack:
            out = driver.digests(Rows.single(self._pending.data), key, flags, length, seek=seek)
        else:
            value = driver.subtree(self._pending.data, key, flags, self._chunks)
            for left in reversed(self._stack[1:]):
                value = driver.join(left, value, key, flags, _INNER)
            node = driver.join(self._stack[0], value, key, flags, _NODE)
            out = driver.output(node, length, seek)
        return out.cpu().numpy().tobytes()
