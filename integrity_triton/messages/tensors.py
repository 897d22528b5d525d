"""Which tensors have bytes, and where these are. All tensors of callers pass through this module."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    import numpy as np
    import torch


def is_tensor(x: Any) -> TypeGuard[torch.Tensor]:
    """Whether ``x`` is a torch tensor. Does not import torch: before it is imported there are no tensors."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def is_traced() -> bool:
    """Whether torch.compile or torch.export is tracing the caller."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.compiler.is_compiling()


@contextlib.contextmanager
def named(label: str) -> Iterator[None]:
    """A context in which an error about a caller's object begins with ``label``, which says what it is."""
    try:
        yield
    except (TypeError, ValueError, BufferError) as error:
        raise type(error)(f"{label}: {error}") from None


def tensor_bytes(x: torch.Tensor) -> torch.Tensor:
    """A tensor's bytes as a flat contiguous uint8 tensor on its device.

    The bytes are the elements in C order, little-endian, which is what safetensors stores. A contiguous
    tensor is viewed and not copied. Raises as :func:`check_has_bytes` does.
    """
    view = bytes_in_place(x)
    if view is not None:
        return view
    x = x.detach()
    if x._is_zerotensor():
        x = x.clone()
    if x.is_conj():
        x = x.resolve_conj()
    if x.is_neg():
        x = x.resolve_neg()
    return _flat_bytes(x.contiguous())


def bytes_in_place(x: torch.Tensor) -> torch.Tensor | None:
    """The same as :func:`tensor_bytes`, over the memory of ``x``; None if a copy is needed. Raises as
    :func:`check_has_bytes` does."""
    import torch

    # Most batches consist of flat uint8 tensors, for which a part of the checks is enough.
    flat = type(x) is torch.Tensor and x.dtype is torch.uint8 and x.layout is torch.strided and x.dim() == 1
    if flat and x.is_contiguous() and not (x.is_nested or x.is_meta):
        return x if _check_memory(x, x.numel()) else None
    check_has_bytes(x)
    if not x.is_contiguous() or x.is_conj() or x.is_neg() or x._is_zerotensor():
        return None
    return _flat_bytes(x.detach())


def _flat_bytes(x: torch.Tensor) -> torch.Tensor:
    """The bytes of a contiguous tensor."""
    import torch

    x = x.reshape(-1)
    if x.stride(0) != 1:  # one element or none: such a tensor is contiguous, whatever its stride
        x = x.as_strided(x.shape, (1,))
    return x if x.dtype is torch.uint8 else x.view(torch.uint8)


