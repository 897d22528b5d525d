"""Many messages at once, computed now: what the public functions and the torch operators both call."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import algorithms
from .backends.registry import dispatch
from .messages.from_caller import batch_messages, chunk_messages, tuple_messages
from .messages.layout import Messages
from .messages.parameters import checked_parameters
from .messages.tensors import check_has_bytes, is_tensor, is_traced, named

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
        check_out(out, (messages.count, size), messages.device)
    digests = dispatch(record, checked, messages, size, backend=backend)
    return digests if out is None else out.copy_(digests)


def check_out(out: torch.Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    """Raise TypeError or ValueError unless digests of this shape on this device can be copied to ``out``."""
    import torch

    if not is_tensor(out):
        raise TypeError(f"out must be a torch tensor, not {type(out).__name__}")
    if out.device != device:
        raise ValueError(f"out must be on the messages' device {device}, not on {out.device}")
    if not is_traced():  # the memory of a traced tensor does not exist yet
        with named("out"):
            check_has_bytes(out)
    if out.dtype is not torch.uint8 or tuple(out.shape) != shape:
        raise ValueError(f"out must be uint8 of shape {shape}, not {out.dtype} of shape {tuple(out.shape)}")
    if _overlaps_itself(shape, out.stride()):
        raise ValueError(f"out must have memory of its own for each byte; its strides are {out.stride()}")


def _overlaps_itself(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether two elements of a 2-D tensor have the same address."""
    (rows, columns), (down, across) = shape, strides
    if across == 1 and down >= columns:
        return False
    if rows * columns <= 1:
        return False
    # The nearest two are apart by down/g columns and across/g rows.
    common = math.gcd(down, across)
    return common == 0 or (across // common < rows and down // common < columns)
