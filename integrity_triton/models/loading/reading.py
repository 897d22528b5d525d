"""Reading parts of a file into memory that is already there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import Any

from ...remote_files import PIECE_SIZE as REMOTE_PIECE_SIZE
from ...remote_files import RemoteFile
from ..regular_files import MOST_VIEWS, Reader
from .errors import LoadError
from .plan import PlannedFile, changes_are_load_errors

PIECE_SIZE = 256 << 10
"""Bytes that are read and hashed at once: they are still in the second cache of a processor when they are
hashed."""


def join(tasks: Sequence[Future[Any]]) -> None:
    """Wait for all tasks. Raises the exception of one that failed, at once."""
    done, _ = wait(tasks, return_when=FIRST_EXCEPTION)
    for task in done:
        task.result()


@contextlib.contextmanager
def opened(file: PlannedFile) -> Iterator[Reader]:
    """The file whose header was read, for :func:`fill`. Raises LoadError if it is no longer that file."""
    with contextlib.ExitStack() as stack:
        with changes_are_load_errors():
            reader = stack.enter_context(file.layout.reading())
        yield reader


def piece_size(file: PlannedFile, size: int) -> int:
    """How many bytes of a file are read at once, if ``size`` are of one in the local file system: a request
    to a store takes longer than a call of the system."""
    return max(size, REMOTE_PIECE_SIZE) if isinstance(file.layout.path, RemoteFile) else size


def fill(file: PlannedFile, reader: Reader, offset: int, views: Sequence[memoryview]) -> None:
    """Fill ``views``, one after the other, with the bytes of a file from ``offset`` on.

    Raises LoadError if the file ends before, and OSError, which names the file, if it cannot be read.
    """
    pending = [view for view in views if len(view)][::-1]  # the next one is the last
    while pending:
        got = reader.read_into(pending[: -MOST_VIEWS - 1 : -1], offset)
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
