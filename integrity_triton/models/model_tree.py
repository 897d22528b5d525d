"""The files of a model folder as they are on disk, with what in it is no plain file.

Nothing is left out silently: a folder that cannot be listed is an error, and links, pipes, sockets and
devices are reported to the caller, who decides.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ..errors import IntegrityError
from ..remote_files import local_path
from .regular_files import Identity, how_changed, identity, kind_of_node, open_regular

SINGLE_FILE = "."
"""The name of the file in the tree of a model that is one file."""

LINK = kind_of_node(stat.S_IFLNK)
"""Why a link is refused where links are not followed."""

_SHARED_MARKER = ".huggingface-shared-blobs"


@dataclass(frozen=True)
class ModelFile:
    """A regular file: the path from which it is read, which is not a link, and which file was there."""

    path: str
    identity: Identity

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.identity[2]

    def open(self, _path: str, _flags: int) -> int:
        """Open the file, as the ``opener`` of :func:`open`.

        Raises IntegrityError if it is no longer the file that was found.
        """
        try:
            descriptor = open_regular(self.path, getattr(os, "O_NOFOLLOW", 0))
        except ValueError as error:
            raise IntegrityError(f"{error}; it was a file when the model was listed") from None
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                raise
            raise IntegrityError(
                f"{self.path}: the file was removed while the model was being read"
            ) from None
        status = os.fstat(descriptor)
        if identity(status) != self.identity:
            os.close(descriptor)
            how = how_changed(status, self.size)
            raise IntegrityError(f"{self.path}: the file {how} while the model was being read")
        if hasattr(os, "pread") and os.pread(descriptor, 1, self.size):
            os.close(descriptor)  # a file of /proc, for example, claims to be empty
            raise IntegrityError(f"{self.path}: the file has more bytes than the {self.size} of its size")
        return descriptor


@dataclass(frozen=True)
class ModelTree:
    """The files of a model by their names, which are paths relative to its folder with slashes.

    ``refused`` maps the names of everything else that was found to what it is.
    """

    files: Mapping[str, ModelFile]
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def changed(self) -> list[float]:
        """When files and their inodes changed, in seconds as in ``st_mtime``."""
        return [time / 1e9 for file in self.files.values() for time in file.identity[3:]]

    def differing(self, other: ModelTree) -> list[str]:
        """The names of what is not the same in another tree."""
        items = {*self.files.items(), *self.refused.items()} ^ {*other.files.items(), *other.refused.items()}
        return sorted({name for name, _ in items})


def read_tree(
    model: str,
    *,
    ignored: Collection[str] = (),
    only: Collection[str] | None = None,
    allow_symlinks: bool = False,
) -> ModelTree:
    """List a model, which is a folder or one file, and may itself be reached through links.

    ``ignored`` names files and whole folders that are left out and not looked into. With ``only``, just the
    files of these names are looked for, and nothing else in the folder matters.

    ``allow_symlinks`` follows links to regular files that are in the folder or, if the folder is a snapshot
    in a Hugging Face cache, in the folder ``blobs`` of the same repository or in the store that the cache's
    repositories share. A link to a folder is always refused: the files in it have names of their own where
    they are.

    Raises OSError if something cannot be listed, and ValueError if the model is neither file nor folder, or a
    URL: links and what else is no plain file are nothing that a store has.
    """
    root = os.path.realpath(local_path(model), strict=True)
    status = os.stat(root)
    if stat.S_ISREG(status.st_mode):
        return ModelTree({SINGLE_FILE: ModelFile(root, identity(status))})
    if not stat.S_ISDIR(status.st_mode):
        raise ValueError(f"{model}: {kind_of_node(status.st_mode)}, neither a file nor a folder")
    links = _Links(root) if allow_symlinks else None
    above = None if only is None else {str(folder) for name in only for folder in PurePosixPath(name).parents}
    files: dict[str, ModelFile] = {}
    refused: dict[str, str] = {}
    pending = [""]
    while pending:
        here = pending.pop()
        with os.scandir(os.path.join(root, here)) as entries:
            for entry in entries:
                name = here + entry.name
                if name in ignored or not (above is None or only is None or name in only or name in above):
                    continue
                status = os.lstat(entry.path)  # on Windows, entry.stat() would not tell which file it is
                if stat.S_ISDIR(status.st_mode):
                    pending.append(f"{name}/")
                elif stat.S_ISREG(status.st_mode):
                    files[name] = ModelFile(entry.path, identity(status))
                elif stat.S_ISLNK(status.st_mode) and links is not None:
                    found = links.follow(entry.path)
                    if isinstance(found, ModelFile):
                        files[name] = found
                    else:
                        refused[name] = found
                else:
                    refused[name] = kind_of_node(status.st_mode)
    return ModelTree(files, refused)


class Bounds:
    """Where the links in a model folder may lead: into the folder, and from a snapshot in a Hugging Face
    cache into the folder ``blobs`` of the same repository, or of the cache if that is a shared store."""

    def __init__(self, root: str) -> None:
        """``root`` is the real path of the folder."""
        self._inside = os.path.join(root, "")
        self._blobs = _snapshot_blobs(root)
        self._shared = None if self._blobs is None else shared_blobs(os.path.dirname(self._blobs))

    def contain(self, target: str) -> bool:
        """Whether a real path is within the bounds."""
        if (target + os.sep).startswith(self._inside):
            return True
        folder, name = os.path.split(target)
        if self._blobs is not None and folder == self._blobs:
            return True
        return self._shared is not None and folder == os.path.join(self._shared, name[:2])


def _snapshot_blobs(root: str) -> str | None:
    """The folder that the links of a snapshot in a Hugging Face cache lead to, ``REPOSITORY/blobs``.

    ``root`` is ``REPOSITORY/snapshots/REVISION`` or a folder below it, as a real path. None for any other
    folder.
    """
    folder = root
    while (parent := os.path.dirname(folder)) != folder:
        repository, name = os.path.split(parent)
        blobs = os.path.join(repository, "blobs")
        if name == "snapshots" and os.path.isdir(blobs) and not os.path.islink(blobs):
            return blobs
        folder = parent
    return None


def shared_blobs(repository: str) -> str | None:
    """The store in which the repositories of a Hugging Face cache share files, as huggingface_hub 2.4.0 makes
    it (``utils/_shared_blobs.py``): ``CACHE/blobs``, with a file that marks it. None if there is none.

    The links in ``blobs`` of a repository lead to ``CACHE/blobs/XX/HASH``, where ``XX`` are the first two
    digits of the hash. ``repository`` is a real path.
    """
    store = os.path.join(os.path.dirname(repository), "blobs")
    marker = os.path.join(store, _SHARED_MARKER)
    if os.path.islink(store) or os.path.islink(marker) or not os.path.isfile(marker):
        return None
    return store


class _Links:
    """The links in a folder, whose real path is ``root``."""

    def __init__(self, root: str) -> None:
        self._bounds = Bounds(root)

    def follow(self, path: str) -> ModelFile | str:
        """The file that a link leads to, or why the link is refused."""
        try:
            target = os.path.realpath(path, strict=True)
            status = os.stat(target)
        except (FileNotFoundError, NotADirectoryError):
            return f"{LINK} to nothing"
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            return f"{LINK} that leads back to itself"
        if not self._bounds.contain(target):
            return f"{LINK} that leads out of the folder"
        if not stat.S_ISREG(status.st_mode):
            return f"{LINK} to {kind_of_node(status.st_mode)}"
        return ModelFile(target, identity(status))
