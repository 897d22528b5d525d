"""Manifests: a list of a model's tensors with their digests, and one root digest that binds the list.

``docs/reference/manifest.md`` defines the root and the JSON.
"""

from __future__ import annotations

import hmac
import json
import os
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..files import Progress
from ..messages.tensors import flattened
from ..output_files import write_file
from ..strict_json import check_members, check_sizes, parse_hex, parse_object
from .entry import TensorEntry, check_name
from .errors import ManifestError, shown
from .file_kinds import JSON, mistaken_for
from .folder import read_folder, read_model
from .live import hash_state_dict
from .names import Names, Rename
from .regular_files import read_regular
from .report import ModelReport, compare
from .safetensors_file import SafetensorsFile
from .stored import hash_files
from .tensor_hash import TensorHash

if TYPE_CHECKING:
    import torch

__all__ = ["FORMAT", "MAX_SIZE", "VERSION", "Manifest", "TensorEntry"]

FORMAT = "integrity_triton manifest"
VERSION = 2
"""The newest version of the format. A manifest has the oldest version that can say what it says."""
MAX_SIZE = 64 << 20
"""Bytes of JSON, enough for about 300,000 tensors."""

_ROOT_DOMAIN = b"integrity_triton manifest root"
_FIELDS: Mapping[str, type] = {"format": str, "version": int, "algorithm": str, "root": str, "tensors": list}
_TENSOR_FIELDS: Mapping[str, type] = {"name": str, "dtype": str, "shape": list, "nbytes": int, "digest": str}

_OTHER_JSON: Mapping[str, str] = {
    "weight_map": "the index of a model in several safetensors files",
    "architectures": "the configuration of a model, such as config.json",
    "model_type": "the configuration of a model, such as config.json",
    "_class_name": "the configuration of a diffusers model",
}
"""What other JSON files of a model folder are, by a member that they have."""


