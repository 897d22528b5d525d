"""The cache of binaries that the device's compiler made. No call fails without it.

What is in the cache is executed. So nothing is read from a file or a folder that another user owns or may
write to, and neither is reached through a link: an attacker who may write to a parent folder can put in
something else, but nothing that belongs to this user.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

_FOLDERS = ("integrity_triton", "opencl")
_LARGEST = 64 << 20  # bytes; the largest binary has less than one of them
_DIGEST_SIZE = 32
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH

_logger = logging.getLogger("integrity_triton")


def base() -> Path | None:
    """The folder for all caches of this user, as the XDG Base Directory Specification says; None if there is
    none. A relative path in XDG_CACHE_HOME is ignored, as the specification demands."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):
        return Path(given)
    try:
        home = Path.home()
    except RuntimeError:  # the user has no home directory
        return None
    return home / ".cache" if home.is_absolute() else None


def read(name: str) -> bytes | None:
    """The binary that :func:`write` stored under ``name``. None if there is none, if it is damaged, or if
    another user could have written it."""
    try:
        with _folder(make=False) as folder:
            # O_NONBLOCK, because opening a named pipe would wait for a writer.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with open(os.open(name, flags, dir_fd=folder), "rb") as file:
                _check(os.fstat(file.fileno()), stat.S_ISREG, name)
                data = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        _logger.info("the cached binary of %s is not used: %s", name, error)
        return None
    digest, binary = data[:_DIGEST_SIZE], data[_DIGEST_SIZE:]
    return binary if hashlib.sha256(binary).digest() == digest else None


def write(name: str, binary: bytes) -> None:
    """Store a binary under ``name``. If that is impossible, it is logged and nothing else happens."""
    temporary = f".{secrets.token_hex(8)}.tmp"
    try:
        with _folder(make=True) as folder:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                with open(os.open(temporary, flags, 0o600, dir_fd=folder), "wb") as file:
                    file.write(hashlib.sha256(binary).digest() + binary)
                # The file appears at once and whole, because other processes may read it meanwhile.
                os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise
    except OSError as error:
        _logger.info("the binary of %s is not cached: %s", name, error)


@contextlib.contextmanager
def _folder(*, make: bool) -> Iterator[int]:
    """A descriptor of the cache's folder. Raises OSError if there is none, or if it is not private."""
    path = base()
    if path is None:
        raise FileNotFoundError("the user has no folder for caches")
    if os.open not in os.supports_dir_fd or not hasattr(os, "geteuid"):
        raise OSError("this system cannot tell whether the folder is private")
    if make:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.ExitStack() as opened:
        parent = _open_folder(str(path), None)
        opened.callback(os.close, parent)
        for name in _FOLDERS:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=parent)
            parent = _open_folder(name, parent)
            opened.callback(os.close, parent)
            _check(os.fstat(parent), stat.S_ISDIR, name)
        yield parent


def _open_folder(name: str, parent: int | None) -> int:
    follow = 0 if parent is None else os.O_NOFOLLOW  # the user's folder for caches may be a link
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | follow, dir_fd=parent)


def _check(state: os.stat_result, is_expected: Callable[[int], bool], name: str) -> None:
    """Raise OSError unless the state is that of a file of the expected kind that only this user may write."""
    if not is_expected(state.st_mode):
        raise OSError(f"{name} is of another kind")
    if state.st_uid != os.geteuid() or state.st_mode & _OTHERS_MAY_WRITE:
        raise PermissionError(f"{name} belongs to another user, or another user may write to it")
