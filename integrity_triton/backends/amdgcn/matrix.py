"""Matrix products: V_MFMA of CDNA and V_WMMA of RDNA, on integers of 8 bits.

The layouts are those of the ISA documents of "AMD Instinct MI300" and "CDNA 4" (V_MFMA) and of "RDNA 3" and
"RDNA 4" (V_WMMA), as AMD's matrix instruction calculator prints them. No device has confirmed them here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..emulation.faults import EmulationError, Unmodelled
from .machine import Array, Machine

u32 = np.uint32


@dataclass(frozen=True)
class Shape:
    """An instruction that multiplies ``size`` x ``depth`` by ``depth`` x ``size``."""

    size: int
    depth: int
    chunk: int
    """The consecutive elements of a row, or column, that one lane holds."""


MFMA = {
    "v_mfma_i32_32x32x16_i8": Shape(32, 16, 8),
    "v_mfma_i32_16x16x32_i8": Shape(16, 32, 8),
    "v_mfma_i32_32x32x32_i8": Shape(32, 32, 16),
    "v_mfma_i32_16x16x64_i8": Shape(16, 64, 16),
}
WMMA = "v_wmma_i32_16x16x16_iu8"


def _product(a: Array, b: Array) -> Array:
    """int64 ``[waves, rows, columns]`` from ``[waves, rows, depth]`` and ``[waves, columns, depth]``. The
    sums are exact in binary64."""
    return (a.astype(np.float64) @ b.astype(np.float64).swapaxes(1, 2)).astype(np.int64)


def _covered(product: Array, waves: Array | None) -> tuple[Array, Array]:
    chosen = product if waves is None else product[waves]
    return (chosen != 0).any((0, 2)), (chosen != 0).any((0, 1))


def mfma(
    machine: Machine, name: str, a: Sequence[Array], b: Sequence[Array], c: Sequence[Any], key: str
) -> list[Any]:
    """The words of the accumulator, as each lane holds them. EXEC is ignored."""
    shape = MFMA[name]
    waves, groups = machine.shape[0], shape.depth // shape.chunk

    def operand(words: Sequence[Array]) -> Array:
        # Lane l holds row l % size, of which it has the chunk with the number l // size.
        raw = np.ascontiguousarray(np.stack(words, axis=2)).view(np.int8)
        return (
            raw.reshape(waves, groups, shape.size, shape.chunk)
            .swapaxes(1, 2)
            .reshape(waves, shape.size, shape.depth)
        )

    product = _product(operand(a), operand(b))
    machine.launch.coverage.matrix(
        key, *_covered(product, None if machine.turn is None else machine.turn[:, 0])
    )
    lane, out = machine.lane, []
    for r in range(shape.size * shape.size // 64):
        tall = shape.size == 32
        row = 8 * (r // 4) + 4 * (lane // 32) + r % 4 if tall else 4 * (lane // 16) + r
        out.append(product[:, row, lane % shape.size].astype(u32) + c[r])
    return out


def wmma(
    machine: Machine,
    a: Sequence[Array],
    b: Sequence[Array],
    c: Sequence[Any],
    signs: Sequence[bool],
    key: str,
    gfx12: bool,
) -> list[Any]:
    """As :func:`mfma`. ``signs`` says which of ``a`` and ``b`` are signed."""
    here = np.ones(machine.shape[0], bool) if machine.turn is None else machine.turn[:, 0]
    if machine.active is not None and not machine.active[here].all():
        raise EmulationError(f"{key}: EXEC has to be all ones where matrices are multiplied")
    waves = machine.shape[0]

    def operand(words: Sequence[Array], signed: bool) -> Array:
        raw = np.ascontiguousarray(np.stack(words, axis=2))
        kind: Any = np.int8 if signed else np.uint8
        if gfx12:  # lanes 16 to 31 hold the second half of each row
            values = raw.view(kind).reshape(waves, 2, 16, 8)
            return np.asarray(values.swapaxes(1, 2).reshape(waves, 16, 16))
        if (raw[here, 16:] != raw[here, :16]).any():
            raise EmulationError(f"{key}: the halves of a wave have to hold the same operands")
        return np.asarray(np.ascontiguousarray(raw[:, :16]).view(kind).reshape(waves, 16, 16))

    product = _product(operand(a, signs[0]), operand(b, signs[1]))
    machine.launch.coverage.matrix(key, *_covered(product, here))
    lane = machine.lane
    rows = [r + 8 * (lane // 16) if gfx12 else 2 * r + lane // 16 for r in range(8)]
    return [product[:, row, lane % 16].astype(u32) + c[r] for r, row in enumerate(rows)]


def matrix_shape(name: str) -> tuple[int, int] | None:
    """The rows and columns of the accumulator of an instruction; None if it multiplies no matrices. Raises
    Unmodelled for other kinds of matrix product."""
    if name in MFMA:
        return MFMA[name].size, MFMA[name].size
    if name == WMMA:
        return 16, 16
    if name.startswith(("v_mfma", "v_wmma", "v_smfmac", "v_swmmac")):
        raise Unmodelled(f"{name} is not modelled")
    return None
