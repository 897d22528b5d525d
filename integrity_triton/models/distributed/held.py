"""What this rank holds of a model: its tensors, parts of tensors that a caller states, and DTensors."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...messages.tensors import check_has_bytes, flattened, is_tensor, named
from ..dtypes import safetensors_type
from ..entry import check_name
from ..errors import ManifestError, shown
from .layout import Layout
from .placements import OnMesh, of_dtensor

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LocalShard:
    """A part of a tensor that this rank holds, stated by the caller.

    ``data`` is the local tensor. ``shape`` is that of the whole tensor, and ``runs`` has for each of its
    dimensions the ranges ``(start, stop)`` of indices that ``data`` has, in the order in which it has them.
    None stands for all indices of a dimension. A column shard of tensor parallelism, for example, is
    ``LocalShard(weight, (rows, columns), (None, [(rank * width, (rank + 1) * width)]))``.
    """

    data: torch.Tensor
    shape: tuple[int, ...]
    runs: tuple[Sequence[tuple[int, int]] | None, ...]

    @classmethod
    def along(cls, data: torch.Tensor, dim: int, start: int, size: int) -> LocalShard:
        """A shard that is cut along one dimension, of which ``data`` has the indices from ``start`` on; the
        whole tensor has ``size``."""
        dim %= data.dim()
        shape = tuple(size if i == dim else n for i, n in enumerate(data.shape))
        own = [(start, start + data.shape[dim])]
        return cls(data, shape, tuple(own if i == dim else None for i in range(data.dim())))


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor as this rank has it."""

    data: torch.Tensor
    """The local part, with bytes."""
    dtype: str
    shape: tuple[int, ...]
    """Of the whole tensor, in safetensors' spelling, as is ``dtype``."""
    memory_shape: tuple[int, ...]
    """Of the whole tensor, as torch counts elements."""
    layout: Layout | OnMesh


def held_by(source: Any, group_ranks: Sequence[int], rank: int) -> dict[str, Held]:
    """The tensors of a module, of a state dict or of a mapping from names to tensors, DTensors and
    :class:`LocalShard`, by their names. Wrappers are taken apart as for a manifest.

    Raises TypeError for another source or value, ValueError for a tensor without data, and ManifestError for
    a part that does not fit its statement; the message names the tensor.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(source, torch.nn.Module):
        source = source.state_dict()
    if not isinstance(source, Mapping):
        raise TypeError(
            "a root is computed of an nn.Module, a state dict, or a mapping from names to tensors and "
            f"LocalShard, not of a {type(source).__name__}"
        )
    found = {}
    for name, value in flattened(source).items():
        check_name(name)
        try:
            found[name] = _held(value, group_ranks, rank)
        except (TypeError, ValueError, BufferError) as error:
            with named(f"tensor {shown(name)}"):
                raise error
    return found


def _held(value: Any, group_ranks: Sequence[int], rank: int) -> Held:
    if isinstance(value, LocalShard):
        runs = [((0, size),) if own is None else own for size, own in _paired(value.shape, value.runs)]
        layout = Layout.of(value.shape, runs)
        return _checked(value.data, layout, layout)
    if not is_tensor(value):
        raise TypeError(f"a {type(value).__name__} is no tensor; leave it out")
    if hasattr(value, "to_local") and hasattr(value, "device_mesh"):
        x: Any = value
        on_mesh = of_dtensor(x, group_ranks)
        local = x.to_local()
        if hasattr(local, "trigger_wait"):  # the result of a collective operation that may still run
            local = local.wait()
        layout = on_mesh.layout(rank, tuple(value.shape))
        if layout.empty:
            local = local.detach().new_empty(layout.local_shape)
        return _checked(local, layout, on_mesh)
    layout = Layout.whole(value.shape)
    return _checked(value, layout, layout)


def _paired(shape: Iterable[int], runs: Sequence[Any]) -> list[tuple[int, Any]]:
    sizes = list(shape)
    if len(sizes) != len(runs):
        raise ManifestError(f"there are ranges for {len(runs)} dimensions, and the shape has {len(sizes)}")
    return list(zip(sizes, runs, strict=True))


def _checked(data: Any, own: Layout, layout: Layout | OnMesh) -> Held:
    if not is_tensor(data):
        raise TypeError(f"the part of the tensor is a {type(data).__name__}, not a tensor")
    if tuple(data.shape) != own.local_shape:
        raise ManifestError(
            f"this rank has a part of shape {list(data.shape)}; its place in the whole tensor of shape "
            f"{list(own.shape)} needs {list(own.local_shape)}"
        )
    check_has_bytes(data)
    dtype, _ = safetensors_type(data)
    shape = own.shape  # one object for all tensors of a layout
    if dtype == "F4":  # torch counts pairs
        shape = (*shape[:-1], 2 * shape[-1])
    if data.requires_grad:
        data = data.detach()
    return Held(data, dtype, shape, own.shape, layout)
