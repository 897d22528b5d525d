"""Checkpoints of ``torch.distributed.checkpoint`` whose metadata holds a digest of everything that is stored.

The writer hashes each tensor part and each pickled object as its bytes go to the file, and puts the digest
beside the place that the metadata states for it. The reader checks these bytes in memory before anything is
made of them, whatever the world size is: a part that several ranks need is checked by each. ``.metadata`` is
itself a pickle; its digest is in a file beside it, or with the caller, and is checked before it is unpickled.

The formats and classes are those of torch 2.13.0, ``torch/distributed/checkpoint/filesystem.py``. What is
added to its records are attributes, so that torch's own reader loads these checkpoints, too.
"""

from __future__ import annotations

import contextlib
import hmac
import io
import os
from collections.abc import Generator, Mapping
from concurrent.futures import Future as Task
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from torch.distributed.checkpoint.filesystem import (
    FileSystem,
    FileSystemReader,
    FileSystemWriter,
    SerializationFormat,
)
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from ...hashing import Hash, new
from ...output_files import write_file
from ..checksum_lists import format_line
from ..errors import ManifestError, shown
from ..file_digests import FileDigests
from ..loading.errors import LoadError, Mismatch
from ..regular_files import open_regular, read_regular
from .records import check_algorithm
from .root import DistributedDigests

__all__ = ["CheckpointReader", "CheckpointWriter"]

MAX_METADATA_SIZE = 4 << 30
"""Bytes."""

_ATTRIBUTE = "integrity_triton"
_PIECE_SIZE = 4 << 20  # bytes that are read, or written, while as many are hashed
_Key = tuple[str, int, int]  # a file with the first byte of a part, and the number of its bytes


def _sidecar(metadata: Path, algorithm: str) -> Path:
    """The file with the digest of the metadata, a list as coreutils and b3sum write it."""
    return metadata.with_name(f"{metadata.name}.{algorithm}")


class CheckpointWriter(FileSystemWriter):
    """A ``FileSystemWriter`` that puts digests into the metadata.

    It takes the place of that writer in ``save`` and ``async_save``, and has the same options except
    ``serialization_format``. ``contents``, the result of :func:`~.root`, is stored besides and is what
    :attr:`CheckpointReader.contents` gives. After a save, :attr:`digest` has the digest of the metadata on
    the coordinator; it binds all digests in it, so that who keeps or signs it has pinned the checkpoint. The
    file ``.metadata.ALGORITHM`` has it, too, which finds accidents: who can change the checkpoint can change
    that file.

    Raises ManifestError for a hash with less than 32 bytes or 128 bits of security against collisions.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        algorithm: str = "blake3",
        contents: DistributedDigests | None = None,
        **options: Any,
    ) -> None:
        form = options.get("serialization_format", SerializationFormat.TORCH_SAVE)
        if form != SerializationFormat.TORCH_SAVE:
            raise ValueError(
                "a checkpoint of safetensors files has no digests in its metadata; take torch's "
                "HuggingFaceStorageWriter, and a manifest of the files"
            )
        self._algorithm = check_algorithm(algorithm).name
        super().__init__(path, **options)
        self._contents = contents
        self._files = _HashingFiles(self._algorithm)
        self.fs = self._files
        self.digest: bytes | None = None
        """The digest of the metadata, on the coordinator after a save; otherwise None."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the files of this rank. Their parts' digests are in the results, which the coordinator
        collects."""
        self.digest = None
        self._files.written.clear()
        written = super().write_data(plan, planner)
        results = written.wait()
        for result in results:
            info = result.storage_data
            key = info.relative_path, info.offset, info.length
            if key not in self._files.written:
                raise RuntimeError(
                    f"bytes {info.offset} to {info.offset + info.length} of {info.relative_path}, which hold "
                    f"{shown(result.index.fqn)}, were not written in one piece; this version of torch writes "
                    "checkpoints in another way"
                )
            setattr(info, _ATTRIBUTE, (self._algorithm, self._files.written[key]))
        return written

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the metadata, and its digest."""
        if self._contents is not None:
            contents = {"algorithm": self._contents.algorithm, "digests": dict(self._contents.digests)}
            setattr(metadata, _ATTRIBUTE, contents)
        self._files.written.clear()
        super().finish(metadata, results)
        ((_, digest),) = self._files.written.items()
        path = Path(self._get_metadata_path(None if self.use_collectives else self.rank))
        line = format_line(self._algorithm, digest, path.name, tagged=False, zero=False)
        write_file(_sidecar(path, self._algorithm), line)
        self.digest = digest


