"""torch custom operators, under ``torch.ops.integrity_triton``.

Importing this module registers them. ``torch.compile`` and ``torch.export`` treat them as opaque calls;
:func:`integrity_triton.hash_batch` and ``hash_chunks`` call them while they are being traced.

``hash_batch(Tensor[] messages, str algorithm, Tensor? key, *, int? length, str? backend)``
``hash_rows(Tensor rows, str algorithm, Tensor? key, *, int? length, str? backend)``
``hash_chunks(Tensor data, str algorithm, int chunk_size, Tensor? key, *, int? length, str? backend)``

``key`` is a uint8 tensor. The host reads a 1-D one, which is therefore best on the CPU. A 2-D one has a key
for each message in its rows, and the host does not read it. The results are those of the functions of these
names.

A call with bytes, or with parameters besides a key that is a tensor, breaks the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import algorithms, eager, mac
from .messages.parameters import octet_string

# torch.compile breaks the graph at these, instead of tracing what they do.
hash_batch_untraced: Callable[..., Tensor] = torch.compiler.disable(eager.hash_batch)  # type: ignore[no-untyped-call]
hash_chunks_untraced: Callable[..., Tensor] = torch.compiler.disable(eager.hash_chunks)  # type: ignore[no-untyped-call]
mac_tensors_untraced: Callable[..., mac.TensorTags] = torch.compiler.disable(mac.mac_tensors_eagerly)  # type: ignore[no-untyped-call]

_OPTIONS = "Tensor? key=None, *, int? length=None, str? backend=None"


def _key(key: Tensor | None) -> bytes | Tensor | None:
    if key is None or key.dim() == 2:
        return key
    return octet_string(key, "key")


def _digests(
    given: Sequence[Tensor], key: Tensor | None, count: Any, algorithm: str, length: int | None
) -> Tensor:
    size = algorithms.get(algorithm).check_length(length, {})
    device = given[0].device if given else torch.device("cpu")
    if device.type != "meta" and any(x.is_meta for x in (*given, key) if x is not None):
        raise ValueError("a meta tensor has no data to hash")  # the result would be unset memory
    return torch.empty((count, size), dtype=torch.uint8, device=device)


@torch.library.custom_op(
    "integrity_triton::hash_batch",
    mutates_args=(),
    schema=f"(Tensor[] messages, str algorithm, {_OPTIONS}) -> Tensor",
)
def _hash_batch(
    messages: Sequence[Tensor],
    algorithm: str,
    key: Tensor | None = None,
    *,
    length: int | None = None,
    backend: str | None = None,
) -> Tensor:
    return eager.hash_batch(list(messages), algorithm, {"key": _key(key)}, length=length, backend=backend)


@_hash_batch.register_fake
def _(
    messages: Sequence[Tensor],
    algorithm: str,
    key: Tensor | None = None,
    *,
    length: int | None = None,
    backend: str | None = None,
) -> Tensor:
    return _digests(messages, key, len(messages), algorithm, length)


@torch.library.custom_op(
    "integrity_triton::hash_rows",
    mutates_args=(),
    schema=f"(Tensor rows, str algorithm, {_OPTIONS}) -> Tensor",
)
def _hash_rows(
    rows: Tensor,
    algorithm: str,
    key: Tensor | None = None,
    *,
    length: int | None = None,
    backend: str | None = None,
) -> Tensor:
    return eager.hash_batch(rows, algorithm, {"key": _key(key)}, length=length, backend=backend)


@_hash_rows.register_fake
def _(
    rows: Tensor,
    algorithm: str,
    key: Tensor | None = None,
    *,
    length: int | None = None,
    backend: str | None = None,
) -> Tensor:
    torch._check(rows.dim() == 2, lambda: f"rows must be 2-D, not {rows.dim()}-D")  # type: ignore[no-untyped-call]
    return _digests([rows], key, rows.shape[0], algorithm, length)


@torch.library.custom_op(
    "integrity_triton::hash_chunks",
    mutates_args=(),
    schema=f"(Tensor data, str algorithm, int chunk_size, {_OPTIONS}) -> Tensor",
)
def _hash_chunks(
    data: Tensor,
    algorithm: str,
    chunk_size: int,
    key: Tensor | None = None,
    *,
    length: int | None = None,
    backend: str | None = None,
) -> Tensor:
    return eager.hash_chunks(data, algorithm, chunk_size, {"key": _key(key)}, length=length, backend=backend)


@_hash_chunks.register_fake
def _(
    data: Tensor,
    algorithm: str,
    chunk_size: int,
    key: Tensor | None = None,
    *,
    length: int | None = None,
    backend: str | None = None,
) -> Tensor:
    size = data.numel() * data.element_size()
    return _digests([data], key, (size + chunk_size - 1) // chunk_size, algorithm, length)
