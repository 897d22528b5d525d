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

# A folder that is not writable, a file on which something is mounted, and a sticky folder of another user.
_NOT_REPLACEABLE = {errno.EACCES, errno.EBUSY, errno.EPERM, errno.EROFS}

moved_descriptors: dict[int, int] = {}
"""Where the file of a descriptor is now, by the descriptor's old number. Who redirects a descriptor of this
process for a while enters it here, so that an output with its name goes where the caller meant."""


def write_file(path: PathLike, data: bytes) -> None:
    """Write ``data`` to ``path``.

    A regular file, or the regular file that a link leads to, is replaced as a whole: after an error, the old
    content is still there. The new file has the mode of the old one. A file that may be written but not
    replaced, because of its folder or because something is mounted on it, is overwritten in place. Anything
    else that exists, such as a device, a pipe or a descriptor of this process (``/dev/stdout``), is written
    into and stays what it is.

    Raises OSError, which names ``path``.
    """
    with naming(path):
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
    with naming(path):
        target = _file_to_replace(path)
        if target is None:
            _check_existing(os.fspath(path))
            return
        temporary = _temporary(target)  # what the system says of it, it would say of the real one
        try:
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError as error:
            if not _only_in_place(error, target):
                raise
        else:
            os.unlink(temporary)
    for source in inputs:
        with suppress(OSError):  # an input that does not exist is not this file
            if os.path.samefile(path, source):
                raise ValueError(f"{os.fspath(path)}: this is an input, and the output would replace it")


@contextmanager
def naming(path: PathLike) -> Iterator[None]:
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


def _check_existing(path: str) -> None:
    """Raise OSError if something that is not a regular file cannot be written into. It is not opened, because
    that can wait or have effects."""
    descriptor, path = _descriptor_or_path(path)
    if descriptor is not None:
        import fcntl  # a system with descriptors as files has it

        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "this descriptor is open only for reading")
        return
    if stat.S_ISSOCK(os.stat(path).st_mode):
        raise OSError(errno.ENXIO, "a socket cannot be written to as a file")
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _open_existing(path: str) -> int:
    """A descriptor for something that is not a regular file.

    A descriptor of this process is duplicated rather than opened again, so that what is written follows what
    was written before.
    """
    descriptor, path = _descriptor_or_path(path)
    if descriptor is not None:
        return os.dup(descriptor)
    return os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)


def _descriptor_or_path(path: str) -> tuple[int | None, str]:
    """The descriptor of this process that ``path`` leads to, or None; and the path without links."""
    while os.path.islink(path):
        folder, name = os.path.split(path)
        if _is_own_descriptors(os.path.realpath(folder)) and name.isdecimal():
            return moved_descriptors.get(int(name), int(name)), path
        if _is_process_folder(folder):
            break
        path = os.path.join(folder, os.readlink(path))
    return None, path


def _is_own_descriptors(folder: str) -> bool:
    """Whether a real path is the folder of this process's descriptors, or that of one of its threads."""
    process, _, thread = folder.removesuffix("/fd").partition("/task/")
    return folder.endswith("/fd") and process == f"/proc/{os.getpid()}" and "/" not in thread


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
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if not _only_in_place(error, target):
            raise
        _overwrite(target, data)


def _only_in_place(error: BaseException, target: str) -> bool:
    """Whether ``error``, from an attempt to replace ``target``, leaves the way to overwrite it in place."""
    if not isinstance(error, OSError) or error.errno not in _NOT_REPLACEABLE:
        return False
    return os.path.isfile(target) and os.access(target, os.W_OK)


def _overwrite(target: str, data: bytes) -> None:
    with open(target, "wb", opener=_open_for_writing) as file:
        file.write(data)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def _open_for_writing(path: str, _flags: int) -> int:
    """Open a file that may be writable without being readable."""
    return os.open(path, os.O_WRONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