class _HashingFiles(FileSystem):
    """A file system that hashes what is written to each file."""

    def __init__(self, algorithm: str) -> None:
        self._algorithm = algorithm
        self.written: dict[_Key, bytes] = {}
        """The digests of the parts that were written, a part being what is written from one question for the
        position to the next, or to the end."""

    @contextlib.contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[io.IOBase, None, None]:
        if mode != "wb":
            raise ValueError(f"{os.fspath(path)}: a writer of checkpoints does not open files as {mode!r}")
        with super().create_stream(path, mode) as stream, ThreadPoolExecutor(1, "integrity_triton") as pool:
            hashing = _HashingStream(stream, self._algorithm, pool)
            yield hashing
            hashing.cut()
            self.written.update(
                {(Path(path).name, *place): digest for place, digest in hashing.parts.items()}
            )


class _HashingStream(io.RawIOBase):
    """A file that is written from its beginning to its end."""

    def __init__(self, stream: Any, algorithm: str, pool: ThreadPoolExecutor) -> None:
        self._stream = stream
        self._algorithm = algorithm
        self._pool = pool
        self._running: Hash | None = None
        self._start = 0
        self._position = 0
        self.parts: dict[tuple[int, int], bytes] = {}
        """The digest of each part, by its first byte and its number of bytes."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        """Write bytes, while a thread hashes them."""
        view = memoryview(data).cast("B")
        if self._running is None:
            self._running = new(self._algorithm)
        if len(view) < _PIECE_SIZE // 4:  # a thread would take longer than it saves
            self._running.update(view)
            self._stream.write(view)
        else:
            hashing = self._pool.submit(self._running.update, view)
            try:
                self._stream.write(view)
            finally:
                hashing.result()
        self._position += len(view)
        return len(view)

    def tell(self) -> int:
        self.cut()
        return self._position

    def cut(self) -> None:
        """End the part that was written."""
        if self._running is not None:
            self.parts[self._start, self._position - self._start] = self._running.digest()
        self._running, self._start = None, self._position

    def flush(self) -> None:
        if not self._stream.closed:
            self._stream.flush()

    def fileno(self) -> int:
        self.flush()
        return int(self._stream.fileno())


class CheckpointReader(FileSystemReader):
    """A ``FileSystemReader`` of a checkpoint that :class:`CheckpointWriter` wrote.

    ``expected`` is the digest of the metadata, as bytes or in hexadecimal: the checkpoint is then the one
    that this digest pins. Without it, the digest in the file ``.metadata.ALGORITHM`` is taken, which finds
    accidents, and no one who rewrites that file as well.

    Loading raises LoadError, which names the tensor, the file and the bytes, if a part of the checkpoint is
    not what was saved, before anything of the part is unpickled or copied into the caller's tensors; torch
    puts it into the ``failures`` of a ``CheckpointException``. torch fills tensors part by part: after an
    error, the state dict is not to be used. A part at a time is in memory above what a load takes. OSError
    and ManifestError say that a file cannot be read or is not a regular one.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        expected: bytes | str | None = None,
        algorithm: str = "blake3",
        backend: str | None = None,
    ) -> None:
        super().__init__(path)
        hash_ = check_algorithm(algorithm)
        try:
            self._expected = bytes.fromhex(expected) if isinstance(expected, str) else expected
        except ValueError:
            raise ManifestError(
                f"the expected digest must be hexadecimal, not {shown(str(expected))}"
            ) from None
        if self._expected is not None and len(self._expected) != hash_.digest_size:
            raise ManifestError(
                f"the expected digest has {len(self._expected)} bytes, and {hash_.name} gives "
                f"{hash_.digest_size}"
            )
        self._algorithm = hash_.name
        self._backend = backend
        self._names: dict[_Key, str] = {}
        self._last: tuple[_Key, memoryview] | None = None
        self._buffer = bytearray()
        self._contents: DistributedDigests | None = None
        self._files = _RegularFiles()
        self.fs = self._files

    @property
    def contents(self) -> DistributedDigests | None:
        """The digests of the model that were given to the writer; None if there were none, and before the
        metadata was read. They are as trustworthy as the metadata. ``root(model) == reader.contents`` says
        after a load that the ranks together hold the model that was saved."""
        return self._contents

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Raises ValueError for another checkpoint if the reader has the digest of one."""
        if checkpoint_id and self._expected is not None and Path(checkpoint_id) != Path(self.path):
            raise ValueError(f"{checkpoint_id}: this reader has the digest of the checkpoint {self.path}")
        self._last = None
        super().reset(checkpoint_id)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read the metadata, and unpickle it once it was verified."""
        path = Path(self._get_metadata_path(kwargs.get("rank")))
        try:
            data = read_regular(path, MAX_METADATA_SIZE, "the metadata of a checkpoint")
        except ValueError as error:
            raise ManifestError(str(error)) from None
        expected, source = self._expected, "the caller"
        if expected is None:
            beside = _sidecar(path, self._algorithm)
            source = beside.name
            expected = _listed(beside, path, self._algorithm)
        found = self._hash(io.BytesIO(data), len(data))[0]
        if not hmac.compare_digest(found, expected):
            place = (0, len(data))
            raise LoadError.of([Mismatch(str(path), None, place, self._algorithm, expected, found, source)])
        self._files.pinned = {str(path): data}
        try:
            metadata = super().read_metadata(*args, **kwargs)
        finally:
            self._files.pinned = {}
        self._contents = _contents(path, metadata)
        return metadata

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        """Raises LoadError if something in the metadata has no digest."""
        super().set_up_storage_reader(metadata, is_coordinator, *args, **kwargs)
        self._names = {}
        size = check_algorithm(self._algorithm).digest_size
        for index, info in self.storage_data.items():
            stated: Any = getattr(info, _ATTRIBUTE, None)
            good = isinstance(stated, tuple) and len(stated) == 2 and stated[0] == self._algorithm
            if not good or not isinstance(stated[1], bytes) or len(stated[1]) != size:
                raise LoadError(
                    f"{self.path}: the metadata has no {self._algorithm} digest of {shown(index.fqn)}; was "
                    "the checkpoint saved with a CheckpointWriter, and with this algorithm?",
                    file=str(self.path),
                    tensor=index.fqn,
                )
            self._names[_key(info)] = _shown_index(index)

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Fill the tensors of a plan from parts that were verified."""
        try:
            return super().read_data(plan, planner)
        finally:
            self._last, self._buffer = None, bytearray()

    def _slice_file(self, file: Any, sinfo: Any) -> IO[bytes]:
        key = _key(sinfo)
        if self._last is None or self._last[0] != key:
            self._last = None
            self._last = key, self._verified(file, sinfo)
        return io.BufferedReader(_View(self._last[1]), 1)

    def _verified(self, file: Any, info: Any) -> memoryview:
        name, path = self._names[_key(info)], str(Path(self.path, info.relative_path))
        place = (info.offset, info.offset + info.length)
        file.seek(info.offset)
        found, data = self._hash(file, info.length)
        if len(data) < info.length:
            raise LoadError(
                f"{path}: the file was cut: {name} has the bytes {place[0]} to {place[1]}, and the file ends "
                f"at byte {info.offset + len(data)}",
                file=path,
                tensor=name,
                range=place,
            )
        _, expected = getattr(info, _ATTRIBUTE)
        if not hmac.compare_digest(found, expected):
            mismatch = Mismatch(path, name, place, self._algorithm, expected, found, "the metadata")
            raise LoadError.of([mismatch])
        return data

    def _hash(self, file: Any, length: int) -> tuple[bytes, memoryview]:
        """The digest of the next bytes of a file, and the bytes, until the next call. They are read while
        others are hashed."""
        running = new(self._algorithm, backend=self._backend)
        if len(self._buffer) < length:  # one buffer for all parts: new memory takes longer than hashing it
            self._buffer = bytearray(length)
        view = memoryview(self._buffer)[:length]
        if length <= _PIECE_SIZE:  # a thread would take longer than it saves
            filled = _fill(file, view)
            running.update(view[:filled])
            return running.digest(), view[:filled].toreadonly()
        filled = 0
        hashing: Task[None] | None = None
        with ThreadPoolExecutor(1, "integrity_triton") as pool:
            while got := _fill(file, view[filled : filled + _PIECE_SIZE]):
                if hashing is not None:
                    hashing.result()
                hashing = pool.submit(running.update, view[filled : filled + got])
                filled += got
        if hashing is not None:
            hashing.result()
        return running.digest(), view[:filled].toreadonly()


class _View(io.RawIOBase):
    """Bytes in memory as a file, without a copy of them."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: len(self._data)}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        some = self._data[self._position : self._position + len(target)]
        target[: len(some)] = some
        self._position += len(some)
        return len(some)


