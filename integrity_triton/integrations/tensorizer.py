"""tensorizer: the CRC-32 and SHA-256 of each tensor in a ``.tensors`` file.

tensorizer 2.12.1 (``tensorizer/serialization.py``, classes ``_TensorHeaderSerializer`` and
``TensorDeserializer``) stores with each tensor hashes of its header, in which the hashes themselves are
zeros, followed by its data. Its ``verify_hash=True`` computes them on the CPU, a tensor at a time.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from ..batch import hash_batch
from ..crc import crc_combine
from ..errors import IntegrityError
from ..files import Progress
from ..messages.tensors import tensor_bytes
from ..models.errors import ManifestError, shown
from ..models.regular_files import how_changed, identity, open_regular

if TYPE_CHECKING:
    import torch

__all__ = ["TensorHashes", "TensorizerReport", "tensor_hashes", "verify_hashes"]

_MAGIC = b"|TZR|"
_VERSIONS = range(1, 6)
_ENCRYPTED, _VERSIONED = 1, 2  # bits of the feature flags
_LONG_SHAPES = 5  # entries of the index of this version have dimensions of 64 bits
_HASHES = {0: ("crc32", 4), 1: ("sha256", 32)}  # by the number of the kind: name, and size in bytes
_KINDS = {"param": 0, "buffer": 1, "state_dict": 2}
_GROUP_SIZE = 256 << 20  # bytes that are read, or copied, at the same time, or one tensor of any size
_MAX_INDEX_SIZE = 1 << 30


class TensorHashes(NamedTuple):
    """The hashes that tensorizer stores with a tensor."""

    crc32: int
    sha256: bytes


@dataclass(frozen=True)
class TensorizerReport:
    """What :func:`verify_hashes` found."""

    tensors: int
    """How many tensors the file has."""
    changed: tuple[tuple[str, str], ...]
    """The names of the tensors that are not what was written, in the order of the index, each with what
    differs. A name that is no plain string is in tensorizer's JSON notation."""

    @property
    def ok(self) -> bool:
        return not self.changed

    def raise_for_mismatch(self) -> None:
        """Raise IntegrityError, which names every tensor that differs, unless all match."""
        if not self.ok:
            raise IntegrityError(str(self))

    def __str__(self) -> str:
        if self.ok:
            return f"{self.tensors} tensors match"
        return "changed: " + "; ".join(f"{shown(name)} ({what})" for name, what in self.changed)


@dataclass(frozen=True)
class _Entry:
    """What the index of a file says of one tensor. Offsets are bytes from the start of the file."""

    name: bytes
    kind: int
    dtype: bytes
    shape: tuple[int, ...]
    header: int
    data: int
    size: int
    long: bool

    @property
    def shown_name(self) -> str:
        return self.name.removeprefix(b"\x1e").decode("utf-8", "backslashreplace")

    def described(self, module: int, header_size: int) -> bytes:
        """The start of the header that the serializer writes for such a tensor."""
        return _description(module, self.kind, self.name, self.dtype, self.shape, header_size, self.long)


