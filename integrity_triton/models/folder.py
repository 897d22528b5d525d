"""Which safetensors files make up a model folder, and under which names their tensors are listed."""

from __future__ import annotations

import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..remote_files import READ_AHEAD, RemoteFile, Url, is_folder, local_path, located
from ..strict_json import parse_object
from ..workers import Workers
from .errors import ManifestError, shown
from .file_kinds import HEAD_SIZE, JSON, WEIGHTS_ENDINGS, mistaken_for, recognise
from .model_tree import Bounds
from .regular_files import Reader, read_regular
from .safetensors_file import SafetensorsFile, StoredTensor

MAX_INDEX_SIZE = 64 << 20
"""Bytes."""

_ENDING = ".safetensors"
_COMPARED_SIZE = 1 << 20
_logger = logging.getLogger("integrity_triton")
_SHARD_NUMBER = re.compile(r"(?<!\d)(\d{1,9})[-_]of[-_](\d{1,9})(?!\d)")


def is_index(name: str) -> bool:
    """Whether the file of this name or path is an index, also one with a variant in its name."""
    parts = name.rpartition("/")[2].split(".")
    return parts[-1] == "json" and "safetensors" in parts and "index" in parts[parts.index("safetensors") :]


def is_model_file(name: str) -> bool:
    """Whether the file of this name or path is read for the manifest of its folder."""
    return name.endswith(_ENDING) or is_index(name)


def read_model(
    path: str | os.PathLike[str], *, overlays: bool = False, keep_heads: bool = False
) -> tuple[SafetensorsFile, ...]:
    """The layout of a safetensors file, or those of all in a folder, as :func:`read_folder` gives them. The
    path may be a URL."""
    if is_folder(path):
        return read_folder(path, overlays=overlays, keep_heads=keep_heads)
    return (SafetensorsFile.read(path, keep_head=keep_heads),)


def read_folder(
    folder: str | os.PathLike[str], *, overlays: bool = False, keep_heads: bool = False
) -> tuple[SafetensorsFile, ...]:
    """The layouts of all safetensors files of a folder and its subfolders, with the names of the manifest.

    A tensor's name is the path of its file's folder, a slash if that is a subfolder, and the stored name. The
    stored name has no slash, so that tensors of different folders have different names.

    An index (``*.safetensors.index.json``, also with a variant as in ``*.safetensors.index.fp16.json``) names
    files of its own folder that belong together. A file that no index names counts too, because a loader may
    prefer it.

    If one index names several files that hold the same tensor, the file to which it assigns the tensor is
    the one that counts. Copies that differ from it are refused, unless ``overlays`` permits them. Then they
    are in ``overlaid`` of their file, and a warning names them. ``keep_heads`` is as for
    :meth:`SafetensorsFile.read`.

    Raises ManifestError if there is no file; if an index names a file, or a numbered set of files such as
    ``-00001-of-00002`` has a number, that is missing; if a file lies outside the folder, or a link leads to
    a folder; if a stored name has a slash; if a tensor is in two files and no index says which of them
    counts, or the copies differ; or if an index contradicts the files. Raises OSError for a file or subfolder
    that cannot be read.
    """
    place = _place(folder)
    found = sorted(place.walk())
    indexes = {
        path: {tensor: _folder_of(path) + file for tensor, file in place.read_index(path).items()}
        for path in filter(is_index, found)
    }
    indexed = frozenset(name for index in indexes.values() for name in index.values())
    names = [name for name in found if not is_index(name)]
    for name in sorted(indexed):
        place.inside(name)
        if name not in names:
            raise ManifestError(f"{place}: no file has exactly the name {shown(name)}")
    if not names:
        raise ManifestError(f"{place}: the folder has no .safetensors file{place.other_weights()}")
    _check_numbers(place, names, indexed)
    files = dict(zip(names, place.read(names, keep_heads), strict=True))
    for path, index in indexes.items():
        stored = {name: {tensor.name for tensor in files[name].tensors} for name in set(index.values())}
        for tensor_name, name in index.items():
            if tensor_name not in stored[name]:
                raise ManifestError(
                    f"{place.full(path)}: tensor {shown(tensor_name)} is not in {shown(name)}"
                )
    named = {name: file.under(_folder_of(name)) for name, file in files.items()}
    return _without_copies(place, named, indexes, overlays)


