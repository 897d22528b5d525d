"""A reader for ``torch.distributed.checkpoint`` that serves only bytes which were verified.

A file is read into memory, its digest is compared, and the checkpoint is served from that memory: the file is
not opened a second time. What is verified are files, because a checkpoint in torch's own format has no
digests of tensors. The reader whose files these are is that of torch 2.13.0,
``torch/distributed/checkpoint/filesystem.py``.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Generator
from pathlib import Path

from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner
from torch.futures import Future

from ..errors import ManifestError, shown
from ..file_digests import FileDigests
from ..regular_files import how_changed, identity, open_regular
from .digesters import Digester
from .errors import LoadError, Mismatch

__all__ = ["VerifiedFileSystemReader"]


class VerifiedFileSystemReader(FileSystemReader):
    """A ``FileSystemReader`` of a checkpoint in torch's own format, whose files have known digests.

    ``against`` is :class:`FileDigests`, or the path of a list of SHA-256 digests, with paths relative to the
    folder of the checkpoint. It has to name ``.metadata``, which is a pickle and is unpickled only after it
    was verified, and every file with data that is read. Each rank reads and verifies the files of which it
    needs a part, one after the other, and keeps one in memory: a load takes the size of the largest file
    above its own.

    Loading raises LoadError, which names the file, if a file is not what was expected or is not listed,
    before anything of it reaches the caller's tensors. Tensors from files that were verified before may have
    been filled: after an error, the state dict is not to be used. A listed file that is missing is a
    LoadError, too. OSError and ManifestError say that a file cannot be read or is not a regular one.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        against: FileDigests | str | os.PathLike[str],
        backend: str | None = None,
    ) -> None:
        super().__init__(path)
        if isinstance(against, str | os.PathLike):
            against = FileDigests.load_list(against)
        if not isinstance(against, FileDigests):
            raise TypeError(
                "a checkpoint is verified against FileDigests or the path of a list of SHA-256 digests, not "
                f"{type(against).__name__}"
            )
        self._files = _VerifiedFiles(Path(path), against, backend)
        self.fs = self._files

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Raises ValueError for another checkpoint: the digests are those of one."""
        if checkpoint_id and Path(checkpoint_id) != Path(self.path):
            raise ValueError(f"{checkpoint_id}: this reader has the digests of the checkpoint {self.path}")
        super().reset(checkpoint_id)

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Fill the tensors of a plan from files that were verified."""
        try:
            return super().read_data(plan, planner)
        finally:
            self._files.forget()


class _VerifiedFiles(FileSystem):
    """A file system that reads whole files into memory, and verifies them there."""

    def __init__(self, folder: Path, digests: FileDigests, backend: str | None) -> None:
        self._folder = folder
        self._digests = digests
        self._backend = backend
        self._last: tuple[str, bytes] | None = None

    @contextlib.contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[io.IOBase, None, None]:
        """A stream over a file's verified bytes."""
        if mode != "rb":
            raise ValueError(f"{os.fspath(path)}: a verified checkpoint is only read, not opened as {mode!r}")
        yield io.BytesIO(self._verified(Path(path)))

    def forget(self) -> None:
        """Free the memory of the last file."""
        self._last = None

    def _verified(self, path: Path) -> bytes:
        name = path.relative_to(self._folder).as_posix()
        if self._last is not None and self._last[0] == name:
            return self._last[1]
        self._last = None
        expected = self._digests.files.get(name)
        if expected is None:
            raise LoadError(f"{path}: the list of files has no digest of {shown(name)}", file=str(path))
        data = _read(path)
        if expected.size not in {None, len(data)}:
            raise LoadError(
                f"{path}: the file has {len(data)} bytes, and the list of files has {expected.size}",
                file=str(path),
                range=(0, len(data)),
            )
        digester = Digester(expected.algorithm, len(expected.digest), expected.salt)
        running = digester.start(len(data), self._backend)
        running.update(data)
        found = running.digest()
        if found != expected.digest:
            mismatch = Mismatch(
                str(path),
                None,
                (0, len(data)),
                expected.algorithm,
                expected.digest,
                found,
                "the list of files",
            )
            raise LoadError.of([mismatch])
        self._last = name, data
        return data


def _read(path: Path) -> bytes:
    try:
        descriptor = open_regular(path)
    except ValueError as error:
        raise ManifestError(str(error)) from None
    except FileNotFoundError:
        raise LoadError(
            f"{path}: the list of files has a digest of it, and the file is missing", file=str(path)
        ) from None
    with open(descriptor, "rb", buffering=0) as file:
        before = os.fstat(descriptor)
        data = file.readall()
        after = os.fstat(descriptor)
        if identity(after) != identity(before) or len(data) != before.st_size:
            how = how_changed(after, before.st_size)
            raise LoadError(
                f"{path}: the file {how} while it was being read", file=str(path), range=(0, len(data))
            )
    return data
