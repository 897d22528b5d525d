"""Checkpoints of ``torch.distributed.checkpoint`` whose metadata holds a digest of everything that is stored.

The writer hashes each tensor part and each pickled object, a large tensor from the moment on at which the
planner gives it, and puts the digests beside the place that the metadata states for it
(``checkpoint_segments.py``, ``checkpoint_streams.py``). The reader checks these bytes in memory before
anything is made of them (``checkpoint_parts.py``), whatever the world size is: a part that several ranks need
is checked by each. ``.metadata`` is itself a pickle; its digest is in a file beside it, or with the caller,
and is checked before it is unpickled.

The formats and classes are those of torch 2.13.0, ``torch/distributed/checkpoint/filesystem.py``. What is
added to its records are attributes, so that torch's own reader loads these checkpoints, too.
"""

from __future__ import annotations

import contextlib
import hmac
import io
import os
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint.filesystem import (
    FileSystem,
    FileSystemReader,
    FileSystemWriter,
    SerializationFormat,
)
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
)
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from ...hashing import new
from ...output_files import write_file
from ..checksum_lists import format_line
from ..errors import ManifestError, shown
from ..file_digests import FileDigests
from ..loading.errors import LoadError, Mismatch
from ..regular_files import open_regular, read_regular
from .checkpoint_parts import FileOf, Part, copy_to, loaded, verified
from .checkpoint_segments import Digests, Key, Segment, device_digests, has_segments, is_on_device, lengths_of
from .checkpoint_streams import AnnouncingTransforms, HashingFiles, ObservedPlanner, Staged
from .records import check_algorithm
from .root import DistributedDigests

__all__ = ["CheckpointReader", "CheckpointWriter"]

MAX_METADATA_SIZE = 4 << 30
"""Bytes."""

_ATTRIBUTE = "integrity_triton"


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

    ``crc32`` says whether ``torch.save`` computes a CRC-32 of each tensor, which takes about as long as
    BLAKE3. The digests take its place: torch does not compare it, and only a program for zip files would miss
    it. None leaves it as ``torch.serialization.set_crc32_options`` has it.

    Raises ManifestError for a hash with less than 32 bytes or 128 bits of security against collisions.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        algorithm: str = "blake3",
        contents: DistributedDigests | None = None,
        crc32: bool | None = False,
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
        self._crc32 = crc32
        self._staged: Staged = {}
        self._files = HashingFiles(self._algorithm)
        self.fs = self._files
        self.digest: bytes | None = None
        """The digest of the metadata, on the coordinator after a save; otherwise None."""

    def stage(self, state_dict: Mapping[str, Any]) -> Any:
        """A copy of a state dict in the memory of the host, for ``async_save``. Large tensors on a device are
        hashed there before; the others are hashed in the background, when they are written."""
        self._staged = {}
        found = {
            name: Digests(lengths_of(tensor), rows)
            for name, tensor in _local_tensors(state_dict)
            if is_on_device(tensor) and has_segments(tensor)
            if (rows := device_digests(tensor, self._algorithm)) is not None
        }
        staged = super().stage(cast(Any, state_dict))
        if found:
            for digests in found.values():
                digests.digests()  # here, where the device has the stream in which they are computed
            self._staged = {
                (copy.data_ptr(), copy.nbytes): (copy, found[name])
                for name, copy in _local_tensors(staged)
                if name in found and has_segments(copy)
            }
        return staged

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the files of this rank. Their parts' digests are in the results, which the coordinator
        collects."""
        self.digest = None
        transforms, staged, self._staged = self.transforms, self._staged, {}
        with self._files.in_parts(self.thread_count, self._crc32) as pool:
            if not transforms.extensions:  # what an extension writes are not the bytes of a tensor
                observed = ObservedPlanner(planner, self._algorithm, pool, staged)
                planner = cast(SavePlanner, observed)
                self.transforms = cast(Any, AnnouncingTransforms(transforms, observed))
            try:
                written = super().write_data(plan, planner)
                results = written.wait()
            finally:
                self.transforms = transforms
        for result in results:
            info = result.storage_data
            segments = self._files.parts.get((info.relative_path, info.offset, info.length), ())
            if sum(length for length, _ in segments) != info.length:
                raise RuntimeError(
                    f"bytes {info.offset} to {info.offset + info.length} of {info.relative_path}, which hold "
                    f"{shown(result.index.fqn)}, were not written in one piece; this version of torch writes "
                    "checkpoints in another way"
                )
            setattr(info, _ATTRIBUTE, (self._algorithm, segments))
        self._files.parts.clear()
        return written

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the metadata, and its digest."""
        if self._contents is not None:
            contents = {"algorithm": self._contents.algorithm, "digests": dict(self._contents.digests)}
            setattr(metadata, _ATTRIBUTE, contents)
        super().finish(metadata, results)
        digest = self._files.digest
        assert digest is not None
        path = Path(self._get_metadata_path(None if self.use_collectives else self.rank))
        line = format_line(self._algorithm, digest, path.name, tagged=False, zero=False)
        write_file(_sidecar(path, self._algorithm), line)
        self.digest = digest


