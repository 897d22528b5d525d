"""Hugging Face: the digests of the Hub's files, and download folders checked without a network.

- :func:`git_blob_sha1`, :func:`lfs_sha256`, :class:`LfsPointer`: the names of contents;
- :func:`xet_hash`, :func:`xet_chunks`: the hash of xet storage;
- :func:`verify_cache`, :func:`expected_files`: caches and folders of downloads, against what they state;
- :func:`verify_download`, :func:`hub_digests`: any folder, against a response of the Hub that was saved.

Importing this package imports neither torch nor huggingface_hub.
"""

from __future__ import annotations

from .blobs import LfsPointer, PointerError, git_blob_sha1, lfs_sha256
from .cache import expected_files, verify_cache
from .downloads import hub_digests, verify_download
from .report import DownloadReport, FileCheck
from .xet import XetChunk, xet_chunks, xet_digest, xet_hash, xet_hash_of_chunks, xet_string

__all__ = [
    "DownloadReport",
    "FileCheck",
    "LfsPointer",
    "PointerError",
    "XetChunk",
    "expected_files",
    "git_blob_sha1",
    "hub_digests",
    "lfs_sha256",
    "verify_cache",
    "verify_download",
    "xet_chunks",
    "xet_digest",
    "xet_hash",
    "xet_hash_of_chunks",
    "xet_string",
]
