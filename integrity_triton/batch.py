"""Many messages at once: ``hash_batch`` and ``hash_chunks``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from . import eager
from .messages.tensors import is_tensor

if TYPE_CHECKING:
    import torch


def _compiling() -> bool:
    """Whether torch.compile or torch.export is tracing the call."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.compiler.is_compiling()


def _for_operator(messages: list[Any], key: Any, params: dict[str, Any]) -> bool:
    """Whether an operator can stand for a call. An operator takes tensors, the key among them, and no other
    parameters. A key of bytes would become a constant of the graph, which torch stores."""
    return not params and (key is None or is_tensor(key)) and all(is_tensor(x) for x in messages)


def _takes(out: torch.Tensor, digests: torch.Tensor) -> bool:
    like = out.dtype is digests.dtype and out.shape == digests.shape and out.device == digests.device
    return like and not eager.overlaps(out)


def hash_batch(
    messages: Any,
    algorithm: str,
    /,
    *,
    key: Any = None,
    length: int | None = None,
    out: torch.Tensor | None = None,
    backend: str | None = None,
    **params: Any,
) -> torch.Tensor:
    """Digest every message of a batch, on the device that holds them.

    ``messages`` is a sequence of tensors (of any dtypes and shapes, all on one device) or bytes-like
    objects, or a 2-D tensor or NumPy array whose rows are the messages. For an algorithm that hashes tuples
    it is a sequence of tuples of tensors or bytes-like objects, which are copied; all other data is read in
    place.

    Returns uint8 ``[n, digest_size]`` on the messages' device, or ``[n, length]`` for extendable output. On
    an accelerator the work is queued on the current stream, and the host does not wait for it. A sequential
    hash has one lane for each message, so that a few long messages leave a device idle: use a tree hash or
    :func:`hash_chunks` for these.

    ``out``, if given, receives the digests and is returned. A ``key`` is bytes-like or a 1-D uint8 tensor and
    serves all messages, or there is one for each message: a list of these, or a 2-D uint8 tensor or NumPy
    array with a key in each row. The same holds for nonces. The host fetches a 1-D tensor from its device.

    Raises as :func:`integrity_triton.new` and :meth:`Hash.update` do, with the index of the message that is
    refused, and ValueError for messages on different devices, a tensor that is not 2-D, or an ``out`` of
    another shape, dtype or device.
    """
    parameters = {"key": key, **params}
    if not _compiling():
        return eager.hash_batch(messages, algorithm, parameters, length=length, out=out, backend=backend)
    from . import ops

    rows = is_tensor(messages)
    if _for_operator([messages] if rows else list(messages), key, params):
        operator = ops._hash_rows if rows else ops._hash_batch
        digests: torch.Tensor = operator(messages, algorithm, key, length=length, backend=backend)
        if out is None:
            return digests
        if _takes(out, digests):
            return out.copy_(digests)
    return ops.hash_batch_untraced(messages, algorithm, parameters, length=length, out=out, backend=backend)


def hash_chunks(
    tensor: Any,
    algorithm: str,
    /,
    *,
    chunk_size: int,
    key: Any = None,
    length: int | None = None,
    out: torch.Tensor | None = None,
    backend: str | None = None,
    **params: Any,
) -> torch.Tensor:
    """Digest each ``chunk_size`` bytes of one tensor (or bytes-like object) as a message of its own.

    Returns uint8 ``[ceil(nbytes / chunk_size), digest_size]``. The last chunk may be shorter, and empty data
    has no chunks. All else is as for :func:`hash_batch`.
    """
    parameters = {"key": key, **params}
    if not _compiling():
        return eager.hash_chunks(
            tensor, algorithm, chunk_size, parameters, length=length, out=out, backend=backend
        )
    from . import ops

    if _for_operator([tensor], key, params):
        digests: torch.Tensor = ops._hash_chunks(
            tensor, algorithm, chunk_size, key, length=length, backend=backend
        )
        if out is None:
            return digests
        if _takes(out, digests):
            return out.copy_(digests)
    return ops.hash_chunks_untraced(
        tensor, algorithm, chunk_size, parameters, length=length, out=out, backend=backend
    )
