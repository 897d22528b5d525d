"""Which safetensors files make up a model folder, and under which names their tensors are listed."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ..strict_json import parse_object
from .errors import ManifestError, shown
from .file_kinds import HEAD_SIZE, JSON, WEIGHTS_ENDINGS, mistaken_for, recognise
from .model_tree import snapshot_blobs
from .regular_files import read_regular
from .safetensors_file import SafetensorsFile

MAX_INDEX_SIZE = 64 << 20
"""Bytes."""

_logger = logging.getLogger("integrity_triton")
_SHARD_NUMBER = re.compile(r"(?<!\d)(\d{1,9})[-_]of[-_](\d{1,9})(?!\d)")


def read_folder(folder: str | os.PathLike[str]) -> tuple[SafetensorsFile, ...]:
    """The layouts of all safetensors files of a folder and its subfolders, with the names of the manifest.

    An index (``*.safetensors.index.json``, also with a variant as in ``*.safetensors.index.fp16.json``) names
    files that belong together: their tensors are named relative to the folder of the index. A file that no
    index names counts too, because a loader may prefer it, and its tensors are named relative to its own
    folder. A name that belongs to a subfolder begins with the path of that subfolder and a slash.

    If one index names several files that hold the same tensor, the file to which it assigns the tensor is
    the one that counts, and a warning names the others.

    Raises ManifestError if there is no file; if an index names a file, or a numbered set of files such as
    ``-00001-of-00002`` has a number, that is missing; if a file lies outside the folder; if a tensor is in
    two files and no index says which of them counts; or if an index contradicts the files. Raises OSError for
    a file or subfolder that cannot be read.
    """
    folder = Path(folder)
    place = _Place(folder)
    found = sorted(place.walk())
    # An index in an outer folder comes first, so that it may name files in subfolders.
    indexes = {
        path: {tensor: _folder_of(path) + file for tensor, file in place.read_index(path).items()}
        for path in sorted(filter(_is_index, found), key=lambda path: (path.count("/"), path))
    }
    prefixes: dict[str, str] = {}
    for path, index in indexes.items():
        for name in index.values():
            prefixes.setdefault(name, _folder_of(path))
    indexed = frozenset(prefixes)
    targets = {place.inside(name).resolve() for name in indexed}
    for name in found:
        # An index may name a link to a file in the folder. That file is then the same one, not another.
        if not _is_index(name) and (
            (folder / name).is_symlink() or place.inside(name).resolve() not in targets
        ):
            prefixes.setdefault(name, _folder_of(name))
    if not prefixes:
        raise ManifestError(f"{folder}: the folder has no .safetensors file{_other_weights(folder)}")
    _check_numbers(folder, prefixes, indexed)
    files = {name: SafetensorsFile.read(place.inside(name)) for name in sorted(prefixes)}
    for path, index in indexes.items():
        stored = {name: {tensor.name for tensor in files[name].tensors} for name in set(index.values())}
        for tensor_name, name in index.items():
            if tensor_name not in stored[name]:
                raise ManifestError(f"{folder / path}: tensor {shown(tensor_name)} is not in {shown(name)}")
    named = {name: file.under(prefixes[name]) for name, file in files.items()}
    return _without_copies(folder, named, indexes)


def _other_weights(folder: Path) -> str:
    """A remark on the first file with weights in another format; empty if there is none."""
    for name in sorted(os.listdir(folder)):
        if os.path.splitext(name)[1].lower() in WEIGHTS_ENDINGS and (folder / name).is_file():
            with open(folder / name, "rb") as file:
                kind = recognise(file.read(HEAD_SIZE))
            if kind is not None:
                return f"; {shown(name)} is {kind}"
    return ""


def _without_copies(
    folder: Path, files: Mapping[str, SafetensorsFile], indexes: Mapping[str, Mapping[str, str]]
) -> tuple[SafetensorsFile, ...]:
    """The files without the tensors that an index assigns to another of its files."""
    owners: dict[str, list[str]] = {}
    for name, file in files.items():
        for tensor in file.tensors:
            owners.setdefault(tensor.name, []).append(name)
    assigned: dict[str, list[tuple[str, frozenset[str]]]] = {}
    for path, index in indexes.items():
        members = frozenset(index.values())
        for tensor_name, name in index.items():
            assigned.setdefault(_folder_of(path) + tensor_name, []).append((name, members))
    dropped: dict[str, set[str]] = {name: set() for name in files}
    for tensor_name, holders in owners.items():
        if len(holders) == 1:
            continue
        chosen = {name for name, members in assigned.get(tensor_name, ()) if members.issuperset(holders)}
        if len(chosen) != 1:
            raise ManifestError(
                f"{folder}: tensor {shown(tensor_name)} is in both {shown(holders[0])} and "
                f"{shown(holders[1])}; where they are variants of one model, pass one file, or a folder with "
                "one variant"
            )
        for name in holders:
            if name not in chosen:
                dropped[name].add(tensor_name)
                _logger.warning(
                    "%s: the index assigns tensor %s to %s, so that the copy in %s is not covered",
                    *(folder, shown(tensor_name), shown(*chosen), shown(name)),
                )
    return tuple(
        replace(file, tensors=tuple(t for t in file.tensors if t.name not in dropped[name]))
        for name, file in files.items()
    )


def _check_numbers(folder: Path, names: Iterable[str], indexed: frozenset[str]) -> None:
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
                f"{folder}: {shown(min(shards.values()))} is one of {total} files, and number {number} is "
                "missing; complete the download, or pass the single file if it is a model of its own"
            )


class _Place:
    """A model folder on disk. Names are paths in it, with slashes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._root = Path(os.path.realpath(folder, strict=True))
        self._blobs = snapshot_blobs(self._root)

    def walk(self) -> Iterator[str]:
        """The names of all files with weights and of all indexes.

        A link to a folder is not followed, because its files are found where they are.
        """
        pending = [""]
        while pending:
            here = pending.pop()
            with os.scandir(self._folder / here) as entries:
                for entry in entries:
                    name = here + entry.name
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(f"{name}/")
                    elif name.endswith(".safetensors") or _is_index(name):
                        yield name
                    elif entry.is_symlink() and os.path.isdir(entry.path):
                        self.inside(name)

    def inside(self, name: str) -> Path:
        """The path of a name. Raises ManifestError if nothing is there, or if it lies outside the folder."""
        path = self._folder / name
        try:
            # Path.resolve raises RuntimeError for a loop of links.
            target = Path(os.path.realpath(path, strict=True))
        except FileNotFoundError:
            raise ManifestError(f"{self._folder}: {shown(name)} is missing") from None
        if not target.is_relative_to(self._root) and os.fspath(target.parent) != self._blobs:
            raise ManifestError(
                f"{path}: the path leaves the model folder (a symbolic link); use a folder with real files, "
                "or pass the file itself"
            )
        return path

    def read_index(self, name: str) -> dict[str, str]:
        """An index's map from the names of tensors to the names of files, relative to its own folder."""
        path = self.inside(name)
        try:
            data = read_regular(path, MAX_INDEX_SIZE, "an index")
        except ValueError as error:
            raise ManifestError(str(error)) from None
        try:
            return parse_index(data)
        except ValueError as error:
            raise ManifestError(f"{path}: {mistaken_for('an index', data, JSON) or error}") from None


def _is_index(name: str) -> bool:
    parts = name.rpartition("/")[2].split(".")
    return parts[-1] == "json" and "safetensors" in parts and "index" in parts[parts.index("safetensors") :]


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
    return weight_map
