"""Copies within the memory of a batch.

On a CPU, one thread makes them. torch would start threads of its own from 32,768 elements on, which wait for
the processors that the threads of the kernels have not left yet. On two processors this took 5 to 10 ms a
copy, ten times as long as the kernels for a thousand short messages.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .moving import moved
from .tensors import array_at, host_memory

if TYPE_CHECKING:
    import numpy as np
    import torch

# How many tensors are put into one temporary tensor on an accelerator.
_STACKED = 1024


def by_one_thread(x: torch.Tensor) -> bool:
    """Whether one thread copies what is in the memory of ``x``."""
    return x.device.type == "cpu"


def copy_rows(to: torch.Tensor, source: torch.Tensor) -> None:
    """Copy bytes to memory of our own, or to the ``out`` of a caller: uint8 2-D tensors of one shape on one
    device, with any strides."""
    import numpy as np

    if by_one_thread(to):
        np.copyto(_rows(to), _rows(source))
    else:
        to.copy_(source)


def _rows(x: torch.Tensor) -> np.ndarray[Any, Any]:
    import numpy as np

    steps = [(n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True)]
    memory = array_at(x.data_ptr(), sum(steps) + 1 if x.numel() else 0, x)
    return np.ndarray(tuple(x.shape), np.uint8, memory.data, strides=x.stride())


def bytes_of_rows(rows: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Bytes ``start`` to ``stop`` of each row of a contiguous 2-D tensor: uint8 ``[n, stop - start]``."""
    import torch

    found = rows.view(torch.uint8)[:, start:stop]
    if found.is_contiguous():
        return found
    out = torch.empty(found.shape, dtype=torch.uint8, device=found.device)
    copy_rows(out, found)
    return out


def copy_beginnings(to: torch.Tensor, sources: Sequence[torch.Tensor]) -> None:
    """Copy to each row of ``to`` as many bytes as it has from the beginning of a source. The rows are uint8
    ``[n, size]``, each without gaps; the sources are flat uint8 on the same device."""
    import torch

    size = to.shape[1]
    if by_one_thread(to):
        # Slices of tensors and their copies by torch would take twice as long for 8 KiB.
        address, step = to.data_ptr(), to.stride(0)
        for source in sources:
            ctypes.memmove(address, source.data_ptr(), size)
            address += step
        return
    for i in range(0, len(sources), _STACKED):
        to[i : i + _STACKED].copy_(torch.stack([source[:size] for source in sources[i : i + _STACKED]]))


def one_after_another(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The bytes of flat contiguous uint8 tensors, one after the other, in new memory."""
    import torch

    if not by_one_thread(parts[0]):
        return torch.cat(list(parts))
    sizes = [part.numel() for part in parts]
    out = torch.empty(sum(sizes), dtype=torch.uint8)
    address = out.data_ptr()
    for part, size in zip(parts, sizes, strict=True):
        ctypes.memmove(address, part.data_ptr(), size)
        address += size
    return out


def taken(source: torch.Tensor, indices: np.ndarray[Any, Any]) -> torch.Tensor:
    """The rows of a uint8 2-D tensor at ``indices``, which are int64 on the host, in that order."""
    import numpy as np
    import torch

    if not by_one_thread(source):
        return source[moved(torch.from_numpy(indices), source.device)]
    out = torch.empty((len(indices), source.shape[1]), dtype=torch.uint8)
    # With another mode than "raise", NumPy writes to the output without a buffer. All indices are in range.
    np.take(_rows(source), indices, axis=0, out=_rows(out), mode="clip")
    return out


def put(to: torch.Tensor, indices: np.ndarray[Any, Any], rows: torch.Tensor) -> None:
    """Copy rows to those of a uint8 2-D tensor at ``indices``, which are int64 on the host."""
    import torch

    if by_one_thread(to):
        _rows(to)[indices] = _rows(rows)
    else:
        to[moved(torch.from_numpy(indices), to.device)] = rows


def side_by_side(parts: Sequence[torch.Tensor], out: torch.Tensor | None = None) -> torch.Tensor:
    """Rows that hold the bytes of the rows of each part in turn: uint8 ``[n, sum of widths]``, in ``out`` if
    that is given. Each part is uint8 ``[n, width]``."""
    import torch

    if out is None:
        shape = len(parts[0]), sum(part.shape[1] for part in parts)
        out = torch.empty(shape, dtype=torch.uint8, device=parts[0].device)
    end = 0
    for part in parts:
        start, end = end, end + part.shape[1]
        copy_rows(out[:, start:end], part)
    return out


def exclusive_or(rows: torch.Tensor, other: torch.Tensor | int) -> torch.Tensor:
    """Rows of bytes, uint8 ``[n, width]``, each combined with one row of as many bytes, or with a byte."""
    import numpy as np
    import torch

    if not by_one_thread(rows):
        return rows ^ other
    out = torch.empty(rows.shape, dtype=torch.uint8)
    np.bitwise_xor(_rows(rows), np.uint8(other) if isinstance(other, int) else _rows(other), out=_rows(out))
    return out


def bytes_reversed(rows: torch.Tensor) -> torch.Tensor:
    """Words of eight bytes, uint8 ``[n, 8 * k]``, each with its bytes in reverse order."""
    import numpy as np
    import torch

    count, size = rows.shape
    if not by_one_thread(rows):
        return rows.view(count, size // 8, 8).flip(-1).view(count, size)
    out = torch.empty(rows.shape, dtype=torch.uint8)
    words = count, size // 8, 8
    np.copyto(_rows(out).reshape(words), _rows(rows).reshape(words)[:, :, ::-1])
    return out


def repeated(rows: torch.Tensor, count: int) -> torch.Tensor:
    """All rows of a contiguous 2-D tensor, ``count`` times: ``[count * n, width]`` of the same type."""
    import torch

    out = torch.empty((count * rows.shape[0], rows.shape[1]), dtype=rows.dtype, device=rows.device)
    copy_rows(out.view(torch.uint8).view(count, -1), rows.view(torch.uint8).view(1, -1).expand(count, -1))
    return out


def clear(memory: torch.Tensor) -> torch.Tensor:
    """Overwrite memory of our own with zeros, and return it."""
    if not by_one_thread(memory):
        return memory.zero_()
    if memory.is_contiguous():
        host_memory(memory).fill(0)
    elif memory.element_size() == 1:
        _rows(memory).fill(0)
    else:
        memory.zero_()
    return memory
