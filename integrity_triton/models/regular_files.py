"""Opening files that others may have put there: regular ones only, and without waiting for anything."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

_Seen = TypeVar("_Seen")
Identity = tuple[int, ...]

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


def read_regular(path: str | os.PathLike[str], limit: int, what: str) -> bytes:
    """The content of a regular file that holds ``what`` and has at most ``limit`` bytes.

    No more is read even if the file has no end. Raises ValueError, which names the path, if the file is not
    regular or too large, and OSError if it cannot be read.
    """
    with open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(limit + 1) if size <= limit else b""
        if data is None:  # some files of the system have nothing to read yet
            raise BlockingIOError(errno.EAGAIN, "reading would have to wait", os.fspath(path))
    if size > limit or len(data) > limit:
        raise ValueError(f"{os.fspath(path)}: {max(size, len(data))} bytes; {what} has at most {limit}")
    return data
