"""Writing a file that a caller named as an output.

Everything that writes such a file calls :func:`write_file`, and a long computation calls
:func:`check_output_file` before it begins.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

PathLike = str | os.PathLike[str]

_MOST_LINKS = 40  # as many as Linux follows


def write_file(path: PathLike, data: bytes) -> None:
    """Write ``data`` to ``path``.

    A regular file, or the regular file that a link leads to, is replaced as a whole: after an error, the old
    content is still there. The new file has the mode of the old one. Anything else that exists, such as a
    device, a pipe or a descriptor of this process (``/dev/stdout``), is written into and stays what it is.

    Raises OSError, which names ``path``.
    """
    with _naming(path):
        target = _file_to_replace(path)
        if target is None:
            _write_into(path, data)
        else:
            _replace(target, data)


def check_output_file(path: PathLike, inputs: Iterable[PathLike] = ()) -> None:
    """Check that :func:`write_file` can write to ``path``, as far as the system tells. What is there does
    not change.

    Raises OSError, which names ``path``, and ValueError if ``path`` is one of ``inputs``.
    """
    with _naming(path):
        target = _file_to_replace(path)
        if target is None:
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        temporary = _temporary(target)  # what the system says of it, it would say of the real one
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.unlink(temporary)
    for source in inputs:
        with suppress(OSError):  # an input that does not exist is not this file
            if os.path.samefile(path, source):
                raise ValueError(f"{os.fspath(path)}: this is an input, and the output would replace it")


@contextmanager
def _naming(path: PathLike) -> Iterator[None]:
    """Let an OSError of the block name ``path``, and not another file that the work involves."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # then it is not the system's
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def _file_to_replace(path: PathLike) -> str | None:
    """The regular file that ``path`` is or leads to, which need not exist yet; None for anything else.

    Raises OSError for a directory, for a file that may not be written and for links in a circle.
    """
    target = os.fspath(path)
    if not target:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    for _ in range(_MOST_LINKS):
        if not os.path.islink(target):
            break
        if _is_process_folder(os.path.dirname(target)):
            return None
        target = os.path.join(os.path.dirname(target), os.readlink(target))
    else:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return target
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        return None
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return target


def _is_process_folder(folder: str) -> bool:
    """Whether ``folder`` is below ``/proc``. Its links lead to open files, which have no other name there."""
    return os.path.realpath(folder).startswith("/proc/")


def _write_into(path: PathLike, data: bytes) -> None:
    with open(_open_existing(os.fspath(path)), "wb") as file:
        file.write(data)


def _open_existing(path: str) -> int:
    """A descriptor for something that is not a regular file.

    A descriptor of this process is duplicated rather than opened again, so that what is written follows what
    was written before.
    """
    while os.path.islink(path):
        folder, name = os.path.split(path)
        if os.path.realpath(folder) == f"/proc/{os.getpid()}/fd" and name.isdecimal():
            return os.dup(int(name))
        if _is_process_folder(folder):
            break
        path = os.path.join(folder, os.readlink(path))
    return os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)


def _temporary(target: str) -> str:
    """The name of a new file in the folder of ``target``, and so on the same file system."""
    return os.path.join(os.path.dirname(target), f".{secrets.token_hex(8)}.tmp")


def _replace(target: str, data: bytes) -> None:
    temporary = _temporary(target)
    try:
        with open(temporary, "xb") as file:
            with suppress(FileNotFoundError):
                old = os.stat(target)
                if hasattr(os, "fchown") and (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                    with suppress(OSError):  # only root may give a file to another user
                        os.fchown(file.fileno(), old.st_uid, old.st_gid)
                os.chmod(temporary, stat.S_IMODE(old.st_mode) & 0o777)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
