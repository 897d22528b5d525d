"""Bao: BLAKE3 with its tree stored, so that any part of the data can be verified with the 32 bytes of the
hash.

The format is that of ``bao`` 0.12 and later (oconnor663/bao, docs/spec.md): eight bytes with the length of
the content, little-endian, and then the nodes of BLAKE3's tree in pre-order. A parent is the two chaining
values of its children, 64 bytes, and a chunk is up to 1024 bytes of content. A combined encoding has both, an
outboard one only parents, and a slice only what is above and in the chunks of a range.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from .. import algorithms
from ..backends import registry
from ..errors import IntegrityError
from ..files import Progress, read_blocks
from ..hashing import new
from ..messages.from_caller import flat_bytes
from ..messages.tensors import host_memory
from ..output_files import naming

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array: TypeAlias = "np.ndarray[Any, Any]"

__all__ = [
    "Encoding",
    "decode_slice",
    "encode",
    "encode_file",
    "encode_outboard",
    "encode_outboard_file",
    "extract_slice",
    "read_range",
    "verify",
]

_CHUNK = algorithms.Blake3Tree.chunk_size
_HEADER, _PARENT = 8, 64
_MOST = 1 << 62  # bytes of content, so that positions in an encoding have less than 64 bits
_GROUP_LEVEL = 13
_GROUP = 1 << _GROUP_LEVEL  # chunks that are hashed at a time: 8 MiB


@dataclass(frozen=True)
class Encoding:
    """An encoding in memory, and the root with which it is verified."""

    root: bytes
    """BLAKE3 of the content."""
    data: bytes


class _Nodes:
    """Chaining values from the backend that was asked for, or else from the best for the data."""

    def __init__(self, device_type: str, nbytes: int, backend: str | None) -> None:
        self._record = algorithms.get("blake3")
        self._name = backend
        self._backend = registry.select_nodes(self._record, device_type, nbytes, backend=backend)

    def digest(self, data: Any) -> bytes:
        return new("blake3", data, backend=self._name).digest()

    def chunks(self, data: torch.Tensor, first: int) -> torch.Tensor:
        return self._backend.chunk_values(self._record, data, first)

    def parents(self, children: torch.Tensor, *, root: bool = False) -> torch.Tensor:
        return self._backend.parent_values(self._record, children, root=root)


class _Shape:
    """The tree over ``length`` bytes. Level 0 has the chunks. A last node without a sibling is also on the
    next level: only the nodes with two children are parents."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.chunks = max(1, -(-length // _CHUNK))
        self.top = (self.chunks - 1).bit_length()

    def count(self, level: int) -> int:
        return -(-self.chunks >> level) if level else self.chunks

    def has_children(self, level: int, index: Any) -> Any:
        """Whether nodes of a level above 0 are parents, for a number or an array of them."""
        return 2 * index + 1 < self.count(level - 1)

    def encoded_size(self, combined: bool) -> int:
        return _HEADER + _PARENT * (self.chunks - 1) + (self.length if combined else 0)

    def positions(self, level: int, index: Array, combined: bool) -> Array:
        """Where nodes are in an encoding. Before a node there are its ancestors and the complete subtrees to
        its left, whose numbers of chunks are the powers of two in the number of the node's first chunk; each
        has one parent less than chunks."""
        first = index << level
        parents = first.copy()
        for k in range(self.top):
            parents -= (first >> k) & 1
        for above in range(level + 1, self.top + 1):
            parents += self.has_children(above, index >> (above - level))
        return _HEADER + _PARENT * parents + (_CHUNK * first if combined else 0)


# Encoding


def encode(data: Any, *, backend: str | None = None) -> Encoding:
    """The combined encoding of bytes or of a tensor, whose nodes are hashed on its device.

    Raises as :func:`integrity_triton.new` and :meth:`integrity_triton.Hash.update` do.
    """
    return _in_memory(data, True, backend)


def encode_outboard(data: Any, *, backend: str | None = None) -> Encoding:
    """The outboard encoding, a sixteenth of the size of the content. See :func:`encode`."""
    return _in_memory(data, False, backend)


def encode_file(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    backend: str | None = None,
    progress: Progress | None = None,
) -> bytes:
    """Write the combined encoding of a file to the file ``output``, which is replaced when all is written,
    and return the root. The memory that this takes does not depend on the file's size, except for 32 bytes
    for each 8 MiB.

    Raises OSError if a file cannot be read or written, EOFError if the file becomes shorter while it is read,
    and ValueError if it becomes longer.
    """
    return _to_file(path, output, True, backend, progress)


