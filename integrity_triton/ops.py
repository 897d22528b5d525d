"""torch custom operators, under ``torch.ops.integrity_triton``.

Importing this module registers them. A copy of the package that was imported under another name registers its
own under that name. ``torch.compile`` and ``torch.export`` treat them as opaque calls;
:func:`integrity_triton.hash_batch` and ``hash_chunks`` call them while they are being traced.

``hash_batch(Tensor[] messages, str algorithm, OPTIONS)``
``hash_rows(Tensor rows, str algorithm, OPTIONS)``
``hash_chunks(Tensor data, str algorithm, int chunk_size, OPTIONS)``

OPTIONS are ``Tensor? key, Tensor[]? values, *, int? length, str? backend, str[]? names, str[]? settings``.
``key`` is a uint8 tensor. The host reads a 1-D one, which is therefore best on the CPU. A 2-D one has a key
for each message in its rows, and the host does not read it. Other parameters are encoded: ``names`` has the
name of the parameter of each tensor in ``values``, and a name that ends with ``*`` is repeated, once for each
message. ``settings`` are texts such as ``"digest_size:int=20"``; the types are int, bool and str. The results
are those of the functions of these names.

A call with messages that are not tensors, or with a key of bytes, breaks the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from . import algorithms, eager, mac
from .algorithms.package_name import OPERATORS
from .messages.parameters import octet_string

_OPTIONS = (
    "Tensor? key=None, Tensor[]? values=None, *, int? length=None, str? backend=None, "
    "str[]? names=None, str[]? settings=None"
)
_PER_MESSAGE = "*"

# Called while torch.compile is tracing, they break the graph.
_disable: Any = torch.compiler.disable
untraced_hash_batch: Callable[..., Tensor] = _disable(eager.hash_batch)
untraced_hash_chunks: Callable[..., Tensor] = _disable(eager.hash_chunks)
untraced_mac_tensors: Callable[..., mac.TensorTags] = _disable(mac.tags_of)
untraced_verify: Callable[..., None] = _disable(mac.TensorTags._verify)


def encoded(given: Mapping[str, Any], *sizes: Any) -> dict[str, Any] | None:
    """Parameters as keywords of the operators; None if one of them has a type that these do not take, or one
    of ``sizes``, which an operator would take for an int, is a bool.

    The values of bytes become constants of the graph, which torch stores. So a key must be a tensor.
    """
    if any(isinstance(size, bool) for size in sizes):
        return None
    names: list[str] = []
    values: list[Tensor] = []
    settings: list[str] = []
    for name, value in given.items():
        if value is None or name == "usedforsecurity":
            continue
        if isinstance(value, bool | int | str):
            # The type is told, so that a value of another type than the parameter's is refused.
            kind = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "str"
            settings.append(f"{name}:{kind}={value}")
            continue
        is_list = isinstance(value, list | tuple)
        if is_list and not value:
            return None
        for element in value if is_list else (value,):
            if isinstance(element, bytes) and name != "key":
                values.append(torch.tensor(list(element), dtype=torch.uint8))
            elif isinstance(element, Tensor):
                values.append(element)
            else:
                return None
            names.append(name + _PER_MESSAGE if is_list else name)
    return {"names": names, "values": values, "settings": settings}


def _parameters(
    key: Tensor | None,
    names: Sequence[str] | None,
    values: Sequence[Tensor] | None,
    settings: Sequence[str] | None,
) -> dict[str, Any]:
    """The parameters that :func:`encoded` has encoded, and the key."""
    given: dict[str, Any] = {"key": _key(key)}
    for name, value in zip(names or (), values or (), strict=True):
        if name.endswith(_PER_MESSAGE):
            given[name[:-1]] = [*(given.get(name[:-1]) or ()), value]
        else:
            given[name] = value
    return given | _settings(settings)


def _settings(settings: Sequence[str] | None) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for setting in settings or ():
        name, _, text = setting.partition("=")
        name, _, kind = name.partition(":")
        if kind == "bool" and text in ("True", "False"):
            given[name] = text == "True"
        elif kind == "int":
            given[name] = int(text)
        elif kind == "str":
            given[name] = text
        else:
            raise ValueError(f"{setting!r} is not a setting such as 'digest_size:int=20'")
    return given


def _key(key: Tensor | None) -> bytes | Tensor | None:
    if key is None or key.dim() == 2:
        return key
    return octet_string(key, "key")


def _digests(
    given: Sequence[Tensor],
    key: Tensor | None,
    count: Any,
    algorithm: str,
    length: int | None,
    settings: Sequence[str] | None,
) -> Tensor:
    size = algorithms.get(algorithm).check_length(length, _settings(settings))
    device = given[0].device if given else torch.device("cpu")
    if device.type != "meta" and any(x.is_meta for x in (*given, key) if x is not None):
        raise ValueError("a meta tensor has no data to hash")  # the result would be unset memory
    return torch.empty((count, size), dtype=torch.uint8, device=device)


@torch.library.custom_op(
    f"{OPERATORS}::hash_batch",
    mutates_args=(),
    schema=f"(Tensor[] messages, str algorithm, {_OPTIONS}) -> Tensor",
)
def _hash_batch(
    messages: Sequence[Tensor],
    algorithm: str,
    key: Tensor | None = None,
    values: Sequence[Tensor] | None = None,
    *,
    length: int | None = None,
    backend: str | None = None,
    names: Sequence[str] | None = None,
    settings: Sequence[str] | None = None,
) -> Tensor:
    given = _parameters(key, names, values, settings)
    return eager.hash_batch(list(messages), algorithm, given, length=length, backend=backend)


@_hash_batch.register_fake
def _(
    messages: Sequence[Tensor],
    algorithm: str,
    key: Tensor | None = None,
    values: Sequence[Tensor] | None = None,
    *,
    length: int | None = None,
    backend: str | None = None,
    names: Sequence[str] | None = None,
    settings: Sequence[str] | None = None,
) -> Tensor:
    return _digests(messages, key, len(messages), algorithm, length, settings)


@torch.library.custom_op(
    f"{OPERATORS}::hash_rows",
    mutates_args=(),
    schema=f"(Tensor rows, str algorithm, {_OPTIONS}) -> Tensor",
)
def _hash_rows(
    rows: Tensor,
    algorithm: str,
    key: Tensor | None = None,
    values: Sequence[Tensor] | None = None,
    *,
    length: int | None = None,
    backend: str | None = None,
    names: Sequence[str] | None = None,
    settings: Sequence[str] | None = None,
) -> Tensor:
    given = _parameters(key, names, values, settings)
    return eager.hash_batch(rows, algorithm, given, length=length, backend=backend)


@_hash_rows.register_fake
def _(
    rows: Tensor,
    algorithm: str,
    key: Tensor | None = None,
    values: Sequence[Tensor] | None = None,
    *,
    length: int | None = None,
    backend: str | None = None,
    names: Sequence[str] | None = None,
    settings: Sequence[str] | None = None,
) -> Tensor:
    torch._check(rows.dim() == 2, lambda: f"rows must be 2-D, not {rows.dim()}-D")  # type: ignore[no-untyped-call]
    return _digests([rows], key, rows.shape[0], algorithm, length, settings)


@torch.library.custom_op(
    f"{OPERATORS}::hash_chunks",
    mutates_args=(),
    schema=f"(Tensor data, str algorithm, int chunk_size, {_OPTIONS}) -> Tensor",
)
def _hash_chunks(
    data: Tensor,
    algorithm: str,
    chunk_size: int,
    key: Tensor | None = None,
    values: Sequence[Tensor] | None = None,
    *,
    length: int | None = None,
    backend: str | None = None,
    names: Sequence[str] | None = None,
    settings: Sequence[str] | None = None,
) -> Tensor:
    given = _parameters(key, names, values, settings)
    return eager.hash_chunks(data, algorithm, chunk_size, given, length=length, backend=backend)


@_hash_chunks.register_fake
def _(
    data: Tensor,
    algorithm: str,
    chunk_size: int,
    key: Tensor | None = None,
    values: Sequence[Tensor] | None = None,
    *,
    length: int | None = None,
    backend: str | None = None,
    names: Sequence[str] | None = None,
    settings: Sequence[str] | None = None,
) -> Tensor:
    size = data.numel() * data.element_size()
    return _digests([data], key, (size + chunk_size - 1) // chunk_size, algorithm, length, settings)
