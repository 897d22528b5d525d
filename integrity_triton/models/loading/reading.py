"""Reading parts of a file into memory that is already there."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, wait
from typing import Any, BinaryIO

from ..errors import ManifestError
from .errors import LoadError
from .plan import PlannedFile

PIECE_SIZE = 256 << 10
"""Bytes that are read and hashed at once: they are still in the second cache of a processor when they are
hashed."""
_MOST_VIEWS = 512  # at once; the least IOV_MAX of a POSIX system that has more than 16 is 1024


class Cancellation:
    """Tells threads to end, because an exception or an interrupt has ended the load."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        self._event.set()

    def check(self) -> None:
        """Raise CancelledError if the load has ended."""
        if self._event.is_set():
            raise CancelledError


def join(tasks: Sequence[Future[Any]]) -> None:
    """Wait for all tasks. Raises the exception of one that failed, at once."""
    done, _ = wait(tasks, return_when=FIRST_EXCEPTION)
    for task in done:
        task.result()


@contextlib.contextmanager
def opened(file: PlannedFile) -> Iterator[BinaryIO]:
    """The file whose header was read, for :func:`fill`. Raises LoadError if it is no longer that file."""
    try:
        stream = open(file.layout.path, "rb", buffering=0, opener=file.layout.open)  # noqa: SIM115
    except ManifestError as error:
        raise LoadError(str(error), file=file.path, range=(0, file.layout.size)) from None
    with stream:
        yield stream


def fill(file: PlannedFile, stream: BinaryIO, offset: int, views: Sequence[memoryview]) -> None:
    """Fill ``views``, one after the other, with the bytes of a file from ``offset`` on.

    Raises LoadError if the file ends before, and OSError, which names the file, if it cannot be read.
    """
    pending = [view for view in views if len(view)][::-1]  # the next one is the last
    while pending:
        some = pending[: -_MOST_VIEWS - 1 : -1]
        try:
            if hasattr(os, "preadv"):
                got = os.preadv(stream.fileno(), some, offset)
            else:  # not on Windows, for example; every caller has a stream of its own
                stream.seek(offset)
                got = stream.readinto(some[0])  # type: ignore[attr-defined]
        except OSError as error:
            if error.errno is None:
                raise
            reason = f"{os.strerror(error.errno)} (reading at byte {offset})"
            raise OSError(error.errno, reason, file.path) from None
        if got == 0:
            raise LoadError(
                f"{file.path}: the file was cut while it was being read: it ends at byte {offset}, and "
                f"{file.layout.size} were expected",
                file=file.path,
                range=(offset, file.layout.size),
            )
        offset += got
        while pending and got >= len(pending[-1]):
            got -= len(pending.pop())
        if got:
            pending[-1] = pending[-1][got:]