class CheckpointReader(FileSystemReader):
    """A ``FileSystemReader`` of a checkpoint that :class:`CheckpointWriter` wrote.

    ``expected`` is the digest of the metadata, as bytes or in hexadecimal: the checkpoint is then the one
    that this digest pins. Without it, the digest in the file ``.metadata.ALGORITHM`` is taken, which finds
    accidents, and no one who rewrites that file as well.

    Loading raises LoadError, which names the tensor, the file and the bytes, if a part of the checkpoint is
    not what was saved, before anything of the part is unpickled or copied into the caller's tensors; torch
    puts it into the ``failures`` of a ``CheckpointException``. torch fills tensors part by part: after an
    error, the state dict is not to be used. Parts of 32 MiB, or the two largest parts, are in memory above
    what a load takes. OSError and ManifestError say that a file cannot be read or is not a regular one.
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
        self._digest_size = hash_.digest_size
        self._backend = backend
        self._parts: dict[Key, Part] = {}
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
        found = new(self._algorithm, data, backend=self._backend).digest()
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
        self._parts = {}
        for index, info in self.storage_data.items():
            segments = self._segments(info)
            if segments is None:
                raise LoadError(
                    f"{self.path}: the metadata has no {self._algorithm} digest of {shown(index.fqn)}; was "
                    "the checkpoint saved with a CheckpointWriter, and with this algorithm?",
                    file=str(self.path),
                    tensor=index.fqn,
                )
            path, name = str(Path(self.path, info.relative_path)), _shown_index(index)
            transforms = info.transform_descriptors or ()
            self._parts[_key(info)] = Part(path, name, info.offset, segments, info.length, [], transforms)

    def _segments(self, info: Any) -> tuple[Segment, ...] | None:
        """The segments of a part; None unless there is a digest of each byte."""
        try:
            algorithm, segments = getattr(info, _ATTRIBUTE)
            if algorithm != self._algorithm or sum(length for length, _ in segments) != info.length:
                return None
            for length, digest in segments:
                if length <= 0 or not isinstance(digest, bytes) or len(digest) != self._digest_size:
                    return None
        except (AttributeError, TypeError, ValueError):
            return None
        return tuple(segments)

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Fill the tensors of a plan from parts that were verified."""
        wanted: dict[str, dict[Key, Part]] = {}
        for item in plan.items:
            info = self.storage_data[item.storage_index]
            parts, key = wanted.setdefault(info.relative_path, {}), _key(info)
            parts.setdefault(key, replace(self._parts[key], items=[])).items.append(item)
        # In the order in which they lie in each file: small parts are then read together.
        ordered = [p for parts in wanted.values() for p in sorted(parts.values(), key=lambda p: p.start)]
        for part, data in verified(ordered, self._algorithm, self._backend, self._files.create_stream):
            tensor: torch.Tensor | None = None
            for item in part.items:
                if item.type == LoadItemType.BYTE_IO:
                    planner.load_bytes(item, self._stored(item, part, data))
                    continue
                if tensor is None:
                    tensor = loaded(self._stored(item, part, data) if part.transforms else data)
                source = narrow_tensor_by_index(tensor, item.storage_offsets, item.lengths)
                target = planner.resolve_tensor(item).detach()
                if target.size() != source.size():
                    raise AssertionError(
                        f"{part.name}: the tensor to be filled has the shape {list(target.size())}, and what "
                        f"is stored for it {list(source.size())}"
                    )
                copy_to(target, source)
                planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _stored(self, item: ReadItem, part: Part, data: torch.Tensor) -> io.BytesIO:
        """What was stored, as it was before the writer's extensions."""
        stored: Any = io.BytesIO(FileOf(data).readall())
        if part.transforms:
            stored = self.transforms.transform_load_stream(item, part.transforms, stored)
            stored = io.BytesIO(stored.read(-1))
        return cast(io.BytesIO, stored)


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


def _local_tensors(state_dict: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a state dict, and what this rank has of its DTensors, by the names that torch's planner
    gives them."""
    for name, value in flatten_state_dict(cast(Any, state_dict))[0].items():
        local = value.to_local() if hasattr(value, "to_local") else value
        if isinstance(local, torch.Tensor):
            yield name, local


def _key(info: Any) -> Key:
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
