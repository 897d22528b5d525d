"""Many messages at once, computed now: what the public functions and the torch operators both call."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from . import algorithms
from .backends.registry import dispatch
from .hashing import Hash
from .messages.batches import Batch, PrefixedChunks
from .messages.copying import copy_rows
from .messages.from_caller import chunk_batch, message_batch, tuple_batch
from .messages.parameters import checked_parameters
from .messages.per_message import PerMessage
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
    batch = tuple_batch(messages, record.name) if record.takes_tuples else message_batch(messages)
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
    return _digests(record, chunk_batch(tensor, chunk_size), parameters, length, out, backend)


def hash_prefixed(
    record: algorithms.Algorithm,
    prefix: bytes,
    data: torch.Tensor,
    size: int,
    length: int,
    backend: str | None,
) -> torch.Tensor:
    """Digests of ``prefix`` followed by each ``size`` bytes of ``data``, which is flat, contiguous and uint8:
    uint8 ``[ceil(numel / size), length]`` on its device. The last chunk may be shorter."""
    batch = PrefixedChunks(prefix, data, size) if prefix else chunk_batch(data, size)
    return digests_of(record, {}, batch, length, backend)


def _digests(
    record: algorithms.Algorithm,
    messages: Batch,
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
    digests = digests_of(record, checked, messages, size, backend)
    if out is None:
        return digests
    copy_rows(out, digests)
    return out


def digests_of(
    record: algorithms.Algorithm,
    parameters: Mapping[str, Any],
    batch: Batch,
    length: int,
    backend: str | None,
) -> torch.Tensor:
    """Digests of all messages, uint8 ``[n, length]``, with checked parameters.

    A message on the CPU whose copy would take too much memory is hashed as a stream.
    """
    import torch

    digests = None
    for group in batch.groups():
        long = group.long and batch.device.type == "cpu"
        if group.count == batch.count and not long:
            return dispatch(record, parameters, batch.whole(), length, backend=backend)
        if digests is None:  # is allocated before the copies, between which it would fragment the memory
            digests = torch.empty((batch.count, length), dtype=torch.uint8, device=batch.device)
        own = {
            name: value.between(group.first, group.last) if isinstance(value, PerMessage) else value
            for name, value in parameters.items()
        }
        part = digests[group.first : group.last]
        if long:
            copy_rows(part, _stream_digest(record, own, batch.updates(group.first), length, backend))
        else:
            messages = batch.messages(group.first, group.last)
            copy_rows(part, dispatch(record, own, messages, length, backend=backend))
            del messages  # or its copies would be kept until the next ones are made
    assert digests is not None
    return digests


def _stream_digest(
    record: algorithms.Algorithm,
    parameters: Mapping[str, Any],
    updates: Iterable[Any],
    length: int,
    backend: str | None,
) -> torch.Tensor:
    """The digest of one message: uint8 ``[1, length]``."""
    import torch

    own = {name: value[0] if isinstance(value, PerMessage) else value for name, value in parameters.items()}
    hasher = Hash(record, own, backend)
    for data in updates:
        hasher.update(data)
    digest = bytearray(hasher.digest(length if record.xof else None))
    return torch.frombuffer(digest or bytearray(1), dtype=torch.uint8)[: len(digest)].view(1, length)


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
