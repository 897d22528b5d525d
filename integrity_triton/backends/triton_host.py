"""The host half of the kernels in ``kernels/``: what every backend that runs them has in common.

A subclass says where its data lives and how a kernel is launched; this module lays messages out,
allocates, and launches drivers with arguments by name. Nothing here waits for the device, but for
a stream's ``digest``, which returns bytes.
"""

from __future__ import annotations

import abc
import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, ClassVar

from ..algorithms import Algorithm, Blake3Tree, IteratedHash, load_constant
from .base import Backend, Messages, Ragged, Rows, Stream

if TYPE_CHECKING:
    import numpy as np
    import torch

_KERNELS = "integrity_triton.kernels"
HASH_MESSAGES = f"{_KERNELS}.batch:hash_messages"
BLAKE3_CHUNKS = f"{_KERNELS}.blake3_tree:blake3_chunks"
BLAKE3_PARENTS = f"{_KERNELS}.blake3_tree:blake3_parents"
BLAKE3_OUTPUT = f"{_KERNELS}.blake3_tree:blake3_output"

# What becomes of a message's root in the BLAKE3 kernels (see kernels/blake3_tree.py).
_INNER, _DIGEST, _NODE = 0, 1, 2
_BLAKE3_OUTPUT_BLOCK = 64


@dataclass(frozen=True)
class Launch:
    """One kernel launch. ``arguments`` are in the kernel's order: tensors and 64-bit integers."""

    kernel: str
    lanes: int
    arguments: Mapping[str, Any]
    constants: Mapping[str, Any]
    """Compile-time arguments; device functions by reference, ``"module:name"``."""
    device: torch.device


@dataclass(frozen=True)
class _Layout:
    """Where messages are, as the drivers take it."""

    arguments: dict[str, int]
    table: torch.Tensor
    """int64 ``[3, count]``; one unused element where ``has_table`` is false."""
    has_table: bool
    align: int
    lengths: Sequence[int] | None  # of a table's messages, in the table's order

    def largest(self) -> int:
        if self.lengths is not None:
            return int(max(self.lengths, default=0))
        return max(0, min(self.arguments["length"], self.arguments["total"]))


@cache
def _tuning() -> dict[str, dict[str, dict[str, int]]]:
    data: dict[str, dict[str, dict[str, int]]] = json.loads(
        resources.files(__package__).joinpath("tuning.json").read_text("utf-8")
    )
    return data


def tuned(backend: str, kernel: str) -> dict[str, int]:
    """A backend's configuration for a kernel, named as in a :class:`Launch`."""
    data = _tuning()[backend]
    return {**data["default"], **data.get(kernel.partition(":")[2], {})}


@cache
def _host_words(reference: str) -> torch.Tensor:
    import numpy as np
    import torch

    return torch.from_numpy(np.array(load_constant(reference), dtype=np.uint32))


def _alignment(bits: int) -> int:
    """The largest power of two up to 16 that divides every address in ``bits``, the bitwise or of them."""
    return (bits | 16) & -(bits | 16)


def _signed(address: int) -> int:
    """An address as kernels take it, in an int64: some drivers hand out addresses of 2**63 and more."""
    return address - (1 << 64) if address >> 63 else address


