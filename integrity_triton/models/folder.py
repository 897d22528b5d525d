"""Which safetensors files make up a model folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .errors import ManifestError, shown
from .file_kinds import JSON, mistaken_for
from .safetensors_file import SafetensorsFile
from .strict_json import parse_object

INDEX_NAME = "model.safetensors.index.json"
MAX_INDEX_SIZE = 64 << 20
"""Bytes."""


def read_folder(folder: str | os.PathLike[str]) -> tuple[SafetensorsFile, ...]:
    """The layouts of all ``*.safetensors`` files of a folder, and of those its index names.

    Files that the index does not name are included, because a loader may prefer them to the indexed ones.
    Raises ManifestError if there is no file, if a file lies outside the folder, if a tensor is in two files,
    or if the index contradicts the files. Raises OSError for a file that cannot be read.
    """
    folder = Path(folder)
    root = Path(os.path.realpath(folder, strict=True))
    index = _read_index(folder, root)
    names = {path.name for path in folder.iterdir() if path.name.endswith(".safetensors")}
    names.update(index.values())
    if not names:
        raise ManifestError(f"{folder}: the folder has no .safetensors file")
    files = {name: SafetensorsFile.read(_inside(folder, root, name)) for name in sorted(names)}
    owner: dict[str, str] = {}
    for name, file in files.items():
        for tensor in file.tensors:
            if tensor.name in owner:
                raise ManifestError(
                    f"{folder}: tensor {shown(tensor.name)} is in both {shown(owner[tensor.name])} and "
                    f"{shown(name)}; where they are variants of one model, pass one file"
                )
            owner[tensor.name] = name
    for tensor_name, file_name in index.items():
        if owner.get(tensor_name) != file_name:
            raise ManifestError(
                f"{folder / INDEX_NAME}: tensor {shown(tensor_name)} is not in {shown(file_name)}"
            )
    return tuple(files.values())


def _read_index(folder: Path, root: Path) -> dict[str, str]:
    """The index's map from tensor names to file names as safe relative paths; empty without an index."""
    path = folder / INDEX_NAME
    if not os.path.lexists(path):
        return {}
    _inside(folder, root, INDEX_NAME)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ManifestError("not a regular file")
        if status.st_size > MAX_INDEX_SIZE:
            raise ManifestError(f"{status.st_size} bytes; an index has at most {MAX_INDEX_SIZE}")
        data = path.read_bytes()
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from None
    try:
        return parse_index(data)
    except ManifestError as error:
        raise ManifestError(f"{path}: {mistaken_for('an index', data, JSON) or error}") from None


def parse_index(data: bytes) -> dict[str, str]:
    """The ``weight_map`` of an index. Its other members concern only the loader. Raises ManifestError."""
    weight_map = parse_object(data, floats=True).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ManifestError("weight_map must be an object")
    for tensor_name, file_name in weight_map.items():
        if not isinstance(file_name, str):
            raise ManifestError(f"weight_map: the file of {shown(tensor_name)} must be a string")
        parts = file_name.split("/")
        if any(part in {"", ".", ".."} for part in parts) or not file_name.isprintable():
            raise ManifestError(f"weight_map: {shown(file_name)} is not a path inside the folder")
        if "\\" in file_name or ":" in file_name:  # these are separators and drives on some systems
            raise ManifestError(f"weight_map: {shown(file_name)} is not a portable path")
    return weight_map


def _inside(folder: Path, root: Path, name: str) -> Path:
    path = folder / name
    try:
        target = Path(
            os.path.realpath(path, strict=True)
        )  # Path.resolve raises RuntimeError for a loop of links
    except FileNotFoundError:
        raise ManifestError(f"{folder}: {shown(name)} is missing") from None
    if not target.is_relative_to(root):
        raise ManifestError(
            f"{path}: the path leaves the model folder (a symbolic link); use a folder with real files, "
            "or pass the file itself"
        )
    return path
