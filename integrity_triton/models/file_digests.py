"""Digests of whole files by their names, as checksum lists and other projects' formats state them."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from .. import algorithms
from .checksum_lists import ListReader
from .dtypes import LARGEST_SIZE
from .errors import ManifestError, shown
from .regular_files import read_regular
from .tensor_hash import LEAST_SIZE, collision_resistant

MAX_LIST_SIZE = 64 << 20
"""Bytes in a list, enough for several hundred thousand files."""

FSVERITY_SIZES: Mapping[str, int] = MappingProxyType({"fsverity-sha256": 32, "fsverity-sha512": 64})
"""The digests that the kernel gives to files under fs-verity, with their sizes in bytes. They are the hash of
a descriptor that holds the root of a Merkle tree (Linux, Documentation/filesystems/fsverity.rst)."""
GIT_SIZES: Mapping[str, int] = MappingProxyType({"git-sha1": 20, "git-sha256": 32})
"""The names that git gives to blobs, with their sizes in bytes. They are the hash of ``blob``, a space, the
size in decimal, a zero byte and the content (git, Documentation/gitformat-loose.adoc)."""
XET_SIZES: Mapping[str, int] = MappingProxyType({"xet": 32})
"""The hash that Hugging Face's Xet storage gives to a file, with its size in bytes."""

_OTHER_SIZES = {**FSVERITY_SIZES, **GIT_SIZES, **XET_SIZES}
_WEAK = {"git-sha1": "SHA-1 has practical collisions"}
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+\Z")


@dataclass(frozen=True)
class FileDigest:
    """The digest of one file.

    Raises ManifestError for an algorithm that is unknown or keyed and for a digest or size that it cannot
    have, and TypeError for a field of another type.
    """

    algorithm: str
    """The name of a hash of this package in its own spelling, or a key of ``FSVERITY_SIZES``,
    ``GIT_SIZES`` or ``XET_SIZES``."""
    digest: bytes
    size: int | None = None
    """Bytes in the file; None if that is not known."""
    salt: bytes = b""
    """The salt of an fs-verity digest, at most 32 bytes; empty for any other."""

    def __post_init__(self) -> None:
        if not isinstance(self.algorithm, str) or not isinstance(self.digest, bytes):
            raise TypeError("the algorithm of a file's digest must be a str, and the digest bytes")
        if not isinstance(self.salt, bytes):
            raise TypeError(f"a salt must be bytes, not {type(self.salt).__name__}")
        size = self.size
        if size is not None and (isinstance(size, bool) or not isinstance(size, int)):
            raise TypeError(f"the size of a file must be an int, not {type(size).__name__}")
        if size is not None and not 0 <= size <= LARGEST_SIZE:
            raise ManifestError(f"the size of a file is from 0 to 2**63 - 1, not {size}")
        if len(self.salt) > (32 if self.algorithm in FSVERITY_SIZES else 0):
            raise ManifestError("only an fs-verity digest has a salt, of at most 32 bytes")
        if self.algorithm in _OTHER_SIZES:
            if len(self.digest) != _OTHER_SIZES[self.algorithm]:
                raise ManifestError(
                    f"{self.algorithm} gives {_OTHER_SIZES[self.algorithm]} bytes, not {len(self.digest)}"
                )
            return
        try:
            record = algorithms.get(self.algorithm)
            if record.keyed == "required" or record.takes_tuples:
                raise ManifestError(f"{record.name} does not hash files without a key or a tuple")
            record.check_length(len(self.digest), {})
        except ValueError as error:
            raise ManifestError(str(error)) from None
        if len(self.digest) < record.digest_size or not self.digest:
            raise ManifestError(
                f"a {record.name} digest of a file has at least {max(record.digest_size, 1)} bytes, not "
                f"{len(self.digest)}"
            )
        if record.name != self.algorithm:
            raise ManifestError(f"the algorithm must be spelled {record.name!r}, not {shown(self.algorithm)}")

    @property
    def weakness(self) -> str | None:
        """Why the digest does not prove that nobody has replaced the file; None if it does."""
        if self.algorithm in _OTHER_SIZES:
            return _WEAK.get(self.algorithm)
        record = algorithms.get(self.algorithm)
        if not collision_resistant(record):
            return record.security_note
        if len(self.digest) < LEAST_SIZE:
            return f"{len(self.digest)} bytes are too short to resist collisions"
        return None


