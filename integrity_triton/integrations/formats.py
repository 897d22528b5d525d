"""One digest for each tensor of stored weights, in the form in which a project publishes its own.

``integrity-triton tensors`` prints them. A project's form says what the message is (the bytes of the tensor,
or its elements converted, or a header before them) and how the result is written. The definitions are those
of the projects' modules beside this one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..files import Progress
from ..models.folder import read_model
from ..models.stored import hash_files, read_tensors
from ..models.tensor_hash import TensorHash
from .named_tensors import hash_of

if TYPE_CHECKING:
    import torch

__all__ = ["FORMATS", "Format", "tensor_digests"]

_GROUP_SIZE = 64 << 20  # bytes of tensors that are in memory at the same time, or one tensor of any size


@dataclass(frozen=True)
class Format:
    """How a project writes the digest of a tensor."""

    summary: str
    algorithm: str
    """The algorithm unless another one is asked for, in the project's spelling."""
    others: tuple[str, ...] | None = ()
    """The algorithms that may be asked for instead; None for every hash of the package without a key."""
    typed: bool = False
    """Whether the dtype and the shape count."""
    digests: Callable[[Mapping[str, torch.Tensor], str, str | None], Mapping[str, str]] | None = None
    """The digests of tensors in memory with an algorithm and a backend; None if they are hashes of the
    package over the tensors' bytes."""

    def takes(self, algorithm: str) -> bool:
        return self.others is None or algorithm in {self.algorithm, *self.others}


def _sglang(tensors: Mapping[str, torch.Tensor], _algorithm: str, _backend: str | None) -> Mapping[str, str]:
    from . import sglang

    return {name: f"{sglang.tensor_hash(tensor):016x}" for name, tensor in tensors.items()}


def _slime(tensors: Mapping[str, torch.Tensor], algorithm: str, backend: str | None) -> Mapping[str, str]:
    from . import slime

    return slime.checksums(tensors, algorithm, backend=backend)


def _megatron(tensors: Mapping[str, torch.Tensor], algorithm: str, backend: str | None) -> Mapping[str, str]:
    from ..models.live import digest_tensors

    data = [tensor.float() for tensor in tensors.values()]
    digests = digest_tensors(data, hash_of(algorithm), backend=backend)
    return {name: digest.hex() for name, digest in zip(tensors, digests, strict=True)}


def _tensorizer(
    tensors: Mapping[str, torch.Tensor], _algorithm: str, backend: str | None
) -> Mapping[str, str]:
    from . import tensorizer

    found = tensorizer.tensor_hashes(tensors, backend=backend)
    return {name: f"crc32={h.crc32:08x},sha256={h.sha256.hex()}" for name, h in found.items()}


FORMATS: Mapping[str, Format] = {
    "bytes": Format("a hash of the tensor's bytes", "blake3", None),
    "vllm": Format("vLLM's compute_tensor_digests", "sha256"),
    "sglang": Format("SGLang's 64-bit gpu_tensor_hash, a checksum", "gpu_tensor_hash", digests=_sglang),
    "slime": Format(
        "the checksums of slime's and miles' weight updates",
        "xxh3-128",
        ("blake3", "adler32"),
        digests=_slime,
    ),
    "megatron": Format(
        "Megatron-LM's hash of the elements as float32", "sha1", typed=True, digests=_megatron
    ),
    "tensorizer": Format(
        "the CRC-32 and SHA-256 that tensorizer's write_state_dict stores",
        "crc32+sha256",
        typed=True,
        digests=_tensorizer,
    ),
}
"""The formats by name."""


def tensor_digests(
    source: str | os.PathLike[str],
    format: str = "bytes",
    algorithm: str | None = None,
    *,
    backend: str | None = None,
    progress: Progress | None = None,
) -> dict[str, str]:
    """The digest of each tensor of a safetensors file, or of a folder of them, by the tensor's name.

    ``format`` is a key of :data:`FORMATS`, and ``algorithm`` one that it takes; by default it is the
    project's own. The names are those of the files, sorted, and a tensor that the metadata ties to further
    names has only the stored one. Memory is bounded by 64 MiB, or the largest tensor. ``progress`` is called
    with numbers of bytes.

    Raises ValueError for an unknown format and an algorithm that it does not take; ManifestError for
    malformed files and, where the dtype counts, for one that torch does not have; OSError for a file that
    cannot be read; and as :func:`integrity_triton.hash_batch` for the backend.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; choose one of {', '.join(FORMATS)}")
    chosen = FORMATS[format]
    algorithm = chosen.algorithm if algorithm is None else algorithm
    if not chosen.takes(algorithm):
        allowed = ", ".join((chosen.algorithm, *(chosen.others or ())))
        raise ValueError(f"the format {format} does not take the algorithm {algorithm!r}; it takes {allowed}")
    files = read_model(source)
    if chosen.digests is None:
        entries = hash_files(files, TensorHash(hash_of(algorithm), None), backend, progress)
        return {entry.name: entry.digest.hex() for entry in sorted(entries)}
    found: dict[str, str] = {}
    for group in _groups(read_tensors(files, typed=chosen.typed)):
        found.update(chosen.digests(group, algorithm, backend))
        if progress is not None:
            progress(sum(tensor.nbytes for tensor in group.values()))
    for file in files:
        file.check_unchanged()
    return dict(sorted(found.items()))


def _groups(tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[dict[str, torch.Tensor]]:
    group: dict[str, torch.Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if group and size + tensor.nbytes > _GROUP_SIZE:
            yield group
            group, size = {}, 0
        group[name] = tensor
        size += tensor.nbytes
    if group:
        yield group
