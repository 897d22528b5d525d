"""Where a safetensors file keeps each tensor, read only from the file's header.

The header is untrusted. Every byte of the file is accounted for: the header comes first, then the tensors'
bytes without gaps up to the end. The tensors' hashes therefore cover the whole file except the header's
spelling and its free-form ``__metadata__``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from ..remote_files import RemoteFile, Url, located
from ..strict_json import check_members, check_sizes, parse_object
from .dtypes import DTYPE_BITS, LARGEST_SIZE, byte_length
from .entry import check_name
from .errors import ManifestError, shown
from .file_kinds import HEAD_SIZE, SAFETENSORS, mistaken_for
from .regular_files import Reader, how_changed, identity, local_reader, open_regular, settled

MAX_HEADER_SIZE = 100_000_000
"""Bytes. The safetensors library has the same limit."""

_LENGTH_SIZE = 8
_METADATA = "__metadata__"
_FIELDS: Mapping[str, type] = {"dtype": str, "shape": list, "data_offsets": list}


_GONE = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ESTALE}


class FileChanged(ManifestError):
    """A file is no longer the one whose header was read. ``path`` is its path, and ``size`` the number of
    bytes that it had."""

    def __init__(self, message: str, path: str = "", size: int = 0) -> None:
        super().__init__(message)
        self.path = path
        self.size = size

    @classmethod
    def of(cls, file: SafetensorsFile, how: str) -> FileChanged:
        return cls(f"{file.path}: the file {how} while it was being read", str(file.path), file.size)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, whose bytes are ``[start, end)`` counted from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class SafetensorsFile:
    """The layout of one file. ``tensors`` is in the order of the bytes."""

    path: Path | RemoteFile
    """A path in the local file system, or a file of a store. As a str, it names the file."""
    tensors: tuple[StoredTensor, ...]
    metadata: Mapping[str, str]
    identity: tuple[object, ...]
    """What changes when another file takes the file's place."""
    size: int
    """Bytes in the file."""
    ties: Mapping[str, str]
    """Names that are not stored, each with the stored name of the same tensor. safetensors writes them into
    the metadata when it leaves out names of shared memory."""
    overlaid: tuple[str, ...] = ()
    """Names of tensors in this file that differ from the copies in another file, which count instead."""
    head: bytes = field(default=b"", repr=False)
    """The bytes of the file before the tensors' bytes, if they were to be kept; otherwise empty."""
    member: str = ""
    """The name of the file in its folder: the path in it, with slashes. Of a file that was read alone, the
    last part of its path."""

    @classmethod
    def read(cls, path: str | os.PathLike[str] | RemoteFile, *, keep_head: bool = False) -> SafetensorsFile:
        """Parse the header of a file, whose path may be a URL. ``keep_head`` keeps the bytes that were
        parsed.

        Raises OSError if the file cannot be read, and ManifestError, which names the file, if it is not a
        regular file or not a well-formed safetensors file; and for a URL as :meth:`Url.file`.
        """
        place = located(path)
        if isinstance(place, Url):
            place = place.file()
        if isinstance(place, RemoteFile):
            with place.stream() as stream:
                return cls._parse(place, stream, place.size, place.identity, keep_head)
        path = Path(place)
        try:
            descriptor = open_regular(path)
        except ValueError as error:
            raise ManifestError(str(error)) from None
        with open(descriptor, "rb") as file, _named(path):
            status = settled(lambda: os.fstat(descriptor), lambda status: (status.st_mtime, status.st_ctime))
            return cls._parse(path, file, status.st_size, identity(status), keep_head)

    @classmethod
    def _parse(
        cls,
        path: Path | RemoteFile,
        file: BinaryIO,
        size: int,
        identity: tuple[object, ...],
        keep_head: bool,
    ) -> SafetensorsFile:
        try:
            header, data_start = _read_header(file, size)
        except ManifestError as error:
            file.seek(0)
            head = file.read(HEAD_SIZE)
            known = mistaken_for("a safetensors file", head, SAFETENSORS) if head else None
            raise ManifestError(f"{path}: {known or error}") from None
        try:
            metadata, tensors = _parse_header(header, data_start, size - data_start)
        except ManifestError as error:
            raise ManifestError(f"{path}: {error}") from None
        stored = {tensor.name for tensor in tensors}
        ties = {name: to for name, to in metadata.items() if to in stored and name not in stored}
        head = (data_start - _LENGTH_SIZE).to_bytes(_LENGTH_SIZE, "little") + header if keep_head else b""
        return cls(path, tensors, metadata, identity, size, ties, head=head, member=path.name)

    def under(self, prefix: str) -> SafetensorsFile:
        """The same file, with names that begin with ``prefix``."""
        if not prefix:
            return self
        check_name(prefix)
        return replace(
            self,
            tensors=tuple(replace(t, name=prefix + t.name) for t in self.tensors),
            ties={prefix + name: prefix + to for name, to in self.ties.items()},
        )

    def selected(self, names: Mapping[str, str]) -> SafetensorsFile:
        """The same file with only the tensors that are keys of ``names``, under the names that are the
        values."""
        chosen = tuple(replace(t, name=names[t.name]) for t in self.tensors if t.name in names)
        return replace(self, tensors=chosen)

    def open(self, _path: str, _flags: int) -> int:
        """Open a file of the local file system again, as the ``opener`` of :func:`open`.

        Raises FileChanged (a ManifestError) if it is no longer the file whose header was read, and OSError
        for what no change of the file explains, such as too many open files.
        """
        assert isinstance(self.path, Path)
        try:
            descriptor = open_regular(self.path)
        except ValueError:
            raise FileChanged.of(self, "was replaced by what is no regular file") from None
        except OSError as error:
            raise self._gone(error) from None
        status = os.fstat(descriptor)
        if identity(status) != self.identity:
            os.close(descriptor)
            raise FileChanged.of(self, how_changed(status, self.size))
        return descriptor

    def reading(self) -> AbstractContextManager[Reader]:
        """What reads the file at any place. Entering it raises as :meth:`open`; a file of a store is compared
        afterwards alone."""
        if isinstance(self.path, RemoteFile):
            return nullcontext(self.path)
        return local_reader(self.path, self.open)

    def read_range(self, start: int, end: int) -> memoryview:
        """The bytes ``[start, end)``. Raises as :meth:`open`, and EOFError if the file ends before."""
        if isinstance(self.path, RemoteFile):
            data: bytes | memoryview = self.path.read(start, end)
        else:
            with open(self.path, "rb", opener=self.open) as opened:
                opened.seek(start)
                data = opened.read(end - start)
        if len(data) < end - start:
            raise EOFError(f"{self.path}: the file ends at byte {start + len(data)}, {end} were expected")
        return memoryview(data)

    def check_unchanged(self) -> None:
        """Raise FileChanged if the file is no longer the one whose header was read."""
        if isinstance(self.path, RemoteFile):
            if not self.path.is_unchanged():
                raise FileChanged.of(self, "changed")
            return
        try:
            status = self.path.stat()
        except OSError as error:
            raise self._gone(error) from None
        if not stat.S_ISREG(status.st_mode):
            raise FileChanged.of(self, "was replaced by what is no regular file")
        if identity(status) != self.identity:
            raise FileChanged.of(self, "changed")

    def _gone(self, error: OSError) -> Exception:
        """The error for a file that could not be found or opened, which was possible before."""
        if error.errno not in _GONE:
            return error
        removed = isinstance(error, FileNotFoundError | NotADirectoryError)
        return FileChanged.of(self, "was removed" if removed else f"became unreadable ({error.strerror})")


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Give the errors of reading an open file its path."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def _read_header(file: BinaryIO, file_size: int) -> tuple[bytes, int]:
    """The header's JSON and the offset at which the tensors' bytes begin."""
    prefix = file.read(_LENGTH_SIZE)
    if len(prefix) < _LENGTH_SIZE:
        raise ManifestError(f"not a safetensors file: only {len(prefix)} bytes long")
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_SIZE:
        raise ManifestError(f"the header claims {length} bytes; at most {MAX_HEADER_SIZE} are allowed")
    if length > file_size - _LENGTH_SIZE:
        raise ManifestError(f"the header is cut: it claims {length} bytes, the file has {file_size} in all")
    header = file.read(length)
    if len(header) < length:
        raise ManifestError("the file was cut while it was being read")
    if not header.startswith(b"{"):
        raise ManifestError("the header does not begin with '{'")
    return header, _LENGTH_SIZE + length


