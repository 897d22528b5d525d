"""Checking what huggingface_hub has downloaded, without a network.

Three layouts are known, as huggingface_hub 2.4.0 makes and reads them:

- A cache (``file_download.py``): ``models--ORG--NAME/blobs/ETAG`` holds each content under the ETag that the
  Hub gave it, which is the SHA-256 of a large file and the name of git's blob of another.
  ``snapshots/COMMIT/PATH`` links to it. A file that is there in place of the link, because the system has no
  links, has no ETag.
- The store that the repositories of a cache share (``utils/_shared_blobs.py``): ``blobs/ETAG`` is then itself
  a link, to ``CACHE/blobs/XX/HASH``, where HASH is the xet hash.
- A folder of the user's choice, ``local_dir`` (``_local_folder.py``), in which
  ``.cache/huggingface/download/PATH.metadata`` has the commit, the ETag and the time of the download of
  ``PATH``.

In each of them, ``trees/COMMIT.json`` can hold the Hub's list of the files of a commit (``_tree_cache.py``).
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping
from typing import Any

from ...files import Progress
from ...models.errors import ManifestError
from ...models.file_digests import FileDigest, FileDigests
from ...models.model_tree import ModelFile, shared_blobs
from ...models.regular_files import identity, kind_of_node, read_regular
from ...strict_json import parse_object, shown
from .checking import Checker, FoundFile
from .report import DownloadReport

_ETAG_ALGORITHMS = {40: "git-sha1", 64: "sha256"}
_HEX = re.compile(r"[0-9a-f]+\Z")
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_REPOSITORY = re.compile(r"(?:models|datasets|spaces|kernels)--.+", re.DOTALL)
_INCOMPLETE = ".incomplete"
_METADATA = ".metadata"
_LOCAL = os.path.join(".cache", "huggingface")
_LARGEST_LIST = 64 << 20  # bytes of a list of a commit's files
_LARGEST_METADATA = 4096  # bytes
_TREE_FORMAT = 1
_UNREADABLE = {errno.ELOOP, errno.ENOENT, errno.ENOTDIR}


def verify_cache(
    folder: str | os.PathLike[str], *, backend: str | None = None, progress: Progress | None = None
) -> DownloadReport:
    """Hash what was downloaded, and compare it with the digests that the folder itself states.

    ``folder`` is a snapshot, a repository or all of a Hugging Face cache, or a folder that was given to
    huggingface_hub as ``local_dir``. Of a repository, all snapshots are checked, and the blobs to which none
    of them links. Each content is hashed once. ``progress`` is called with numbers of bytes.

    A file has matched only if something states its digest: the name of its blob, the metadata of its
    download, or the list of its commit's files; if several do, they have to agree. Files that broken
    downloads left are in ``incomplete``. This finds damage. It does not find a file that somebody has
    replaced together with its name, nor files of the repository that were not downloaded: for these, see
    :func:`~.verify_download`.

    Raises ValueError if the folder has none of these layouts, OSError if something cannot be read, and
    IntegrityError if a file changes while it is read.
    """
    found, incomplete = _find_all(os.fspath(folder))
    checker = Checker(backend, progress)
    files = sorted((checker.check(file) for file in found), key=lambda file: file.path)
    return DownloadReport(tuple(files), (), tuple(sorted(incomplete)))


def expected_files(folder: str | os.PathLike[str]) -> FileDigests:
    """The digests that a snapshot or a ``local_dir`` states of its files, which are not read.

    They are what :func:`verify_cache` compares with. Those of small files are SHA-1, so that ``checksums`` of
    the result is set if there are any. Raises ValueError for any other folder, ManifestError, which names the
    file, if a file's digest is not known, and OSError if something cannot be read.
    """
    path = os.fspath(folder)
    root = os.path.realpath(path, strict=True)
    if (repository := _repository_of(root)) is not None:
        found = list(_Repository(repository).snapshot(root, ""))
    elif os.path.isdir(os.path.join(root, _LOCAL, "download")):
        found = list(_LocalFolder(root).files())
    else:
        raise ValueError(f"{path}: neither a snapshot in a Hugging Face cache nor a local_dir")
    files = {}
    for file in found:
        if file.expected is None or file.reason:
            raise ManifestError(f"{path}: {shown(file.path)}: {file.reason}")
        files[file.path] = file.expected
    checksums = any(digest.weakness is not None for digest in files.values())
    return FileDigests(files, checksums=checksums)


def _find_all(path: str) -> tuple[list[FoundFile], list[str]]:
    """The files of a folder of any layout, and the names of what broken downloads left."""
    root = os.path.realpath(path, strict=True)
    if (above := _repository_of(root)) is not None:
        repository = _Repository(above)
        return list(repository.snapshot(root, "")), repository.incomplete("")
    if os.path.isdir(os.path.join(root, "snapshots")):
        repository = _Repository(root)
        return list(repository.files("")), repository.incomplete("")
    if os.path.isdir(os.path.join(root, _LOCAL, "download")):
        local = _LocalFolder(root)
        return list(local.files()), local.incomplete()
    names = sorted(name for name in os.listdir(root) if _REPOSITORY.match(name))
    if not names:
        raise ValueError(
            f"{path}: neither a cache of huggingface_hub, nor a repository or snapshot in one, nor a folder "
            "with .cache/huggingface/download"
        )
    found: list[FoundFile] = []
    incomplete: list[str] = []
    for name in names:
        repository = _Repository(os.path.join(root, name))
        found += repository.files(f"{name}/")
        incomplete += repository.incomplete(f"{name}/")
    return found, incomplete


def _repository_of(root: str) -> str | None:
    """The repository of which a real path is a snapshot; None for any other path."""
    above = os.path.dirname(root)
    repository = os.path.dirname(above)
    is_snapshot = os.path.basename(above) == "snapshots" and os.path.isdir(root)
    return repository if is_snapshot and os.path.isdir(os.path.join(repository, "blobs")) else None


def _digest(etag: str) -> FileDigest | None:
    """What an ETag states of a content; None if it is none of the digests that the Hub gives."""
    algorithm = _ETAG_ALGORITHMS.get(len(etag))
    if algorithm is None or not _HEX.match(etag):
        return None
    return FileDigest(algorithm, bytes.fromhex(etag))


class _Repository:
    """A repository in a cache. ``root`` is a real path."""

    def __init__(self, root: str) -> None:
        self._blobs = os.path.join(root, "blobs")
        self._snapshots = os.path.join(root, "snapshots")
        self._trees = _Trees(root)
        self._shared = shared_blobs(root)
        self._linked: set[str] = set()

    def files(self, prefix: str) -> Iterator[FoundFile]:
        """All files of all snapshots, then the blobs that are in none."""
        for entry in _sorted_entries(self._snapshots):
            name = f"{prefix}snapshots/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from self.snapshot(entry.path, f"{name}/")
            else:
                yield FoundFile(name, reason="not a folder, as a snapshot is")
        for entry in _sorted_entries(self._blobs):
            if entry.name not in self._linked and not _is_temporary(entry.name):
                yield self._blob(f"{prefix}blobs/{entry.name}", entry.name)

    def incomplete(self, prefix: str) -> list[str]:
        names = (entry.name for entry in _sorted_entries(self._blobs))
        return [f"{prefix}blobs/{name}" for name in names if _is_temporary(name)]

    def snapshot(self, folder: str, prefix: str) -> Iterator[FoundFile]:
        """The files of one snapshot, whose names begin with ``prefix``."""
        tree, fault = self._trees.of(os.path.basename(folder))
        if fault:
            yield FoundFile(f"{prefix}{_tree_name(os.path.basename(folder))}", reason=fault)
        for name, entry in _walk(folder, ()):
            path = prefix + name
            if entry.is_symlink():
                found = self._follow(path, entry.path)
            elif stat.S_ISREG((status := os.lstat(entry.path)).st_mode):
                file = ModelFile(entry.path, identity(status))
                reason = "" if name in tree else "not a link to a blob, so that nothing states its digest"
                found = FoundFile(path, file, tree.get(name), reason=reason)
            else:
                found = FoundFile(path, reason=f"{kind_of_node(status.st_mode)}, not a link to a blob")
            yield _agreeing(found, tree.get(name))

    def _follow(self, path: str, link: str) -> FoundFile:
        target = os.path.join(os.path.realpath(os.path.dirname(link)), os.readlink(link))
        folder, etag = os.path.split(os.path.normpath(target))
        if os.path.realpath(folder) != os.path.realpath(self._blobs):
            return FoundFile(
                path, reason=f"a link that does not lead to a blob of its repository: {target!r}"
            )
        self._linked.add(etag)
        found = self._blob(path, etag)
        # Where the system arrives counts: with links to folders on the way, '..' does not lead back.
        if found.file is not None and os.path.realpath(link) != found.file.path:
            return FoundFile(
                path, reason=f"a link that does not lead to a blob of its repository: {target!r}"
            )
        return found

    def _blob(self, path: str, etag: str) -> FoundFile:
        """The file whose content is the blob ``etag``."""
        blob = os.path.join(self._blobs, etag)
        expected = _digest(etag)
        try:
            status = os.lstat(blob)
            if stat.S_ISLNK(status.st_mode):
                blob = os.path.realpath(blob, strict=True)
                status = os.lstat(blob)
                store, name = os.path.split(blob)
                if self._shared is None or store != os.path.join(self._shared, name[:2]):
                    return FoundFile(path, None, expected, reason="its blob is a link that leaves the cache")
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            if error.errno == errno.ELOOP:
                return FoundFile(path, None, expected, reason="its blob is a link that leads back to itself")
            return FoundFile(path, None, expected, "missing", f"its blob {shown(etag)} is not there")
        if not stat.S_ISREG(status.st_mode):
            return FoundFile(path, None, expected, reason=f"its blob is {kind_of_node(status.st_mode)}")
        reason = "" if expected else f"its blob has the name {shown(etag)}, which is no digest"
        return FoundFile(path, ModelFile(blob, identity(status)), expected, reason=reason)


class _LocalFolder:
    """A folder that was given to huggingface_hub as ``local_dir``. ``root`` is a real path."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._downloads = os.path.join(root, _LOCAL, "download")
        self._trees = _Trees(os.path.join(root, _LOCAL))

    def files(self) -> Iterator[FoundFile]:
        """The files of the folder, and those that are missing from it according to their metadata."""
        present = set()
        for name, entry in _walk(self._root, (_LOCAL.replace(os.sep, "/"), ".git")):
            present.add(name)
            status = os.lstat(entry.path)
            if stat.S_ISREG(status.st_mode):
                yield self._checked(name, ModelFile(entry.path, identity(status)))
            else:
                yield FoundFile(name, reason=f"{kind_of_node(status.st_mode)}, not a file")
        for name, _ in _walk(self._downloads, ()):
            path = name.removesuffix(_METADATA)
            if path != name and path not in present:
                yield FoundFile(path, status="missing", reason="it was downloaded, and is not there")

    def incomplete(self) -> list[str]:
        names = (name for name, _ in _walk(self._downloads, ()))
        return [f".cache/huggingface/download/{name}" for name in names if _is_temporary(name)]

    def _checked(self, name: str, file: ModelFile) -> FoundFile:
        try:
            commit, etag = _read_metadata(os.path.join(self._downloads, *f"{name}{_METADATA}".split("/")))
        except FileNotFoundError:
            return FoundFile(name, file, reason="nothing states its digest: it has no metadata of a download")
        except ValueError as error:
            return FoundFile(name, file, reason=f"the metadata of its download: {error}")
        expected = _digest(etag)
        if expected is None:
            return FoundFile(name, file, reason=f"its ETag {shown(etag)} is no digest")
        tree, fault = self._trees.of(commit)
        return _agreeing(FoundFile(name, file, expected, reason=fault), tree.get(name))


