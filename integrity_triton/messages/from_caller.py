"""What callers pass, as messages of flat bytes. Only this module and ``tensors.py`` decide what a message may
be."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..algorithms.encoding import left_encode
from .layout import Messages, Ragged, Rows
from .moving import moved
from .tensors import array_at, check_has_bytes, is_tensor, named, tensor_bytes

if TYPE_CHECKING:
    import torch

_SMALL = 4096  # Up to so many bytes, copying a message costs less than wrapping it in a tensor.

BytesLike = Any  # Anything with the buffer protocol: collections.abc.Buffer came with Python 3.12.


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
    except (TypeError, ValueError) as error:
        if _is_array(x):
            return _array_view(x)
        if isinstance(error, ValueError):  # a memoryview that was released
            raise
        raise TypeError(f"data must be bytes-like or a torch tensor, not {type(x).__name__}") from None
    if not view.c_contiguous:
        raise BufferError(_STRIDED)
    if "O" in view.format and "O" in _FIELD_NAME.sub("", view.format):
        raise TypeError(_OBJECTS)
    return view.cast("B") if view.nbytes else memoryview(b"")  # cast() refuses a shape with a zero


_STRIDED = "data must be a C-contiguous buffer; copy the strided view first"
_OBJECTS = "data must be a buffer of bytes or numbers, not of Python objects"
_FIELD_NAME = re.compile(":[^:]*:")  # in the format of a buffer with fields


def _is_array(x: Any) -> bool:
    """Whether ``x`` is a NumPy array or scalar. Does not import NumPy."""
    np = sys.modules.get("numpy")
    return np is not None and isinstance(x, np.ndarray | np.generic)


def _array_view(x: Any) -> memoryview:
    """The bytes of an array whose dtype has no format in the buffer protocol, such as datetime64 and those of
    ml_dtypes."""
    import numpy as np

    if x.dtype.hasobject:
        raise TypeError(_OBJECTS)
    if not x.flags.c_contiguous:
        raise BufferError(_STRIDED)
    return memoryview(np.frombuffer(x, dtype=np.uint8))  # type: ignore[arg-type]


def message_bytes(x: Any) -> memoryview | torch.Tensor:
    """The bytes of one message. Raises as :func:`tensor_bytes` and :func:`buffer_view` do."""
    return tensor_bytes(x) if is_tensor(x) else buffer_view(x)


def tuple_parts(x: Any, algorithm: str) -> list[memoryview | torch.Tensor]:
    """The parts of the encoding of a tuple of byte strings: each string follows its length (SP 800-185,
    section 2.3.2). ``algorithm`` is named in errors.

    Raises TypeError if ``x`` is not a tuple or a list of messages.
    """
    if not isinstance(x, tuple | list):
        raise TypeError(f"a message of {algorithm} is a tuple of byte strings, not {type(x).__name__}")
    parts: list[memoryview | torch.Tensor] = []
    for i, element in enumerate(x):
        with named(f"string {i}"):
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
    batch = []
    for i, message in enumerate(messages):
        with named(f"message {i}"):
            batch.append(tuple_parts(message, algorithm))
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
        return torch.empty(0, dtype=torch.uint8, device="cpu")  # the default device may be another one
    array = np.frombuffer(view, dtype=np.uint8)
    if view.readonly and view.nbytes <= _SMALL:
        array = array.copy()
    elif view.readonly:
        # torch has no read-only tensors and warns of read-only arrays: the memory is presented as writable.
        address, _ = array.__array_interface__["data"]
        array = array_at(address, array.size, array)
    return torch.from_numpy(array)


def chunk_messages(x: Any, chunk_size: int) -> Rows:
    """The bytes of ``x`` cut into messages of ``chunk_size`` bytes; the last may be shorter.

    Raises TypeError for a chunk size that is no integer, and ValueError for one that is not between 1 and
    2**63 - 1.
    """
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int):
        raise TypeError(f"chunk_size must be int, not {type(chunk_size).__name__}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be positive, got {chunk_size}")
    if chunk_size >= 1 << 63:  # kernels count bytes in int64
        raise ValueError(f"chunk_size must be less than 2**63, got {chunk_size}")
    data = tensor_bytes(x) if is_tensor(x) else _buffer_tensor(x)
    total = data.numel()
    return Rows(data, data.data_ptr(), -(-total // chunk_size), chunk_size, chunk_size, total)


def batch_messages(messages: Any) -> Messages:
    """A batch as :data:`Messages`: a 2-D tensor or array whose rows are messages, or a sequence of messages.

    Raises ValueError for tensors on different devices and for a tensor or array that is not 2-D, and as
    :func:`message_bytes` does for an element that is not a message, with its index.
    """
    return _row_messages(messages) if is_tensor(messages) else sequence_messages(messages)


def sequence_messages(messages: Any) -> Ragged:
    """A batch that is no tensor: a sequence of messages, or a 2-D array whose rows are messages. Raises as
    :func:`batch_messages` does."""
    import torch

    if isinstance(messages, str | bytes | bytearray | memoryview):
        raise TypeError("a batch is a sequence of messages; for a single one pass [message]")
    if not isinstance(messages, Sequence):
        if _is_array(messages) and messages.ndim != 2 and not messages.dtype.hasobject:
            raise ValueError(_not_two_dimensional("array", messages.ndim))
        try:
            messages = list(messages)
        except TypeError:
            raise TypeError(
                f"a batch is a 2-D tensor or a sequence of messages, not {type(messages).__name__}"
            ) from None
    views = _packed(messages) or _views(messages)
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


def _views(messages: Iterable[Any]) -> list[torch.Tensor]:
    views: list[torch.Tensor] = []
    try:
        for message in messages:
            views.append(tensor_bytes(message) if is_tensor(message) else _buffer_tensor(message))
    except (TypeError, ValueError, BufferError) as error:
        raise type(error)(f"message {len(views)}: {error}") from None
    return views


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


def _not_two_dimensional(kind: str, dimensions: int) -> str:
    return (
        f"a batch {kind} must be 2-D, its rows the messages; this one has {dimensions} dimensions "
        f"(for one message pass [{kind}], for pieces of one use hash_chunks)"
    )


def _row_messages(x: torch.Tensor) -> Messages:
    check_has_bytes(x)
    if x.dim() != 2:
        raise ValueError(_not_two_dimensional("tensor", x.dim()))
    count, columns = x.shape
    rows_are_dense = columns <= 1 or x.stride(1) == 1
    as_they_lie = not (x.is_conj() or x.is_neg() or x._is_zerotensor())
    if as_they_lie and rows_are_dense and not x.is_contiguous() and x.stride(0) > 0:
        row = columns * x.element_size()
        stride = x.stride(0) * x.element_size()
        x = x.detach().as_strided(x.shape, (x.stride(0), 1))  # the stride of a single column may be any
        return Rows(x, x.data_ptr(), count, stride, row, (count - 1) * stride + row if count else 0)
    data = tensor_bytes(x)
    row = data.numel() // count if count else 0
    return Rows(data, data.data_ptr(), count, row, row, data.numel())
