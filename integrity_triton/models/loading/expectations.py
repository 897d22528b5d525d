"""What a model is checked against while it is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

from ... import algorithms
from ...remote_files import is_remote
from ...strict_json import shown
from ..entry import TensorEntry, check_name
from ..errors import ManifestError
from ..file_digests import FSVERITY_SIZES, GIT_SIZES, XET_SIZES, FileDigest, FileDigests
from ..manifest import Manifest
from ..regular_files import read_head
from ..report import compare
from ..tensor_hash import TensorHash, collision_resistant
from .digesters import Digester
from .errors import LoadError
from .plan import Message, Plan, PlannedFile

PathLike = str | os.PathLike[str]

_MOST_LINES = 21  # of a report: its head, and twenty tensors


@dataclass(frozen=True)
class Signed:
    """An OpenSSF Model Signing signature as what a model must match.

    ``signature`` is the path of the bundle and ``public_key`` that of the PEM file of the signer's key. Only
    the files that are loaded are compared with the signature; ``models.oms.verify`` compares the others.
    """

    signature: PathLike
    public_key: PathLike


@dataclass(frozen=True)
class TensorDigests:
    """A digest for each of several tensors, by name. Immutable.

    They cover the tensors' bytes and nothing of how the file describes these: it could give the same bytes
    another dtype or shape. A :class:`Manifest` covers both. ``digests`` holds bytes. A digest that is not
    collision resistant is only a checksum, and refused unless ``checksums`` says that no more is expected.

    Raises ManifestError for an algorithm that is unknown or keyed, for a digest that it cannot have, and for
    checksums that were not asked for; TypeError for anything of another type.
    """

    algorithm: str
    digests: Mapping[str, bytes]
    checksums: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.digests, Mapping):
            raise TypeError(f"digests must map names to digests, not be a {type(self.digests).__name__}")
        if self.algorithm in {*FSVERITY_SIZES, *GIT_SIZES, *XET_SIZES}:
            raise ManifestError(f"{self.algorithm} is a digest of files, not of tensors")
        try:
            record = algorithms.get(self.algorithm)  # here, because there may be no digest
        except ValueError as error:
            raise ManifestError(str(error)) from None
        for name, digest in self.digests.items():
            check_name(name)
            checked = FileDigest(self.algorithm, digest)
            if checked.weakness is not None and not self.checksums:
                raise ManifestError(
                    f"{record.name} is only a checksum ({checked.weakness}); take digests of a secure hash, "
                    "or pass checksums=True if the tensors only have to be free of accidents"
                )
        object.__setattr__(self, "digests", MappingProxyType(dict(self.digests)))

    @property
    def collision_resistant(self) -> bool:
        """Whether nobody can find other bytes with the same digest."""
        if not self.digests:
            return collision_resistant(algorithms.get(self.algorithm))
        return all(FileDigest(self.algorithm, digest).weakness is None for digest in self.digests.values())

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuilt, (self.algorithm, dict(self.digests), self.checksums)  # a mapping proxy has no pickle


def _rebuilt(algorithm: str, digests: Mapping[str, bytes], checksums: bool) -> TensorDigests:
    return TensorDigests(algorithm, digests, checksums=checksums)


Against = Manifest | Signed | FileDigests | TensorDigests | str | os.PathLike[str]


class Expectation(Protocol):
    """What a model must match. Every expectation covers all tensors that are loaded."""

    whole_files: ClassVar[bool]
    """Whether a digest covers a whole file, or parts of it that are no tensors."""

    def expect(self, plan: Plan, partial: bool) -> None:
        """Give the files of the plan their messages.

        Raises LoadError for what differs already in the names, dtypes and shapes, before anything is read.
        ``partial`` permits that the model lacks tensors which are expected, except all of them.
        """


def read_expectations(against: Against | Sequence[Against]) -> list[Expectation]:
    """What ``against`` stands for. A path is that of a manifest if the file begins as JSON does, otherwise of
    a list of SHA-256 digests.

    Raises TypeError for anything else, ValueError for nothing, ManifestError and SignatureFormatError for a
    malformed file, OSError for one that cannot be read, and IntegrityError for a signature by another key.
    """
    alone = isinstance(against, Manifest | Signed | FileDigests | TensorDigests | str | os.PathLike)
    if not alone and not isinstance(against, Sequence):
        raise TypeError(
            "against must be a Manifest, Signed, FileDigests, TensorDigests, the path of a manifest or of a "
            f"list of SHA-256 digests, or a sequence of these, not {type(against).__name__}"
        )
    given: Sequence[Any] = [against] if alone else against  # type: ignore[assignment]
    if not given:
        raise ValueError("against is empty, so that nothing would be checked")
    return [_expectation(item) for item in given]


def _expectation(item: Any) -> Expectation:
    if isinstance(item, str | os.PathLike):
        item = _read(item)
    if isinstance(item, Manifest):
        return _OfManifest(item)
    if isinstance(item, FileDigests):
        return _OfFiles(item)
    if isinstance(item, TensorDigests):
        return _OfTensors(item)
    if isinstance(item, Signed):
        return _of_signature(item)
    raise TypeError(f"a model cannot be checked against an object of the type {type(item).__name__}")


def _read(path: PathLike) -> Manifest | FileDigests:
    try:
        head = read_head(path, 64)
    except ValueError as error:
        raise ManifestError(f"{error}; against takes the path of a regular file") from None
    if head.lstrip()[:1] == b"{":
        try:
            return Manifest.load(path)
        except ManifestError as error:
            raise ManifestError(
                f"{error}; if it is a signature, pass Signed(signature, public_key) in place of its path"
            ) from None
    try:
        return FileDigests.load_list(path)
    except ManifestError as error:
        raise ManifestError(
            f"{error}; against takes the path of a manifest or of a list of SHA-256 digests, and an object "
            "for anything else"
        ) from None


@dataclass(frozen=True)
class _OfManifest:
    manifest: Manifest
    whole_files: ClassVar[bool] = False

    def expect(self, plan: Plan, partial: bool) -> None:
        listed = {name: entry for entry in self.manifest.entries for name in entry.names}
        tensors = plan.tensors()
        # With the expected digests, the report is about everything that does not have to be read.
        found = [
            TensorEntry(name, t.dtype, t.shape, t.nbytes, listed[name].digest if name in listed else b"")
            for name, (_, t) in tensors.items()
        ]
        entries = self.manifest.entries
        report = compare(entries, found, live=False, alternatives=entries, partial=partial)
        if not report.ok:
            present = [change.name for change in report.changed] + list(report.unexpected)
            name = (*present, *report.missing)[0]
            file, tensor = tensors.get(name, (None, None))
            raise LoadError(
                f"{plan.path}: {_shortened(str(report))}",
                file=plan.path if file is None else file.path,
                tensor=name,
                range=None if tensor is None else (tensor.start, tensor.end),
            )
        hash_ = TensorHash.of(self.manifest.algorithm, self.manifest.digest_size)
        digester = Digester(hash_.name, hash_.digest_size)
        for name, (file, tensor) in tensors.items():
            file.messages.append(
                Message(tensor.start, tensor.end, digester, listed[name].digest, "the manifest", name)
            )


@dataclass(frozen=True)
class _OfTensors:
    given: TensorDigests
    whole_files: ClassVar[bool] = False

    def expect(self, plan: Plan, partial: bool) -> None:
        tensors = plan.tensors()
        digests = self.given.digests
        missing = sorted(digests.keys() - tensors.keys())
        unexpected = sorted(tensors.keys() - digests.keys())
        if missing and partial and len(missing) < len(digests):
            missing = []
        for names, what in ((unexpected, "have no digest"), (missing, "are not in the model")):
            if names:
                file, tensor = tensors.get(names[0], (None, None))
                raise LoadError(
                    f"{plan.path}: tensors {what}: {_list(names)}",
                    file=plan.path if file is None else file.path,
                    tensor=names[0],
                    range=None if tensor is None else (tensor.start, tensor.end),
                )
        for name, (file, tensor) in tensors.items():
            digester = Digester(self.given.algorithm, len(digests[name]))
            file.messages.append(
                Message(tensor.start, tensor.end, digester, digests[name], "the list of tensors", name)
            )


@dataclass(frozen=True)
class _OfFiles:
    given: FileDigests
    whole_files: ClassVar[bool] = True

    def expect(self, plan: Plan, partial: bool) -> None:
        files = self.given.files
        _check_files(plan, files, "the list of files")
        for file in plan.files:
            digest = files[file.name]
            if digest.size is not None and digest.size != file.layout.size:
                raise LoadError(
                    f"{file.path}: the file has {file.layout.size} bytes, and the list of files has "
                    f"{digest.size}",
                    file=file.path,
                    range=(0, file.layout.size),
                )
            digester = Digester(digest.algorithm, len(digest.digest), digest.salt)
            file.messages.append(Message(0, file.layout.size, digester, digest.digest, "the list of files"))


@dataclass(frozen=True)
class _OfSignature:
    """Parts of files with digests: ``(start, end, digest)``, where an end of None is that of the file."""

    algorithm: str
    files: Mapping[str, Sequence[tuple[int, int | None, bytes]]]
    whole_files: ClassVar[bool] = True

    def expect(self, plan: Plan, partial: bool) -> None:
        _check_files(plan, self.files, "the signature")
        length = algorithms.get(self.algorithm).digest_size
        digester = Digester(self.algorithm, length)
        for file in plan.files:
            size = file.layout.size
            messages = [
                Message(start, size if end is None else end, digester, digest, "the signature")
                for start, end, digest in sorted(self.files[file.name])
            ]
            self._check_parts(file, messages)
            file.messages += messages

    @staticmethod
    def _check_parts(file: PlannedFile, messages: Sequence[Message]) -> None:
        """Check that the parts follow each other from the file's first byte to its last."""
        position = 0
        for message in messages:
            if message.start != position or message.end <= position:
                break
            position = message.end
        else:
            if position == file.layout.size:
                return
        raise LoadError(
            f"{file.path}: the shards in the signature do not cover the {file.layout.size} bytes of the file",
            file=file.path,
            range=(0, file.layout.size),
        )