def _read_metadata(path: str) -> tuple[str, str]:
    """The commit and the ETag in the metadata of a download. Raises ValueError for another content."""
    try:
        lines = read_regular(path, _LARGEST_METADATA, "metadata").decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None
    if len(lines) < 3 or not _COMMIT.match(lines[0]):
        raise ValueError("it does not begin with a commit, an ETag and a time, each on a line")
    return lines[0], lines[1]


class _Trees:
    """The lists of the files of commits that huggingface_hub keeps in ``folder``."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._read: dict[str, tuple[Mapping[str, FileDigest], str]] = {}

    def of(self, commit: str) -> tuple[Mapping[str, FileDigest], str]:
        """The digests of a commit's files, empty if there is no list; and why a list was not understood."""
        if commit not in self._read:
            self._read[commit] = self._load(commit)
        return self._read[commit]

    def _load(self, commit: str) -> tuple[Mapping[str, FileDigest], str]:
        path = os.path.join(self._folder, *_tree_name(commit).split("/"))
        try:
            data = read_regular(path, _LARGEST_LIST, "a list of files")
            return _parse_tree(data), ""
        except FileNotFoundError:
            return {}, ""
        except ValueError as error:
            return {}, f"the list of the commit's files: {error}"


def _tree_name(commit: str) -> str:
    return f"trees/{commit}.json"


