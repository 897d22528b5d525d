"""Many messages at once: ``hash_batch`` and ``hash_chunks``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from . import eager
from .messages.tensors import is_tensor

if TYPE_CHECKING:
    import torch


def _traced(key: Any, params: dict[str, Any]) -> bool:
    """Whether torch.compile or torch.export is tracing a call that an operator can stand for."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.compiler.is_compiling() and key is None and not params


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
    if not _traced(key, params):
        return eager.hash_batch(
            messages, algorithm, {"key": key, **params}, length=length, out=out, backend=backend
        )
    from . import ops

    operator = ops._hash_rows if is_tensor(messages) else ops._hash_batch
    digests = operator(messages, algorithm, length=length, backend=backend)
    return digests if out is None else out.copy_(digests)


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
    if not (_traced(key, params) and is_tensor(tensor)):
        return eager.hash_chunks(
            tensor, algorithm, chunk_size, {"key": key, **params}, length=length, out=out, backend=backend
        )
    from . import ops

    digests = ops._hash_chunks(tensor, algorithm, chunk_size, length=length, backend=backend)
    return digests if out is None else out.copy_(digests)