class Manifest:
    """One entry for each tensor of a model, and the root over all of them. Immutable.

    :meth:`build` makes a manifest from a model; :meth:`load` and :meth:`from_json` read a stored one. The
    same tensors give the same manifest whether they are in a module, a state dict or safetensors files, on
    any device and in any order.
    """

    __slots__ = ("_entries", "_hash", "_root")

    def __init__(self, algorithm: str, entries: Iterable[TensorEntry], *, length: int | None = None) -> None:
        """A manifest of given entries, in any order. ``length`` is as for :meth:`build`.

        Raises ManifestError for a name that occurs twice, a digest of the wrong length, and an
        algorithm that is unknown, keyed or not collision resistant, or without the length that it needs.
        """
        hash_ = TensorHash.of(algorithm, length)
        ordered = tuple(sorted(entries, key=lambda entry: entry.name))
        names: set[str] = set()
        for entry in ordered:
            for name in entry.names:
                if name in names:
                    raise ManifestError(f"tensor {shown(name)} is listed twice")
                names.add(name)
            if len(entry.digest) != hash_.digest_size:
                raise ManifestError(
                    f"tensor {shown(entry.name)}: a {hash_.name} digest has {hash_.digest_size} bytes, "
                    f"not {len(entry.digest)}"
                )
        self._hash = hash_
        self._entries = ordered
        self._root = _root(hash_, ordered, self.version)

    @property
    def algorithm(self) -> str:
        return self._hash.name

    @property
    def digest_size(self) -> int:
        """Bytes in a digest and in the root."""
        return self._hash.digest_size

    @property
    def version(self) -> int:
        """The version of the format: 2 if a tensor has several names or the length of extendable output is
        stated, otherwise 1. Version 1 can say neither."""
        stated = self._hash.length is not None or any(entry.tied for entry in self._entries)
        return VERSION if stated else 1

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
        return self._hash == other._hash and self._entries == other._entries

    def __hash__(self) -> int:
        return hash((self.algorithm, self._root))

    def __repr__(self) -> str:
        return f"<Manifest of {len(self._entries)} tensors, {self.algorithm} root {self._root.hex()}>"

    @classmethod
    def build(
        cls,
        source: Any,
        algorithm: str = "blake3",
        *,
        length: int | None = None,
        overlays: bool = False,
        backend: str | None = None,
        progress: Progress | None = None,
    ) -> Manifest:
        """The manifest of a model.

        ``source`` is an ``nn.Module``, a state dict, the path of a safetensors file, or the path of
        a folder of them. A path may be a URL that fsspec takes, such as ``s3://bucket/model`` (the extra
        ``remote``, and ``docs/guide/remote_models.md``). Tensors in memory are hashed on their own devices.
        ``length`` is in bytes, for an algorithm with extendable output; some of them have no default.
        ``progress`` is called with the number of bytes just hashed.

        Names that share memory in a live model are one entry, and so are names that the metadata of a
        safetensors file states to be one tensor, as ``safetensors.torch.save_model`` writes it. If files do
        not state which names they leave out, state them with :meth:`with_ties`.

        If several files of an index hold one tensor, the index says which of them counts. ``overlays``
        permits that the copies in the other files differ. The manifest does not cover these copies.

        Raises ManifestError (a ValueError) for malformed files and for algorithms that are not secure;
        TypeError or ValueError, which names the tensor, for a tensor without dense data; TypeError for a
        source of another type; OSError for a file that cannot be read; and for the backend, as
        :func:`integrity_triton.hash_batch` does.
        """
        hash_ = TensorHash.of(algorithm, length)
        found = _measure(source, hash_, Names(), overlays, backend, progress)
        return cls(hash_.name, found.entries, length=hash_.length).with_ties(found.ties)

    @classmethod
    def from_module(
        cls,
        module: torch.nn.Module,
        algorithm: str = "blake3",
        *,
        length: int | None = None,
        backend: str | None = None,
        progress: Progress | None = None,
    ) -> Manifest:
        """The manifest of ``module.state_dict()``; see :meth:`build`."""
        state_dict = module.state_dict()
        return cls.build(state_dict, algorithm, length=length, backend=backend, progress=progress)

    @classmethod
    def from_state_dict(
        cls,
        state_dict: Mapping[str, Any],
        algorithm: str = "blake3",
        *,
        length: int | None = None,
        backend: str | None = None,
        progress: Progress | None = None,
    ) -> Manifest:
        """The manifest of a mapping from names to tensors; see :meth:`build`."""
        return cls.build(state_dict, algorithm, length=length, backend=backend, progress=progress)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        algorithm: str = "blake3",
        *,
        length: int | None = None,
        backend: str | None = None,
        progress: Progress | None = None,
    ) -> Manifest:
        """The manifest of one safetensors file, read with bounded memory; see :meth:`build`."""
        return cls._from_files([SafetensorsFile.read(path)], algorithm, length, backend, progress)

    @classmethod
    def from_folder(
        cls,
        path: str | os.PathLike[str],
        algorithm: str = "blake3",
        *,
        length: int | None = None,
        overlays: bool = False,
        backend: str | None = None,
        progress: Progress | None = None,
    ) -> Manifest:
        """The manifest of all safetensors files of a folder and its subfolders; see :meth:`build`.

        The tensors of a subfolder are named after it, for example ``2_Dense/linear.weight``. Indexes, as in
        ``model.safetensors.index.json``, say which files of their own folder belong together. Raises
        ManifestError also if a file or a numbered shard is missing, a file lies outside the folder, a link
        leads to a folder, the stored name of a tensor has a slash, a tensor is in two files and no index says
        which one counts, copies of a tensor differ without ``overlays``, or an index disagrees with the
        files.
        """
        return cls._from_files(read_folder(path, overlays=overlays), algorithm, length, backend, progress)

    def with_ties(self, ties: Mapping[str, str]) -> Manifest:
        """This manifest with further names for its tensors: each key of ``ties`` is a name of the tensor that
        its value names.

        It is meant for files from which tied weights were left out without a statement, and for manifests of
        version 1. The name may be listed already, if its tensor is equal to the other one. Raises
        ManifestError if it differs or if the other name is not listed.
        """
        if not ties:
            return self
        groups = [set(entry.names) for entry in self._entries]
        place = {name: i for i, names in enumerate(groups) for name in names}
        for name, to in ties.items():
            check_name(name)
            check_name(to)
            if to not in place:
                raise ManifestError(f"{shown(name)} cannot be tied to {shown(to)}, which is not listed")
            target, source = place[to], place.get(name)
            if source is None:
                joined = {name}
            elif self._entries[source].called("_") == self._entries[target].called("_"):
                joined = groups[source]
            else:
                raise ManifestError(f"tensors {shown(name)} and {shown(to)} differ, so they cannot be tied")
            place.update(dict.fromkeys(joined, target))
            groups[target] = groups[target] | joined
            if source is not None and source != target:
                groups[source] = set()
        entries = [entry.called(names) for entry, names in zip(self._entries, groups, strict=True) if names]
        return Manifest(self.algorithm, entries, length=self._hash.length)

    def verify(
        self,
        source: Any,
        *,
        partial: bool = False,
        ignore: str | Iterable[str] = (),
        rename: Rename | None = None,
        overlays: bool = False,
        backend: str | None = None,
        progress: Progress | None = None,
    ) -> ModelReport:
        """Compare a model, given as for :meth:`build`, with this manifest.

        ``partial`` permits tensors of the manifest to be missing from the model, except all of them.

        ``ignore`` holds names, and patterns as those of ``fnmatch``, for example ``"*_extra_state"``. What
        matches is not compared, in the manifest and in the model. A manifest that is not empty must keep
        something to compare.

        ``rename`` gives the manifest's name for a name of the model. It is a function, or a mapping. Each key
        of a mapping is replaced by its value wherever it stands in a name as whole parts between dots or
        slashes: ``{"_orig_mod.": ""}`` undoes what ``torch.compile`` does to names. The empty key stands for
        the beginning of every name, where its value is put. ``ignore`` is applied to the new names.

        ``overlays`` permits, in a folder, copies of tensors that differ from those which the index chooses.
        The copies are not compared. Without it such a folder is refused with a ManifestError.

        The report says what does not match, and what was ignored, absent or overlaid. Only a source
        that :meth:`build` refuses, or arguments that leave nothing to compare or give two tensors one name,
        raise an error.
        """
        names = Names.of(ignore, rename)
        ignored = {name for entry in self._entries for name in entry.names if names.ignores(name)}
        expected: Sequence[TensorEntry] = self._entries
        if ignored:
            kept = [(entry, [n for n in entry.names if n not in ignored]) for entry in self._entries]
            expected = sorted(entry.called(remaining) for entry, remaining in kept if remaining)
        if self._entries and not expected:
            raise ManifestError("ignore leaves no tensor of the manifest to compare")
        found = _measure(source, self._hash, names, overlays, backend, progress)
        if not expected and not found.entries and found.ignored:
            raise ManifestError("ignore leaves no tensor of the model to compare")
        return compare(
            expected,
            found.entries,
            live=found.live,
            alternatives=self._entries,
            partial=partial,
            ignored=ignored | found.ignored,
            overlaid=found.overlaid,
        )

    @classmethod
    def _from_files(
        cls,
        files: Sequence[SafetensorsFile],
        algorithm: str,
        length: int | None,
        backend: str | None,
        progress: Progress | None,
    ) -> Manifest:
        hash_ = TensorHash.of(algorithm, length)
        found = _measure_files(files, hash_, Names(), backend, progress)
        return cls(hash_.name, found.entries, length=hash_.length).with_ties(found.ties)

    def to_json(self) -> str:
        """The manifest as ASCII JSON with a line for each tensor. Equal manifests give equal text.

        Raises ManifestError if it would be too large for :meth:`from_json`.
        """
        head: dict[str, Any] = {"format": FORMAT, "version": self.version, "algorithm": self.algorithm}
        if self._hash.length is not None:
            head["length"] = self._hash.length
        head["root"] = self._root.hex()
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
            known = next((what for field, what in _OTHER_JSON.items() if field in members), None)
            raise ManifestError(
                f"the field 'format' must be {FORMAT!r}" + (f"; this is {known}" if known else "")
            )
        version = members.get("version")
        if type(version) is int and version > VERSION:
            raise ManifestError(
                f"version {version} was made by a newer version of integrity_triton; this one reads {VERSION}"
            )
        length_field = {"length": int} if version == VERSION and "length" in members else {}
        check_members(members, {**_FIELDS, **length_field})
        if version not in (1, VERSION):
            raise ManifestError(f"unknown version {version}")
        length = members.get("length")
        hash_ = TensorHash.of(members["algorithm"], length)
        if hash_.name != members["algorithm"]:
            raise ManifestError(f"the algorithm must be spelled {hash_.name!r}")
        if length is not None and hash_.length is None:
            raise ManifestError(f"the field 'length' must be left out: {length} bytes are the default")
        root = parse_hex(members["root"], "root")
        entries = []
        for i, tensor in enumerate(members["tensors"]):
            try:
                entries.append(_parse_entry(tensor, version))
            except ValueError as error:
                raise ManifestError(f"tensors[{i}]: {error}") from None
        manifest = cls(hash_.name, entries, length=length)
        if manifest.version != version:
            raise ManifestError(f"version {version} must state ties or a length; this one states neither")
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
        """Read a manifest from a file, whose path may be a URL that fsspec takes.

        Raises as :meth:`from_json` does, and names the file, whose size is checked before it is read. Raises
        OSError if the file cannot be read.
        """
        try:
            data = read_regular(path, MAX_SIZE, "a manifest")
        except ValueError as error:
            raise ManifestError(str(error)) from None
        try:
            return cls.from_json(data)
        except ManifestError as error:
            raise ManifestError(f"{path}: {mistaken_for('a manifest', data, JSON) or error}") from None


