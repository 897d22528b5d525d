"""Triton's own cache. Triton compiles nothing without one, so it is given another if the usual one fails."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Callable

_VARIABLE = "TRITON_CACHE_DIR"
_ROOM = 1 << 20  # bytes, more than the files of a kernel take

_logger = logging.getLogger("integrity_triton")
_is_checked = False


def launch_with_cache(launch: Callable[[], object]) -> None:
    """Call ``launch``, which launches a kernel that Triton may have to compile first.

    If the folder of Triton's cache cannot be written, this process uses a temporary one, which it removes
    when it ends. Only one thread may be in this function at a time.
    """
    global _is_checked
    if not _is_checked:
        _make_usable()
        _is_checked = True
    try:
        launch()
    except OSError:  # the kernel was not launched, because it could not be compiled: the disk may be full now
        if not _make_usable():
            raise
        launch()


def _make_usable() -> bool:
    """Whether Triton's cache could not be written, and is now another folder."""
    if os.environ.get("TRITON_CACHE_MANAGER"):  # it does not use this folder
        return False
    folder = _folder()
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_ROOM))
    except OSError as error:
        other = _temporary_folder()
        _logger.warning("Triton's cache %s cannot be used: %s; this process uses %s", folder, error, other)
        _use(other)
        return True
    return False


def _folder() -> str:
    try:
        from triton import knobs
    except ImportError:  # Triton 3.3
        from triton.runtime.cache import default_cache_dir

        return os.environ.get(_VARIABLE, "").strip() or str(default_cache_dir())
    return str(knobs.cache.dir)


def _use(folder: str) -> None:
    try:
        from triton import knobs
    except ImportError:  # Triton 3.3
        os.environ[_VARIABLE] = folder
    else:
        knobs.cache.dir = folder


def _temporary_folder() -> str:
    folder, owner = tempfile.mkdtemp(prefix="integrity_triton-"), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder
