"""The hash by which Hugging Face's xet storage names a file.

The definition is that of the Xet protocol specification, version 1.1.0 (``spec/chunking.md`` and
``spec/hashing.md`` of huggingface/xet-core), with the division of nodes into groups of
``merklehash/src/aggregated_hashes.rs``:

- A chunk ends after a byte at which the upper 16 bits of the gear hash are zero, but has at least 8 KiB,
  except the last one of a file, and at most 128 KiB. The gear hash is doubled before the table's value for
  each byte is added, modulo 2**64, so that it depends on the last 64 bytes.
- The hash of a chunk is BLAKE3 keyed with :data:`DATA_KEY`.
- The hash of a node is BLAKE3 keyed with :data:`NODE_KEY` over a line for each of its children, which has the
  child's hash in hexadecimal digits, and its size in decimal ones. A node has at least two children, except
  at the end, and at most nine. It ends with the first child from the third on whose last 64-bit word is a
  multiple of 4.
- The hash of the file is BLAKE3 of the root under a key of 32 zero bytes. An empty file has 32 zero bytes.
- Hexadecimal digits show a hash as four little-endian 64-bit words.

Clients before hf-xet's present version could end a chunk up to 64 bytes before it had 8 KiB, as xet-core's
own older tests show. A file that such a client uploaded can have another hash on the Hub. The SHA-256 is
always the same.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ...batch import hash_batch
from ...files import Progress
from ...hashing import new
from ...messages.moving import moved
from ...messages.tensors import host_memory, is_tensor
from .gear_table import GEAR_TABLE
from .sources import Content, Source

if TYPE_CHECKING:
    import numpy as np
    import torch

SMALLEST_CHUNK = 8 << 10
"""Bytes. Only the last chunk of a file may have fewer."""

LARGEST_CHUNK = 128 << 10
"""Bytes."""

# fmt: off
DATA_KEY = bytes((
    102, 151, 245, 119, 91, 149, 80, 222, 49, 53, 203, 172, 165, 151, 24, 28,
    157, 228, 33, 16, 155, 235, 43, 88, 180, 208, 176, 75, 147, 173, 242, 41,
))
"""The key of BLAKE3 for chunks."""

NODE_KEY = bytes((
    1, 126, 197, 199, 165, 71, 41, 150, 253, 148, 102, 102, 180, 138, 2, 230,
    93, 221, 83, 111, 55, 199, 109, 210, 248, 99, 82, 230, 74, 83, 113, 63,
))
"""The key of BLAKE3 for nodes above the chunks."""
# fmt: on

FILE_KEY = bytes(32)
"""The key of BLAKE3 for the root."""

_DIGEST_SIZE = 32
_WINDOW = 64  # bytes on which the gear hash depends
_UPPER_BITS = 16  # which are zero where a chunk may end
_FEWEST_CHILDREN = 2
_MOST_CHILDREN = 9
_CUT_MODULUS = 4
_BLOCK_SIZE = 16 << 20  # bytes that are searched at a time; a few times as many are in memory
# Odd, because stretches at a distance of a power of two would share few lines of the CPU's caches.
_LONGEST_STRETCH = 1025
_SHORTEST_STRETCH = 65
_DEVICE_BLOCK_SIZE = 4 << 20  # bytes; the gear hashes of a block take eight times as many, and a copy
_HEX = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class XetChunk:
    """A chunk of a file: the bytes from ``start`` on, ``size`` of them, and their keyed BLAKE3."""

    start: int
    size: int
    digest: bytes

    @property
    def hash(self) -> str:
        """The digest in the digits that xet shows."""
        return xet_string(self.digest)


def xet_string(digest: bytes) -> str:
    """The 64 hexadecimal digits by which xet shows a hash of 32 bytes, as four little-endian words. Raises
    ValueError for another number of bytes."""
    if len(digest) != _DIGEST_SIZE:
        raise ValueError(f"a xet hash has {_DIGEST_SIZE} bytes, not {len(digest)}")
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", digest))


def xet_digest(text: str) -> bytes:
    """The hash of 32 bytes that 64 hexadecimal digits show. Raises ValueError for anything else."""
    if not isinstance(text, str) or _HEX.match(text) is None:
        raise ValueError(f"a xet hash has 64 lower-case hexadecimal digits, not {text!r}")
    return struct.pack("<4Q", *(int(text[i : i + 16], 16) for i in range(0, 64, 16)))


def xet_hash(source: Source, *, backend: str | None = None, progress: Progress | None = None) -> str:
    """The xet hash of a file, as the Hub's API shows it in ``xetHash``: 64 hexadecimal digits.

    ``source`` is a ``sources.Source``. Tensors are searched and hashed on their device; all else is, by
    the CPU. Whatever the size of the file, this takes about a hundred megabytes of memory, and a few hundred
    for data that was made so that chunks could end at most of its bytes. ``progress`` is called with numbers
    of bytes.

    Raises OSError if a file cannot be read, ValueError if a path does not lead to a regular file,
    IntegrityError if the file changes while it is read, and TypeError for an object without bytes.
    """
    return xet_hash_of_content(Content.of(source), backend, progress)


def xet_hash_of_content(content: Content, backend: str | None, progress: Progress | None) -> str:
    """As :func:`xet_hash`, for content that was found before."""
    tree = _Tree(backend)
    for chunks in _chunked(content, backend, progress):
        tree.add([(chunk.digest, chunk.size) for chunk in chunks])
    return xet_string(tree.file_digest())


def xet_chunks(
    source: Source, *, backend: str | None = None, progress: Progress | None = None
) -> Iterator[XetChunk]:
    """The chunks of a file with their hashes, in order. Arguments and errors are as for :func:`xet_hash`."""
    for chunks in _chunked(Content.of(source), backend, progress):
        yield from chunks


def xet_hash_of_chunks(chunks: Iterable[tuple[bytes, int]], *, backend: str | None = None) -> str:
    """The xet hash of a file whose chunks have these digests (32 bytes) and sizes, in order.

    Raises TypeError for a digest that is not bytes-like or a size that is not an int, and ValueError for a
    digest of another length or a negative size.
    """
    nodes = []
    for i, (digest, size) in enumerate(chunks):
        data = bytes(memoryview(digest))  # bytes() alone would take a number for a length
        if type(size) is not int:
            raise TypeError(f"chunk {i}: a size must be an int, not {type(size).__name__}")
        if len(data) != _DIGEST_SIZE or size < 0:
            raise ValueError(
                f"chunk {i}: a digest of {len(data)} bytes and a size of {size}; they must be {_DIGEST_SIZE} "
                "bytes, and not negative"
            )
        nodes.append((data, size))
    tree = _Tree(backend)
    tree.add(nodes)
    return xet_string(tree.file_digest())


class _Tree:
    """The nodes above the chunks. Each level keeps only the children of its next group."""

    def __init__(self, backend: str | None) -> None:
        self._backend = backend
        self._levels: list[list[tuple[bytes, int]]] = []
        self._grouped: list[bool] = []

    def add(self, nodes: list[tuple[bytes, int]], level: int = 0) -> None:
        """Append digests and sizes to a level, and to those above what follows from them."""
        if level == len(self._levels):
            self._levels.append([])
            self._grouped.append(False)
        self._levels[level] += nodes
        self._group(level, last=False)

    def _group(self, level: int, last: bool) -> None:
        nodes = self._levels[level]
        groups = []
        start = 0
        while start < len(nodes):
            size = _group_size(nodes[start : start + _MOST_CHILDREN], last)
            if size is None:
                break
            groups.append(nodes[start : start + size])
            start += size
        if groups:
            self._levels[level] = nodes[start:]
            self._grouped[level] = True
            texts = [_node_text(group) for group in groups]
            digests = hash_batch(texts, "blake3", key=NODE_KEY, backend=self._backend)
            sizes = [sum(size for _, size in group) for group in groups]
            self.add(list(zip(_rows(digests), sizes, strict=True)), level + 1)

    def file_digest(self) -> bytes:
        if not self._levels or not (self._levels[0] or self._grouped[0]):
            return bytes(32)
        level = 0
        while self._grouped[level] or len(self._levels[level]) > 1:
            self._group(level, last=True)
            level += 1
        [(root, _)] = self._levels[level]
        return new("blake3", root, key=FILE_KEY, backend=self._backend).digest()


def _group_size(nodes: list[tuple[bytes, int]], last: bool) -> int | None:
    """How many of the nodes, which are all or the next nine, make up the next group; None if that is not
    known because the level has not ended."""
    for i in range(_FEWEST_CHILDREN, len(nodes)):
        if int.from_bytes(nodes[i][0][24:], "little") % _CUT_MODULUS == 0:
            return i + 1
    return len(nodes) if last or len(nodes) == _MOST_CHILDREN else None


def _node_text(nodes: list[tuple[bytes, int]]) -> bytes:
    return "".join(f"{xet_string(digest)} : {size}\n" for digest, size in nodes).encode("ascii")


def _rows(digests: torch.Tensor) -> list[bytes]:
    return [row.tobytes() for row in digests.cpu().numpy()]


def _chunked(content: Content, backend: str | None, progress: Progress | None) -> Iterator[list[XetChunk]]:
    """The chunks of a file, in several lists."""
    chunker = _Chunker(backend)
    for piece in content.pieces(progress):
        yield chunker.feed(piece)
    yield chunker.finish()


class _Chunker:
    """Divides bytes that come in pieces."""

    def __init__(self, backend: str | None) -> None:
        self._backend = backend
        self._begun: Any = None  # the first bytes of a chunk whose end has not been found yet
        self._waiting: list[Any] = []
        self._size = 0  # bytes in _waiting
        self._start = 0  # of the chunk that _begun begins

    def feed(self, piece: memoryview | torch.Tensor) -> list[XetChunk]:
        """The chunks that have ended, if there was enough to search."""
        chunks: list[XetChunk] = []
        for offset in range(0, piece.nbytes, _BLOCK_SIZE):
            part = piece[offset : offset + _BLOCK_SIZE]
            self._waiting.append(_owned(part))
            self._size += part.nbytes
            if self._size >= _BLOCK_SIZE:
                chunks += self._divide(last=False)
        return chunks

    def finish(self) -> list[XetChunk]:
        """The chunks up to the end of the file."""
        return self._divide(last=True)

    def _divide(self, last: bool) -> list[XetChunk]:
        begun = 0 if self._begun is None else len(self._begun)
        data = _joined([*([] if self._begun is None else [self._begun]), *self._waiting])
        self._waiting, self._size = [], 0
        first = max(0, begun - _WINDOW + 1)  # the window of the first new byte begins here
        searched = data[first:] if len(data) >= SMALLEST_CHUNK else data[:0]
        # A hash over fewer than 64 bytes is wrong, but no chunk ends there: it would be shorter than 8 KiB,
        # or was searched before.
        ends = first + (_ends_on_device(searched) if is_tensor(data) else _ends_in_memory(searched))
        bounds = _walk(ends, begun, len(data), last)
        chunks: list[XetChunk] = []
        if len(bounds) > 1:
            parts = [data[start:end] for start, end in pairwise(bounds)]
            digests = hash_batch(parts, "blake3", key=DATA_KEY, backend=self._backend)
            for part, digest in zip(parts, _rows(digests), strict=True):
                chunks.append(XetChunk(self._start, len(part), digest))
                self._start += len(part)
        # A copy, so that the whole block does not stay in memory for the rest of it.
        self._begun = data[bounds[-1] :].clone() if is_tensor(data) else data[bounds[-1] :].copy()
        return chunks


def _walk(ends: np.ndarray[Any, Any], begun: int, size: int, last: bool) -> list[int]:
    """Where chunks begin and end: 0, and the end of each chunk that ends within ``size`` bytes.

    ``ends`` are the places at which a chunk may end, sorted; those up to ``begun`` were considered before.
    """
    bounds = [0]
    place = int(ends.searchsorted(begun, side="right"))
    while True:
        start = bounds[-1]
        place += int(ends[place:].searchsorted(start + SMALLEST_CHUNK))
        limit = start + LARGEST_CHUNK
        if place < len(ends) and ends[place] <= limit:
            bounds.append(int(ends[place]))
        elif limit <= size:
            bounds.append(limit)
        else:
            if last and start < size:
                bounds.append(size)
            return bounds


def _owned(piece: memoryview | torch.Tensor) -> Any:
    """A piece that stays valid: an array of its own for what is in host memory, else the tensor."""
    import numpy as np

    if not is_tensor(piece):
        return np.array(piece, dtype=np.uint8)
    return host_memory(piece).copy() if piece.device.type == "cpu" else piece


def _joined(parts: list[Any]) -> Any:
    """The parts one after another: a tensor on the device of the last tensor among them, else an array."""
    import numpy as np

    tensors = [part for part in parts if is_tensor(part)]
    if not tensors:
        return np.concatenate(parts) if parts else np.empty(0, np.uint8)
    import torch

    device = tensors[-1].device
    on_device = [moved(part if is_tensor(part) else torch.from_numpy(part), device) for part in parts]
    return torch.cat(on_device)


def _ends_in_memory(data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The numbers of bytes, sorted, after which the gear hash of the last 64 bytes has zeros in its upper
    bits.

    The data is cut into stretches. Each step takes the next byte of every stretch at once, after the 63 bytes
    before the stretch.
    """
    import numpy as np

    size = len(data)
    if not size:
        return np.empty(0, np.int64)
    stretch = min(_LONGEST_STRETCH, max(_SHORTEST_STRETCH, math.isqrt(size) // 4 | 1))
    lanes = -(-size // stretch)
    padded = np.zeros(_WINDOW - 1 + lanes * stretch, np.uint8)
    padded[_WINDOW - 1 :][:size] = data
    columns = np.lib.stride_tricks.as_strided(
        padded, (_WINDOW - 1 + stretch, lanes), (1, stretch), writeable=False
    )
    table = np.array(GEAR_TABLE, np.uint64)
    limit = np.uint64(1 << (64 - _UPPER_BITS))
    gear, value, below = np.zeros(lanes, np.uint64), np.empty(lanes, np.uint64), np.empty(lanes, bool)
    found = [np.empty(0, np.int64)]
    for step, column in enumerate(columns, 2 - _WINDOW):  # the number of bytes of the stretch so far
        np.take(table, column, out=value, mode="clip")  # every byte is a valid index, and this mode is faster
        np.add(gear, gear, out=gear)
        np.add(gear, value, out=gear)
        if step > 0 and np.less(gear, limit, out=below).any():
            found.append(np.flatnonzero(below) * stretch + step)
    ends = np.sort(np.concatenate(found))
    return ends[: ends.searchsorted(size, side="right")]


def _ends_on_device(data: torch.Tensor) -> np.ndarray[Any, Any]:
    """As :func:`_ends_in_memory`, on the device of the data.

    The hash of the last 2 n bytes is that of the last n, plus 2**n times that of the n before these.
    """
    import torch

    signed = [value - (1 << 64) if value >> 63 else value for value in GEAR_TABLE]
    table = torch.tensor(signed, dtype=torch.int64, device=data.device)
    found = []
    for start in range(0, len(data), _DEVICE_BLOCK_SIZE):
        first = max(0, start - _WINDOW + 1)
        gear = table[data[first : start + _DEVICE_BLOCK_SIZE].int()]
        for width in (1, 2, 4, 8, 16, 32):
            doubled = gear.clone()
            doubled[width:] += gear[:-width] << width
            gear = doubled
        # A signed number, too, becomes zero only if its upper bits are.
        upper = gear[start - first :] >> (64 - _UPPER_BITS)
        found.append((upper == 0).nonzero().flatten() + (start + 1))
    return torch.cat(found).cpu().numpy() if found else torch.empty(0, dtype=torch.int64).numpy()
