"""Which tensors a model has now, and where they are. No element is read."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...messages.tensors import check_has_bytes, flattened, is_tensor, named
from ..errors import shown
from ..names import Names

if TYPE_CHECKING:
    import torch

_COMPILED = "_orig_mod"  # what torch.compile puts into the names of what it wraps
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Place:
    """The memory of a tensor. Two names of the same tensor have the same place."""

    device: str
    address: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """Of the dimensions with more than one element; the others say nothing."""
    lazy: tuple[bool, bool]
    """Whether the elements are to be conjugated or negated when they are read."""


@dataclass(frozen=True)
class Seen:
    """One named tensor, as it was when the model was looked at."""

    ref: weakref.ref[torch.Tensor]
    device: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    place: Place | None
    """None if the tensor has no memory, which ``absent`` explains."""
    absent: str = ""
    refused: str = ""
    """Why the bytes of a tensor of this kind cannot be read at all."""


@dataclass(frozen=True)
class Look:
    """All tensors of a model by their names, and the names that are left out."""

    tensors: Mapping[str, Seen]
    manifest_names: Mapping[str, str]
    """The manifest's name of each tensor."""
    excluded: tuple[str, ...]


def place_of(x: torch.Tensor) -> Place:
    """Where a tensor is. It must have bytes."""
    strides = tuple(stride for stride, size in zip(x.stride(), x.shape, strict=True) if size != 1)
    return Place(
        str(x.device), x.data_ptr(), str(x.dtype), tuple(x.shape), strides, (x.is_conj(), x.is_neg())
    )


def look(source: Any, names: Names) -> Look:
    """The tensors of a module or of a mapping: parameters and buffers, those included that are not stored.

    Wrappers, such as quantised weights of torchao, are looked at by their parts. The names are those without
    what torch.compile adds. Raises TypeError for a value of a mapping that is not a tensor, and ManifestError
    for names that ``names`` makes equal.
    """
    if isinstance(source, Mapping):
        found = dict(source)
        statistics: set[str] = set()
        for name, value in found.items():
            if not is_tensor(value):
                raise TypeError(f"entry {name!r} is a {type(value).__name__}, not a tensor; leave it out")
    else:
        found = {plain_name(name): x for name, x in _members(source)}
        statistics = set(_statistics(source))
    parts = flattened({name: x for name, x in found.items() if name not in statistics})
    compared, _ = names.select(parts)
    excluded = statistics | (parts.keys() - compared.keys())
    return Look({name: _seen(parts[name]) for name in compared}, compared, tuple(sorted(excluded)))


def _members(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _statistics(module: torch.nn.Module) -> Iterator[str]:
    """Names of the buffers into which modules in training write their running statistics."""
    for name, part in module.named_modules(remove_duplicate=False):
        if part.training and getattr(part, "track_running_stats", False):
            yield from (plain_name(f"{name}.{buffer}" if name else buffer) for buffer in _STATISTICS)


def plain_name(name: str) -> str:
    """A name without what torch.compile adds to it."""
    return ".".join(part for part in name.split(".") if part != _COMPILED)


def _seen(x: torch.Tensor) -> Seen:
    absent = refused = ""
    place = None
    try:
        check_has_bytes(x)
        place = place_of(x)
    except ValueError as error:
        absent = str(error)
    except TypeError as error:
        refused = str(error)
    try:
        shape = tuple(x.shape)
        nbytes = x.numel() * x.element_size() if not refused else 0
    except (RuntimeError, ValueError):  # an uninitialised tensor has no shape yet
        shape, nbytes = (), 0
    return Seen(weakref.ref(x), str(x.device), str(x.dtype), shape, nbytes, place, absent, refused)


def check_can_be_guarded(seen: Look) -> None:
    """Raise TypeError or ValueError, which names the tensor, unless the bytes of all tensors can be read."""
    if not seen.tensors:
        raise ValueError("there is no tensor to guard: the model has none, or ignore leaves none")
    for name, tensor in seen.tensors.items():
        with named(f"tensor {shown(name)}"):
            if tensor.refused:
                raise TypeError(f"{tensor.refused}; or leave it out with ignore")
            if tensor.absent:
                raise ValueError(tensor.absent)
