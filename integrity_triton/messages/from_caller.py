"""What callers pass, as flat bytes. This is the one place that decides what a message may be."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from ..algorithms.encoding import left_encode
from .layout import Messages, Ragged, Rows
from .moving import moved
from .per_message import PerMessage

if TYPE_CHECKING:
    import torch

_SMALL = 4096  # Up to so many bytes, copying a message costs less than wrapping it in a tensor.

BytesLike = Any  # Anything with the buffer protocol: collections.abc.Buffer came with Python 3.12.


def is_tensor(x: Any) -> TypeGuard[torch.Tensor]:
    """Whether ``x`` is a torch tensor. Does not import torch: before it is imported there are no tensors."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def buffer_view(x: BytesLike) -> memoryview:
    """A flat memoryview of the bytes of a bytes-like object. Items that are wider than a byte are taken as
    they lie in memory, as hashlib does.

    Raises TypeError for text, for objects without the buffer protocol and for buffers of Python objects,
    and BufferError for a buffer that is not C-contiguous.
    """
    if isinstance(x, str):
        raise TypeError("text must be encoded before hashing: pass bytes, for example text.encode()")
    try:
        view = memoryview(x)
    except TypeError:
        raise TypeError(f"data must be bytes-like or a torch tensor, not {type(x).__name__}") from None
    if not view.c_contiguous:
        raise BufferError("data must be a C-contiguous buffer; copy the strided view first")
    if "O" in view.format:
        raise TypeError("data must be a buffer of bytes or numbers, not of Python objects")
    return view.cast("B") if view.nbytes else memoryview(b"")  # cast() refuses a shape with a zero


def tensor_bytes(x: torch.Tensor) -> torch.Tensor:
    """A tensor's bytes as a flat contiguous uint8 tensor on its device.

    The bytes are the elements in C order, little-endian, which is what safetensors stores. A contiguous
    tensor is viewed and not copied. Raises TypeError for sparse, nested, quantised and wrapper
    tensors, which have no such bytes, and ValueError for a meta tensor.
    """
    import torch

    if (  # Most batches consist of such tensors; this check takes a fifth of the time of those below.
        type(x) is torch.Tensor
        and x.dtype is torch.uint8
        and x.layout is torch.strided
        and x.dim() == 1
        and x.is_contiguous()
        and not (x.is_nested or x.is_meta)
    ):
        return x
    if x.layout is not torch.strided or x.is_nested:
        raise TypeError(f"a tensor of layout {x.layout} has no dense bytes; hash its component tensors")
    if x.is_quantized:
        raise TypeError("a quantised tensor has no plain bytes; hash x.int_repr() and its scales")
    if x.device.type == "meta":
        raise ValueError("a meta tensor has no data to hash")
    if type(x) is not torch.Tensor and not isinstance(x, torch.nn.Parameter):
        from torch._subclasses.fake_tensor import FakeTensor
        from torch.utils._python_dispatch import is_traceable_wrapper_subclass

        if isinstance(x, FakeTensor):
            raise ValueError("a fake tensor has no data to hash")
        if bool(is_traceable_wrapper_subclass(x)):
            raise TypeError(
                f"a {type(x).__name__} is a wrapper without bytes of its own; hash the tensors inside it"
            )
    x = x.detach()
    if x.is_conj():
        x = x.resolve_conj()
    if x.is_neg():
        x = x.resolve_neg()
    x = x.contiguous().reshape(-1)
    return x if x.dtype is torch.uint8 else x.view(torch.uint8)


def message_bytes(x: Any) -> memoryview | torch.Tensor:
    """The bytes of one message: see :func:`tensor_bytes` and :func:`buffer_view`."""
    return tensor_bytes(x) if is_tensor(x) else buffer_view(x)


def parameter_value(x: Any, count: int, label: str) -> Any:
    """The value of a parameter. A list, a tuple or a 2-D tensor holds one value for each of ``count``
    messages and becomes a :class:`PerMessage`; anything else is returned as it is.

    Raises ValueError if the number of values is not ``count``, and TypeError for a value that is neither
    bytes-like nor a tensor. ``label`` names the parameter in the message.
    """
    import torch

    rows = is_tensor(x) and x.dim() == 2
    if not rows and not isinstance(x, list | tuple):
        return x
    if len(x) != count:
        raise ValueError(f"{label}: {len(x)} values for {count} messages")
    if rows:
        size = x.shape[1] * x.element_size()
        return PerMessage(tensor_bytes(x).view(count, size))
    values = []
    for i, value in enumerate(x):
        try:
            values.append(tensor_bytes(value) if is_tensor(value) else _host_copy(value))
        except (TypeError, BufferError, ValueError) as error:
            raise type(error)(f"{label} of message {i}: {error}") from None
    return PerMessage(values or torch.empty((0, 1), dtype=torch.uint8))


def _host_copy(x: BytesLike) -> torch.Tensor:
    import torch

    view = buffer_view(x)
    return (
        torch.frombuffer(bytearray(view), dtype=torch.uint8)
        if view.nbytes
        else torch.empty(0, dtype=torch.uint8)
    )


def tuple_parts(x: Any, algorithm: str) -> list[memoryview | torch.Tensor]:
    """The parts of the encoding of a tuple of byte strings: each string follows its length (SP 800-185,
    section 2.3.2). ``algorithm`` is named in errors.

    Raises TypeError if ``x`` is not a tuple or a list of messages.
    """
    if not isinstance(x, tuple | list):
        raise TypeError(f"a message of {algorithm} is a tuple of byte strings, not {type(x).__name__}")
    parts: list[memoryview | torch.Tensor] = []
    for element in x:
        view = message_bytes(element)
        size = view.numel() if is_tensor(view) else view.nbytes
        parts += [memoryview(left_encode(8 * size)), view]
    return parts


