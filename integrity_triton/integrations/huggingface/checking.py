"""Comparing files with the digests that are expected of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...files import Progress
from ...hashing import new
from ...models.file_digests import FSVERITY_SIZES, GIT_SIZES, XET_SIZES
from .blobs import LfsPointer, hash_blob, hash_content, is_pointer
from .report import FileCheck, Status
from .sources import Content
from .xet import xet_hash_of_content

if TYPE_CHECKING:
    from ...models.file_digests import FileDigest
    from ...models.model_tree import ModelFile

_HEAD_SIZE = 1024


@dataclass(frozen=True)
class FoundFile:
    """A file of a download folder: where its content is and which digest is expected, or why that is not
    known."""

    path: str
    file: ModelFile | None = None
    expected: FileDigest | None = None
    status: Status = "unchecked"
    reason: str = ""


class Checker:
    """Checks files, and hashes each of them once, however many names it has."""

    def __init__(self, backend: str | None, progress: Progress | None) -> None:
        self._backend = backend
        self._progress = progress
        self._digests: dict[tuple[ModelFile, str], str] = {}

    def check(self, found: FoundFile) -> FileCheck:
        """Raises OSError if the file cannot be read, and IntegrityError if it changes meanwhile."""
        expected = found.expected
        algorithm = None if expected is None else expected.algorithm
        text = None if expected is None else expected.digest.hex()
        if found.file is None or expected is None or found.reason:
            return FileCheck(found.path, found.status, found.reason, algorithm, text)
        if algorithm in FSVERITY_SIZES or expected.salt:
            reason = f"{algorithm} is not computed here; load the model with a check against it"
            return FileCheck(found.path, "unchecked", reason, algorithm, text)
        size = found.file.size
        if expected.size is not None and expected.size != size:
            reason = f"{size} bytes, {expected.size} were expected{self._pointer(found.file)}"
            return FileCheck(found.path, "differs", reason, algorithm, text)
        digest = self._digest(found.file, expected)
        if digest == text:
            return FileCheck(found.path, "matched", "", algorithm, text, digest)
        reason = f"the {algorithm} is {digest}, not {text}{self._pointer(found.file)}"
        return FileCheck(found.path, "differs", reason, algorithm, text, digest)

    def _digest(self, file: ModelFile, expected: FileDigest) -> str:
        algorithm = expected.algorithm
        key = file, f"{algorithm}:{len(expected.digest)}"
        if key not in self._digests:
            content = Content.of_file(file)
            if algorithm in XET_SIZES:
                digest = xet_hash_of_content(content, self._backend, self._progress)
            elif algorithm in GIT_SIZES:
                digest = hash_blob(content, algorithm.removeprefix("git-"), self._backend, self._progress)
            else:
                hasher = hash_content(new(algorithm, backend=self._backend), content, self._progress)
                length = len(expected.digest)
                digest = hasher.hexdigest(length) if length != hasher.digest_size else hasher.hexdigest()
            self._digests[key] = digest
        return self._digests[key]

    def _pointer(self, file: ModelFile) -> str:
        """A remark for a file that is the pointer of Git LFS, and not the content that it stands for."""
        if file.size >= _HEAD_SIZE:
            return ""
        data = b"".join(bytes(piece) for piece in Content.of_file(file).pieces())
        if not is_pointer(data):
            return ""
        try:
            pointer = LfsPointer.parse(data)
        except ValueError as error:
            return f"; it is a damaged pointer file of Git LFS ({error})"
        return (
            f"; it is a pointer file of Git LFS for {pointer.size} bytes: fetch the content with git lfs pull"
        )
