"""Digests of tensors in memory, computed on the devices that hold them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..algorithms import Algorithm
from ..batch import hash_batch
from ..files import Progress
from ..messages.tensors import check_has_bytes, is_tensor, named
from .dtypes import safetensors_type
from .entry import TensorEntry, check_name
from .errors import shown
from .tensor_hash import TensorHash

if TYPE_CHECKING:
    import torch

_HOST_GROUP_SIZE = 256 << 20  # bytes between two calls of progress
_DEVICE_GROUP_SIZE = 1 << 30  # enough to fill a device; a tree's inner nodes take a few per cent of it
_LARGE_MESSAGE = 1 << 20  # from this size on, a tree hash keeps all CPU cores busy with one tensor


@dataclass(frozen=True)
class _Memory:
    """One tensor with all its names."""

    tensor: torch.Tensor
    dtype: str
    shape: tuple[int, ...]
    names: list[str] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        return _nbytes(self.tensor)


def hash_state_dict(
    state_dict: Mapping[str, Any], hash_: TensorHash, backend: str | None, progress: Progress | None
) -> list[TensorEntry]:
    """The entries of a state dict. Names that share memory are in one entry.

    Raises TypeError for a name that is not a str, a value that is not a tensor, and a tensor without dense
    bytes or of a dtype that safetensors does not have. Raises ValueError for a tensor without data. Every
    message names the tensor.
    """
    memories: dict[Any, _Memory] = {}
    for name, value in state_dict.items():
        check_name(name)
        memory = _describe(name, value)
        memories.setdefault(_key(name, memory.tensor), memory).names.append(name)
    tensors = [memory.tensor for memory in memories.values()]
    digests = digest_tensors(
        tensors, hash_.algorithm, length=hash_.length, backend=backend, progress=progress
    )
    entries = []
    for memory, digest in zip(memories.values(), digests, strict=True):
        first, *others = sorted(memory.names)
        entries.append(TensorEntry(first, memory.dtype, memory.shape, memory.nbytes, digest, tuple(others)))
    return entries


def digest_tensors(
    tensors: Sequence[torch.Tensor],
    algorithm: Algorithm,
    *,
    length: int | None = None,
    backend: str | None = None,
    progress: Progress | None = None,
) -> list[bytes]:
    """The digest of each tensor's bytes, in the order of the tensors, which may be on several devices.

    They are hashed in groups, so that the copies which some tensors need take bounded memory. The host waits
    once for each device or, with ``progress``, which is called with the bytes of each group, once for each
    group. ``length`` is in bytes, for extendable output. Raises as :func:`integrity_triton.hash_batch` does.
    """
    by_device: dict[torch.device, list[int]] = {}
    for place, tensor in enumerate(tensors):
        by_device.setdefault(tensor.device, []).append(place)
    # All devices are given their work before the host waits for the first.
    queued = [
        _hash_on_device([(place, tensors[place]) for place in places], algorithm, length, backend, progress)
        for places in by_device.values()
    ]
    found: dict[int, bytes] = {}
    for order, digests in queued:
        found.update(zip(order, _rows(digests), strict=True))
    return [found[place] for place in range(len(tensors))]


def _describe(name: str, value: Any) -> _Memory:
    if not is_tensor(value):
        raise TypeError(
            f"entry {shown(name)} of the state dict is a {type(value).__name__}, not a tensor; leave it out, "
            "or pass its name in ignore when verifying"
        )
    with named(f"tensor {shown(name)}"):
        # All checks come before hours of hashing. The copies that some tensors need are made later, group by
        # group.
        check_has_bytes(value)
        dtype, shape = safetensors_type(value)
    return _Memory(value.detach(), dtype, shape)


def _key(name: str, x: torch.Tensor) -> Any:
    """A key that is equal for all names of one tensor: the same elements of the same storage, in the same
    order."""
    if x.numel() == 0 or x._is_zerotensor():  # there is no memory to share
        return name
    # The stride of a dimension of one element says nothing.
    strides = tuple(stride for stride, size in zip(x.stride(), x.shape, strict=True) if size != 1)
    return x.device, x.data_ptr(), x.dtype, x.shape, strides, x.is_conj(), x.is_neg()


def _hash_on_device(
    tensors: Sequence[tuple[int, torch.Tensor]],
    algorithm: Algorithm,
    length: int | None,
    backend: str | None,
    progress: Progress | None,
) -> tuple[list[int], torch.Tensor]:
    """The places of one device's tensors in the order of their groups, and a row with the digest of each."""
    import torch

    # Digests that were allocated between the copies of groups would keep the allocator from giving the memory
    # of one copy to the next.
    size = length or algorithm.digest_size
    digests = torch.empty((len(tensors), size), dtype=torch.uint8, device=tensors[0][1].device)
    order: list[int] = []
    for group in _groups(tensors, algorithm):
        data = [tensor for _, tensor in group]
        out = digests[len(order) : len(order) + len(group)]
        hash_batch(data, algorithm.name, length=length, out=out, backend=backend)
        if progress is not None:
            out.cpu()  # this waits for the group, so that progress reports bytes that were hashed
            progress(sum(_nbytes(tensor) for tensor in data))
        order += [place for place, _ in group]
    return order, digests


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _groups(
    tensors: Iterable[tuple[int, torch.Tensor]], algorithm: Algorithm
) -> Iterator[list[tuple[int, torch.Tensor]]]:
    """Cut one device's tensors into batches.

    A sequential hash on an accelerator has one lane for each tensor, so that all tensors stay together.
    """
    group: list[tuple[int, torch.Tensor]] = []
    size = 0
    for place, tensor in tensors:
        on_host = tensor.device.type == "cpu"
        if on_host and algorithm.parallel and _nbytes(tensor) >= _LARGE_MESSAGE:
            yield [(place, tensor)]
            continue
        group.append((place, tensor))
        size += _nbytes(tensor)
        full = size >= (_HOST_GROUP_SIZE if on_host else _DEVICE_GROUP_SIZE)
        if full and (on_host or algorithm.parallel):
            yield group
            group, size = [], 0
    if group:
        yield group


def _rows(digests: torch.Tensor) -> Iterator[bytes]:
    """The rows of a tensor, with a single transfer."""
    for row in digests.cpu().numpy():
        yield row.tobytes()