class _RegularFiles(FileSystem):
    """A file system that reads regular files, and waits for no pipe."""

    def __init__(self) -> None:
        self.pinned: Mapping[str, bytes] = {}
        """The content of files that are not read again, by their paths."""

    @contextlib.contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[io.IOBase, None, None]:
        if mode != "rb":
            raise ValueError(f"{os.fspath(path)}: a verified checkpoint is only read, not opened as {mode!r}")
        if str(path) in self.pinned:
            yield io.BytesIO(self.pinned[str(path)])
            return
        try:
            descriptor = open_regular(path)
        except ValueError as error:
            raise ManifestError(str(error)) from None
        with open(descriptor, "rb", buffering=0) as file:
            yield file


def _fill(file: Any, view: memoryview) -> int:
    """How many bytes of ``view`` were filled from a file: all, unless it ends before."""
    filled = 0
    while filled < len(view) and (got := file.readinto(view[filled:])):
        filled += got
    return filled


def _key(info: Any) -> _Key:
    return info.relative_path, info.offset, info.length


def _shown_index(index: MetadataIndex) -> str:
    """The name of a tensor, with the place of the part if it is divided."""
    if index.offset is None or not any(index.offset):
        return index.fqn
    return f"{index.fqn} at {list(index.offset)}"


def _listed(beside: Path, path: Path, algorithm: str) -> bytes:
    """The digest of the metadata in the file beside it."""
    if not beside.exists():
        raise LoadError(
            f"{beside}: there is no file with the {algorithm} digest of the metadata; was the checkpoint "
            "saved with a CheckpointWriter, to its end, and with this algorithm?",
            file=str(beside),
        )
    files = FileDigests.load_list(beside, algorithm).files
    if path.name not in files:
        raise LoadError(f"{beside}: the digest of {path.name} is not in this file", file=str(beside))
    return files[path.name].digest


def _contents(path: Path, metadata: Metadata) -> DistributedDigests | None:
    stated = getattr(metadata, _ATTRIBUTE, None)
    if stated is None:
        return None
    try:
        return DistributedDigests(stated["algorithm"], stated["digests"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{path}: the digests of the model cannot be read: {error}") from None