def _parse_tree(data: bytes) -> dict[str, FileDigest]:
    """The digests in a list of a commit's files. Raises ValueError. A list of a newer format has none."""
    tree = parse_object(data)
    if tree.get("format_version") != _TREE_FORMAT:
        return {}
    entries = tree.get("files")
    if not isinstance(entries, dict):
        raise ValueError("files must be an object")
    return {name: _tree_entry(name, entry) for name, entry in entries.items()}


def _tree_entry(name: str, entry: Any) -> FileDigest:
    if not isinstance(entry, dict):
        raise ValueError(f"{shown(name)} must be an object")
    large = entry.get("lfs_sha256")
    algorithm, text, size = (
        ("git-sha1", entry.get("blob_id"), entry.get("size"))
        if large is None
        else ("sha256", large, entry.get("lfs_size"))
    )
    return stated_digest(name, algorithm, text, size)


def stated_digest(name: str, algorithm: str, text: Any, size: Any) -> FileDigest:
    """A digest and a size that the Hub states of a file. Raises ValueError, which names it."""
    if not isinstance(text, str) or not _HEX.match(text) or _ETAG_ALGORITHMS.get(len(text)) != algorithm:
        raise ValueError(f"{shown(name)}: {text!r} is not a {algorithm}")
    if type(size) is not int or size < 0:
        raise ValueError(f"{shown(name)}: its size must be a number of bytes, not {size!r}")
    return FileDigest(algorithm, bytes.fromhex(text), size)


