"""What is hashed above the trees: a tensor's content digest, and the root of a model.

``docs/distributed.md`` defines both.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from ..errors import ManifestError
from ..tensor_hash import TensorHash

VERSION = 1
"""The version of the definition."""

_CONTENT_DOMAIN = b"integrity_triton tensor content"
_ROOT_DOMAIN = b"integrity_triton distributed root"
_LEAST_SIZE = 32


def check_algorithm(name: str) -> TensorHash:
    """The hash called ``name``. Raises ManifestError, which says what is allowed, for one that a manifest
    would refuse and for digests of less than 32 bytes, with which collisions take less than 2**128 steps."""
    hash_ = TensorHash.of(name)
    if hash_.digest_size < _LEAST_SIZE or hash_.algorithm.collision_bits < 128:
        raise ManifestError(
            f"{hash_.name} gives {hash_.digest_size} bytes and {hash_.algorithm.collision_bits} bits of "
            f"security against collisions; digests over several ranks take a hash of at least {_LEAST_SIZE} "
            "bytes and 128 bits, such as blake3 or sha256"
        )
    return hash_


def content_digest(hash_: TensorHash, dtype: str, shape: Sequence[int], tree: bytes) -> bytes:
    """The digest of a tensor's dtype, shape and bytes, whose tree has the root ``tree``. ``dtype`` and
    ``shape`` are in safetensors' spelling."""
    return hash_.digest(content_head(hash_, dtype, shape) + tree)


def content_head(hash_: TensorHash, dtype: str, shape: Sequence[int]) -> bytes:
    """What a content digest is of, up to the root of the tree, which follows."""
    return b"".join(
        [
            _counted(_CONTENT_DOMAIN),
            _u64(VERSION),
            _counted(hash_.name.encode("ascii")),
            _counted(dtype.encode("ascii")),
            _u64(len(shape)),
            *map(_u64, shape),
        ]
    )


def model_root(hash_: TensorHash, digests: Mapping[str, bytes]) -> bytes:
    """The root over the names of a model's tensors and their content digests, in any order."""
    named = sorted((name.encode("utf-8"), digest) for name, digest in digests.items())
    parts = [_counted(_ROOT_DOMAIN), _u64(VERSION), _counted(hash_.name.encode("ascii")), _u64(len(named))]
    parts += [_counted(name) + digest for name, digest in named]
    return hash_.digest(b"".join(parts))


def _u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def _counted(data: bytes) -> bytes:
    return _u64(len(data)) + data