@dataclass(frozen=True)
class _Found:
    """The tensors of a model, as far as they are compared."""

    entries: list[TensorEntry]
    live: bool
    """Whether names that share memory are in one entry."""
    ties: Mapping[str, str]
    """Names that are not stored, each with the stored name of the same tensor, as files state it."""
    ignored: set[str]
    overlaid: Sequence[tuple[str, str]] = ()
    """Names of tensors, each with the file of a copy that differs and does not count."""


def _measure(
    source: Any,
    hash_: TensorHash,
    names: Names,
    overlays: bool,
    backend: str | None,
    progress: Progress | None,
) -> _Found:
    if isinstance(source, str | os.PathLike):
        return _measure_files(read_model(source, overlays=overlays), hash_, names, backend, progress)
    state_dict = source.state_dict() if _is_module(source) else source
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"a manifest is made from an nn.Module, a state dict or a path, not from {type(source).__name__}"
        )
    parts = flattened(state_dict)  # wrappers have no bytes, and the manifest lists what is inside them
    compared, ignored = names.select(parts)
    tensors = {new: parts[name] for name, new in compared.items()}
    return _Found(hash_state_dict(tensors, hash_, backend, progress), True, {}, ignored)


def _measure_files(
    files: Sequence[SafetensorsFile],
    hash_: TensorHash,
    names: Names,
    backend: str | None,
    progress: Progress | None,
) -> _Found:
    stored = [tensor.name for file in files for tensor in file.tensors]
    compared, ignored = names.select(stored)
    entries = hash_files([file.selected(compared) for file in files], hash_, backend, progress)
    ties: dict[str, str] = {}
    for file in files:
        for name, to in file.ties.items():
            if name not in compared and to in compared and ties.setdefault(name, to) != to:
                raise ManifestError(
                    f"the metadata of two files contradict each other: {shown(name)} is "
                    f"{shown(ties[name])} and {shown(to)}"
                )
    overlaid = [(name, str(file.path)) for file in files for name in file.overlaid]
    return _Found(entries, False, ties, ignored, overlaid)


