"""Many messages at once: ``hash_batch`` and ``hash_chunks``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import eager
from .messages.tensors import is_tensor, is_traced

if TYPE_CHECKING:
    import torch


def _into(out: torch.Tensor | None, digests: torch.Tensor) -> torch.Tensor:
    """The digests, in ``out`` if that is given."""
    if out is None:
        return digests
    eager.check_out(out, tuple(digests.shape), digests.device)
    return out.copy_(digests)


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
    it is a sequence of tuples of tensors or bytes-like objects. Tuples, tensors that are not contiguous and
    short ``bytes`` are copied, as many of a batch as fit into 128 MiB at the same time; on an accelerator, a
    longer message is copied as a whole. All other data is read in place.

    Returns uint8 ``[n, digest_size]`` on the messages' device, or ``[n, length]`` for extendable output. On
    an accelerator the work is queued on the current stream, and the host does not wait for it. A sequential
    hash has one lane for each message, so that a few long messages leave a device idle: use a tree hash or
    :func:`hash_chunks` for these.

    ``out``, if given, receives the digests and is returned. A ``key`` is bytes-like or a 1-D uint8 tensor and
    serves all messages, or there is one for each message: a list of these, or a 2-D uint8 tensor or NumPy
    array with a key in each row. The same holds for nonces. The host fetches a 1-D tensor from its device.

    Raises as :func:`integrity_triton.new` and :meth:`Hash.update` do, with the index of the message that is
    refused, and ValueError for messages on different devices, a tensor that is not 2-D, or an ``out`` of
    another shape, dtype or device or whose rows overlap.

    ``torch.compile`` and ``torch.export`` trace the call as one operator if the messages and the key are
    tensors, and the other parameters tensors, ``bytes``, numbers or text. Any other call breaks the graph: a
    key of bytes would become a constant of the graph, which torch stores.
    """
    given = {"key": key, **params}
    if not is_traced():
        return eager.hash_batch(messages, algorithm, given, length=length, out=out, backend=backend)
    from . import ops

    rows = is_tensor(messages)
    options = ops.encoded(given, length)
    if options is None or not (rows or all(is_tensor(message) for message in messages)):
        return ops.untraced_hash_batch(messages, algorithm, given, length=length, out=out, backend=backend)
    operator = ops._hash_rows if rows else ops._hash_batch
    return _into(out, operator(messages, algorithm, length=length, backend=backend, **options))


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
    given = {"key": key, **params}
    if not is_traced():
        return eager.hash_chunks(
            tensor, algorithm, chunk_size, given, length=length, out=out, backend=backend
        )
    from . import ops

    options = ops.encoded(given, length, chunk_size)
    if options is None or not (is_tensor(tensor) and 0 < chunk_size < 1 << 63):
        return ops.untraced_hash_chunks(
            tensor, algorithm, chunk_size, given, length=length, out=out, backend=backend
        )
    digests = ops._hash_chunks(tensor, algorithm, chunk_size, length=length, backend=backend, **options)
    return _into(out, digests)
