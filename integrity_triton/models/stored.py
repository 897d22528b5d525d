"""Digests of the tensors in safetensors files, with bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ..backends import registry
from ..batch import hash_batch
from ..files import Progress, update_from_file
from ..hashing import new
from ..messages.tensors import host_memory
from ..remote_files import RemoteFile
from .dtypes import torch_type
from .entry import TensorEntry
from .errors import ManifestError, shown
from .safetensors_file import SafetensorsFile, StoredTensor
from .tensor_hash import TensorHash
from .threads import SharedProgress, in_threads

if TYPE_CHECKING:
    import torch

_RUN_SIZE = 8 << 20  # small tensors are read together, up to this many bytes
_MOST_READERS = 8  # each holds up to two read buffers, or what one stream of a store reads ahead


def hash_files(
    files: Sequence[SafetensorsFile], hash_: TensorHash, backend: str | None, progress: Progress | None
) -> list[TensorEntry]:
    """The entries of all tensors of the files.

    Raises OSError if a file cannot be read, and ManifestError if a file changes meanwhile.
    """
    library = registry.get("native").unsupported(hash_.algorithm) is None
    native = library and registry.requested(backend) in {None, "native"}
    # Waiting for a store takes no processor.
    remote = any(isinstance(file.path, RemoteFile) for file in files)
    several = _MOST_READERS if remote else min(_MOST_READERS, os.cpu_count() or 1)
    readers = several if native else 1  # a device is one shared resource
    shared = SharedProgress(progress)
    calls = [
        partial(_hash_run, file, run, hash_, backend, native, shared)
        for file in files
        for run in _runs(file.tensors)
    ]
    entries = [entry for found in in_threads(readers, calls, shared) for entry in found]
    for file in files:
        file.check_unchanged()
    return entries


def read_tensors(files: Sequence[SafetensorsFile], *, typed: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of the files with their names, each read when it is asked for, on the CPU.

    They have the dtypes and shapes of the files or, unless ``typed``, are flat and uint8. Raises
    ManifestError, which names the tensor, for a dtype that torch does not have and for a file that changes
    meanwhile, and OSError if a file cannot be read.
    """
    import torch

    for file in files:
        for stored in file.tensors:
            dtype: torch.dtype = torch.uint8
            shape: tuple[int, ...] = (stored.nbytes,)
            if typed:
                try:
                    dtype, shape = torch_type(stored.dtype, stored.shape)
                except TypeError as error:
                    raise ManifestError(f"{file.path}: tensor {shown(stored.name)}: {error}") from None
            tensor = torch.empty(shape, dtype=dtype)
            try:
                host_memory(tensor).data[:] = file.read_range(stored.start, stored.end)
            except EOFError as error:
                raise ManifestError(f"the file was cut while it was being read: {error}") from None
            yield stored.name, tensor


def _runs(tensors: Sequence[StoredTensor]) -> Iterator[list[StoredTensor]]:
    """Neighbouring tensors of at most _RUN_SIZE bytes together, or one tensor of any size."""
    run: list[StoredTensor] = []
    for tensor in tensors:
        if run and tensor.end - run[0].start > _RUN_SIZE:
            yield run
            run = []
        run.append(tensor)
    if run:
        yield run


def _hash_run(
    file: SafetensorsFile,
    run: Sequence[StoredTensor],
    hash_: TensorHash,
    backend: str | None,
    native: bool,
    progress: Progress,
) -> list[TensorEntry]:
    start, end = run[0].start, run[-1].end
    try:
        if len(run) == 1:
            hasher = new(hash_.name, backend=backend)
            update_from_file(hasher, file.path, start=start, end=end, progress=progress, opener=file.open)
            digests = [hasher.digest(hash_.length)]
        else:
            data = file.read_range(start, end)
            views = [data[tensor.start - start : tensor.end - start] for tensor in run]
            if native:
                digests = [new(hash_.name, view, backend=backend).digest(hash_.length) for view in views]
            else:
                batch = hash_batch(views, hash_.name, length=hash_.length, backend=backend).cpu().numpy()
                digests = [row.tobytes() for row in batch]
            progress(len(data))
    except EOFError as error:
        raise ManifestError(f"the file was cut while it was being read: {error}") from None
    return [
        TensorEntry(tensor.name, tensor.dtype, tensor.shape, tensor.nbytes, digest)
        for tensor, digest in zip(run, digests, strict=True)
    ]
