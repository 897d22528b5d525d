"""What callers pass, as messages of flat bytes. Only this module and ``tensors.py`` decide what a message may
be."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..algorithms.encoding import left_encode
from . import batches
from .batches import Batch, Cut, CutCopy, InPlace, Packed, Prefixed, PrefixedChunks, Several, Tuples
from .layout import Messages, Rows
from .tensors import array_at, bytes_in_place, check_has_bytes, is_tensor, named, tensor_bytes

if TYPE_CHECKING:
    import torch

_SMALL = 4096  # Up to so many bytes, copying a message costs less than wrapping it in a tensor.
_SMALL_COPIES = 64 << 20  # bytes in such copies, after which the memory matters more

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


def message_view(x: Any) -> memoryview | torch.Tensor:
    """One message as flat bytes, or as the tensor that it is if that needs a copy. Raises as
    :func:`tensor_bytes` and :func:`buffer_view` do."""
    if not is_tensor(x):
        return buffer_view(x)
    view = bytes_in_place(x)
    return x if view is None else view


def flat_bytes(x: Any) -> torch.Tensor:
    """One message as a flat contiguous uint8 tensor on its device. Bytes-like objects are viewed, except for
    short ones; a tensor that is not contiguous is copied. Raises as :func:`message_view` does."""
    return tensor_bytes(x) if is_tensor(x) else _buffer_tensor(x)


def prefixed_batch(messages: Any, prefix: bytes) -> Prefixed | PrefixedChunks:
    """A batch as :func:`message_batch` takes it, in which each message follows ``prefix``. Raises as that
    function does."""
    if not is_tensor(messages):
        batch = sequence_batch(messages)
        return Prefixed(prefix, [message_view(m) for m in batch.given], batch.device)
    check_has_bytes(messages)
    if messages.dim() != 2:
        raise ValueError(_not_two_dimensional("tensor", messages.dim()))
    data = tensor_bytes(messages)
    count = messages.shape[0]
    if not data.numel():
        return Prefixed(prefix, [data] * count, messages.device)
    return PrefixedChunks(prefix, data, data.numel() // count)


def tuple_parts(x: Any, algorithm: str) -> list[memoryview | torch.Tensor]:
    """The parts of the encoding of a tuple of byte strings, each as :func:`message_view` gives it: each
    string follows its length (SP 800-185, section 2.3.2). ``algorithm`` is named in errors.

    Raises TypeError if ``x`` is not a tuple or a list of messages.
    """
    if not isinstance(x, tuple | list):
        raise TypeError(f"a message of {algorithm} is a tuple of byte strings, not {type(x).__name__}")
    parts: list[memoryview | torch.Tensor] = []
    for i, element in enumerate(x):
        with named(f"string {i}"):
            view = message_view(element)
        parts += [memoryview(left_encode(8 * view.nbytes)), view]
    return parts


def tuple_batch(messages: Any, algorithm: str) -> Tuples:
    """A batch for a hash of tuples.

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
    return Tuples(messages, batch, devices.pop() if devices else torch.device("cpu"))


def _buffer_tensor(x: BytesLike, small: int = _SMALL) -> torch.Tensor:
    """The bytes of a bytes-like object as a CPU tensor over the same memory, or over a copy if there are at
    most ``small``."""
    import numpy as np
    import torch

    view = buffer_view(x)
    if not view.nbytes:
        return torch.empty(0, dtype=torch.uint8, device="cpu")  # the default device may be another one
    array = np.frombuffer(view, dtype=np.uint8)
    if view.readonly and view.nbytes <= small:
        array = array.copy()
    elif view.readonly:
        # torch has no read-only tensors and warns of read-only arrays: the memory is presented as writable.
        address, _ = array.__array_interface__["data"]
        array = array_at(address, array.size, array)
    return torch.from_numpy(array)