def encode_outboard_file(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    backend: str | None = None,
    progress: Progress | None = None,
) -> bytes:
    """Write the outboard encoding of a file. See :func:`encode_file`."""
    return _to_file(path, output, False, backend, progress)


def _in_memory(data: Any, combined: bool, backend: str | None) -> Encoding:
    flat = flat_bytes(data)
    shape = _Shape(flat.numel())
    out = bytearray(shape.encoded_size(combined))

    def write(position: int, part: bytes | memoryview) -> None:
        out[position : position + len(part)] = part

    step = _GROUP * _CHUNK
    pieces = (flat[start : start + step] for start in range(0, max(1, flat.numel()), step))
    nodes = _Nodes(flat.device.type, flat.numel(), backend)
    root = _encode(shape, pieces, combined, write, nodes)
    return Encoding(root, bytes(out))


def _to_file(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    combined: bool,
    backend: str | None,
    progress: Progress | None,
) -> bytes:
    with open(path, "rb", buffering=0) as file:
        length = file.seek(0, os.SEEK_END)
    shape = _Shape(length)

    def pieces() -> Iterator[torch.Tensor]:
        step = _GROUP * _CHUNK
        for piece in read_blocks(path, step, 0, length):
            for start in range(0, len(piece), step):  # a piece may have several groups
                yield flat_bytes(piece[start : start + step])
            if progress is not None:
                progress(len(piece))
        if not length:
            yield flat_bytes(b"")

    with _replacing(output) as descriptor:

        def write(position: int, part: bytes | memoryview) -> None:
            view = memoryview(part)
            while view:
                done = os.pwrite(descriptor, view, position)
                view, position = view[done:], position + done

        return _encode(shape, pieces(), combined, write, _Nodes("cpu", length, backend))


@contextmanager
def _replacing(path: str | os.PathLike[str]) -> Iterator[int]:
    """A descriptor of a new file that takes the place of ``path`` if the block ends well."""
    target = os.path.realpath(path)
    temporary = f"{target}.{secrets.token_hex(4)}.tmp"
    with naming(path):
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with ExitStack() as closing:
            closing.callback(os.close, descriptor)
            yield descriptor
        with naming(path):
            os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


Write: TypeAlias = Callable[[int, "bytes | memoryview"], None]


