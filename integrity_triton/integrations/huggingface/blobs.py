"""The names of files' contents on the Hub: git's blob object and Git LFS's SHA-256, and the LFS pointer file.

A regular file of a repository has the SHA-1 of its git object, a large one the SHA-256 of its content. The
Hub gives the one that applies as the file's ETag, and download folders name their files by it
(huggingface_hub 2.4.0, ``file_download.py`` and ``utils/sha.py``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...errors import IntegrityTritonError
from ...files import Progress
from ...hashing import Hash, new
from ...strict_json import shown
from .sources import Content, Source

POINTER_LIMIT = 1024
"""A pointer file has fewer bytes than this."""

_VERSION = "https://git-lfs.github.com/spec/v1"
_OID = re.compile(r"sha256:([0-9a-f]{64})\Z")
_NOT_A_DIGEST = "is not 'sha256:' and 64 lower-case hexadecimal digits"
_SIZE = re.compile(r"(?:0|[1-9][0-9]{0,18})\Z")
_EXTENSION = re.compile(r"ext-([0-9])-[a-z0-9.-]+\Z")
_LINE = re.compile(r"([a-z0-9.-]+) ([^\r\n]+)\Z")


class PointerError(IntegrityTritonError, ValueError):
    """Bytes are not a pointer file of Git LFS; the message says why."""


def git_blob_sha1(source: Source, *, backend: str | None = None, progress: Progress | None = None) -> str:
    """The name of git's blob object with the content of ``source``, as 40 hexadecimal digits.

    It is the SHA-1 of ``blob``, a space, the size in decimal digits, a zero byte and the content (git's
    ``Documentation/gitformat-loose.adoc``). SHA-1 is broken: this finds accidents, and not a file that was
    made to collide. ``source`` is a ``sources.Source``. ``progress`` is called with numbers of bytes.

    Raises OSError if a file cannot be read, ValueError if a path does not lead to a regular file,
    IntegrityError if the file changes while it is read, and TypeError for an object without bytes.
    """
    return hash_blob(Content.of(source), "sha1", backend, progress)


def lfs_sha256(source: Source, *, backend: str | None = None, progress: Progress | None = None) -> str:
    """The identifier of ``source`` in Git LFS, which is the SHA-256 of the content, as 64 hexadecimal digits.

    One SHA-256 is sequential: on an accelerator it occupies one lane, so that the content of tensors is
    hashed by the CPU library unless ``backend`` says otherwise. Arguments and errors are as for
    :func:`git_blob_sha1`.
    """
    return hash_content(new("sha256", backend=backend), Content.of(source), progress).hexdigest()


def hash_blob(content: Content, algorithm: str, backend: str | None, progress: Progress | None) -> str:
    """The name of a blob in a repository that uses ``algorithm``."""
    hasher = new(algorithm, b"blob %d\0" % content.size, backend=backend)
    return hash_content(hasher, content, progress).hexdigest()


def hash_content(hasher: Hash, content: Content, progress: Progress | None) -> Hash:
    """``hasher``, after it has absorbed the content."""
    for piece in content.pieces(progress):
        hasher.update(piece)
    return hasher


@dataclass(frozen=True)
class LfsPointer:
    """What git stores in place of a large file (Git LFS, ``docs/spec.md``)."""

    oid: str
    """The SHA-256 of the content as 64 lower-case hexadecimal digits."""
    size: int
    """Bytes of the content."""
    extensions: tuple[tuple[str, str], ...] = ()
    """Keys and values of extensions, in the order of their priorities."""

    @classmethod
    def parse(cls, data: bytes) -> LfsPointer:
        """Read a pointer file.

        There is exactly one valid encoding of a pointer, and nothing else is accepted: no carriage return, no
        missing line feed at the end, no other order of lines, no upper-case digit, no leading zero.

        Raises PointerError, which says what is wrong.
        """
        if len(data) >= POINTER_LIMIT:
            raise PointerError(f"{len(data)} bytes; a pointer file has fewer than {POINTER_LIMIT}")
        try:
            text = bytes(data).decode("utf-8")
        except UnicodeDecodeError as error:
            raise PointerError(f"not UTF-8 at byte {error.start}") from None
        if not text.endswith("\n"):
            raise PointerError("the last line does not end with a line feed; the file may be cut")
        members: list[tuple[str, str]] = []
        for number, line in enumerate(text[:-1].split("\n"), 1):
            found = _LINE.match(line)
            if found is None:
                raise PointerError(f"line {number} is not a key, one space and a value: {shown(line)}")
            members.append((found[1], found[2]))
        if members[0] != ("version", _VERSION):
            raise PointerError(f"the first line must be 'version {_VERSION}'")
        rest = members[1:]
        keys = [key for key, _ in rest]
        if keys != sorted(set(keys)):
            raise PointerError("the lines after the first must be sorted by key, and each key occurs once")
        extensions = tuple((key, value) for key, value in rest if key not in {"oid", "size"})
        priorities = []
        for key, value in extensions:
            extension = _EXTENSION.match(key)
            if extension is None:
                raise PointerError(f"unknown key {shown(key)}")
            if _OID.match(value) is None:
                raise PointerError(f"{key}: {shown(value)} {_NOT_A_DIGEST}")
            priorities.append(extension[1])
        if len(set(priorities)) != len(priorities):
            raise PointerError("two extensions have the same priority")
        values = dict(rest)
        for key in ("oid", "size"):
            if key not in values:
                raise PointerError(f"the line {key!r} is missing")
        oid = _OID.match(values["oid"])
        if oid is None:
            raise PointerError(f"oid: {shown(values['oid'])} {_NOT_A_DIGEST}")
        if _SIZE.match(values["size"]) is None or int(values["size"]) >= 1 << 63:
            raise PointerError(f"size: {shown(values['size'])} is not a decimal number below 2**63")
        return cls(oid[1], int(values["size"]), extensions)

    def to_bytes(self) -> bytes:
        """The pointer file."""
        content = [("oid", f"sha256:{self.oid}"), ("size", str(self.size))]
        lines = [("version", _VERSION), *self.extensions, *content]
        return "".join(f"{key} {value}\n" for key, value in lines).encode("utf-8")


def is_pointer(data: bytes) -> bool:
    """Whether the first bytes of a file are those of a pointer file, valid or not."""
    return data.startswith(b"version https://git-lfs.github.com/spec/")
