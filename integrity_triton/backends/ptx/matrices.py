"""The layouts in which matrices lie in the registers of warps and in shared memory, and their products.

They are those of NVIDIA's "Parallel Thread Execution ISA", sections "Matrix Fragments for mma.m16n8k16" and
"mma.m16n8k32", "Register Fragments for wgmma.mma_async.m64nNk32", and "Matrix Descriptor Format". No device
has confirmed this reading of the layouts yet; docs/internals/emulation.md lists them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..emulation.faults import Unmodelled

Array = np.ndarray[Any, Any]


def _bytes(words: Array, signed: bool) -> Array:
    return np.ascontiguousarray(words).view(np.int8 if signed else np.uint8).astype(np.float64)


def left_fragment(words: Sequence[Array], signed: bool) -> Array:
    """The matrix A, ``[warps, 16, k]``, of ``mma.m16n8k16`` or ``mma.m16n8k32`` with 8-bit integers,
    and a warp's 16 rows of that of ``wgmma.m64nNk32``.

    Register i of lane t has four bytes of row ``t / 4 + 8 * (i % 2)``, which start at column
    ``t % 4 * 4 + 16 * (i / 2)``."""
    warps = len(words[0]) // 32
    out = np.zeros((warps, 16, 8 * len(words)))
    for i, word in enumerate(words):
        row, column = 8 * (i % 2), 16 * (i // 2)
        out[:, row : row + 8, column : column + 16] = _bytes(word, signed).reshape(warps, 8, 16)
    return out


def right_fragment(words: Sequence[Array], signed: bool) -> Array:
    """The matrix B, ``[warps, k, 8]``, of the same instructions: register i of lane t has four bytes of
    column ``t / 4``, which start at row ``t % 4 * 4 + 16 * i``."""
    warps = len(words[0]) // 32
    parts = [_bytes(word, signed).reshape(warps, 8, 16) for word in words]
    return np.concatenate(parts, axis=2).swapaxes(1, 2)


def accumulator(product: Array, count: int) -> list[Array]:
    """An accumulator's registers of ``[warps, 16, n]``, int64 ``[lanes]`` each. Register i of lane t has row
    ``t / 4 + 8 * (i / 2 % 2)`` and column ``t % 4 * 2 + i % 2 + 8 * (i / 4)``."""
    found = []
    for i in range(count):
        row, column = 8 * (i // 2 % 2), i % 2 + 8 * (i // 4)
        found.append(product[:, row : row + 8, column : column + 7 : 2].reshape(-1))
    return found


def descriptor_rows(descriptor: int, rows: int) -> Array:
    """Where a matrix in shared memory lies that a descriptor of ``wgmma`` tells of: offsets
    of 32 bytes of each of ``rows`` rows, int64 ``[rows, 32]``. The rows run along K.

    Eight rows of 32, 64 or 128 bytes are one piece; the descriptor has the distance of the pieces. Within a
    piece, groups of 16 bytes are exchanged: bits 4 to 6 of an address are xored with bits 7 to 9, as many of
    them as the row has groups."""
    start, stride = (descriptor & 0x3FFF) << 4, (descriptor >> 32 & 0x3FFF) << 4
    if descriptor >> 49 & 7:
        raise Unmodelled("a descriptor with a base offset")
    width = {1: 128, 2: 64, 3: 32}.get(descriptor >> 62)
    if width is None:
        raise Unmodelled("a descriptor of a matrix that is not swizzled")
    row = np.arange(rows)
    at = (start + row // 8 * stride + row % 8 * width)[:, None] + np.arange(32)
    return np.asarray(at ^ (at >> 7 & (width // 16 - 1)) << 4)