def tuple_messages(messages: Any, algorithm: str) -> Ragged:
    """A batch for a hash of tuples. Each encoded tuple is a new tensor on the device of the batch.

    Raises TypeError for a batch that does not consist of tuples, and ValueError for tensors on different
    devices.
    """
    import torch

    if is_tensor(messages) or not isinstance(messages, Sequence):
        raise TypeError(f"a batch for {algorithm} is a sequence of tuples of byte strings")
    batch = [tuple_parts(message, algorithm) for message in messages]
    devices = {part.device for parts in batch for part in parts if is_tensor(part)}
    if len(devices) > 1:
        raise ValueError(f"the messages of a batch must be on one device, not on {sorted(map(str, devices))}")
    device = devices.pop() if devices else torch.device("cpu")
    host = bytearray().join(part for parts in batch for part in parts if isinstance(part, memoryview))
    joined = torch.frombuffer(host or bytearray(1), dtype=torch.uint8)
    joined = moved(joined, device)
    views, used = [], 0
    for parts in batch:
        pieces = []
        for part in parts:
            if isinstance(part, memoryview):
                pieces.append(joined[used : used + part.nbytes])
                used += part.nbytes
            else:
                pieces.append(part)
        views.append(torch.cat(pieces) if pieces else joined[:0])
    return Ragged(views, device)


def _buffer_tensor(x: BytesLike) -> torch.Tensor:
    """The bytes of a bytes-like object as a CPU tensor over the same memory."""
    import numpy as np
    import torch

    view = buffer_view(x)
    if not view.nbytes:
        return torch.empty(0, dtype=torch.uint8)
    array = np.frombuffer(view, dtype=np.uint8)
    if view.readonly:
        # A small copy costs less than presenting the memory as writable.
        array = array.copy() if view.nbytes <= _SMALL else np.asarray(_DeclaredWritable(array))
    return torch.from_numpy(array)


class _DeclaredWritable:
    """A read-only array presented as writable: torch has no read-only tensors, and warns of such arrays.

    Nothing in this package writes to a message.
    """

    def __init__(self, array: Any) -> None:
        self.array = array  # keeps the memory alive as long as the array that is made from this object
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface


def chunk_messages(x: Any, chunk_size: int) -> Rows:
    """The bytes of ``x`` cut into messages of ``chunk_size`` bytes; the last may be shorter.

    Raises TypeError for a chunk size that is no integer, and ValueError for one below 1.
    """
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int):
        raise TypeError(f"chunk_size must be int, not {type(chunk_size).__name__}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be positive, got {chunk_size}")
    data = tensor_bytes(x) if is_tensor(x) else _buffer_tensor(x)
    total = data.numel()
    return Rows(data, data.data_ptr(), -(-total // chunk_size), chunk_size, chunk_size, total)


def batch_messages(messages: Any) -> Messages:
    """A batch as :data:`Messages`: a 2-D tensor whose rows are messages, or a sequence of messages.

    Raises ValueError for tensors on different devices and for a tensor that is not 2-D, and TypeError for
    an element that is not a message.
    """
    import torch

    if is_tensor(messages):
        return _row_messages(messages)
    if isinstance(messages, str | bytes | bytearray | memoryview):
        raise TypeError("a batch is a sequence of messages; for a single one pass [message]")
    if not isinstance(messages, Sequence):
        try:
            messages = list(messages)
        except TypeError:
            raise TypeError(
                f"a batch is a 2-D tensor or a sequence of messages, not {type(messages).__name__}"
            ) from None
    views = _packed(messages) or [tensor_bytes(m) if is_tensor(m) else _buffer_tensor(m) for m in messages]
    if not views:
        return Ragged((), torch.device("cpu"))
    device = views[0].device
    for i, view in enumerate(views):
        if view.device != device:
            raise ValueError(
                f"the messages of a batch must be on one device: message 0 is on {device}, "
                f"message {i} on {view.device}"
            )
    return Ragged(views, device)


def _packed(messages: Sequence[Any]) -> Sequence[torch.Tensor] | None:
    """Short ``bytes`` copied into one tensor, which takes a fifth of the time of a tensor for each; None for
    any other batch."""
    if set(map(type, messages)) != {bytes}:
        return None
    sizes = [len(m) for m in messages]
    if sum(sizes) > _SMALL * len(sizes) or not any(sizes):
        return None
    import torch

    joined = torch.frombuffer(bytearray().join(messages), dtype=torch.uint8)
    return torch.split_with_sizes(joined, sizes)


def _row_messages(x: torch.Tensor) -> Messages:
    if x.dim() != 2:
        raise ValueError(
            f"a batch tensor must be 2-D, its rows the messages; this one has {x.dim()} dimensions "
            "(for one message pass [tensor], for pieces of one use hash_chunks)"
        )
    count, columns = x.shape
    rows_are_dense = columns <= 1 or x.stride(1) == 1
    plain = not (x.is_sparse or x.is_quantized or x.is_conj() or x.is_neg()) and x.device.type != "meta"
    if plain and rows_are_dense and not x.is_contiguous() and x.stride(0) > 0:
        tensor_bytes(x[:1])  # for its checks; one row is enough
        row = columns * x.element_size()
        stride = x.stride(0) * x.element_size()
        x = x.detach()
        return Rows(x, x.data_ptr(), count, stride, row, (count - 1) * stride + row if count else 0)
    data = tensor_bytes(x)
    row = data.numel() // count if count else 0
    return Rows(data, data.data_ptr(), count, row, row, data.numel())