class TritonBackend(Backend):
    """Runs the kernels; see the module's docstring."""

    torch_device_type: ClassVar[str]

    @abc.abstractmethod
    def launch(self, launch: Launch, options: Mapping[str, int]) -> None:
        """Queue one kernel. ``options`` are BLOCK_MSGS, VECTOR and the compiler's own."""

    def options(self, launch: Launch) -> dict[str, int]:
        """The tuned configuration for a launch."""
        return tuned(self.name, launch.kernel)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Uninitialised memory for outputs and scratch; tests put poison and canaries here."""
        import torch

        return torch.empty(shape, dtype=dtype, device=device)

    def unsupported(self, algorithm: Algorithm) -> str | None:
        construction: object = algorithm.construction
        if isinstance(construction, IteratedHash | Blake3Tree):
            return None
        return f"no driver for {type(construction).__name__}"

    def is_default(self, algorithm: Algorithm, device_type: str, *, messages: Messages | None) -> bool:
        return device_type in self.device_types and (algorithm.parallel or messages is not None)

    def _run(
        self,
        kernel: str,
        lanes: int,
        device: torch.device,
        arguments: Mapping[str, Any],
        constants: Mapping[str, Any],
    ) -> None:
        for name, value in arguments.items():
            # NumPy's integers pass for int in many places, but not in every compiler's launcher.
            if type(value) is not int and not hasattr(value, "data_ptr"):
                raise TypeError(f"{kernel}: argument {name} is a {type(value).__name__}")
        launch = Launch(kernel, lanes, arguments, constants, device)
        options = self.options(launch)
        if "ALIGN" in constants:
            # Of the alignments that hold, what the kernel makes use of: a vector's, or a word's.
            align, vector = constants["ALIGN"], 4 * options["VECTOR"]
            used = vector if align >= vector else 4 if align >= 4 else 1
            launch = replace(launch, constants={**constants, "ALIGN": used})
        self.launch(launch, options)

    # Data

    def device_for(self, device: torch.device | None) -> torch.device:
        """The device that serves data on ``device``: itself where this backend reads it in place."""
        import torch

        if device is not None and device.type in self.device_types:
            return device
        if self.torch_device_type == "cpu":
            return torch.device("cpu")
        return torch.device(
            self.torch_device_type, torch.get_device_module(self.torch_device_type).current_device()
        )

    def upload(self, array: np.ndarray[Any, Any], device: torch.device) -> torch.Tensor:
        """A small host array on the device, without waiting for the device."""
        import torch

        host = torch.from_numpy(array)
        if device.type == "cpu":
            return host
        # Copies from pageable memory may wait for the device; the caching host allocator keeps
        # this staging memory until the copy has been made.
        return host.pin_memory().to(device, non_blocking=True)

    def words(self, data: bytes | Sequence[int], device: torch.device) -> torch.Tensor:
        """uint32 words on the device, from integers or from little-endian bytes."""
        import numpy as np

        array = (
            np.frombuffer(data, dtype="<u4").copy()
            if isinstance(data, bytes)
            else np.array(data, dtype=np.uint32)
        )
        return self.upload(array, device)

    def constant_words(self, reference: str, device: torch.device) -> torch.Tensor:
        """A constant of a device file, as uint32 words that nothing writes to."""
        if device.type == "cpu":
            return _host_words(reference)
        # Kept on a device, it could be read on another stream than the one that it is copied on.
        return self.words(load_constant(reference), device)

    def bytes_view(self, data: Any, device: torch.device) -> torch.Tensor:
        """A stream's input as a flat uint8 tensor on ``device``."""
        import numpy as np
        import torch

        if isinstance(data, torch.Tensor):
            return data.to(device)
        return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy()).to(device)

    def localize(self, messages: Messages) -> Messages:
        """The messages in memory that the kernels can read; copied only where they cannot."""
        device = self.device_for(messages.device)
        if device == messages.device:
            return messages
        if isinstance(messages, Rows):
            data = messages.data.to(device)
            stride = data.stride(0) * data.element_size() if data.dim() == 2 else messages.stride
            return replace(messages, data=data, address=data.data_ptr(), stride=stride)
        return Ragged([view.to(device) for view in messages.views], device)

    def _layout(self, messages: Messages, make_table: Callable[[Any, Any], Any]) -> _Layout:
        """``make_table(addresses, lengths)`` builds the int64 table of a ragged batch, and returns
        it with the lengths in its order."""
        import numpy as np
        import torch

        if isinstance(messages, Ragged) and messages.count == 1:
            view = messages.views[0]
            messages = Rows(view, view.data_ptr(), 1, 0, view.numel(), view.numel())
        if isinstance(messages, Rows):
            arguments = {
                "address": _signed(messages.address),
                "count": messages.count,
                "stride": messages.stride,
                "length": messages.length,
                "total": messages.total,
            }
            no_table = torch.empty(1, dtype=torch.int64, device=messages.device)
            align = _alignment(messages.address | messages.stride)
            return _Layout(arguments, no_table, False, align, None)
        addresses = np.fromiter((v.data_ptr() for v in messages.views), np.uint64, messages.count)
        addresses = addresses.view(np.int64)
        lengths = np.fromiter((v.numel() for v in messages.views), np.int64, messages.count)
        table, ordered = make_table(addresses, lengths)
        return _Layout(
            {"address": 0, "count": messages.count, "stride": 0, "length": 0, "total": 0},
            self.upload(table, messages.device),
            True,
            _alignment(int(np.bitwise_or.reduce(addresses))),
            ordered,
        )

    # Hashing

    def hash_batch(
        self, algorithm: Algorithm, parameters: Mapping[str, Any], messages: Messages, length: int
    ) -> torch.Tensor:
        import torch

        home = messages.device
        if messages.count == 0 or length == 0:
            return torch.empty((messages.count, length), dtype=torch.uint8, device=home)
        local = self.localize(messages)
        if isinstance(algorithm.construction, IteratedHash):
            state = self.initial_state(algorithm.construction, local.device)
            digests = self.iterate(algorithm, local, state, prefix=0, final=True)
        else:
            key, flags = self.blake3_mode(parameters, local.device)
            digests = self.blake3_digests(local, key, flags, length, seek=0)
        return digests.to(home)

    def stream(
        self, algorithm: Algorithm, parameters: Mapping[str, Any], device: torch.device | None = None
    ) -> Stream:
        device = self.device_for(device)
        if isinstance(algorithm.construction, IteratedHash):
            return _IteratedStream(self, algorithm, device)
        return _Blake3Stream(self, parameters, device)

    def initial_state(self, construction: IteratedHash, device: torch.device) -> torch.Tensor:
        return self.constant_words(construction.iv, device)

    def iterate(
        self, algorithm: Algorithm, messages: Messages, state: torch.Tensor, *, prefix: int, final: bool
    ) -> torch.Tensor:
        """Absorb each message into ``state``, of which ``prefix`` bytes are absorbed already.

        Returns the digests, uint8 ``[n, digest_size]``, or if not ``final`` (whole blocks only)
        the states, uint32 ``[n, state_words]``.
        """
        import numpy as np
        import torch

        construction = algorithm.construction
        assert isinstance(construction, IteratedHash)

        def table(addresses: Any, lengths: Any) -> tuple[Any, Any]:
            # Lanes of one program wait for the longest among them: neighbours in length go together.
            table = np.empty((3, len(lengths)), np.int64)
            order = np.argsort(-lengths, kind="stable")
            table[0], table[1], table[2] = addresses[order], lengths[order], order
            return table, table[1]

        layout = self._layout(messages, table)
        # The digest is the first bytes of the final state; whole states are stored, so that SHA-224
        # runs SHA-256's kernel.
        out = self.empty((messages.count, construction.state_words), torch.uint32, messages.device)
        self._run(
            HASH_MESSAGES,
            messages.count,
            messages.device,
            {
                "table_ptr": layout.table,
                "state_ptr": state,
                "out_ptr": out,
                **layout.arguments,
                "prefix": prefix,
            },
            {
                "BLOCK": construction.block,
                "PAD": construction.pad,
                "BLOCK_WORDS": algorithm.block_size // 4,
                "STATE_WORDS": construction.state_words,
                "MINIMUM_PADDING": construction.minimum_padding,
                "BIG_ENDIAN": construction.byteorder == "big",
                "TABLE": layout.has_table,
                "OWN_STATE": False,
                "FINAL": final,
                "ALIGN": layout.align,
            },
        )
        return out.view(torch.uint8)[:, : algorithm.digest_size].contiguous() if final else out

    def blake3_mode(self, parameters: Mapping[str, Any], device: torch.device) -> tuple[torch.Tensor, int]:
        """Key words and mode flags for BLAKE3's parameters (specification, section 2.3)."""

        import torch

        def constant(name: str) -> Any:
            return load_constant(f"{_KERNELS}.blake3:{name}")

        if "key" in parameters:
            return self.words(parameters["key"], device), constant("KEYED_HASH")
        iv = self.constant_words(f"{_KERNELS}.blake3:BLAKE3_IV", device)
        if "derive_key_context" not in parameters:
            return iv, 0
        context = self.bytes_view(parameters["derive_key_context"].encode(), device)
        message = Ragged([context], device)
        derived = self.blake3_digests(message, iv, constant("DERIVE_KEY_CONTEXT"), 32, seek=0)
        return derived.view(torch.uint32).reshape(8), constant("DERIVE_KEY_MATERIAL")

    def blake3_digests(
        self, messages: Messages, key: torch.Tensor, flags: int, length: int, *, seek: int
    ) -> torch.Tensor:
        """``length`` bytes of BLAKE3 output of each message, from byte ``seek`` on: uint8 ``[n, length]``."""
        import torch

        if length == 32 and seek == 0:
            out = self.empty((messages.count, 8), torch.uint32, messages.device)
            self._blake3_tree(messages, key, flags, out, _DIGEST)
            return out.view(torch.uint8)
        nodes = self.empty((messages.count, self._node_words()), torch.uint32, messages.device)
        self._blake3_tree(messages, key, flags, nodes, _NODE)
        return self.blake3_output(nodes, length, seek)

    def blake3_output(self, nodes: torch.Tensor, length: int, seek: int) -> torch.Tensor:
        """Output of root nodes, uint32 ``[n, 26]``, as uint8 ``[n, length]``."""
        import torch

        first, skip = divmod(seek, _BLAKE3_OUTPUT_BLOCK)
        blocks = -(-(skip + length) // _BLAKE3_OUTPUT_BLOCK)
        count = nodes.shape[0]
        out = self.empty((count, blocks * 16), torch.uint32, nodes.device)
        self._run(
            BLAKE3_OUTPUT,
            count * blocks,
            nodes.device,
            {"nodes_ptr": nodes, "out_ptr": out, "count": count, "per_message": blocks, "first_block": first},
            {},
        )
        return out.view(torch.uint8)[:, skip : skip + length].contiguous()

    @staticmethod
    def _node_words() -> int:
        return int(load_constant(f"{_KERNELS}.blake3_tree:NODE_WORDS"))

    def blake3_subtree(self, view: torch.Tensor, key: torch.Tensor, flags: int, counter: int) -> torch.Tensor:
        """The chaining value, uint32 ``[8]``, of a part of a longer message that starts at chunk
        ``counter`` and is a subtree of its own."""
        message = Ragged([view], view.device)
        return self._blake3_tree(message, key, flags, key, _INNER, counter)[0]

    def _blake3_tree(
        self,
        messages: Messages,
        key: torch.Tensor,
        flags: int,
        out: torch.Tensor,
        roots: int,
        counter: int = 0,
    ) -> torch.Tensor:
        """Run the chunk level and all parent levels; returns the last level's chaining values."""
        import numpy as np
        import torch

        chunk = Blake3Tree.chunk_size

        def table(addresses: Any, lengths: Any) -> tuple[Any, Any]:
            chunks = np.maximum(-(-lengths // chunk), 1)
            return np.stack([addresses, lengths, np.cumsum(chunks) - chunks]), lengths

        device = messages.device
        layout = self._layout(messages, table)
        largest = layout.largest()
        widest = max(1, -(-largest // chunk))
        if layout.lengths is None:
            nodes, per_row = messages.count * widest, widest
        else:
            nodes, per_row = int(np.maximum(-(-np.asarray(layout.lengths) // chunk), 1).sum()), 0
        shared = {
            "table_ptr": layout.table,
            "key_ptr": key,
        }
        constants = {"TABLE": layout.has_table, "ROOTS": roots}
        # Where every message ends in a root at the chunk level, nothing is stored here.
        rows = nodes + messages.count if layout.has_table else nodes
        stored = rows if widest > 1 or roots == _INNER else 1
        values = self.empty((stored, 8), torch.uint32, device)
        self._run(
            BLAKE3_CHUNKS,
            nodes,
            device,
            {
                **shared,
                "cv_ptr": values,
                "out_ptr": out,
                **layout.arguments,
                "nodes": nodes,
                "per_row": per_row,
                "most_blocks": max(1, -(-min(largest, chunk) // 64)),
                "counter": counter,
                "flags": flags,
            },
            {**constants, "ALIGN": layout.align},
        )
        total, level = nodes, 0
        while (widest >> level) + (widest % (1 << level) > 0) > 1:
            if layout.has_table:
                parents = (total >> (level + 1)) + messages.count
            else:
                parents = messages.count * -(-per_row // 2)
            above = self.empty((parents, 8), torch.uint32, device)
            self._run(
                BLAKE3_PARENTS,
                parents,
                device,
                {
                    **shared,
                    "cv_ptr": values,
                    "parent_ptr": above,
                    "out_ptr": out,
                    "count": messages.count,
                    "stride": layout.arguments["stride"],
                    "length": layout.arguments["length"],
                    "total": layout.arguments["total"],
                    "nodes": parents,
                    "per_row": per_row,
                    "level": level,
                    "flags": flags,
                },
                constants,
            )
            values, per_row, level = above, -(-per_row // 2), level + 1
        return values

    def blake3_join(
        self, left: torch.Tensor, right: torch.Tensor, key: torch.Tensor, flags: int, roots: int
    ) -> torch.Tensor:
        """The parent of two chaining values: its own, or if ``roots`` asks for it its root node."""
        import torch

        chunk = Blake3Tree.chunk_size
        node = self.empty((1, self._node_words()), torch.uint32, key.device)
        parent = self.empty((1, 8), torch.uint32, key.device)
        # torch.cat lacks uint32 on some devices.
        children = torch.cat([left.view(torch.int32), right.view(torch.int32)])
        self._run(
            BLAKE3_PARENTS,
            1,
            key.device,
            {
                "table_ptr": torch.empty(1, dtype=torch.int64, device=key.device),
                "key_ptr": key,
                "cv_ptr": children.view(torch.uint32),
                "parent_ptr": parent,
                "out_ptr": node,
                "count": 1,
                "stride": 0,
                "length": 2 * chunk,
                "total": 2 * chunk,
                "nodes": 1,
                "per_row": 2,
                "level": 0,
                "flags": flags,
            },
            {"TABLE": False, "ROOTS": roots},
        )
        return node if roots == _NODE else parent[0]


class _PendingBytes:
    """The end of a message that does not fill a block yet, on the device."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self.data = torch.empty(0, dtype=torch.uint8, device=device)

    def take(self, view: torch.Tensor, wanted: int) -> torch.Tensor:
        """Move bytes from the front of ``view`` here until there are ``wanted``; returns the rest."""
        import torch

        moved = min(max(wanted - self.data.numel(), 0), view.numel())
        # Never a view of the caller's memory, which may change after update() returns.
        self.data = torch.cat([self.data, view[:moved]])
        return view[moved:]


class _IteratedStream(Stream):
    def __init__(self, backend: TritonBackend, algorithm: Algorithm, device: torch.device) -> None:
        assert isinstance(algorithm.construction, IteratedHash)
        self._backend, self._algorithm, self._device = backend, algorithm, device
        self._state = backend.initial_state(algorithm.construction, device)
        self._absorbed = 0
        self._pending = _PendingBytes(device)

    def _absorb(self, view: torch.Tensor) -> None:
        if view.numel():
            message = Ragged([view], self._device)
            states = self._backend.iterate(
                self._algorithm, message, self._state, prefix=self._absorbed, final=False
            )
            self._state = states[0]
            self._absorbed += view.numel()

    def update(self, data: Any) -> None:
        view = self._backend.bytes_view(data, self._device)
        size = self._algorithm.block_size
        # A last block that padding does not follow must not be absorbed before the end is known.
        held_back = 1 if self._algorithm.construction.minimum_padding == 0 else 0  # type: ignore[union-attr]
        if self._pending.data.numel():
            view = self._pending.take(view, size)
            if self._pending.data.numel() < size or view.numel() < held_back:
                return
            self._absorb(self._pending.data)
            self._pending = _PendingBytes(self._device)
        whole = (view.numel() - held_back) // size * size if view.numel() else 0
        self._absorb(view[:whole])
        self._pending.take(view[whole:], size)

    def digest(self, length: int, seek: int) -> bytes:
        message = Ragged([self._pending.data], self._device)
        out = self._backend.iterate(self._algorithm, message, self._state, prefix=self._absorbed, final=True)
        return out.cpu().numpy().tobytes()

    def copy(self) -> Stream:
        return _copy_stream(self)


class _Blake3Stream(Stream):
    """Complete subtrees are reduced as they come; their chaining values wait on a stack."""

    def __init__(self, backend: TritonBackend, parameters: Mapping[str, Any], device: torch.device) -> None:
        self._backend, self._device = backend, device
        self._key, self._flags = backend.blake3_mode(parameters, device)
        self._stack: tuple[torch.Tensor, ...] = ()
        self._chunks = 0
        self._pending = _PendingBytes(device)

    def _push(self, view: torch.Tensor, chunks: int) -> None:
        """Add a subtree of ``chunks`` whole chunks, a power of two that divides the chunks so far."""
        backend = self._backend
        value = backend.blake3_subtree(view, self._key, self._flags, self._chunks)
        self._chunks += chunks
        rank = self._chunks // chunks
        # Every pair of equal subtrees has a parent; it is not the root, since more bytes follow.
        while rank % 2 == 0:
            value = backend.blake3_join(self._stack[-1], value, self._key, self._flags, _INNER)
            self._stack = self._stack[:-1]
            rank //= 2
        self._stack += (value,)

    def update(self, data: Any) -> None:
        view = self._backend.bytes_view(data, self._device)
        chunk = Blake3Tree.chunk_size
        if self._pending.data.numel():
            view = self._pending.take(view, chunk)
            if not view.numel():
                return
            self._push(self._pending.data, 1)
            self._pending = _PendingBytes(self._device)
        # The last chunk, whole or not, stays: only the end of the message tells what it is.
        while view.numel() > chunk:
            chunks = 1 << (((view.numel() - 1) // chunk).bit_length() - 1)
            if self._chunks:
                chunks = min(chunks, self._chunks & -self._chunks)
            self._push(view[: chunks * chunk], chunks)
            view = view[chunks * chunk :]
        self._pending.take(view, chunk)

    def digest(self, length: int, seek: int) -> bytes:
        if length == 0:
            return b""
        backend, key, flags = self._backend, self._key, self._flags
        if not self._stack:
            out = backend.blake3_digests(
                Ragged([self._pending.data], self._device), key, flags, length, seek=seek
            )
        else:
            value = backend.blake3_subtree(self._pending.data, key, flags, self._chunks)
            for left in reversed(self._stack[1:]):
                value = backend.blake3_join(left, value, key, flags, _INNER)
            node = backend.blake3_join(self._stack[0], value, key, flags, _NODE)
            out = backend.blake3_output(node, length, seek)
        return out.cpu().numpy().tobytes()

    def copy(self) -> Stream:
        return _copy_stream(self)


def _copy_stream(stream: _IteratedStream | _Blake3Stream) -> Stream:
    """A shallow copy is enough: streams replace their tensors and never write into them."""
    twin = copy.copy(stream)
    twin._pending = copy.copy(stream._pending)
    return twin
