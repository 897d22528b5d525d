"""Hexadecimal digests of named tensors, which most projects publish."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .. import algorithms
from ..algorithms import Algorithm
from ..files import Progress
from ..messages.tensors import check_has_bytes, named
from ..models.errors import shown
from ..models.live import digest_tensors

if TYPE_CHECKING:
    import torch


def hash_of(name: str) -> Algorithm:
    """The record of a hash that needs neither a key nor a length.

    Raises ValueError, which says why, for any other algorithm and for an unknown name.
    """
    record = algorithms.get(name)
    if record.keyed == "required":
        raise ValueError(f"{record.name} needs a key; take a hash such as sha256 or blake3")
    if record.takes_tuples:
        raise ValueError(f"{record.name} hashes tuples of byte strings; take a hash such as sha256 or blake3")
    if record.digest_size == 0:
        raise ValueError(f"{record.name} has no default length; take a hash such as sha256 or blake3")
    return record


def hex_digests(
    tensors: Iterable[tuple[str, torch.Tensor]],
    algorithm: str,
    *,
    backend: str | None = None,
    progress: Progress | None = None,
) -> dict[str, str]:
    """The digest of each tensor's bytes in lower-case hexadecimal, in the order of the tensors.

    The bytes are the elements in C order, little-endian. Each tensor is hashed on its own device, and all are
    checked before the first is hashed. ``progress`` is called with numbers of hashed bytes.

    Raises ValueError and TypeError, which name the tensor, as :func:`integrity_triton.hash_batch` does for a
    tensor without bytes; ValueError for an algorithm that is unknown, keyed or without a default length, and
    for a name that occurs twice.
    """
    record = hash_of(algorithm)
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors:
        if name in found:
            raise ValueError(f"two tensors are named {shown(name)}")
        with named(f"tensor {shown(name)}"):
            check_has_bytes(tensor)
        found[name] = tensor.detach()
    digests = digest_tensors(list(found.values()), record, backend=backend, progress=progress)
    return {name: digest.hex() for name, digest in zip(found, digests, strict=True)}