class _Cursor:
    """Reads fields one after the other. Raises ManifestError where the data ends too early."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self.data = memoryview(data)
        self.at = 0

    def take(self, size: int) -> memoryview:
        found = self.data[self.at : self.at + size]
        if len(found) < size:
            raise ManifestError("it is cut")
        self.at += size
        return found

    def number(self, code: str) -> int:
        value: int = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]
        return value

    def string(self, code: str) -> bytes:
        return bytes(self.take(self.number(code)))

    def shape(self, long: bool) -> tuple[int, ...]:
        count, code = self.number("B"), "Q" if long else "I"
        return struct.unpack(f"<{count}{code}", self.take(struct.calcsize(f"<{count}{code}")))


def verify_hashes(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    backend: str | None = None,
    progress: Progress | None = None,
) -> TensorizerReport:
    """Compare every tensor of a ``.tensors`` file with the hashes that tensorizer stored with it.

    Both kinds of hashes are checked where both are there. The header of each tensor must agree with the index
    of the file as well, which no hash covers, and must be followed by the data. Each tensor that differs is
    named in the report; call ``raise_for_mismatch()`` on it.

    ``device`` is where the bytes are moved to be hashed, by default the memory of the CPU. Whole tensors
    are read, up to 256 MiB at a time or one tensor of any size. ``progress`` is called with the bytes of
    each group.

    The hashes lie beside the data: whoever can change the file can change both. This finds accidents.

    Raises ManifestError, which names the file, if it is no such file, is encrypted, or has an index that
    cannot be read or a tensor that has no SHA-256; IntegrityError if it changes meanwhile; and OSError.
    """
    path = Path(path)
    try:
        descriptor = open_regular(path)
    except ValueError as error:
        raise ManifestError(str(error)) from None
    with open(descriptor, "rb") as file:
        before = identity(os.fstat(descriptor))
        try:
            entries = _read_index(file, os.fstat(descriptor).st_size)
            changed: dict[int, str] = {}
            for group in _groups(entries):
                changed.update(_check_group(file, entries, group, device, backend))
                if progress is not None:
                    progress(sum(entries[i].data + entries[i].size - entries[i].header for i in group))
        except ManifestError as error:
            raise ManifestError(f"{path}: {error}") from None
        after = os.fstat(descriptor)
        if identity(after) != before:
            how = how_changed(after, before[2])
            raise IntegrityError(f"{path}: the file {how} while it was being read")
    return TensorizerReport(len(entries), tuple((entries[i].shown_name, changed[i]) for i in sorted(changed)))


def _read_index(file: BinaryIO, file_size: int) -> list[_Entry]:
    start = _Cursor(file.read(65))
    if bytes(start.take(len(_MAGIC))) != _MAGIC:
        raise ManifestError("not a tensorizer file")
    version = start.number("I")
    flags = int.from_bytes(start.take(32), "little")
    start.take(16)  # sizes, of which tensorizer says that they are not accurate
    count = start.number("Q")
    length = _Cursor(file.read(8)).number("Q")
    if version not in _VERSIONS:
        raise ManifestError(f"version {version} of the format is unknown; {_VERSIONS[-1]} is the last known")
    if flags & ~(_ENCRYPTED | _VERSIONED):
        raise ManifestError(f"feature flags {flags:#x} are unknown")
    if version == 3 or flags & _ENCRYPTED:
        raise ManifestError("the file is encrypted, and its hashes are those of the data before encryption")
    if length > min(_MAX_INDEX_SIZE, file_size):
        raise ManifestError(f"the index claims {length} bytes of a file of {file_size}")
    index = _Cursor(file.read(length))
    entries = []
    for number in range(count):
        try:
            long = bool(flags & _VERSIONED) and index.number("I") >= _LONG_SHAPES
            name, kind, dtype, shape = (
                index.string("H"),
                index.number("B"),
                index.string("B"),
                index.shape(long),
            )
            header, data, size = (index.number("Q") for _ in range(3))
        except ManifestError as error:
            raise ManifestError(f"entry {number} of the index: {error}") from None
        if not header < data <= data + size <= file_size:
            raise ManifestError(
                f"entry {number} of the index: bytes {header} to {data + size} are not in the file"
            )
        entries.append(_Entry(name, kind, dtype, shape, header, data, size, long))
    names = {entry.name for entry in entries}
    if len(names) < len(entries) or not entries:
        raise ManifestError("the index names a tensor twice" if entries else "the index names no tensor")
    return entries


def _groups(entries: Sequence[_Entry]) -> Iterator[list[int]]:
    """The numbers of tensors that are read together."""
    group: list[int] = []
    size = 0
    for number, entry in enumerate(entries):
        whole = entry.data + entry.size - entry.header
        if group and size + whole > _GROUP_SIZE:
            yield group
            group, size = [], 0
        group.append(number)
        size += whole
    if group:
        yield group


def _check_group(
    file: BinaryIO,
    entries: Sequence[_Entry],
    group: Sequence[int],
    device: torch.device | str | None,
    backend: str | None,
) -> Iterator[tuple[int, str]]:
    """The tensors of a group that are not what was written, each with what differs."""
    import torch

    stated: dict[str, list[tuple[int, bytes]]] = {name: [] for name, _ in _HASHES.values()}
    messages: dict[int, torch.Tensor] = {}
    for number in group:
        entry = entries[number]
        file.seek(entry.header)
        data = bytearray(entry.data + entry.size - entry.header)
        if file.readinto(data) < len(data):  # type: ignore[attr-defined]
            raise ManifestError("the file was cut while it was being read")
        try:
            hashes = _take_hashes(data, entry)
        except ManifestError as error:
            yield number, f"its header: {error}"
            continue
        messages[number] = torch.frombuffer(data, dtype=torch.uint8).to(device or "cpu")
        for name, value in hashes.items():
            stated[name].append((number, value))
    differing: dict[int, list[str]] = {}
    for name, of_kind in stated.items():
        if not of_kind:
            continue
        digests = hash_batch([messages[number] for number, _ in of_kind], name, backend=backend).cpu().numpy()
        for (number, value), row in zip(of_kind, digests, strict=True):
            found = row.tobytes()[::-1] if name == "crc32" else row.tobytes()  # stored in little-endian order
            if found != value:
                differing.setdefault(number, []).append(name)
    for number, kinds in differing.items():
        yield number, " and ".join(kinds) + (" differs" if len(kinds) == 1 else " differ")


def _take_hashes(data: bytearray, entry: _Entry) -> dict[str, bytes]:
    """The hashes in the header at the front of ``data``, in which they become zeros."""
    size = entry.data - entry.header
    header = _Cursor(memoryview(data)[:size])
    if header.number("Q") != size:
        raise ManifestError("its length does not lead to the data of the index")
    start = entry.described(header.number("H"), size)
    if bytes(data[: len(start)]) != start:
        raise ManifestError("it does not agree with the index")
    header.at = len(start)
    block = _Cursor(header.take(header.number("H")))
    found: dict[str, bytes] = {}
    for _ in range(block.number("B")):
        name, length = _HASHES.get(block.number("B"), ("", 0))
        if not name or block.number("B") != length or name in found:
            raise ManifestError("a hash is of an unknown kind or length, or there twice")
        value = block.take(length)
        found[name] = bytes(value)
        value[:] = bytes(length)
    if block.at != len(block.data):
        raise ManifestError("bytes follow the hashes")
    if "sha256" not in found:
        raise ManifestError("it has no SHA-256")
    if header.number("q") != entry.size or header.at != size:
        raise ManifestError("it does not state the length of the data in the index")
    return found


def tensor_hashes(
    tensors: Mapping[str, torch.Tensor],
    *,
    kind: str = "state_dict",
    module_index: int = 0,
    backend: str | None = None,
) -> dict[str, TensorHashes]:
    """The hashes that tensorizer's serializer writes for these tensors, computed on their devices.

    The hashes depend on what the header says besides name, dtype and shape. ``kind`` is ``"state_dict"``,
    ``"param"`` or ``"buffer"``, and ``module_index`` the number of the tensor's module: ``write_state_dict``
    writes ``"state_dict"`` and 0, and ``write_module`` one of the others and the place of the module in
    ``named_modules()``.

    For SHA-256, the header and the bytes of a tensor are joined in a copy on its device, for up to 256 MiB at
    a time or one tensor of any size. The CRC-32 needs no copy of a contiguous tensor.

    Raises ValueError for a ``kind`` that is unknown and for a tensor without data, and TypeError for one
    without dense bytes; and as :func:`integrity_triton.hash_batch` does.
    """
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {', '.join(_KINDS)}, not {kind!r}")
    found: dict[str, TensorHashes] = {}
    group: list[tuple[str, bytes, torch.Tensor]] = []
    size = 0
    for name, tensor in tensors.items():
        data = tensor_bytes(tensor)
        header = _new_header(name, tensor, _KINDS[kind], module_index)
        moved = bool(group) and group[0][2].device != data.device
        if group and (moved or size + data.numel() > _GROUP_SIZE):
            found.update(_hash_group(group, backend))
            group, size = [], 0
        group.append((name, header, data))
        size += data.numel()
    if group:
        found.update(_hash_group(group, backend))
    return found


def _hash_group(
    group: Sequence[tuple[str, bytes, torch.Tensor]], backend: str | None
) -> Iterator[tuple[str, TensorHashes]]:
    import torch

    device = group[0][2].device
    headers = [torch.frombuffer(bytearray(header), dtype=torch.uint8) for _, header, _ in group]
    joined = [torch.cat([h.to(device), data]) for h, (_, _, data) in zip(headers, group, strict=True)]
    secure = hash_batch(joined, "sha256", backend=backend).cpu().numpy()
    firsts = hash_batch(headers, "crc32").cpu().numpy()
    rests = hash_batch([data for _, _, data in group], "crc32", backend=backend).cpu().numpy()
    for (name, _, data), sha256, first, rest in zip(group, secure, firsts, rests, strict=True):
        crc = crc_combine("crc32", first.tobytes(), rest.tobytes(), data.numel())
        yield name, TensorHashes(int.from_bytes(crc, "big"), sha256.tobytes())


def _new_header(name: str, tensor: torch.Tensor, kind: int, module: int) -> bytes:
    """The header of a tensor, whose hashes are zeros."""
    encoded, dtype = name.encode("utf-8"), _dtype_name(tensor.dtype)
    shape, long = tuple(tensor.shape), any(size >= 1 << 32 for size in tensor.shape)
    hashes = b"".join(bytes([number, size]) + bytes(size) for number, (_, size) in _HASHES.items())
    end = struct.pack("<HB", 1 + len(hashes), len(_HASHES)) + hashes + struct.pack("<q", tensor.nbytes)
    size = len(_description(module, kind, encoded, dtype, shape, 0, long)) + len(end)
    return _description(module, kind, encoded, dtype, shape, size, long) + end


def _description(
    module: int, kind: int, name: bytes, dtype: bytes, shape: Sequence[int], header_size: int, long: bool
) -> bytes:
    """The fields of a header before its hashes."""
    return b"".join(
        (
            struct.pack("<QHBH", header_size, module, kind, len(name)),
            name,
            struct.pack("<B", len(dtype)),
            dtype,
            struct.pack(f"<B{len(shape)}{'Q' if long else 'I'}", len(shape), *shape),
        )
    )


@functools.cache
def _dtype_name(dtype: Any) -> bytes:
    """NumPy's name for a dtype. A dtype that NumPy does not have is stored as opaque bytes, followed by zero
    and torch's name."""
    import torch

    empty = torch.empty(0, dtype=dtype)
    try:
        return empty.numpy().dtype.str.encode("ascii")
    except TypeError:
        integer = {1: "|V1", 2: "<V2", 4: "<V4", 8: "<V8"}[empty.element_size()]
        return f"{integer}\0{dtype}".encode("ascii")
