"""Reading the inputs of commands: files and standard input, secrets, and sizes for a progress bar."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..remote_files import Url, is_remote, local_path, located
from .terminal import Meter

if TYPE_CHECKING:
    from ..algorithms import Algorithm

_STREAM_BUFFER = 8 << 20
_MAX_SECRET_SIZE = 1 << 16


@dataclass(frozen=True)
class FileHasher:
    """Hashes files with one set of parameters. The name ``-`` stands for standard input."""

    algorithm: Algorithm
    key: bytes | None
    length: int
    backend: str | None

    def digest(self, name: str, meter: Meter | None) -> bytes:
        from ..files import update_from_file
        from ..hashing import new

        hasher = new(self.algorithm.name, key=self.key, backend=self.backend)
        progress = None if meter is None else meter.advance
        if name == "-":
            _update_from_stream(hasher, stdin(), progress)
        elif _size(name):
            update_from_file(hasher, name, progress=progress)
        else:  # pipes and devices have no size, and files under /proc report a size of 0
            with open(local_path(name), "rb", buffering=0) as stream:
                _update_from_stream(hasher, stream, progress)
        return hasher.digest(self.length if self.algorithm.xof else None)


def _update_from_stream(hasher: Any, stream: Any, progress: Callable[[int], None] | None) -> None:
    from ..files import read_into

    buffer = memoryview(bytearray(_STREAM_BUFFER))
    # readinto() reads until the buffer is full, and would ask a terminal again after its end (Ctrl-D).
    read = stream.readinto1 if stream.isatty() and hasattr(stream, "readinto1") else stream.readinto
    while size := read_into(read, buffer):
        hasher.update(buffer[:size])
        if progress is not None:
            progress(size)


def open_list(name: str) -> BinaryIO:
    """A file for ``readline``, whose path may be a URL."""
    place = located(name)
    return place.file().stream() if isinstance(place, Url) else open(local_path(name), "rb")


def stdin() -> BinaryIO:
    if sys.stdin is None:
        raise OSError("standard input is closed")
    return sys.stdin.buffer


def stdin_of_lines() -> BinaryIO:
    """Standard input for ``readline``. Python's own file takes for the end that it does not wait for data and
    has none now; this one raises BlockingIOError."""
    return io.BufferedReader(_Arriving(stdin()))


class _Arriving(io.RawIOBase):
    def __init__(self, stream: BinaryIO) -> None:
        self._stream: Any = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        from ..files import read_into

        return read_into(self._stream.readinto1, buffer)


def _size(name: str) -> int | None:
    """The size in bytes of a regular file, or of one at a URL; None for anything else."""
    place = located(name)
    if isinstance(place, Url):
        return place.file().size
    status = os.stat(local_path(name))
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def total_size(names: Sequence[str]) -> int | None:
    """The size in bytes of all files together; None if one of them is not a regular file."""
    total = 0
    for name in names:
        try:
            size = None if name == "-" else _size(name)
        except OSError:
            continue
        if size is None:
            return None
        total += size
    return total


def read_secret(path: str) -> bytes:
    with open(path, "rb") as file:
        secret = file.read(_MAX_SECRET_SIZE + 1)
    if len(secret) > _MAX_SECRET_SIZE:
        raise ValueError(f"{path}: larger than {_MAX_SECRET_SIZE} bytes; a key or password is not that long")
    return secret


def model_size(source: str) -> int:
    """The size in bytes of a safetensors file, or of all safetensors files in a folder and its subfolders."""
    place = located(source)
    if isinstance(place, Url):
        sizes = place.files() if place.is_folder() else {".safetensors": place.file().size}
        return sum(size for name, size in sizes.items() if name.endswith(".safetensors"))
    return sum(file.stat().st_size for file in model_files(source) if file.suffix == ".safetensors")


def model_files(source: str) -> Iterator[Path]:
    """A safetensors file, or the weights and indexes in a folder and its subfolders; none for a URL."""
    from ..models.folder import is_model_file

    if is_remote(source):
        return
    path = Path(local_path(source))
    if not path.is_dir():
        yield path
        return
    yield from (file for file in path.rglob("*") if is_model_file(file.name))


def folder_size(folder: str) -> int:
    """About how many bytes a model has, which is a folder or one file. What cannot be read counts as 0."""
    total = 0
    paths = (os.path.join(place, name) for place, _, names in os.walk(folder) for name in names)
    for path in [folder] if os.path.isfile(folder) else paths:
        with suppress(OSError):
            total += _size(path) or 0
    return total