def _parse_header(
    header: bytes, data_start: int, data_size: int
) -> tuple[Mapping[str, str], tuple[StoredTensor, ...]]:
    try:
        members = parse_object(header)
    except ValueError as error:
        raise ManifestError(f"header: {error}") from None
    metadata = members.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ManifestError(f"header: {_METADATA} must be an object of strings")
    tensors = []
    for name, description in members.items():
        try:
            tensors.append(_parse_tensor(name, description, data_start))
        except ValueError as error:
            raise ManifestError(f"header: tensor {shown(name)}: {error}") from None
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    _check_layout(tensors, data_start, data_start + data_size)
    return metadata, tuple(tensors)


def _parse_tensor(name: str, description: Any, data_start: int) -> StoredTensor:
    check_name(name)
    if not isinstance(description, dict):
        raise ManifestError("its description must be an object")
    check_members(description, _FIELDS)
    dtype = description["dtype"]
    if dtype not in DTYPE_BITS:
        raise ManifestError(f"unknown dtype {shown(dtype)}")
    shape = check_sizes(description["shape"], "shape")
    offsets = check_sizes(description["data_offsets"], "data_offsets")
    if len(offsets) != 2:
        raise ManifestError(f"data_offsets must be two offsets, not {len(offsets)}")
    begin, end = offsets
    if begin > end or end > LARGEST_SIZE:
        raise ManifestError(f"data_offsets {begin} to {end} are not a range of bytes")
    expected = byte_length(dtype, shape)
    if expected is None:
        raise ManifestError(f"its shape and dtype {dtype} do not give a valid number of bytes")
    if expected != end - begin:
        raise ManifestError(
            f"its shape and dtype {dtype} take {expected} bytes, its data_offsets {end - begin}"
        )
    return StoredTensor(name, dtype, shape, data_start + begin, data_start + end)


def _check_layout(tensors: Iterable[StoredTensor], data_start: int, data_end: int) -> None:
    position = data_start
    for tensor in tensors:
        if tensor.start != position:
            fault = "overlaps the one before it" if tensor.start < position else "leaves a hole before it"
            raise ManifestError(f"header: tensor {shown(tensor.name)} {fault}")
        if tensor.end > data_end:
            raise ManifestError(
                f"tensor {shown(tensor.name)} ends at byte {tensor.end} of the file, which has {data_end}"
            )
        position = tensor.end
    if position != data_end:
        raise ManifestError(f"{data_end - position} bytes follow the last tensor")
