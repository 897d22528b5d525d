"""Manifests: a list of a model's tensors with their digests, and one root digest that binds the list.

``docs/reference/manifest.md`` defines the root and the JSON.
"""

from __future__ import annotations

import hmac
import json
import os
import stat
import struct
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import algorithms
from ..algorithms import Algorithm, Security
from ..files import Progress
from ..hashing import new
from ..output_files import write_file
from ..strict_json import check_members, check_sizes, parse_hex, parse_object
from .entry import TensorEntry
from .errors import ManifestError, shown
from .file_kinds import JSON, mistaken_for
from .folder import read_folder
from .live import hash_state_dict
from .report import ModelReport, compare
from .safetensors_file import SafetensorsFile
from .stored import hash_files

if TYPE_CHECKING:
    import torch

__all__ = ["FORMAT", "MAX_SIZE", "VERSION", "Manifest", "TensorEntry"]

FORMAT = "integrity_triton manifest"
VERSION = 1
MAX_SIZE = 64 << 20
"""Bytes of JSON, enough for about 300,000 tensors."""

_LEAST_COLLISION_BITS = 112  # with less than this, two models with the same root can be found
_ROOT_DOMAIN = b"integrity_triton manifest root"
_FIELDS: Mapping[str, type] = {"format": str, "version": int, "algorithm": str, "root": str, "tensors": list}
_TENSOR_FIELDS: Mapping[str, type] = {"name": str, "dtype": str, "shape": list, "nbytes": int, "digest": str}


