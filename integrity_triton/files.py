"""Hashing files, and parts of files, with bounded memory."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from collections.abc import Callable, Iterator
from typing import Any

from . import algorithms
from .hashing import Hash, new
from .remote_files import RemoteFile, Url, located
from .workers import Workers

Progress = Callable[[int], None]
"""Called with the number of bytes just hashed."""

_BUFFER_SIZE = 8 << 20
MOST_IN_BLOCK = _BUFFER_SIZE
_BUFFERS = 2  # one is filled while the other is hashed
_SMALL = 1 << 20


def read_into(read: Callable[[memoryview], int | None], view: memoryview) -> int:
    """How many bytes ``read``, a file's ``readinto``, has put at the front of ``view``; 0 at the file's end.

    Raises BlockingIOError if the file does not wait for data and has none now, which is not its end.
    """
    size = read(view)
    if size is None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return size


def _fill(file: io.FileIO, view: memoryview) -> memoryview:
    """The part of ``view`` that was filled from the file. It is shorter than ``view`` only at the file's
    end."""
    got = 0
    while got < len(view) and (size := read_into(file.readinto, view[got:])):
        got += size
    return view[:got]


def read_pieces(
    path: str | os.PathLike[str] | RemoteFile,
    start: int = 0,
    end: int | None = None,
    *,
    opener: Callable[[str, int], int] | None = None,
) -> Iterator[memoryview]:
    """The bytes ``[start, end)`` of a file in pieces; a thread reads the next piece of a regular file ahead.

    Without ``end`` everything that can be read is read, also from a pipe, or from a file under ``/proc``,
    which claims to be empty. A piece is valid until the iterator is advanced. Memory use does not depend on
    the file's size. ``opener`` is as for :func:`open`. Raises OSError if the file cannot be read, and
    EOFError if it ends before ``end``.

    The path may be a URL, as :mod:`~integrity_triton.remote_files` describes; reading it raises as
    :meth:`Url.file` does, and OSError if the file is another one at the end. A :class:`RemoteFile` that was
    found before is not looked at again, and ``opener`` does not matter for it.
    """
    place = located(path)
    if isinstance(place, Url):
        found = place.file()
        yield from _pieces_of(found, start, end)
        if not found.is_unchanged():
            raise OSError(errno.ESTALE, "the file changed while it was being read", str(found))
        return
    if isinstance(place, RemoteFile):
        yield from _pieces_of(place, start, end)
        return
    with open(place, "rb", buffering=0, opener=opener) as file:
        if start:
            file.seek(start)
        if end is not None and end - start <= _SMALL:  # a thread would take longer than it saves
            pieces = iter([_fill(file, memoryview(bytearray(max(0, end - start))))])
        elif stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            pieces = _read_ahead(file, None if end is None else end - start)
        else:
            pieces = _read_here(file, None if end is None else end - start)
        offset = start
        for piece in pieces:
            offset += len(piece)
            if piece:
                yield piece
        if end is not None and offset < end:
            raise EOFError(f"{os.fspath(place)}: the file ends at byte {offset}, {end} were expected")


def _pieces_of(file: RemoteFile, start: int, end: int | None) -> Iterator[memoryview]:
    if end is not None and file.size < end:
        raise EOFError(f"{file}: the file ends at byte {file.size}, {end} were expected")
    yield from file.pieces(start, end)


def read_blocks(
    path: str | os.PathLike[str],
    size: int,
    start: int = 0,
    end: int | None = None,
    *,
    opener: Callable[[str, int], int] | None = None,
) -> Iterator[memoryview]:
    """As :func:`read_pieces`, in pieces of whole blocks of ``size`` bytes, except for the last one. ``size``
    is at most :data:`MOST_IN_BLOCK`."""
    rest = bytearray()
    for piece in read_pieces(path, start, end, opener=opener):
        first = 0
        if rest:
            first = min(size - len(rest), len(piece))
            rest += piece[:first]
            if len(rest) < size:
                continue
            yield memoryview(bytes(rest))
            rest = bytearray()
        last = len(piece) - (len(piece) - first) % size
        if first < last:
            yield piece[first:last]
        rest += piece[last:]
    if rest:
        yield memoryview(bytes(rest))


def _read_here(file: io.FileIO, length: int | None) -> Iterator[memoryview]:
    """As :func:`_read_ahead`, without a thread: one that waits for a pipe cannot be interrupted."""
    buffer = memoryview(bytearray(_BUFFER_SIZE))
    left = sys.maxsize if length is None else length
    while piece := _fill(file, buffer[:left]):
        left -= len(piece)
        yield piece


def _read_ahead(file: io.FileIO, length: int | None) -> Iterator[memoryview]:
    """The next ``length`` bytes of a file, or all up to its end, while a thread reads the next piece."""
    size = _BUFFER_SIZE if length is None else min(_BUFFER_SIZE, length)
    buffers = [memoryview(bytearray(size)) for _ in range(_BUFFERS)]

    def read(buffer: memoryview, offset: int) -> memoryview:
        return _fill(file, buffer if length is None else buffer[: max(0, min(size, length - offset))])

    with Workers(1) as reader:
        turn, offset = 0, 0
        pending = reader.submit(read, buffers[0], offset)
        while piece := pending.result():
            offset += len(piece)
            turn = (turn + 1) % _BUFFERS
            pending = reader.submit(read, buffers[turn], offset)
            yield piece


def update_from_file(
    hasher: Hash,
    path: str | os.PathLike[str] | RemoteFile,
    *,
    start: int = 0,
    end: int | None = None,
    progress: Progress | None = None,
    opener: Callable[[str, int], int] | None = None,
) -> None:
    """Feed the bytes ``[start, end)`` of a file to a running hash. The path and ``opener`` are as for
    :func:`read_pieces`."""
    for piece in read_pieces(path, start, end, opener=opener):
        hasher.update(piece)
        if progress is not None:
            progress(len(piece))


def hash_file(
    path: str | os.PathLike[str],
    algorithm: str,
    /,
    *,
    start: int = 0,
    end: int | None = None,
    key: Any = None,
    length: int | None = None,
    backend: str | None = None,
    progress: Progress | None = None,
    **params: Any,
) -> bytes:
    """The digest of the bytes ``[start, end)`` of a file; the whole file by default. The path may be a URL
    that fsspec takes, such as ``s3://bucket/model.safetensors`` (the extra ``remote``).

    Raises as :func:`integrity_triton.new` does, OSError if the file cannot be read, and EOFError if it ends
    before ``end``.
    """
    if algorithms.get(algorithm).takes_tuples:
        raise ValueError(f"{algorithm} takes tuples of byte strings, not files")
    hasher = new(algorithm, key=key, backend=backend, **params)
    update_from_file(hasher, path, start=start, end=end, progress=progress)
    return hasher.digest(length)
