"""A kernel's PTX, ready to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..emulation.program import Block, KernelLaunch
from ..emulation.scheduler import DONE
from . import arithmetic
from .execution import WARP, WARP_GROUP, Run
from .hazards import check_products
from .parser import BARRIERS, Module, parse
from .translate import Translator

Array = np.ndarray[Any, Any]


def _both(mask: Array | None, condition: Array) -> Array:
    return condition if mask is None else mask & condition


def _to_integer(value: Array, bits: int, signed: bool) -> Array:
    """``cvt.rzi``: towards zero; beyond the range the nearest number. A NaN becomes 0, or, if either type has
    64 bits, the highest bit alone. So says PTX ISA 9 under ``cvt``; earlier versions say 0 for all types."""
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    inside = np.nan_to_num(np.trunc(value.astype(np.float64)), nan=0.0, posinf=1e30, neginf=-1e30)
    top = inside >= float(high)
    result = np.where(top | (inside <= low), 0, inside).astype(np.int64 if signed else np.uint64)
    result = np.where(top, high, np.where(inside <= low, low, result.astype(object)))
    if bits == 64 or value.dtype == np.float64:
        result = np.where(np.isnan(value), 1 << (bits - 1), result)
    return np.array([int(x) & ((1 << bits) - 1) for x in np.ravel(result)], f"u{bits // 8}").reshape(
        np.shape(value)
    )


_NAMES: dict[str, Any] = {
    **{f"u{bits}": np.dtype(f"u{bits // 8}").type for bits in (8, 16, 32, 64)},
    **{f"i{bits}": np.dtype(f"i{bits // 8}").type for bits in (8, 16, 32, 64)},
    "f32": np.float32,
    "f64": np.float64,
    "bool_": np.bool_,
    "TRUE": np.True_,
    "FALSE": np.False_,
    "DONE": DONE,
    "where": np.where,
    "minimum": np.minimum,
    "maximum": np.maximum,
    "fmin": np.fmin,
    "fmax": np.fmax,
    "absolute": np.absolute,
    "sqrt": np.sqrt,
    "isnan": np.isnan,
    "contiguous": np.ascontiguousarray,
    "bitwise_count": np.bitwise_count,
    "both": _both,
    "to_integer": _to_integer,
    **{
        name: getattr(arithmetic, name)
        for name in (
            "divide",
            "extract",
            "funnel",
            "fused",
            "insert",
            "leading",
            "multiply_high",
            "permute",
            "permute_in_mode",
            "reverse_bits",
        )
    },
}


class PtxProgram:
    """Implements :class:`~integrity_triton.backends.emulation.program.Program`."""

    @classmethod
    def parsed(cls, text: str, entry: str) -> PtxProgram:
        """Parse a text. Raises Unmodelled for what Triton does not emit, and what the constructor raises."""
        return cls(parse(text, entry))

    def __init__(self, module: Module) -> None:
        """Raises Unmodelled for an instruction that the emulator does not know, and Race if registers of an
        asynchronous product are used too early."""
        self.module = module
        self.entry = module.entry
        self.parameters = len(self.module.parameters)
        self.blocks: Sequence[Block] = tuple(
            Block(block[0].line, block[0].text) if block else Block("", "nothing")
            for block in self.module.blocks
        )
        check_products(self.module)
        translator = Translator(self.module)
        self._source = translator.source()
        self._instructions = translator.instructions
        self.matrices: Mapping[str, tuple[int, int]] = translator.matrices
        self.crossing = translator.crossing
        found = {i.parts[0] for block in self.module.blocks for i in block}
        # Products need the four warps of a group together.
        self.reorder = (WARP_GROUP if "wgmma" in found else WARP) if found & BARRIERS else 0

    @cached_property
    def functions(self) -> list[Any]:
        """One function a block, as :mod:`.translate` writes them."""
        space = {**_NAMES, "W": self._instructions}
        # The source consists of names and numbers that the translator made; no text of the PTX is in it.
        exec(compile(self._source, f"<{len(self.blocks)} blocks of PTX>", "exec"), space)
        return [space[f"block_{n}"] for n in range(len(self.blocks))]

    def run(self, launch: KernelLaunch) -> None:
        x, y, z = launch.grid
        total = x * y * z
        at_once = max(1, launch.lanes_at_once // self.module.threads)
        for first in range(0, total, at_once):
            Run(self, launch, first, min(at_once, total - first)).go()
