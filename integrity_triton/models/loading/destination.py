"""The memory into which tensors are loaded: their own, on the device where they stay."""

from __future__ import annotations

import ctypes
import functools
import mmap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...messages.tensors import host_memory, tensor_bytes
from ..dtypes import LARGEST_SIZE, torch_type
from ..errors import ManifestError, shown
from ..safetensors_file import StoredTensor
from .plan import Plan

if TYPE_CHECKING:
    import torch

_HUGE_PAGE = 2 << 20


class Destination:
    """The tensors of a plan, not yet filled. Each has a storage of its own."""

    def __init__(self, plan: Plan, device: torch.device) -> None:
        """Allocate all tensors, so that memory that does not suffice is noticed before anything is read.

        Raises ManifestError, which names the tensor, for a dtype that torch does not have, and MemoryError if
        the device has not enough memory; what was allocated is then free again.
        """
        self.device = device
        self.tensors: dict[str, torch.Tensor] = {}
        for file in plan.files:  # a dtype that torch lacks is found before the first allocation
            for stored in file.layout.tensors:
                _torch_type(file.path, stored)
        allocated = 0
        try:
            for file in plan.files:
                for stored in file.layout.tensors:
                    self.tensors[stored.name] = _allocate(file.path, stored, device)
                    allocated += stored.nbytes
        except (MemoryError, RuntimeError) as error:  # torch raises a RuntimeError of its own for memory
            self.clear()
            raise MemoryError(
                f"{file.path}: tensor {shown(stored.name)} of {stored.nbytes} bytes does not fit on "
                f"{device}, where {allocated} bytes of the model were allocated before; nothing was loaded "
                f"({str(error).splitlines()[0] if str(error) else type(error).__name__})"
            ) from None

    def clear(self) -> None:
        """Let go of all tensors."""
        self.tensors.clear()

    def host_view(self, name: str) -> memoryview:
        """The bytes of a tensor on the CPU, to be written to."""
        return host_memory(self.tensors[name]).data

    def device_bytes(self, name: str) -> torch.Tensor:
        """The bytes of a tensor as a flat uint8 tensor over the same memory."""
        return tensor_bytes(self.tensors[name])


def _torch_type(path: str, stored: StoredTensor) -> tuple[torch.dtype, tuple[int, ...]]:
    if not _has_strides(stored.shape):
        raise ManifestError(
            f"{path}: tensor {shown(stored.name)}: torch cannot hold its shape, whose strides do not fit in "
            "64 bits"
        )
    try:
        return torch_type(stored.dtype, stored.shape)
    except TypeError as error:
        raise ManifestError(f"{path}: tensor {shown(stored.name)}: {error}") from None


def _has_strides(shape: Sequence[int]) -> bool:
    """Whether the dimensions and strides of a contiguous tensor fit in 64 bits. They need not even if the
    tensor has no elements, and thus no bytes."""
    if 0 not in shape:
        return True  # the strides are at most the number of elements
    stride = 1
    for dimension in reversed(shape[1:]):
        stride *= max(dimension, 1)
        if stride > LARGEST_SIZE:  # in the loop: the product of an untrusted shape could be huge
            return False
    return shape[0] <= LARGEST_SIZE


def _allocate(path: str, stored: StoredTensor, device: torch.device) -> torch.Tensor:
    import torch

    dtype, shape = _torch_type(path, stored)
    with torch.inference_mode(False):  # threads, which are never in that mode, could not write to it
        tensor = torch.empty(shape, dtype=dtype, device=device)
    if device.type == "cpu" and stored.nbytes >= _HUGE_PAGE:
        _advise_huge_pages(tensor.data_ptr(), stored.nbytes)
    return tensor


@functools.cache
def _madvise() -> Any:
    """The function of the C library; None where there is none, or no huge pages."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    function = getattr(ctypes.CDLL(None), "madvise", None)
    if function is not None:
        function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function


def _advise_huge_pages(address: int, size: int) -> None:
    """Ask the kernel for huge pages. Most of the time of a load from the page cache is otherwise spent on the
    faults of small ones. It is only advice, so that a refusal does not matter."""
    madvise = _madvise()
    if madvise is not None:
        start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (address + size) // mmap.PAGESIZE * mmap.PAGESIZE
        madvise(start, end - start, mmap.MADV_HUGEPAGE)
