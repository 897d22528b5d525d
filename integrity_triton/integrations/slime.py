"""The checksums of slime's and miles' weight updates over a shared disk, computed where the weights are.

Both trainers publish what changed since the last update as a folder, which looks like a Hugging Face
checkpoint: ``model-NNNNN-of-NNNNN.safetensors`` hold a compressed difference for each changed tensor, and
``model.safetensors.index.json`` says how they were made. The ``__metadata__`` of each file gives a checksum
for each of its tensors: **of all bytes of the tensor that results, not of the difference.** An engine applies
the differences to its own copy and compares. The definitions are those of
https://github.com/THUDM/slime (``slime/utils/disk_delta.py`` at 1a7ef658, and
``slime/backends/megatron_utils/update_weight/update_weight_from_disk_delta.py`` at 06236d02) and
https://github.com/radixark/miles (``miles/utils/disk_delta.py`` at 0b5686f8).

The three algorithms, by the names of ``--update-weight-delta-checksum``:

- ``xxh3-128``, the default, and ``adler32`` find accidental changes. Whoever can write to the disk can make
  other bytes with the same checksum.
- ``blake3`` is a cryptographic hash. It is worth as much as the place that its digests come from: digests
  that are stored beside the data, without a key or a signature, bind nothing against a writer.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import IntegrityError

if TYPE_CHECKING:
    import torch

    from ..files import Progress

__all__ = ["ALGORITHMS", "Update", "adler32", "checksum", "checksums", "read_update", "save_file", "verify"]

ALGORITHMS = {"xxh3-128": "xxh3_128", "blake3": "blake3", "adler32": None}
"""The algorithms of slime and miles, each with its name in this package, which has no Adler-32."""

_INDEX = "model.safetensors.index.json"
_PRIME = 65521  # the largest below 2**16 (RFC 1950, section 8.2)
_ROW = 4096  # bytes whose sums weighted by position fit into an int32: 255 * 4096 * 4097 / 2 < 2**31
_BLOCK = 1 << 22  # bytes that are summed at the same time, as int32


@dataclass(frozen=True)
class Update:
    """A published update: for each tensor that it changes, the checksum of its new bytes."""

    algorithm: str
    """A key of :data:`ALGORITHMS`."""
    checksums: Mapping[str, str]
    version: str = ""
    base_version: str = ""
    """The version to whose tensors the differences apply."""


def checksum(data: Any, algorithm: str = "xxh3-128", *, backend: str | None = None) -> str:
    """The checksum of a tensor's or a bytes-like object's bytes, in the hexadecimal digits of slime.

    It is computed on the device of a tensor. ``backend`` is as for :func:`integrity_triton.hash_batch`, and
    Adler-32 does not take it into account. Raises ValueError for an algorithm that slime does not have, and
    TypeError and ValueError for data without bytes.
    """
    from ..messages.tensors import is_tensor

    _check_algorithm(algorithm)
    if algorithm == "adler32":
        return f"{adler32(data):08x}"
    if is_tensor(data):
        return checksums({"tensor": data}, algorithm, backend=backend)["tensor"]
    from ..hashing import new

    return new(algorithm, data, backend=backend).hexdigest()


def checksums(
    tensors: Mapping[str, torch.Tensor],
    algorithm: str = "xxh3-128",
    *,
    backend: str | None = None,
    progress: Progress | None = None,
) -> dict[str, str]:
    """The checksum of each tensor of a state dict, by its name, computed on its own device.

    This is what slime gives to ``safetensors.numpy.save(difference, metadata=...)``, for the tensors that
    changed. Raises as :func:`checksum` does, with the name of the tensor. ``progress`` is called with numbers
    of hashed bytes.
    """
    from ..messages.tensors import check_has_bytes, named
    from .named_tensors import hex_digests

    _check_algorithm(algorithm)
    if algorithm != "adler32":
        return hex_digests(tensors.items(), algorithm, backend=backend, progress=progress)
    found = {}
    for name, tensor in tensors.items():
        with named(f"tensor {name!r}"):
            check_has_bytes(tensor)
            found[name] = f"{adler32(tensor):08x}"
        if progress is not None:
            progress(tensor.numel() * tensor.element_size())
    return found


def adler32(data: Any) -> int:
    """Adler-32 (RFC 1950, section 8.2) of a tensor's or a bytes-like object's bytes, for any length.

    Bytes in the host's memory go through ``zlib.adler32``. Those of a tensor on another device are summed
    there, by torch operations on int32 and int64 that take less than 64 MiB, and the host waits once.
    """
    from ..messages.from_caller import buffer_view
    from ..messages.tensors import host_memory, is_tensor, tensor_bytes

    if not is_tensor(data):
        return zlib.adler32(buffer_view(data))
    flat = tensor_bytes(data)
    if not flat.numel():
        return 1
    if flat.device.type == "cpu":
        return zlib.adler32(host_memory(flat).data)
    return _adler32_of(flat)


def save_file(
    tensors: Mapping[str, torch.Tensor],
    path: str | os.PathLike[str],
    algorithm: str = "xxh3-128",
    *,
    metadata: Mapping[str, str] | None = None,
    backend: str | None = None,
) -> dict[str, str]:
    """Write tensors to a safetensors file whose ``__metadata__`` has the checksum of each under its name.

    The checksums, which are returned, are those of the tensors in the file themselves: a whole checkpoint in
    the form of slime's updates. They are computed before anything is written. ``metadata`` is written too.
    Raises ValueError for a name in ``metadata`` that is also a tensor's, and as :func:`checksums` does.
    """
    from safetensors.torch import save_file as write

    found = checksums(tensors, algorithm, backend=backend)
    if both := sorted(found.keys() & (metadata or {}).keys()):
        raise ValueError(f"metadata has {both[0]!r}, which is the name of a tensor and gets its checksum")
    write(dict(tensors), path, {**(metadata or {}), **found})
    return found


def read_update(folder: str | os.PathLike[str]) -> Update:
    """The checksums that an update's folder publishes, for all tensors that its index names.

    The differences themselves are not read. Raises OSError for a file that cannot be read, and
    :class:`~integrity_triton.models.ManifestError`, which names the file, for an index or a file that is
    malformed, names an unknown algorithm or another folder, or has no checksum for one of its tensors.
    """
    from ..models.errors import ManifestError, shown
    from ..models.folder import MAX_INDEX_SIZE
    from ..models.regular_files import read_regular
    from ..models.safetensors_file import SafetensorsFile
    from ..strict_json import parse_object

    folder = Path(folder)
    if folder.is_file():
        raise NotADirectoryError(
            errno.ENOTDIR,
            "an update is a folder with an index; a file that save_file wrote is compared with its own "
            "checksums, by verify without tensors",
            str(folder),
        )
    index = folder / _INDEX
    try:
        document = parse_object(read_regular(index, MAX_INDEX_SIZE, "an index"))
        about, files = document.get("metadata"), document.get("weight_map")
        if not isinstance(about, dict) or not isinstance(files, dict):
            raise ManifestError("it has no 'metadata' or no 'weight_map'")
        algorithm = about.get("checksum_format")
        if algorithm not in ALGORITHMS:
            raise ManifestError(
                f"its checksum_format is {algorithm!r}; slime has {', '.join(ALGORITHMS)}, and only an "
                "update of differences has one"
            )
        for file in files.values():
            if not isinstance(file, str) or Path(file).name != file:
                raise ManifestError(f"it names the file {file!r}, which is not in its folder")
    except ValueError as error:
        raise ManifestError(f"{index}: {error}") from None
    found: dict[str, str] = {}
    for file in sorted(set(files.values())):
        layout = SafetensorsFile.read(folder / file)
        stored = {tensor.name for tensor in layout.tensors}
        named = {name for name, place in files.items() if place == file}
        if stored != named:
            name = min(stored ^ named)
            raise ManifestError(f"{folder / file}: the index and the file disagree about {shown(name)}")
        for name in sorted(named):
            found[name] = _parsed(folder / file, name, layout.metadata.get(name), algorithm)
    return Update(algorithm, found, str(about.get("version", "")), str(about.get("base_version", "")))


def verify(
    published: Update | str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor] | str | os.PathLike[str] | None = None,
    *,
    algorithm: str | None = None,
    backend: str | None = None,
    progress: Progress | None = None,
) -> int:
    """Check tensors against published checksums. Returns the number of tensors that were compared.

    ``published`` is an :class:`Update` or an update's folder, and ``tensors`` a state dict of the tensors
    after the update, or a checkpoint to which it was applied: a safetensors file, or a folder of them.
    Tensors that the update does not name did not change, and are not read.

    Without ``tensors``, ``published`` is a file that :func:`save_file` wrote, whose own tensors are checked,
    all of them. The file does not say with which ``algorithm``; the default is ``"xxh3-128"``.

    Raises :class:`~integrity_triton.IntegrityError`, which names every tensor that is missing or differs;
    ManifestError for malformed files; and OSError for a file that cannot be read.
    """
    from ..models.errors import ManifestError, shown
    from ..models.safetensors_file import SafetensorsFile

    if tensors is None:
        if isinstance(published, Update):
            raise TypeError("tensors is needed with an Update; without it, name a file that has checksums")
        _check_algorithm(algorithm or "xxh3-128")
        layout = SafetensorsFile.read(published)
        update = Update(
            algorithm or "xxh3-128",
            {
                tensor.name: _parsed(layout.path, tensor.name, layout.metadata.get(tensor.name), algorithm)
                for tensor in layout.tensors
            },
        )
        tensors = published
    else:
        update = published if isinstance(published, Update) else read_update(published)
        if algorithm not in {None, update.algorithm}:
            raise ValueError(f"the update was published with {update.algorithm}, not with {algorithm}")
    if isinstance(tensors, Mapping):
        chosen = {name: tensors[name] for name in update.checksums if name in tensors}
        found = checksums(chosen, update.algorithm, backend=backend, progress=progress)
    else:
        found = _stored(tensors, update, backend, progress)
    wrong = [f"{shown(name)} is missing" for name in update.checksums if name not in found]
    wrong += [
        f"{shown(name)} has {update.algorithm} {found[name]}, not {expected}"
        for name, expected in update.checksums.items()
        if name in found and found[name] != expected
    ]
    if wrong:
        total = len(update.checksums)
        raise IntegrityError("\n  ".join([f"{len(wrong)} of {total} tensors do not match:", *wrong]))
    if not update.checksums and update.version == "":
        raise ManifestError("there is nothing to verify: no tensor has a checksum")
    return len(update.checksums)


def _check_algorithm(algorithm: str) -> None:
    if algorithm not in ALGORITHMS:
        raise ValueError(f"slime has no checksum {algorithm!r}; it has {', '.join(ALGORITHMS)}")


def _parsed(path: object, name: str, value: str | None, algorithm: str | None) -> str:
    from ..models.errors import ManifestError, shown

    size = {"adler32": 8, "blake3": 64}.get(algorithm or "", 32)
    if value is None:
        raise ManifestError(f"{path}: there is no checksum of tensor {shown(name)} in its __metadata__")
    if len(value) != size or not set(value) <= set("0123456789abcdef"):
        raise ManifestError(
            f"{path}: the checksum of tensor {shown(name)} is {shown(value)}, and not {size} hexadecimal "
            "digits"
        )
    return value


def _stored(
    path: str | os.PathLike[str], update: Update, backend: str | None, progress: Progress | None
) -> dict[str, str]:
    """The checksums of those tensors of a safetensors file or folder that an update names."""
    from ..files import read_pieces
    from ..models.errors import ManifestError
    from ..models.folder import read_model
    from ..models.stored import hash_files
    from ..models.tensor_hash import TensorHash
    from .named_tensors import hash_of

    names = {name: name for name in update.checksums}
    files = [layout.selected(names) for layout in read_model(path)]
    if update.algorithm != "adler32":
        hash_ = TensorHash(hash_of(update.algorithm), None)
        entries = hash_files(files, hash_, backend, progress)
        return {entry.name: entry.digest.hex() for entry in entries}
    found = {}
    for file in files:
        for tensor in file.tensors:
            value = 1
            try:
                for piece in read_pieces(file.path, tensor.start, tensor.end, opener=file.open):
                    value = zlib.adler32(piece, value)
                    if progress is not None:
                        progress(len(piece))
            except EOFError as error:
                raise ManifestError(f"the file was cut while it was being read: {error}") from None
            found[tensor.name] = f"{value:08x}"
        file.check_unchanged()
    return found


def _adler32_of(data: torch.Tensor) -> int:
    """Adler-32 of a flat uint8 tensor on its own device.

    The checksum's two sums are ``a = 1 + sum(d[i])`` and ``b = n + sum((n - i) * d[i])``, modulo 65521. Over
    a row of 4096 bytes, both fit into an int32; rows and blocks are combined modulo 65521, so that no sum
    grows with the length.
    """
    import torch

    device = data.device
    a = torch.ones((), dtype=torch.int64, device=device)
    b = torch.zeros((), dtype=torch.int64, device=device)
    weights = torch.arange(_ROW, 0, -1, dtype=torch.int32, device=device)
    for start in range(0, data.numel(), _BLOCK):
        block = data[start : start + _BLOCK]
        size = block.numel()
        rows = -(-size // _ROW)
        # Zeros before the first byte change neither sum.
        values = torch.zeros(rows * _ROW, dtype=torch.int32, device=device)
        values[rows * _ROW - size :] = block
        values = values.view(rows, _ROW)
        sums = values.sum(1)
        weighted = (values * weights).sum(1)
        after = torch.arange(rows - 1, -1, -1, dtype=torch.int64, device=device) * _ROW % _PRIME
        b = (b + size * a + (weighted + after * (sums % _PRIME)).sum()) % _PRIME
        a = (a + sums.sum()) % _PRIME
    return int((b << 16 | a).item())