def _encode(
    shape: _Shape, pieces: Iterable[torch.Tensor], combined: bool, write: Write, nodes: _Nodes
) -> bytes:
    """Write an encoding, and return the root. Each piece but the last has ``_GROUP`` chunks."""
    import torch

    write(0, shape.length.to_bytes(_HEADER, "little"))
    if shape.chunks == 1:
        (piece,) = pieces
        if combined:
            write(_HEADER, host_memory(piece.cpu()).tobytes())
        return nodes.digest(piece)
    level, tops, first = min(_GROUP_LEVEL, shape.top), [], 0
    for piece in pieces:
        values = nodes.chunks(piece, first)
        levels = [values]
        below = level - 1 if shape.chunks <= _GROUP else level  # the root is computed in another way
        while len(levels) <= below:
            levels.append(_level_above(levels[-1], nodes))
        _write_group(shape, piece, first, levels, combined, write)
        tops.append(levels[-1].cpu())
        first += values.shape[0]
    values, at = torch.cat(tops), len(levels) - 1
    while True:
        above = at + 1
        even = values.shape[0] // 2 * 2
        if shape.chunks > _GROUP:  # else the group has written them
            index = _arange(0, even // 2)
            rows = host_memory(values[:even].contiguous()).reshape(-1, _PARENT)
            for position, row in zip(shape.positions(above, index, combined), rows, strict=True):
                write(int(position), row.tobytes())
        if above == shape.top:
            return host_memory(nodes.parents(values, root=True)).tobytes()
        values, at = _level_above(values, nodes), above


def _level_above(values: torch.Tensor, nodes: _Nodes) -> torch.Tensor:
    import torch

    even = values.shape[0] // 2 * 2
    if not even:
        return values
    above = nodes.parents(values[:even])
    return above if even == values.shape[0] else torch.cat([above, values[even:]])


def _arange(first: int, last: int) -> Array:
    import numpy as np

    return np.arange(first, last, dtype=np.int64)


def _write_group(
    shape: _Shape,
    piece: torch.Tensor,
    first: int,
    levels: list[torch.Tensor],
    combined: bool,
    write: Write,
) -> None:
    """Write the nodes below the last of ``levels``, which begin at chunk ``first``: one range of the
    encoding, in units of 64 bytes but for the last chunk."""
    import numpy as np

    placed: list[tuple[Array, Array]] = []
    last = len(levels) if shape.chunks <= _GROUP else len(levels) - 1
    for below in range(last):
        values = host_memory(levels[below].cpu().contiguous())
        pairs = len(values) // _PARENT
        start = first >> (below + 1)
        index = _arange(start, start + pairs)
        placed.append(
            (shape.positions(below + 1, index, combined), values[: pairs * _PARENT].reshape(-1, 64))
        )
    tail = b""
    if combined:
        content = host_memory(piece.cpu())
        whole = len(content) // _CHUNK
        position = shape.positions(0, _arange(first, first + whole), combined)
        units = position[:, None] + np.arange(0, _CHUNK, _PARENT)
        placed.append((units.reshape(-1), content[: whole * _CHUNK].reshape(-1, _PARENT)))
        tail = content[whole * _CHUNK :].tobytes()
        end = shape.positions(0, _arange(first + whole, first + whole + 1), combined)[0] if tail else 0
    filled = [(where, what) for where, what in placed if len(where)]
    if filled:
        begin = min(int(where.min()) for where, _ in filled)
        size = max(int(where.max()) for where, _ in filled) + _PARENT - begin
        segment = np.empty((size // _PARENT, _PARENT), np.uint8)
        assert sum(len(where) for where, _ in filled) == len(segment)
        for where, what in filled:
            segment[(where - begin) // _PARENT] = what
        write(begin, segment.tobytes())
    if tail:
        write(int(end), tail)


# Reading


class _Source:
    """Bytes in memory, in a tensor or in a file, read by position."""

    def __init__(self, given: Any, opened: ExitStack) -> None:
        self.device_type = "cpu"
        if isinstance(given, str | os.PathLike):
            file = open(given, "rb", buffering=0)  # noqa: SIM115  # it is closed with the others
            self._file = opened.enter_context(file)
            self.size = self._file.seek(0, os.SEEK_END)
            self._flat = None
        else:
            self._flat = flat_bytes(given)
            self.size = self._flat.numel()
            self.device_type = self._flat.device.type

    def tensor(self, start: int, size: int) -> torch.Tensor:
        """``size`` bytes, or what is there, where they are."""
        if self._flat is not None:
            return self._flat[start : start + size]
        self._file.seek(start)
        buffer = bytearray(size)
        view, got = memoryview(buffer), 0
        while got < size and (count := self._file.readinto(view[got:])):
            got += count
        return flat_bytes(buffer[:got] if got < size else buffer)

    def bytes(self, start: int, size: int) -> bytes:
        return host_memory(self.tensor(start, size).cpu()).tobytes()


def _length_in(header: bytes) -> int:
    if len(header) < _HEADER:
        raise IntegrityError(f"the encoding ends within its header, after {len(header)} bytes")
    length = int.from_bytes(header, "little")
    if length > _MOST:
        raise IntegrityError(f"the encoding says that its content has {length} bytes, which is too much")
    return length


def _check_root(root: Any) -> None:
    if not isinstance(root, bytes):
        raise TypeError(f"root must be bytes, not {type(root).__name__}")
    if len(root) != 32:
        raise ValueError(f"a root has 32 bytes, not {len(root)}")


def _check_count(value: Any, label: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{label} must be int, not {type(value).__name__}")
    if value < 0:
        raise ValueError(f"{label} must not be negative, got {value}")


def _chunks_of(shape: _Shape, start: int, length: int) -> tuple[int, int]:
    """The first and the last chunk that prove a range: one at least, and the last of all for a range that is
    beyond the end (docs/spec.md of Bao, section "Slice Format")."""
    last = min(start + max(length, 1), max(shape.length, 1)) - 1
    first = min(start // _CHUNK, shape.chunks - 1)
    return first, max(first, last // _CHUNK)


Fetch: TypeAlias = "Callable[[int, Array], Array]"


def _verified(
    shape: _Shape,
    first: int,
    last: int,
    parents: Fetch,
    content: torch.Tensor,
    root: bytes,
    nodes: _Nodes,
) -> None:
    """Verify chunks ``first`` to ``last``, whose bytes are ``content``, with the parents above them.

    Raises IntegrityError for the first node from the root downwards that does not match.
    """
    import numpy as np
    import torch

    wanted = min((last + 1) * _CHUNK, shape.length) - first * _CHUNK
    if content.numel() != wanted:
        raise IntegrityError(
            f"the content ends within chunks {first} to {last}: {content.numel()} of {wanted} bytes are there"
        )
    if shape.top == 0:
        if not hmac.compare_digest(nodes.digest(content), root):
            raise IntegrityError("the content does not match the root")
        return
    expected = np.frombuffer(root, np.uint8).reshape(1, 32)
    for level in range(shape.top, 0, -1):
        index = _arange(first >> level, (last >> level) + 1)
        real = shape.has_children(level, index)
        rows = parents(level, index[real])
        if real.any():
            values = nodes.parents(torch.from_numpy(rows.reshape(-1, 32)), root=level == shape.top)
            wrong = (host_memory(values.cpu()).reshape(-1, 32) != expected[real]).any(1)
            if wrong.any():
                at = int(index[real][wrong.argmax()])
                begin, end = at << level, min((at + 1) << level, shape.chunks)
                raise IntegrityError(
                    f"the parent of chunks {begin} to {end - 1} does not match the nodes above it"
                )
        children = np.repeat(expected, 2, 0).reshape(-1, 2, 32)  # what was promoted is its own left child
        children[real] = rows.reshape(-1, 2, 32)
        below = _arange(first >> (level - 1), (last >> (level - 1)) + 1)
        expected = children.reshape(-1, 32)[below - 2 * (first >> level)]
    values = nodes.chunks(content, first)
    wrong = (host_memory(values.cpu()).reshape(-1, 32) != expected).any(1)
    if wrong.any():
        at = first + int(wrong.argmax())
        raise IntegrityError(
            f"chunk {at} (bytes {at * _CHUNK} to {min((at + 1) * _CHUNK, shape.length)}) does not match"
        )


class _Stored:
    """An encoding whose parts are read by position."""

    def __init__(self, encoding: Any, data: Any, opened: ExitStack, nbytes: int, backend: str | None) -> None:
        self._tree = _Source(encoding, opened)
        self._data = None if data is None else _Source(data, opened)
        self.shape = _Shape(_length_in(self._tree.bytes(0, _HEADER)))
        self._combined = data is None
        wanted = self.shape.encoded_size(self._combined)
        if self._tree.size != wanted:
            kind = "a combined" if self._combined else "an outboard"
            hint = ""
            if self._tree.size == self.shape.encoded_size(not self._combined):
                hint = (
                    ", as an outboard one has, which is read together with the content"
                    if self._combined
                    else ", as a combined one has, which is read without other data"
                )
            raise IntegrityError(
                f"{kind} encoding of {self.shape.length} bytes has {wanted} bytes, and this one has "
                f"{self._tree.size}{hint}"
            )
        if self._data is not None and self._data.size != self.shape.length:
            raise IntegrityError(
                f"the encoding is of {self.shape.length} bytes, and the content has {self._data.size}"
            )
        device_type = "cpu" if self._data is None else self._data.device_type
        self.nodes = _Nodes(device_type, min(nbytes, self.shape.length), backend)

    def load(self, first: int, last: int) -> None:
        """Read what is stored from chunk ``first`` to chunk ``last``: these, and the parents that begin
        between them, since a parent is before its first chunk."""
        import numpy as np

        places = self.shape.positions(0, np.array([first, last]), self._combined)
        self._begin, end = (int(place) for place in places)
        if self._combined:
            end += min(_CHUNK, self.shape.length - last * _CHUNK)
        self._loaded = np.frombuffer(self._tree.bytes(self._begin, end - self._begin), np.uint8)
        if len(self._loaded) < end - self._begin:
            raise IntegrityError(f"the encoding ends at byte {self._begin + len(self._loaded)}, before {end}")

    def parents(self, level: int, index: Array) -> Array:
        """Parents above the chunks that are loaded. Of each level, only the first can begin before them."""
        import numpy as np

        rows = np.empty((len(index), _PARENT), np.uint8)
        positions = self.shape.positions(level, index, self._combined)
        before = int((positions < self._begin).sum())
        for row, position in zip(rows[:before], positions[:before], strict=True):
            stored = self._tree.bytes(int(position), _PARENT)
            if len(stored) < _PARENT:
                raise IntegrityError(f"the encoding ends within the parent at byte {position}")
            row[:] = np.frombuffer(stored, np.uint8)
        rows[before:] = _rows_at(self._loaded, positions[before:] - self._begin, _PARENT)
        return rows

    def content(self, first: int, last: int) -> torch.Tensor:
        """The bytes of the chunks that are loaded."""
        import numpy as np
        import torch

        if self._data is not None:
            end = min((last + 1) * _CHUNK, self.shape.length)
            return self._data.tensor(first * _CHUNK, end - first * _CHUNK)
        positions = self.shape.positions(0, _arange(first, last + 1), True) - self._begin
        whole = _rows_at(self._loaded, positions[:-1], _CHUNK).reshape(-1)
        return torch.from_numpy(np.concatenate([whole, self._loaded[int(positions[-1]) :]]))

    def read(self, start: int, length: int, root: bytes) -> Iterator[torch.Tensor]:
        """The verified bytes of a range, a group of chunks at a time."""
        shape = self.shape
        first, last = _chunks_of(shape, start, length)
        while first <= last:
            group_last = min(last, (first // _GROUP + 1) * _GROUP - 1)
            self.load(first, group_last)
            content = self.content(first, group_last)
            _verified(shape, first, group_last, self.parents, content, root, self.nodes)
            begin = first * _CHUNK
            yield content[max(0, start - begin) : max(0, min(start + length, shape.length) - begin)]
            first = group_last + 1


def read_range(
    encoding: Any,
    root: bytes,
    start: int = 0,
    length: int | None = None,
    *,
    data: Any = None,
    backend: str | None = None,
) -> bytes:
    """The bytes ``[start, start + length)`` of the content, verified with the root, or fewer where the
    content ends, whose end is then verified, too. Only what the range needs is read.

    ``encoding`` is a combined encoding: bytes-like, a tensor, or the path of a file. If ``data`` is given, in
    the same forms, the encoding is outboard, and ``data`` is the content.

    Raises :class:`integrity_triton.IntegrityError` for an encoding that is truncated, too long, or does not
    match the root in what was read, ValueError or TypeError for other arguments that are not valid, and
    OSError for a file that cannot be read. Nothing unverified is returned.
    """
    _check_root(root)
    _check_count(start, "start")
    if length is not None:
        _check_count(length, "length")
    with ExitStack() as opened:
        wanted = _MOST if length is None else length
        stored = _Stored(encoding, data, opened, wanted, backend)
        parts = stored.read(start, wanted, root)
        return b"".join(host_memory(part.cpu()).tobytes() for part in parts)


def verify(
    encoding: Any,
    root: bytes,
    *,
    data: Any = None,
    backend: str | None = None,
    progress: Progress | None = None,
) -> int:
    """Verify all of an encoding, and of the content ``data`` beside an outboard one, which may be a tensor on
    any device, and return the bytes in the content. Arguments and errors are those of :func:`read_range`."""
    _check_root(root)
    with ExitStack() as opened:
        stored = _Stored(encoding, data, opened, _MOST, backend)
        for part in stored.read(0, _MOST, root):
            if progress is not None:
                progress(part.numel())
        return stored.shape.length


def _rows_at(data: Array, positions: Array, size: int) -> Array:
    """``size`` bytes of ``data`` from each position on, all of which differ by multiples of 64."""
    import numpy as np

    if not len(positions):
        return np.empty((0, size), np.uint8)
    begin = int(positions[0])
    units = data[begin : begin + (len(data) - begin) // _PARENT * _PARENT].reshape(-1, _PARENT)
    places = (positions - begin) // _PARENT
    if size == _PARENT:
        found: Array = units[places]
        return found
    return units[places[:, None] + np.arange(size // _PARENT)].reshape(-1, size)


# Slices


def _slice_layout(shape: _Shape, first: int, last: int) -> tuple[list[Array], list[Array]]:
    """For each level the indices of the nodes in a slice, and where they are in it. Level 0 has all chunks of
    the slice, the others their parents."""
    import numpy as np

    indices = [_arange(first, last + 1)]
    for level in range(1, shape.top + 1):
        index = _arange(first >> level, (last >> level) + 1)
        indices.append(index[shape.has_children(level, index)])
    starts = np.concatenate([index << level for level, index in enumerate(indices)])
    levels = np.repeat(np.arange(len(indices)), [len(index) for index in indices])
    order = np.lexsort((-levels, starts))  # pre-order: what begins first, and of these the larger
    sizes = np.where(levels == 0, _CHUNK, _PARENT)
    ends = np.cumsum(sizes[order])
    positions = np.empty(len(order), np.int64)
    positions[order] = _HEADER + ends - sizes[order]
    edges = np.cumsum([len(index) for index in indices])[:-1]
    return indices, np.split(positions, edges)


def _slice_size(shape: _Shape, first: int, last: int) -> int:
    parents = sum(
        min((last >> level) + 1, shape.count(level - 1) // 2) - (first >> level)
        for level in range(1, shape.top + 1)
        if first >> level < shape.count(level - 1) // 2
    )
    return _HEADER + _PARENT * parents + min((last + 1) * _CHUNK, shape.length) - first * _CHUNK


def extract_slice(encoding: Any, start: int, length: int, *, data: Any = None) -> bytes:
    """The slice of an encoding with which somebody who has the root verifies the bytes ``[start, start +
    length)``. Nothing is verified here. ``encoding`` and ``data`` are those of :func:`read_range`.

    Raises IntegrityError for an encoding of a size that it cannot have, and as :func:`read_range` does for
    other arguments.
    """
    import numpy as np

    _check_count(start, "start")
    _check_count(length, "length")
    with ExitStack() as opened:
        stored = _Stored(encoding, data, opened, 0, None)
        shape = stored.shape
        first, last = _chunks_of(shape, start, length)
        stored.load(first, last)
        out = np.empty(_slice_size(shape, first, last), np.uint8)
        out[:_HEADER] = np.frombuffer(shape.length.to_bytes(_HEADER, "little"), np.uint8)
        indices, positions = _slice_layout(shape, first, last)
        for level in range(1, len(indices)):
            if len(indices[level]):
                rows = stored.parents(level, indices[level])
                out[positions[level][:, None] + np.arange(_PARENT)] = rows
        content = host_memory(stored.content(first, last).cpu())
        whole = len(content) // _CHUNK
        places = positions[0][:whole, None] + np.arange(_CHUNK)
        out[places] = content[: whole * _CHUNK].reshape(-1, _CHUNK)
        if len(content) % _CHUNK:
            out[int(positions[0][-1]) :] = content[whole * _CHUNK :]
        return out.tobytes()


def decode_slice(slice_: Any, root: bytes, start: int, length: int, *, backend: str | None = None) -> bytes:
    """The bytes ``[start, start + length)`` of the content, or fewer where it ends, from a slice that was
    made for the same range, verified with the root.

    Raises :class:`integrity_triton.IntegrityError` for a slice that is truncated, too long, made for another
    range, or does not match the root, and ValueError or TypeError for other arguments that are not valid.
    """
    import numpy as np
    import torch

    _check_root(root)
    _check_count(start, "start")
    _check_count(length, "length")
    flat = host_memory(flat_bytes(slice_).cpu())
    shape = _Shape(_length_in(flat[:_HEADER].tobytes()))
    first, last = _chunks_of(shape, start, length)
    size = _slice_size(shape, first, last)
    if len(flat) != size:
        raise IntegrityError(
            f"a slice of {length} bytes at {start} of {shape.length} has {size} bytes, and this one "
            f"{len(flat)}"
        )
    indices, positions = _slice_layout(shape, first, last)

    def parents(level: int, index: Array) -> Array:
        places = positions[level] if len(indices[level]) else np.empty(0, np.int64)
        rows: Array = flat[places[:, None] + np.arange(_PARENT)]
        return rows

    whole = positions[0][:-1, None] + np.arange(_CHUNK)
    content = np.concatenate([flat[whole].reshape(-1), flat[int(positions[0][-1]) :]])
    nodes = _Nodes("cpu", len(content), backend)
    _verified(shape, first, last, parents, torch.from_numpy(content), root, nodes)
    begin = first * _CHUNK
    return content[max(0, start - begin) : max(0, min(start + length, shape.length) - begin)].tobytes()
