"""Opening files that others may have put there: regular ones only, and without waiting for anything."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, Protocol, TypeVar

from ..remote_files import RemoteFile, Url, local_path, located

_Seen = TypeVar("_Seen")
Identity = tuple[int, ...]

MOST_VIEWS = 512  # at once; the least IOV_MAX of a POSIX system that has more than 16 is 1024
_MOST_TICKS = 10  # how often to wait; what changes all the time is found changed afterwards
_TICK = 0.01  # in seconds; the clock of Linux with the slowest setting

_NO_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0)
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def kind_of_node(mode: int) -> str:
    """What ``st_mode`` says that something in a file system is."""
    return next((kind for test, kind in _KINDS if test(mode)), "a file")


def identity(status: os.stat_result) -> Identity:
    """What changes when another file takes a file's place, or when its content is written to.

    The time of the last change of the inode is part of it, because a program can set back only the other
    time, that of the last modification.
    """
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def how_changed(status: os.stat_result, size: int) -> str:
    """What has happened to an open file of ``size`` bytes whose :func:`identity` is another one now: it
    "was removed", "was cut" or "changed"."""
    if status.st_nlink == 0:  # removing a name changes the inode, too
        return "was removed"
    return "was cut" if status.st_size < size else "changed"


def rest_of_tick(*changed: float) -> float:
    """How many seconds are left of the ticks of the clock in which a file changed, at most 0.01; 0 if they
    have passed. Each of ``changed`` is in seconds, as in ``st_mtime``. Pass the times separately: a program
    can set one of them to the future, and that must not hide another.

    A change in the same tick has the same time stamp, and would not be noticed by :func:`identity`.
    """
    now = time.time()
    ages = [now - time_of_change for time_of_change in changed]
    return max((_TICK - age for age in ages if 0 <= age < _TICK), default=0.0)


def settled(look: Callable[[], _Seen], changed: Callable[[_Seen], Iterable[float]]) -> _Seen:
    """What ``look`` sees, once a tick of the clock with which file systems stamp changes has passed since the
    last of the times that ``changed`` tells of it. A later change then has another time stamp, and is
    noticed."""
    for _ in range(_MOST_TICKS):
        seen = look()
        rest = rest_of_tick(*changed(seen))
        if not rest:
            break
        time.sleep(rest)
    return seen


def open_regular(path: str | os.PathLike[str], flags: int = 0) -> int:
    """A descriptor that reads a regular file. Raises ValueError if ``path`` is anything else.

    A pipe is not waited for, and a device is opened without an effect on it, as far as the system allows.
    """
    if not stat.S_ISREG(mode := os.stat(path).st_mode):  # opening a device can have effects
        raise ValueError(f"{os.fspath(path)}: {kind_of_node(mode)}, not a regular file")
    descriptor = os.open(path, os.O_RDONLY | _NO_WAITING | flags)
    if not stat.S_ISREG(mode := os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{os.fspath(path)}: {kind_of_node(mode)}, not a regular file")
    return descriptor


def read_regular(path: str | os.PathLike[str] | RemoteFile, limit: int, what: str) -> bytes:
    """The content of a regular file that holds ``what`` and has at most ``limit`` bytes.

    No more is read even if the file has no end. The path may be a URL. Raises ValueError, which names the
    path, if the file is not regular or too large, and OSError if it cannot be read.
    """
    place = located(path)
    if isinstance(place, Url | RemoteFile):
        return _read_remote(place, limit, what)
    descriptor = open_regular(place)
    size = os.fstat(descriptor).st_size
    if size > limit:
        os.close(descriptor)
        raise ValueError(f"{os.fspath(place)}: {size} bytes; {what} has at most {limit}")
    with open(descriptor, "rb") as file:
        data = file.read(limit + 1)
    if data is None:  # some files of the system have nothing to read yet
        raise BlockingIOError(errno.EAGAIN, "reading would have to wait", os.fspath(place))
    if len(data) > limit:
        raise ValueError(f"{os.fspath(place)}: {len(data)} bytes; {what} has at most {limit}")
    return data


def _read_remote(place: Url | RemoteFile, limit: int, what: str) -> bytes:
    file = place.file() if isinstance(place, Url) else place
    if file.size > limit:
        raise ValueError(f"{file}: {file.size} bytes; {what} has at most {limit}")
    data = bytes(file.read(0, file.size))
    if not file.is_unchanged():
        raise OSError(errno.ESTALE, "the file changed while it was being read", str(file))
    return data


def read_head(path: str | os.PathLike[str], size: int) -> bytes:
    """The first ``size`` bytes of a regular file, as many as it has. The path may be a URL. Raises as
    :func:`read_regular`."""
    place = located(path)
    if isinstance(place, Url):
        return bytes(place.file().read(0, size))
    with open(open_regular(local_path(path)), "rb") as file:  # a named pipe would be waited for
        return file.read(size)


class Reader(Protocol):
    """An open file that is read at any place, by any number of threads."""

    def read_into(self, views: Sequence[memoryview], offset: int) -> int:
        """Fill ``views``, one after the other, with the bytes from ``offset`` on. Returns how many were read,
        at least one except at the end of the file. Raises OSError, which names the file."""


class LocalReader:
    """A :class:`Reader` of an open file, whose path ``name`` is."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name

    def read_into(self, views: Sequence[memoryview], offset: int) -> int:
        try:
            if hasattr(os, "preadv"):
                return os.preadv(self._stream.fileno(), views[:MOST_VIEWS], offset)
            self._stream.seek(offset)  # not on Windows, for example; every caller has a stream of its own
            got: int = self._stream.readinto(views[0])  # type: ignore[attr-defined]
        except OSError as error:
            if error.errno is None:
                raise
            reason = f"{os.strerror(error.errno)} (reading at byte {offset})"
            raise OSError(error.errno, reason, self._name) from None
        return got


@contextmanager
def local_reader(path: str | os.PathLike[str], opener: Callable[[str, int], int]) -> Iterator[LocalReader]:
    """A reader of a file in the local file system. ``opener`` is as for :func:`open`."""
    with open(path, "rb", buffering=0, opener=opener) as stream:
        yield LocalReader(stream, os.fspath(path))
