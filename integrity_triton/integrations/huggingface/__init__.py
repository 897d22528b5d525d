"""Hugging Face: the digests of the Hub's files, and download folders checked without a network.

- :func:`git_blob_sha1`, :func:`lfs_sha256`, :class:`LfsPointer`: the names of contents;
- :func:`xet_hash`, :func:`xet_chunks`: the hash of xet storage;
- :func:`verify_cache`, :func:`verify_download`, :func:`expected_files`: caches and download folders.

Importing this package imports neither torch nor huggingface_hub.
"""

from __future__ import annotations

from .blobs import LfsPointer, PointerError, git_blob_sha1, lfs_sha256
from .xet import XetChunk, xet_chunks, xet_digest, xet_hash, xet_hash_of_chunks, xet_string

__all__ = [
    "LfsPointer",
    "PointerError",
    "XetChunk",
    "git_blob_sha1",
    "lfs_sha256",
    "xet_chunks",
    "xet_digest",
    "xet_hash",
    "xet_hash_of_chunks",
    "xet_string",
]