def _root(hash_: TensorHash, entries: Sequence[TensorEntry], version: int) -> bytes:
    """The root as docs/reference/manifest.md defines it."""
    parts = [_counted(_ROOT_DOMAIN), _u64(version), _counted(hash_.name.encode())]
    if version > 1:
        parts.append(_u64(hash_.digest_size))
    parts.append(_u64(len(entries)))
    for entry in entries:
        parts.append(_counted(entry.name.encode("utf-8")))
        if version > 1:
            parts += [_u64(len(entry.tied)), *(_counted(name.encode("utf-8")) for name in entry.tied)]
        parts += [
            _counted(entry.dtype.encode("ascii")),
            _u64(len(entry.shape)),
            *map(_u64, entry.shape),
            _u64(entry.nbytes),
            _counted(entry.digest),
        ]
    return hash_.digest(b"".join(parts))


def _u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def _counted(data: bytes) -> bytes:
    return _u64(len(data)) + data


def _parse_entry(value: Any, version: int) -> TensorEntry:
    if not isinstance(value, dict):
        raise ManifestError("an entry must be an object")
    tied_field = {"tied": list} if version > 1 and "tied" in value else {}
    check_members(value, {**_TENSOR_FIELDS, **tied_field})
    tied = value.get("tied", [])
    if tied_field and not tied:
        raise ManifestError("the field 'tied' must not be empty")
    if not all(isinstance(name, str) for name in tied):
        raise ManifestError("the field 'tied' must hold names, which are strings")
    shape = check_sizes(value["shape"], "shape")
    digest = parse_hex(value["digest"], "digest")
    return TensorEntry(value["name"], value["dtype"], shape, value["nbytes"], digest, tuple(tied))


def _is_module(source: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.nn.Module)
