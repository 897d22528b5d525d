"""Many messages at once: ``hash_batch`` and ``hash_chunks``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from . import algorithms
from .backends.registry import dispatch as run_batch
from .messages.from_caller import batch_messages, chunk_messages, is_tensor, per_message, tuple_messages
from .messages.layout import Messages

if TYPE_CHECKING:
    import torch


def _is_compiling() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and torch.compiler.is_compiling()


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

    ``messages`` is a sequence of tensors (any dtypes and shapes, one device) or bytes-likes, or a
    2-D tensor whose rows are the messages; for a hash of tuples, a sequence of tuples of tensors or
    bytes-likes, which is copied. Other data is read in place. Returns uint8
    ``[n, digest_size]`` on the messages' device (``[n, length]`` for an extendable output);
    on an accelerator the work is queued on the current stream and the host does not wait for it.
    A sequential hash has one lane a message, and a few long messages leave a device idle: prefer a
    tree hash or :func:`hash_chunks` for those.
    ``out``, if given, receives the digests and is returned.
    A ``key`` is bytes-like and serves all messages, or there is one a message: a list of bytes-likes and
    uint8 tensors, or a 2-D tensor with one in each row; so with nonces.

    Raises as :func:`integrity_triton.new` does, and ValueError for messages on different devices,
    a tensor that is not 2-D, or an ``out`` of another shape, dtype or device.
    """
    if _is_compiling() and key is None and not params:
        return _traced_batch(messages, algorithm, length, out, backend)
    record = algorithms.get(algorithm)
    if record.takes_tuples:
        return _run(record, tuple_messages(messages, record.name), key, length, out, backend, params)
    return _run(record, batch_messages(messages), key, length, out, backend, params)


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
    """Digest each ``chunk_size`` bytes of one tensor (or bytes-like) as a message of its own.

    Returns uint8 ``[ceil(nbytes / chunk_size), digest_size]``; the last chunk may be shorter, and
    no data gives no chunks. Otherwise as :func:`hash_batch`.
    """
    if _is_compiling() and key is None and not params and is_tensor(tensor):
        from . import ops

        digests = ops._hash_chunks(tensor, algorithm, chunk_size, length=length, backend=backend)
        return digests if out is None else out.copy_(digests)
    record = algorithms.get(algorithm)
    if record.takes_tuples:
        raise ValueError(f"{record.name} takes tuples of byte strings, not chunks")
    return _run(record, chunk_messages(tensor, chunk_size), key, length, out, backend, params)


def _traced_batch(
    messages: Any, algorithm: str, length: int | None, out: torch.Tensor | None, backend: str | None
) -> torch.Tensor:
    """``hash_batch`` as one operator in the graph that torch.compile or torch.export is building."""
    from . import ops

    hash_messages = ops._hash_rows if is_tensor(messages) else ops._hash_batch
    digests = hash_messages(messages, algorithm, length=length, backend=backend)
    return digests if out is None else out.copy_(digests)


def _run(
    record: algorithms.Algorithm,
    messages: Messages,
    key: Any,
    length: int | None,
    out: torch.Tensor | None,
    backend: str | None,
    params: dict[str, Any],
) -> torch.Tensor:
    params.pop("usedforsecurity", None)
    given = {
        name: per_message(value, messages.count, f"{record.name}: {name}")
        for name, value in {"key": key, **params}.items()
    }
    parameters = record.check_parameters(given)
    size = record.check_length(length, parameters)
    if out is not None:
        _check_out(out, messages, size)
    digests = run_batch(record, parameters, messages, size, backend=backend)
    return digests if out is None else out.copy_(digests)


def _check_out(out: torch.Tensor, messages: Messages, size: int) -> None:
    import torch

    if not is_tensor(out):
        raise TypeError(f"out must be a torch tensor, not {type(out).__name__}")
    if out.dtype is not torch.uint8 or tuple(out.shape) != (messages.count, size):
        raise ValueError(
            f"out must be uint8 of shape {(messages.count, size)}, "
            f"not {out.dtype} of shape {tuple(out.shape)}"
        )
    if out.device != messages.device:
        raise ValueError(f"out must be on the messages' device {messages.device}, not on {out.device}")
