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
        return self.tensor.numel() * self.tensor.element_size()


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
    by_device: dict[torch.device, list[_Memory]] = {}
    for memory in memories.values():
        by_device.setdefault(memory.tensor.device, []).append(memory)
    # All devices are given their work before the host waits for the first.
    queued = [_hash_on_device(on_device, hash_, backend, progress) for on_device in by_device.values()]
    entries = []
    for groups, digests in queued:
        for memory, digest in zip((m for group in groups for m in group), _rows(digests), strict=True):
            first, *others = sorted(memory.names)
            entries.append(
                TensorEntry(first, memory.dtype, memory.shape, memory.nbytes, digest, tuple(others))
            )
    return entries


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
    memories: Sequence[_Memory], hash_: TensorHash, backend: str | None, progress: Progress | None
) -> tuple[list[list[_Memory]], torch.Tensor]:
    """The groups of one device's tensors, and a row with the digest of each tensor."""
    import torch

    # Digests that were allocated between the copies of groups would keep the allocator from giving the memory
    # of one copy to the next.
    size = hash_.length or hash_.algorithm.digest_size
    digests = torch.empty((len(memories), size), dtype=torch.uint8, device=memories[0].tensor.device)
    groups, done = [], 0
    for group in _groups(memories, hash_.algorithm):
        data = [m.tensor for m in group]
        out = digests[done : done + len(group)]
        hash_batch(data, hash_.name, length=hash_.length, out=out, backend=backend)
        if progress is not None:
            out.cpu()  # this waits for the group, so that progress reports bytes that were hashed
            progress(sum(m.nbytes for m in group))
        groups.append(group)
        done += len(group)
    return groups, digests


def _groups(memories: Iterable[_Memory], algorithm: Algorithm) -> Iterator[list[_Memory]]:
    """Cut one device's tensors into batches.

    A sequential hash on an accelerator has one lane for each tensor, so that all tensors stay together.
    """
    group: list[_Memory] = []
    size = 0
    for memory in memories:
        on_host = memory.tensor.device.type == "cpu"
        if on_host and algorithm.parallel and memory.nbytes >= _LARGE_MESSAGE:
            yield [memory]
            continue
        group.append(memory)
        size += memory.nbytes
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