def _of_signature(signed: Signed) -> Expectation:
    from ..oms import read_signature
    from ..oms_signers import KeyVerifier
    from ..signing_keys import load_public_key

    statement = read_signature(signed.signature, KeyVerifier(load_public_key(signed.public_key)))
    files: dict[str, list[tuple[int, int | None, bytes]]] = {}
    for name, resources in statement.files.items():
        parts = files.setdefault(name, [])
        for resource, digest in resources.items():
            start, end = (0, None) if statement.method == "files" else _bounds(resource)
            parts.append((start, end, bytes.fromhex(digest)))
    return _OfSignature(statement.algorithm, files)


def _bounds(shard: str) -> tuple[int, int]:
    _, start, end = shard.rsplit(":", 2)
    return int(start), int(end)


def _check_files(plan: Plan, listed: Mapping[str, Any], source: str) -> None:
    """Check that every file that is loaded is listed, and that no listed one is missing from a folder."""
    loaded = {file.name: file for file in plan.files}
    unlisted = sorted(loaded.keys() - listed.keys())
    missing = sorted(n for n in listed if plan.folder and n.endswith(".safetensors") and n not in loaded)
    if unlisted:
        file = loaded[unlisted[0]]
        elsewhere = next((name for name in sorted(listed) if name.endswith(f"/{unlisted[0]}")), None)
        hint = (
            f"; names are relative to the folder of the model, and it has {shown(elsewhere)}"
            if elsewhere
            else ""
        )
        raise LoadError(
            f"{plan.path}: {source} has no digest of {_list(unlisted)}{hint}",
            file=file.path,
            range=(0, file.layout.size),
        )
    if missing:
        raise LoadError(
            f"{plan.path}: {source} has files that are missing: {_list(missing)}",
            file=f"{plan.path}/{missing[0]}" if is_remote(plan.path) else str(Path(plan.path, missing[0])),
        )


def _shortened(text: str) -> str:
    """The first lines of a report, which has one for each tensor."""
    lines = text.splitlines()
    if len(lines) <= _MOST_LINES:
        return text
    return "\n".join([*lines[:_MOST_LINES], f"  and {len(lines) - _MOST_LINES} more"])


def _list(names: Sequence[str]) -> str:
    shown_names = ", ".join(map(shown, names[:10]))
    return shown_names if len(names) <= 10 else f"{shown_names} and {len(names) - 10} more"