def byte_range(x: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """A copy of a part of what :func:`tensor_bytes` gives, from byte ``first`` on and before byte ``last``.
    It takes no more memory than that part."""
    import torch

    if (first, last) == (0, x.nbytes):  # torch transposes whole tensors faster than parts
        return tensor_bytes(x)
    size = x.element_size()
    start, end = first // size, -(-last // size)
    elements = torch.empty(end - start, dtype=x.dtype, device=x.device)
    _copy_elements(elements, x.detach(), start, end)
    return elements.view(torch.uint8)[first - start * size : last - start * size]


def _copy_elements(out: torch.Tensor, x: torch.Tensor, first: int, last: int) -> None:
    """Copy elements of ``x``, which are counted in C order, to the flat tensor ``out``."""
    if x.dim() < 2:
        out.copy_(x.reshape(-1)[first:last])
        return
    row = math.prod(x.shape[1:])
    before, after = -(-first // row), last // row  # the first whole row, and the one after the last
    if before > after:
        _copy_elements(out, x[after], first - after * row, last - after * row)
        return
    head, middle = before * row - first, (after - before) * row
    if head:
        _copy_elements(out[:head], x[before - 1], row - head, row)
    if middle:
        _copy_rows(out[head : head + middle].view(after - before, *x.shape[1:]), x[before:after])
    if head + middle < len(out):
        _copy_elements(out[head + middle :], x[after], 0, last - after * row)


_BLOCK_SIZE = 8 << 20  # of a part that is transposed


def _copy_rows(out: torch.Tensor, x: torch.Tensor) -> None:
    """Copy ``x`` to ``out``, which is contiguous.

    torch has a fast copy for a matrix that is the transpose of a contiguous one. Blocks of rows of a larger
    matrix are made such transposes first, which takes a third of the time.
    """
    if x.dim() != 2 or x.stride(0) >= x.stride(1):
        out.copy_(x)
        return
    step = max(1, _BLOCK_SIZE // (x.shape[1] * x.element_size()))
    for start in range(0, len(x), step):
        columns = x[start : start + step].t().contiguous()
        out[start : start + step].copy_(columns.t())


def check_has_bytes(x: torch.Tensor) -> None:
    """Check that a tensor has bytes. Nothing is copied, and no element is read.

    Raises TypeError for a tensor that has no dense bytes: sparse, nested, quantised and wrapper tensors.
    Raises ValueError for a tensor whose memory does not hold its elements: meta, fake and uninitialised
    tensors, tensors under ``torch.func``, and tensors whose storage was freed or shortened.
    """
    import torch

    if x.layout is not torch.strided or x.is_nested:
        raise TypeError(f"a tensor of layout {x.layout} has no dense bytes; hash its component tensors")
    if x.is_quantized:
        raise TypeError("a quantised tensor has no plain bytes; hash x.int_repr() and its scales")
    if x.is_meta:
        raise ValueError("a meta tensor has no data to hash")
    # A Parameter of a subclass is an instance of both classes, and its type is the subclass.
    if type(x) is not torch.Tensor and type(x) is not torch.nn.Parameter:
        _check_subclass(x)
    if x.numel():
        last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
        _check_memory(x, last + 1)


def _check_subclass(x: torch.Tensor) -> None:
    import torch
    from torch._subclasses.fake_tensor import FakeTensor

    kind = type(x).__name__
    if torch.nn.parameter.is_lazy(x):
        raise ValueError(f"an {kind} has no data to hash; run the lazy module once to initialise it")
    if isinstance(x, FakeTensor):
        raise ValueError("a fake tensor has no data to hash")
    instead = _instead_of_distributed(x)
    parts = None if instead else _part_names(x)
    if parts is not None:
        instead = f"hash the tensors inside it: {', '.join(f'x.{name}' for name in parts)}"
    elif instead is None and _storage_size(x) is None:
        instead = "hash the tensors inside it"
    if instead:
        raise TypeError(f"{kind} is a wrapper without bytes of its own; {instead}")


def _instead_of_distributed(x: torch.Tensor) -> str | None:
    """What to hash instead of a DTensor or of the result of a collective operation; None for any other
    tensor. The modules of these classes are not imported for this."""
    if hasattr(x, "full_tensor") and hasattr(x, "to_local"):
        return "pass x.to_local() for the shard of this process, or x.full_tensor() for the whole"
    if hasattr(x, "trigger_wait"):
        return "pass x.wait(), which waits for the collective operation"
    return None


def _part_names(x: torch.Tensor) -> list[str] | None:
    """The names of the attributes in which a wrapper keeps its tensors; None for a tensor that is no wrapper
    or not strided."""
    import torch
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    flattens: bool = x.layout is torch.strided and is_traceable_wrapper_subclass(x)
    return list(x.__tensor_flatten__()[0]) if flattens else None  # type: ignore[attr-defined]


def _storage_size(x: torch.Tensor) -> int | None:
    """The number of bytes in a tensor's storage; None if it has no storage, or a storage without memory."""
    try:
        storage = x.untyped_storage()
        size = storage.nbytes()
        return size if storage.data_ptr() or not size else None
    except RuntimeError:  # each of these calls fails for some kind of tensor
        return None


def _check_memory(x: torch.Tensor, span: int) -> bool:
    """Check that there is memory for ``span`` elements from the first element of ``x`` on. Return False for
    the zeros of forward differentiation, which have no memory until they are copied."""
    if not span:
        return True
    size = _storage_size(x)
    if size is None:
        if x._is_zerotensor():
            return False
        raise ValueError(
            "the tensor has no memory of its own, as inside torch.func.vmap or under functionalisation; hash "
            "the tensor that it was made from"
        )
    end = (x.storage_offset() + span) * x.element_size()
    if size < end:
        raise ValueError(
            f"the tensor's elements end at byte {end} of its storage, which holds {size} bytes; its memory "
            "was freed, as FSDP and offloading do: load or gather the tensor before hashing it"
        )
    return True


def flattened(state_dict: Mapping[Any, Any]) -> dict[Any, Any]:
    """A state dict with the tensors inside wrappers in place of the wrappers.

    A wrapper that torch can flatten, such as torchao's quantised weights, consists of the tensors inside it,
    which are named as torchao names them in safetensors files: the part ``scale`` of ``layer.weight`` is
    ``layer._weight_scale``. Parts may be wrappers, too. A distributed tensor stays as it is, since its parts
    are different in each process, and so does everything that is not a wrapper.

    Raises TypeError for anything but a mapping, and ValueError if a part has the name of another tensor.
    """
    import torch

    if not isinstance(state_dict, Mapping):
        raise TypeError(
            "tensors must be a mapping from names to tensors, such as model.state_dict(), "
            f"not {type(state_dict).__name__}"
        )
    flat: dict[Any, Any] = {}
    pending = list(state_dict.items())[::-1]
    while pending:
        name, x = pending.pop()
        # Most values are plain tensors, for which the comparisons of types decide.
        subclass = is_tensor(x) and type(x) is not torch.Tensor and type(x) is not torch.nn.Parameter
        whole = not subclass or not isinstance(name, str) or _instead_of_distributed(x)
        parts = None if whole else _part_names(x)
        if parts is not None:
            module, dot, own = name.rpartition(".")
            pending += [(f"{module}{dot}_{own}_{part}", getattr(x, part)) for part in parts[::-1]]
        elif name in flat:
            raise ValueError(f"two tensors are named {name!r}: a part of a wrapper, and another tensor")
        else:
            flat[name] = x
    return flat


def host_memory(x: torch.Tensor) -> np.ndarray[Any, Any]:
    """The memory of a contiguous CPU tensor as a flat uint8 array. Nothing may write to it if the tensor is a
    caller's.

    ``Tensor.numpy()`` is not used for the tensors of callers, because it marks their storage: torch then
    refuses to resize it.
    """
    return array_at(x.data_ptr(), x.numel() * x.element_size(), x)


def array_at(address: int, size: int, owner: Any) -> np.ndarray[Any, Any]:
    """A flat uint8 array over ``size`` bytes of memory, which keeps the memory's ``owner`` alive."""
    import numpy as np

    return np.asarray(_Memory(address, size, owner))


class _Memory:
    """What NumPy asks for the place of an array. The array keeps this object."""

    __slots__ = ("__array_interface__", "owner")

    def __init__(self, address: int, size: int, owner: Any) -> None:
        self.owner = owner
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": (size,),
            "data": (address, False),
        }
