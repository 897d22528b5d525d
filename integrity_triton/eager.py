"""Many messages at once, computed now: what the public functions and the torch operators both call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import algorithms
from .backends.registry import dispatch
from .messages.from_caller import batch_messages, chunk_messages, tuple_messages
from .messages.layout import Messages
from .messages.parameters import checked_parameters
from .messages.tensors import check_has_bytes, is_tensor, named

if TYPE_CHECKING:
    import torch


def hash_batch(
    messages: Any,
    algorithm: str,
    parameters: Mapping[str, Any],
    *,
    length: int | None = None,
    out: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """See :func:`integrity_triton.hash_batch`; ``parameters`` include the key."""
    record = algorithms.get(algorithm)
    batch = tuple_messages(messages, record.name) if record.takes_tuples else batch_messages(messages)
    return _digests(record, batch, parameters, length, out, backend)


def hash_chunks(
    tensor: Any,
    algorithm: str,
    chunk_size: int,
    parameters: Mapping[str, Any],
    *,
    length: int | None = None,
    out: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """See :func:`integrity_triton.hash_chunks`; ``parameters`` include the key."""
    record = algorithms.get(algorithm)
    if record.takes_tuples:
        raise ValueError(f"{record.name} takes tuples of byte strings, not chunks")
    return _digests(record, chunk_messages(tensor, chunk_size), parameters, length, out, backend)


def _digests(
    record: algorithms.Algorithm,
    messages: Messages,
    parameters: Mapping[str, Any],
    length: int | None,
    out: torch.Tensor | None,
    backend: str | None,
) -> torch.Tensor:
    given = {name: value for name, value in parameters.items() if name != "usedforsecurity"}
    checked = checked_parameters(record, given, messages.count)
    size = record.check_length(length, checked)
    if out is not None:
        _check_out(out, messages, size)
    digests = dispatch(record, checked, messages, size, backend=backend)
    return digests if out is None else out.copy_(digests)


def _check_out(out: torch.Tensor, messages: Messages, size: int) -> None:
    import torch

    if not is_tensor(out):
        raise TypeError(f"out must be a torch tensor, not {type(out).__name__}")
    if out.device != messages.device:
        raise ValueError(f"out must be on the messages' device {messages.device}, not on {out.device}")
    with named("out"):
        check_has_bytes(out)
    if out.dtype is not torch.uint8 or tuple(out.shape) != (messages.count, size):
        raise ValueError(
            f"out must be uint8 of shape {(messages.count, size)}, "
            f"not {out.dtype} of shape {tuple(out.shape)}"
        )
    if overlaps(out):
        raise ValueError(f"out must have memory of its own for each byte; its strides are {out.stride()}")


def overlaps(out: torch.Tensor) -> bool:
    """Whether two elements of a 2-D tensor may be in the same place."""
    (rows, columns), (down, across) = out.shape, out.stride()
    if rows > 1 and columns > 1:
        height, width = (rows - 1) * down, (columns - 1) * across
        return not (down and across) or (down <= width and across <= height)
    return (rows > 1 and not down) or (columns > 1 and not across)