def _read_member(path: Path | RemoteFile, member: str, keep_head: bool) -> SafetensorsFile:
    """The layout of a file in a folder, where a slash in a name would pretend to be a subfolder."""
    file = SafetensorsFile.read(path, keep_head=keep_head)
    for name in (*(tensor.name for tensor in file.tensors), *file.ties):
        if "/" in name:
            raise ManifestError(
                f"{path}: the tensor name {shown(name)} has a slash, so that it could be confused with "
                "a tensor of a subfolder; pass the file itself"
            )
    return replace(file, member=member)


def _has_weights(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in WEIGHTS_ENDINGS


def _remark(name: str, head: bytes) -> str | None:
    """That a file begins as another format does; None for an unknown one."""
    kind = recognise(head)
    return None if kind is None else f"; {shown(name)} is {kind}"


def _without_copies(
    place: _Place,
    files: Mapping[str, SafetensorsFile],
    indexes: Mapping[str, Mapping[str, str]],
    overlays: bool,
) -> tuple[SafetensorsFile, ...]:
    """The files without the tensors that an index assigns to another of its files, and without what is in
    one file that has several names."""
    holders: dict[str, dict[str, StoredTensor]] = {}
    for name, file in files.items():
        for tensor in file.tensors:
            holders.setdefault(tensor.name, {})[name] = tensor
    assigned: dict[str, list[tuple[str, frozenset[tuple[object, ...]]]]] = {}
    for path, index in indexes.items():
        members = frozenset(files[name].identity for name in index.values())
        for tensor_name, name in index.items():
            assigned.setdefault(_folder_of(path) + tensor_name, []).append((name, members))
    dropped: dict[str, set[str]] = {name: set() for name in files}
    overlaid: dict[str, list[str]] = {name: [] for name in files}
    for tensor_name, copies in holders.items():
        if len(copies) == 1:
            continue
        held = {files[name].identity: name for name in reversed(copies)}
        chosen = {
            files[name].identity for name, members in assigned.get(tensor_name, ()) if members >= held.keys()
        }
        if len(held) == 1:
            chosen = set(held)
        if len(chosen) != 1:
            first, second = sorted(held.values())[:2]
            raise ManifestError(
                f"{place}: tensor {shown(tensor_name)} is in both {shown(first)} and {shown(second)}; where "
                "they are variants of one model, pass one file, or a folder with one variant"
            )
        counted = held[chosen.pop()]
        for name, tensor in copies.items():
            if name == counted:
                continue
            dropped[name].add(tensor_name)
            if files[name].identity == files[counted].identity:
                continue
            if not _equal(files[name], tensor, files[counted], copies[counted]):
                message = (
                    f"{place}: the index assigns tensor {shown(tensor_name)} to {shown(counted)}, and the "
                    f"copy in {shown(name)} differs"
                )
                if not overlays:
                    raise ManifestError(
                        f"{message}; a loader that ignores the index may read the copy. Remove it, or pass "
                        "overlays=True (--overlays) if the one file is meant to overlay the other"
                    )
                overlaid[name].append(tensor_name)
                _logger.warning("%s and is not covered", message)
    return tuple(
        replace(
            file,
            tensors=tuple(t for t in file.tensors if t.name not in dropped[name]),
            overlaid=tuple(overlaid[name]),
        )
        for name, file in files.items()
    )


def _equal(
    file: SafetensorsFile, tensor: StoredTensor, other_file: SafetensorsFile, other: StoredTensor
) -> bool:
    """Whether two stored tensors have the same dtype, shape and bytes."""
    if (tensor.dtype, tensor.shape) != (other.dtype, other.shape):
        return False
    buffers = memoryview(bytearray(_COMPARED_SIZE)), memoryview(bytearray(_COMPARED_SIZE))
    with file.reading() as left, other_file.reading() as right:
        for start in range(0, tensor.nbytes, _COMPARED_SIZE):
            size = min(_COMPARED_SIZE, tensor.nbytes - start)
            views = [buffer[:size] for buffer in buffers]
            _fill(file, left, tensor.start + start, views[0])
            _fill(other_file, right, other.start + start, views[1])
            if views[0] != views[1]:
                return False
    return True


def _fill(file: SafetensorsFile, reader: Reader, offset: int, view: memoryview) -> None:
    while view:
        got = reader.read_into([view], offset)
        if got == 0:
            raise ManifestError(f"{file.path}: the file was cut while it was being read")
        view, offset = view[got:], offset + got


def _check_numbers(place: _Place, names: Iterable[str], indexed: frozenset[str]) -> None:
    """Check that no file is missing from a set whose names count them, as ``-00001-of-00002`` does. Numbers
    may begin at 0 or at 1. A set in an index is as large as the index says."""
    sets: dict[tuple[int, str, str], dict[int, str]] = {}
    for name in names:
        for match in _SHARD_NUMBER.finditer(name):
            key = int(match[2]), name[: match.start(1)], name[match.end(1) :]
            sets.setdefault(key, {})[int(match[1])] = name
    for (total, _, _), shards in sets.items():
        if indexed.intersection(shards.values()):
            continue
        first = 0 if 0 in shards else 1
        missing = (number for number in range(first, first + total) if number not in shards)
        number = next(missing, None)
        if number is not None:
            raise ManifestError(
                f"{place}: {shown(min(shards.values()))} is one of {total} files, and number {number} is "
                "missing; complete the download, or pass the single file if it is a model of its own"
            )


class _Place(ABC):
    """A model folder. Names are paths in it, with slashes. As a str, it names the folder."""

    @abstractmethod
    def full(self, name: str) -> str:
        """How a name is shown."""

    @abstractmethod
    def walk(self) -> Iterator[str]:
        """The names of all files with weights and of all indexes."""

    @abstractmethod
    def inside(self, name: str) -> Path | RemoteFile:
        """The file of a name. Raises ManifestError if nothing is there, or if it lies outside the folder."""

    @abstractmethod
    def read(self, names: Sequence[str], keep_heads: bool) -> Iterable[SafetensorsFile]:
        """The layouts of files."""

    @abstractmethod
    def other_weights(self) -> str:
        """A remark on the first file with weights in another format; empty if there is none."""

    def read_index(self, name: str) -> dict[str, str]:
        """An index's map from the names of tensors to the names of files, relative to its own folder."""
        try:
            data = read_regular(self.inside(name), MAX_INDEX_SIZE, "an index")
        except ValueError as error:
            raise ManifestError(str(error)) from None
        try:
            return parse_index(data)
        except ValueError as error:
            message = mistaken_for("an index", data, JSON) or error
            raise ManifestError(f"{self.full(name)}: {message}") from None


def _place(folder: str | os.PathLike[str]) -> _Place:
    place = located(folder)
    if isinstance(place, Url):
        return _RemotePlace(place)
    return _LocalPlace(Path(local_path(folder)))


class _RemotePlace(_Place):
    """A folder in a store."""

    def __init__(self, folder: Url) -> None:
        self._folder = folder
        try:
            self._names = folder.files()
        except ValueError as error:
            raise ManifestError(str(error)) from None

    def __str__(self) -> str:
        return str(self._folder)

    def full(self, name: str) -> str:
        return str(self._folder.within(name))

    def walk(self) -> Iterator[str]:
        return filter(is_model_file, self._names)

    def inside(self, name: str) -> RemoteFile:
        if name not in self._names:
            raise ManifestError(f"{self}: {shown(name)} is missing")
        return self._folder.within(name).file()

    def read(self, names: Sequence[str], keep_heads: bool) -> Iterable[SafetensorsFile]:
        # Each takes several answers of the store, one after the other.
        with Workers(READ_AHEAD) as readers:
            return readers.map(self._read_member, [(name, keep_heads) for name in names])

    def _read_member(self, name: str, keep_heads: bool) -> SafetensorsFile:
        return _read_member(self.inside(name), name, keep_heads)

    def other_weights(self) -> str:
        weights = (name for name in self._names if "/" not in name and _has_weights(name))
        remarks = (_remark(name, bytes(self.inside(name).read(0, HEAD_SIZE))) for name in weights)
        return next(filter(None, remarks), "")


class _LocalPlace(_Place):
    """A folder on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bounds = Bounds(os.path.realpath(folder, strict=True))

    def __str__(self) -> str:
        return str(self._folder)

    def full(self, name: str) -> str:
        return str(self._folder / name)

    def read(self, names: Sequence[str], keep_heads: bool) -> Iterable[SafetensorsFile]:
        return [_read_member(self.inside(name), name, keep_heads) for name in names]

    def other_weights(self) -> str:
        for name in sorted(os.listdir(self._folder)):
            if _has_weights(name) and (self._folder / name).is_file():
                with open(self._folder / name, "rb") as file:
                    remark = _remark(name, file.read(HEAD_SIZE))
                if remark is not None:
                    return remark
        return ""

    def walk(self) -> Iterator[str]:
        """As :meth:`_Place.walk`.

        A link to a folder is refused: a loader would read the files in it under names that are not listed.
        """
        pending = [""]
        while pending:
            here = pending.pop()
            with os.scandir(self._folder / here) as entries:
                for entry in entries:
                    name = here + entry.name
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(f"{name}/")
                    elif is_model_file(name):
                        yield name
                    elif entry.is_symlink() and os.path.isdir(entry.path):
                        self.inside(name)
                        raise ManifestError(
                            f"{entry.path}: a symbolic link to a folder; put a real folder there or remove it"
                        )

    def inside(self, name: str) -> Path:
        path = self._folder / name
        try:
            # Path.resolve raises RuntimeError for a loop of links.
            target = os.path.realpath(path, strict=True)
        except FileNotFoundError:
            raise ManifestError(f"{self._folder}: {shown(name)} is missing") from None
        if not self._bounds.contain(target):
            raise ManifestError(
                f"{path}: the path leaves the model folder (a symbolic link); use a folder with real files, "
                "or pass the file itself"
            )
        return path


def _folder_of(name: str) -> str:
    """The path of a name's folder with a slash at the end; empty for the model folder itself."""
    folder, slash, _ = name.rpartition("/")
    return folder + slash


def parse_index(data: bytes) -> dict[str, str]:
    """The ``weight_map`` of an index. Its other members concern only the loader. Raises ValueError."""
    weight_map = parse_object(data, floats=True).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError("weight_map must be an object")
    for tensor_name, file_name in weight_map.items():
        if not isinstance(file_name, str):
            raise ValueError(f"weight_map: the file of {shown(tensor_name)} must be a string")
        parts = file_name.split("/")
        if any(part in {"", ".", ".."} for part in parts) or not file_name.isprintable():
            raise ValueError(f"weight_map: {shown(file_name)} is not a path inside the folder")
        if "\\" in file_name or ":" in file_name:  # these are separators and drives on some systems
            raise ValueError(f"weight_map: {shown(file_name)} is not a portable path")
        if len(parts) > 1:
            raise ValueError(
                f"weight_map: {shown(file_name)} is in a subfolder; an index may only name files of its own "
                "folder"
            )
        if not file_name.endswith(_ENDING):
            raise ValueError(f"weight_map: the name {shown(file_name)} does not end in {_ENDING}")
    return weight_map