class Manifest:
    """One entry for each tensor of a model, and the root over all of them. Immutable.

    :meth:`build` makes a manifest from a model; :meth:`load` and :meth:`from_json` read a stored one. The
    same tensors give the same manifest whether they are in a module, a state dict or safetensors files, on
    any device and in any order.
    """

    __slots__ = ("_algorithm", "_entries", "_root")

    def __init__(self, algorithm: str, entries: Iterable[TensorEntry]) -> None:
        """A manifest of given entries, in any order.

        Raises ManifestError for a name that occurs twice, a digest of the wrong length, and an
        algorithm that is unknown, keyed or not collision resistant.
        """
        record = _secure_algorithm(algorithm)
        ordered = tuple(sorted(entries, key=lambda entry: entry.name))
        previous = None
        for entry in ordered:
            if entry.name == previous:
                raise ManifestError(f"tensor {shown(entry.name)} is listed twice")
            if len(entry.digest) != record.digest_size:
                raise ManifestError(
                    f"tensor {shown(entry.name)}: a {record.name} digest has {record.digest_size} bytes, "
                    f"not {len(entry.digest)}"
                )
            previous = entry.name
        self._algorithm = record.name
        self._entries = ordered
        self._root = _root(record, ordered)

    @property
    def algorithm(self) -> str:
        return self._algorithm

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        """The entries, sorted by name."""
        return self._entries

    @property
    def root(self) -> bytes:
        """The digest that binds the algorithm and every field of every entry."""
        return self._root

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Manifest):
            return NotImplemented
        return self._algorithm == other._algorithm and self._entries == other._entries

    def __hash__(self) -> int:
        return hash((self._algorithm, self._root))

    def __repr__(self) -> str:
        return f"<Manifest of {len(self._entries)} tensors, {self._algorithm} root {self._root.hex()}>"

    @classmethod
    def build(
        cls,
        source: Any,
        algorithm: str = "blake3",
        *,
        backend: str | None = None,
        progress: Progress | None = None,
    ) -> Manifest:
        """The manifest of a model.

        ``source`` is an ``nn.Module``, a state dict, the path of a safetensors file, or the path of
        a folder of them. Tensors in memory are hashed on their own devices. ``progress`` is called
        with the number of bytes just hashed. Tied weights are hashed and counted once.

        Raises ManifestError (a ValueError) for malformed files and for algorithms that are not secure;
        TypeError or ValueError, which names the tensor, for a tensor without dense data; TypeError for a
        source of another type; OSError for a file that cannot be read; and for the backend, as
        :func:`integrity_triton.hash_batch` does.
        """
        manifest, _ = cls._measure(source, algorithm, backend, progress)
        return manifest

    @classmethod
    def from_module(
        cls,
        module: torch.nn.Module,
        algorithm: str = "blake3",
        *,
        backend: str | None = None,
        progress: Progress | None = None,
    ) -> Manifest:
        """The manifest of ``module.state_dict()``; see :meth:`build`."""
        return cls.from_state_dict(module.state_dict(), algorithm, backend=backend, progress=progress)

    @classmethod
    def from_state_dict(
        cls,
        state_dict: Mapping[str, Any],
        algorithm: str = "blake3",
        *,
        backend: str | None = None,
        progress: Progress | None = None,
    ) -> Manifest:
        """The manifest of a mapping from names to tensors; see :meth:`build`."""
        record = _secure_algorithm(algorithm)
        entries, _ = hash_state_dict(state_dict, record, backend, progress)
        return cls(record.name, entries)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        algorithm: str = "blake3",
        *,
        backend: str | None = None,
        progress: Progress | None = None,
    ) -> Manifest:
        """The manifest of one safetensors file, read with bounded memory; see :meth:`build`."""
        record = _secure_algorithm(algorithm)
        return cls(record.name, hash_files([SafetensorsFile.read(path)], record, backend, progress))

    @classmethod
    def from_folder(
        cls,
        path: str | os.PathLike[str],
        algorithm: str = "blake3",
        *,
        backend: str | None = None,
        progress: Progress | None = None,
    ) -> Manifest:
        """The manifest of all safetensors files of a folder and its subfolders; see :meth:`build`.

        The tensors of a subfolder are named after it, for example ``2_Dense/linear.weight``. Indexes, as in
        ``model.safetensors.index.json``, say which files belong together. Raises ManifestError also if
        a file or a numbered shard is missing, a file lies outside the folder, a tensor is in two files and no
        index says which one counts, or an index disagrees with the files.
        """
        record = _secure_algorithm(algorithm)
        return cls(record.name, hash_files(read_folder(path), record, backend, progress))

    @classmethod
    def _measure(
        cls, source: Any, algorithm: str, backend: str | None, progress: Progress | None
    ) -> tuple[Manifest, Mapping[str, str]]:
        """A model's manifest, and for each name of a live model the first name of the same memory."""
        record = _secure_algorithm(algorithm)
        if isinstance(source, str | os.PathLike):
            make = cls.from_folder if Path(source).is_dir() else cls.from_file
            return make(source, record.name, backend=backend, progress=progress), {}
        state_dict = source.state_dict() if _is_module(source) else source
        if not isinstance(state_dict, Mapping):
            raise TypeError(
                "a manifest is made from an nn.Module, a state dict or a path, "
                f"not from {type(source).__name__}"
            )
        entries, ties = hash_state_dict(state_dict, record, backend, progress)
        return cls(record.name, entries), ties

    def verify(
        self, source: Any, *, backend: str | None = None, progress: Progress | None = None
    ) -> ModelReport:
        """Compare a model, given as for :meth:`build`, with this manifest.

        The report says what does not match. Only a source that :meth:`build` refuses raises an error.
        """
        found, ties = self._measure(source, self._algorithm, backend, progress)
        return compare(self._entries, found._entries, ties)

    def to_json(self) -> str:
        """The manifest as ASCII JSON with a line for each tensor. Equal manifests give equal text.

        Raises ManifestError if it would be too large for :meth:`from_json`.
        """
        head = {
            "format": FORMAT,
            "version": VERSION,
            "algorithm": self._algorithm,
            "root": self._root.hex(),
        }
        fields = "".join(f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items())
        lines = ",\n".join(f"    {json.dumps(entry.to_dict())}" for entry in self._entries)
        tensors = f"[\n{lines}\n  ]" if lines else "[]"
        text = f'{{\n{fields}  "tensors": {tensors}\n}}\n'
        if len(text) > MAX_SIZE:
            raise ManifestError(f"the manifest takes {len(text)} bytes; at most {MAX_SIZE} are allowed")
        return text

    @classmethod
    def from_json(cls, data: str | bytes | bytearray) -> Manifest:
        """Parse a manifest, which may come from an untrusted source.

        Parsing does not prove that the manifest is the right one; a signature or a known root does. Raises
        ManifestError for anything that is not a well-formed manifest with a matching root, and TypeError for
        an argument of another type.
        """
        if not isinstance(data, str | bytes | bytearray):
            raise TypeError(f"a manifest is parsed from str or bytes, not from {type(data).__name__}")
        if len(data) > MAX_SIZE:
            raise ManifestError(f"not a manifest: larger than {MAX_SIZE} bytes")
        try:
            return cls._from_object(parse_object(data))
        except ValueError as error:
            raise ManifestError(f"not a valid manifest: {error}") from None

    @classmethod
    def _from_object(cls, members: Mapping[str, Any]) -> Manifest:
        # The format and version are checked first, because a newer version may have other fields.
        if members.get("format") != FORMAT:
            raise ManifestError(f"the field 'format' must be {FORMAT!r}")
        version = members.get("version")
        if type(version) is int and version > VERSION:
            raise ManifestError(
                f"version {version} was made by a newer version of integrity_triton; this one reads {VERSION}"
            )
        check_members(members, _FIELDS)
        if version != VERSION:
            raise ManifestError(f"unknown version {version}")
        record = _secure_algorithm(members["algorithm"])
        if record.name != members["algorithm"]:
            raise ManifestError(f"the algorithm must be spelled {record.name!r}")
        root = parse_hex(members["root"], "root")
        entries = []
        for i, tensor in enumerate(members["tensors"]):
            try:
                entries.append(_parse_entry(tensor))
            except ValueError as error:
                raise ManifestError(f"tensors[{i}]: {error}") from None
        manifest = cls(record.name, entries)
        if not hmac.compare_digest(root, manifest.root):
            raise ManifestError("the root is not that of the tensors listed: the manifest was altered")
        return manifest

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_json` to a file, which is replaced as a whole: after an error it is unchanged. A
        link's target is replaced, and a device or a pipe is written into. Raises OSError, which names
        ``path``."""
        write_file(path, self.to_json().encode("ascii"))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Manifest:
        """Read a manifest from a file.

        Raises as :meth:`from_json` does, and names the file, whose size is checked before it is read. Raises
        OSError if the file cannot be read.
        """
        path = Path(path)
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ManifestError(f"{path}: not a regular file")
        if status.st_size > MAX_SIZE:
            raise ManifestError(f"{path}: not a manifest: larger than {MAX_SIZE} bytes")
        with open(path, "rb") as file:
            data = file.read(MAX_SIZE + 1)  # not more, even if the file has grown
        try:
            return cls.from_json(data)
        except ManifestError as error:
            raise ManifestError(f"{path}: {mistaken_for('a manifest', data, JSON) or error}") from None


def _secure_algorithm(name: str) -> Algorithm:
    """The record of an algorithm whose digests a manifest may use."""
    try:
        record = algorithms.get(name)
    except ValueError as error:
        raise ManifestError(str(error)) from None
    if record.keyed == "required":
        raise ManifestError(f"{record.name} needs a key; a manifest is made with a hash")
    if not _collision_resistant(record):
        allowed = ", ".join(r.name for r in algorithms.all_algorithms() if _collision_resistant(r))
        raise ManifestError(
            f"{record.name} is not collision resistant enough for a manifest ({record.security_note}); "
            f"a manifest takes {allowed}"
        )
    return record


def _collision_resistant(record: Algorithm) -> bool:
    return (
        record.security is Security.SECURE
        and record.collision_bits >= _LEAST_COLLISION_BITS
        and record.keyed != "required"
    )


def _root(algorithm: Algorithm, entries: Iterable[TensorEntry]) -> bytes:
    """The root as docs/reference/manifest.md defines it."""
    entries = tuple(entries)
    hasher = new(algorithm.name, backend="native")
    hasher.update(_counted(_ROOT_DOMAIN) + _u64(VERSION) + _counted(algorithm.name.encode()))
    hasher.update(_u64(len(entries)))
    for entry in entries:
        fields = (
            _counted(entry.name.encode("utf-8")),
            _counted(entry.dtype.encode("ascii")),
            _u64(len(entry.shape)),
            *map(_u64, entry.shape),
            _u64(entry.nbytes),
            _counted(entry.digest),
        )
        hasher.update(b"".join(fields))
    return hasher.digest()


def _u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def _counted(data: bytes) -> bytes:
    return _u64(len(data)) + data


def _parse_entry(value: Any) -> TensorEntry:
    if not isinstance(value, dict):
        raise ManifestError("an entry must be an object")
    check_members(value, _TENSOR_FIELDS)
    shape = check_sizes(value["shape"], "shape")
    digest = parse_hex(value["digest"], "digest")
    return TensorEntry(value["name"], value["dtype"], shape, value["nbytes"], digest)


def _is_module(source: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.nn.Module)