def _small_copy(x: torch.Tensor) -> torch.Tensor | None:
    """The bytes of a tensor, in place or copied; None if the copy would take too much memory at once."""
    view = bytes_in_place(x)
    if view is None and x.nbytes > batches.COPIES_SIZE:
        return None
    return tensor_bytes(x) if view is None else view


def chunk_batch(x: Any, chunk_size: int) -> Batch:
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
    data = _small_copy(x) if is_tensor(x) else _buffer_tensor(x)
    if data is None:
        return CutCopy(x, chunk_size)
    total = data.numel()
    return InPlace(Rows(data, data.data_ptr(), -(-total // chunk_size), chunk_size, chunk_size, total))


def chunk_messages(x: Any, chunk_size: int) -> Messages:
    """All messages of :func:`chunk_batch` at the same time."""
    return chunk_batch(x, chunk_size).whole()


def chunks_of_tensors(tensors: Sequence[torch.Tensor], chunk_size: int) -> Cut:
    """The bytes of tensors on one device, each cut into messages of ``chunk_size`` bytes; the last of each
    may be shorter."""
    return Cut(tensors, chunk_size)


def message_batch(messages: Any) -> Batch:
    """A batch: a 2-D tensor or array whose rows are messages, or a sequence of messages.

    Raises ValueError for tensors on different devices and for a tensor or array that is not 2-D, and as
    :func:`message_view` does for an element that is not a message, with its index.
    """
    return _row_batch(messages) if is_tensor(messages) else sequence_batch(messages)


def batch_messages(messages: Any) -> Messages:
    """All messages of :func:`message_batch` at the same time."""
    return message_batch(messages).whole()


def sequence_batch(messages: Any) -> Several | Packed:
    """A batch that is no tensor: a sequence of messages, or a 2-D array whose rows are messages. Raises as
    :func:`message_batch` does."""
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
    packed = _packed(messages)
    if packed is not None:
        return packed
    views, copied = _views(messages)
    if not views:
        return Several((), {}, torch.device("cpu"))
    device = views[0].device
    for i, view in enumerate(views):
        if view.device != device:
            raise ValueError(
                f"the messages of a batch must be on one device: message 0 is on {device}, "
                f"message {i} on {view.device}"
            )
    return Several(views, copied, device)


def _views(messages: Iterable[Any]) -> tuple[list[torch.Tensor], dict[int, int]]:
    """The views and the sizes of copies of :class:`Several`."""
    views: list[torch.Tensor] = []
    copied: dict[int, int] = {}
    small = 0  # bytes in short messages, which may be copies
    try:
        for message in messages:
            if is_tensor(message):
                view = bytes_in_place(message)
                if view is None:
                    view = message
                    copied[len(views)] = message.nbytes
            else:
                view = _buffer_tensor(message, _SMALL if small < _SMALL_COPIES else 0)
                small += view.numel() if view.numel() <= _SMALL else 0
            views.append(view)
    except (TypeError, ValueError, BufferError) as error:
        raise type(error)(f"message {len(views)}: {error}") from None
    return views, copied


def _packed(messages: Sequence[Any]) -> Packed | None:
    """Short ``bytes``; None for any other batch."""
    if set(map(type, messages)) != {bytes}:
        return None
    sizes = [len(m) for m in messages]
    if sum(sizes) > _SMALL * len(sizes) or not any(sizes):
        return None
    return Packed(messages, sizes)


def _not_two_dimensional(kind: str, dimensions: int) -> str:
    return (
        f"a batch {kind} must be 2-D, its rows the messages; this one has {dimensions} dimensions "
        f"(for one message pass [{kind}], for pieces of one use hash_chunks)"
    )


def _row_batch(x: torch.Tensor) -> Batch:
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
        total = (count - 1) * stride + row if count else 0
        return InPlace(Rows(x, x.data_ptr(), count, stride, row, total))
    data = _small_copy(x)
    if data is None:
        return CutCopy(x, columns * x.element_size())
    row = data.numel() // count if count else 0
    return InPlace(Rows(data, data.data_ptr(), count, row, row, data.numel()))
