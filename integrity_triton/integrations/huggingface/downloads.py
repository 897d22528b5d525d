"""Checking a folder against what the Hub states of a repository, in a response of its API that was saved."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ...files import Progress
from ...models.errors import ManifestError
from ...models.file_digests import FileDigest, FileDigests
from ...models.model_tree import read_tree
from ...strict_json import parse_object, shown
from .cache import stated_digest
from .checking import Checker, FoundFile
from .report import DownloadReport, FileCheck

_NEVER_IN_A_REPOSITORY = (".git", ".cache/huggingface")


def hub_digests(response: bytes | str) -> FileDigests:
    """The digests in a response of the Hub's API, which is JSON.

    It is that of ``/api/models/ID/revision/REVISION?blobs=true``, whose ``siblings`` have ``rfilename``,
    ``blobId``, ``size`` and, for a large file, ``lfs`` with ``sha256`` and ``size``; or that of
    ``/api/models/ID/tree/REVISION?recursive=true``, an array of files with ``path``, ``oid``, ``size`` and
    ``lfs`` with ``oid`` and ``size``. The same holds for datasets and spaces. These are the fields that
    huggingface_hub 2.4.0 reads (``hf_api.py``, ``RepoSibling`` and ``RepoFile``).

    The digests of small files are SHA-1, so that ``checksums`` of the result is set if there are any. Raises
    ManifestError, which says what is wrong, for any other text, and TypeError for anything but text.
    """
    if not isinstance(response, str | bytes | bytearray | memoryview):
        raise TypeError(
            "a response of the Hub is given as the str or bytes that were saved, not as "
            f"{type(response).__name__}"
        )
    try:
        files = _parse(response)
    except ManifestError:
        raise
    except ValueError as error:
        raise ManifestError(f"a response of the Hub: {error}") from None
    return FileDigests(files, checksums=any(digest.weakness is not None for digest in files.values()))


def _parse(response: bytes | str) -> dict[str, FileDigest]:
    text = response if isinstance(response, str) else bytes(response).decode("utf-8")
    if text.strip() and not text.lstrip().startswith(("{", "[")):
        raise ManifestError(
            f"{shown(text)} is no JSON; if it is a path, pass the text of the file: Path(path).read_bytes()"
        )
    if text.lstrip().startswith("["):  # the parser takes objects alone, so that an array is made a member
        members = parse_object(f'{{"tree":{text}}}')
        if len(members) > 1:
            raise ValueError("not JSON: more follows after the array of files")
        entries = members["tree"]
    else:
        entries = parse_object(text, floats=True).get("siblings")
    if not isinstance(entries, list):
        raise ValueError("there is no array of files; save the response for ?blobs=true or for the tree")
    files: dict[str, FileDigest] = {}
    for entry in entries:
        if not isinstance(entry, dict):
            raise ValueError("a file must be an object")
        if entry.get("type") == "directory":
            continue
        name = entry.get("path", entry.get("rfilename"))
        if not isinstance(name, str):
            raise ValueError("a file has no path")
        if name in files:
            raise ValueError(f"{shown(name)} is listed twice")
        files[name] = _stated(name, entry)
    return files


def _stated(name: str, entry: Mapping[str, Any]) -> FileDigest:
    large = entry.get("lfs")
    if large is None:
        blob = entry.get("oid", entry.get("blobId"))
        if blob is None:
            raise ValueError(f"{shown(name)} has no digest; ask the Hub with ?blobs=true")
        return stated_digest(name, "git-sha1", blob, entry.get("size"))
    if not isinstance(large, dict):
        raise ValueError(f"{shown(name)}: lfs must be an object")
    return stated_digest(name, "sha256", large.get("sha256", large.get("oid")), large.get("size"))


def verify_download(
    folder: str | os.PathLike[str],
    expected: FileDigests | bytes | str,
    *,
    partial: bool = False,
    extra: bool = False,
    backend: str | None = None,
    progress: Progress | None = None,
) -> DownloadReport:
    """Hash the files of a folder, and compare them with the digests that are ``expected``.

    ``expected`` is a response of the Hub's API, as for :func:`hub_digests`, or any
    :class:`integrity_triton.models.FileDigests`. The folder is one that was given to huggingface_hub as
    ``local_dir``, a snapshot in its cache, or a clone; ``.git`` and ``.cache/huggingface`` are left out, as
    by ``hf cache verify``. Each content is hashed once. ``progress`` is called with numbers of bytes.

    Files that are expected and not there are a mismatch unless ``partial`` is set, except all of them. So are
    files that are not expected, because code in the folder may be run, unless ``extra`` is set. The result
    proves as much as the response: whoever can change what was saved, or what the Hub says, chooses what
    matches.

    Raises ManifestError for a response that is not understood, ValueError if ``folder`` is none, OSError if
    something cannot be read, and IntegrityError if a file changes while it is read.
    """
    digests = expected if isinstance(expected, FileDigests) else hub_digests(expected)
    path = os.fspath(folder)
    if not os.path.isdir(path):
        raise ValueError(f"{path}: not a folder; pass the folder of the download")
    tree = read_tree(path, ignored=_NEVER_IN_A_REPOSITORY, allow_symlinks=True)
    checker = Checker(backend, progress)
    files: list[FileCheck] = []
    for name, digest in sorted(digests.files.items()):
        if name in tree.files:
            files.append(checker.check(FoundFile(name, tree.files[name], digest)))
        elif name in tree.refused:
            files.append(checker.check(FoundFile(name, None, digest, reason=tree.refused[name])))
        elif not partial:
            files.append(checker.check(FoundFile(name, None, digest, "missing", "it is not in the folder")))
    unexpected = () if extra else sorted({*tree.files, *tree.refused} - digests.files.keys())
    return DownloadReport(tuple(files), tuple(unexpected))