@dataclass(frozen=True)
class FileDigests:
    """A digest for each of several files. Immutable.

    ``files`` maps paths, relative to the folder of the model and with slashes, to digests. A model that is
    one file is found by its name.

    A digest that is not collision resistant is only a checksum: it finds accidents, and an adversary can make
    another file that has it. Such digests are refused unless ``checksums`` says that no more is expected.

    Raises ManifestError for a path that is absolute, leads out of the folder or is not in its shortest form,
    for checksums that were not asked for, and if there is no file; TypeError for anything of another type.
    """

    files: Mapping[str, FileDigest]
    checksums: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.files, Mapping):
            raise TypeError(f"files must map paths to digests, not be a {type(self.files).__name__}")
        if not self.files:
            raise ManifestError("the list names no file, so that nothing could be checked against it")
        for path, digest in self.files.items():
            if not isinstance(path, str) or not isinstance(digest, FileDigest):
                raise TypeError("files must map paths, which are str, to values of the class FileDigest")
            _check_path(path)
            if digest.weakness is not None and not self.checksums:
                raise ManifestError(
                    f"{shown(path)}: {digest.algorithm} is only a checksum ({digest.weakness}); take a list "
                    "of secure digests, or pass checksums=True (--checksums) if the file only has to be free "
                    "of accidents"
                )
        object.__setattr__(self, "files", MappingProxyType(dict(self.files)))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuilt, (dict(self.files), self.checksums)  # a mapping proxy cannot be pickled

    @classmethod
    def of(
        cls,
        digests: Mapping[str, bytes | str],
        algorithm: str = "sha256",
        *,
        sizes: Mapping[str, int] | None = None,
        checksums: bool = False,
    ) -> FileDigests:
        """The list that states the digests of one algorithm, as bytes or in hexadecimal, by path.

        ``sizes`` states the sizes of some files in bytes. Raises as the class does, and ManifestError for
        text that is not hexadecimal or a size of a file without a digest.
        """
        name = algorithm if algorithm in _OTHER_SIZES else _own_name(algorithm)
        sizes = {} if sizes is None else sizes
        for given in (digests, sizes):
            if not isinstance(given, Mapping):
                raise TypeError(
                    f"digests and sizes must map paths to values, not be a {type(given).__name__}"
                )
        for path in sizes:
            if path not in digests:
                raise ManifestError(f"{shown(path)} has a size and no digest")
        files = {}
        for path, digest in digests.items():
            try:
                files[path] = FileDigest(name, _from_hex(digest), sizes.get(path))
            except ManifestError as error:
                raise ManifestError(f"{shown(str(path))}: {error}") from None
        return cls(files, checksums=checksums)

    @classmethod
    def parse_list(
        cls, data: bytes, algorithm: str = "sha256", *, length: int | None = None, checksums: bool = False
    ) -> FileDigests:
        """Parse a list as coreutils write it: ``SHA256SUMS``, or BSD's ``SHA256 (NAME) = DIGEST``.

        All lines are of one ``algorithm``; ``length`` is in bytes, for one with extendable output. A leading
        ``./`` of a name is dropped. Raises ManifestError, which says where, for a line that is not of this
        form and for a name that occurs twice; and as the class does.
        """
        record = algorithms.get(_own_name(algorithm))
        try:
            size = record.check_length(length, {})
        except ValueError as error:
            raise ManifestError(str(error)) from None
        files: dict[str, FileDigest] = {}
        for entry in ListReader(record.name, record.aliases, size).read(io.BytesIO(data)):
            if entry.name is None:
                raise ManifestError(
                    f"line {entry.line} is not a digest of {record.name} and a name; if the list was made "
                    "with another hash, give its name as the algorithm"
                )
            name = entry.name
            while name.startswith("./"):
                name = name[2:].lstrip("/")
            if name in files:
                raise ManifestError(f"line {entry.line}: {shown(name)} is listed twice")
            try:
                _check_path(name)
            except ManifestError as error:
                raise ManifestError(f"line {entry.line}: {error}") from None
            files[name] = FileDigest(record.name, entry.digest)
        return cls(files, checksums=checksums)

    @classmethod
    def load_list(
        cls,
        path: str | os.PathLike[str],
        algorithm: str = "sha256",
        *,
        length: int | None = None,
        checksums: bool = False,
    ) -> FileDigests:
        """Read a list from a file; see :meth:`parse_list`, whose errors then name the file. Raises OSError if
        it cannot be read."""
        try:
            data = read_regular(path, MAX_LIST_SIZE, "a list of digests")
        except ValueError as error:
            raise ManifestError(str(error)) from None
        try:
            return cls.parse_list(data, algorithm, length=length, checksums=checksums)
        except ManifestError as error:
            raise ManifestError(f"{os.fspath(path)}: {error}") from None

    def under(self, folder: str) -> FileDigests:
        """The files of a folder, whose path is relative to the one that the list describes, under their paths
        in it. Raises ManifestError if the list has none."""
        prefix = folder.strip("/") + "/"
        files = {
            path.removeprefix(prefix): digest
            for path, digest in self.files.items()
            if path.startswith(prefix)
        }
        if not files:
            raise ManifestError(f"the list names no file in {shown(folder)}")
        return FileDigests(files, checksums=self.checksums)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def _rebuilt(files: Mapping[str, FileDigest], checksums: bool) -> FileDigests:
    return FileDigests(files, checksums=checksums)


def _own_name(algorithm: str) -> str:
    try:
        return algorithms.get(algorithm).name
    except ValueError as error:
        others = ", ".join(_OTHER_SIZES)
        raise ManifestError(f"{error}; for whole files there are {others} besides") from None


def _from_hex(digest: bytes | str) -> bytes:
    if not isinstance(digest, str):
        return digest
    if not _HEX.match(digest):
        raise ManifestError(f"a digest must be hexadecimal, not {shown(digest)}")
    return bytes.fromhex(digest)


def _check_path(path: str) -> None:
    if "\0" in path or any(part in {"", ".", ".."} for part in path.split("/")):
        raise ManifestError(
            f"{shown(path)} is not a relative path of a file, with slashes and no '.' or '..'"
        )