def _agreeing(found: FoundFile, listed: FileDigest | None) -> FoundFile:
    """``found``, or a mismatch if the list of the commit's files states another digest of it."""
    expected = found.expected
    if listed is None or expected is None or found.reason:
        return found
    if (listed.algorithm, listed.digest) == (expected.algorithm, expected.digest):
        return FoundFile(found.path, found.file, listed)
    reason = (
        f"its name or metadata states the {expected.algorithm} {expected.digest.hex()}, but the list of the "
        f"commit's files states the {listed.algorithm} {listed.digest.hex()}"
    )
    return FoundFile(found.path, found.file, listed, "differs", reason)


def _is_temporary(name: str) -> bool:
    """Whether a download of huggingface_hub writes to a file of this name before the file gets its own."""
    return name.endswith((_INCOMPLETE, ".shared"))


def _walk(folder: str, ignored: tuple[str, ...]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything in a folder but folders, with the paths relative to it. Links are not followed."""
    pending = [""]
    while pending:
        here = pending.pop()
        for entry in _sorted_entries(os.path.join(folder, *here.split("/"))):
            name = here + entry.name
            if name in ignored:
                continue
            if entry.is_dir(follow_symlinks=False):
                pending.append(f"{name}/")
            else:
                yield name, entry


def _sorted_entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)
