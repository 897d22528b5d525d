"""Whether matrix instructions place their operands and sums where this package's emulators place them.

The emulators take these places from the vendors' documents. Each product here is one that Triton compiles to
instructions whose fragments, descriptors or swizzles no device has confirmed yet. The matrices are random, so
a row, a column or a step of the sum in another place gives another product. ``bench/device_report.py`` runs
this first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
import triton.language as tl

# What a listing calls the instructions whose layouts are in question, for NVIDIA, AMD and Intel.
_IN_QUESTION = re.compile(
    r"\b(wgmma\.mma_async\.[\w.]+|mma\.sync\.[\w.]+|ldmatrix\.[\w.]+|stmatrix\.[\w.]+|tcgen05\.mma[\w.:]*"
    r"|v_(?:s?mfmac?|s?wmmac?)_\w+|(?<=__spirv_)\w*MatrixMultiplyAccumulate\w*)"
)
_LISTINGS = ("ptx", "amdgcn", "spv")


@triton.jit  # type: ignore[untyped-decorator]
def multiply(  # type: ignore[no-untyped-def]  # Triton reads annotations
    a, b, c, turns, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, TURNED: tl.constexpr
):
    """``c`` is the product of ``a``, ``[ROWS, turns * DEPTH]``, and ``b``, whose columns lie in memory one
    after the other. With ``TURNED``, the sum is ``b.T @ a.T``, so that each takes the other's place."""
    rows = tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    total = tl.zeros((COLUMNS, ROWS) if TURNED else (ROWS, COLUMNS), tl.int32)
    for turn in range(turns):
        k = turn * DEPTH + depth
        left = tl.load(a + rows[:, None] * (turns * DEPTH) + k[None, :])
        right = tl.load(b + columns[:, None] * (turns * DEPTH) + k[None, :])
        if TURNED:
            total = tl.dot(right, tl.trans(left), total, out_dtype=tl.int32)
        else:
            total = tl.dot(left, tl.trans(right), total, out_dtype=tl.int32)
    places = c + rows[:, None] * COLUMNS + columns[None, :]
    if TURNED:
        tl.store(places, tl.trans(total))
    else:
        tl.store(places, total)


@dataclass(frozen=True)
class Product:
    """A product of 8-bit integers, in the shapes and with the warps that choose the instructions."""

    rows: int
    columns: int
    depth: int
    warps: int
    turned: bool = False
    turns: int = 2

    @property
    def name(self) -> str:
        order = " turned" if self.turned else ""
        return f"{self.rows}x{self.columns}x{self.depth}{order}, {self.warps} warps"


# A row of 32, 64 or 128 bytes in shared memory is swizzled over as many bytes. wgmma takes four warps and 64
# rows; with fewer of either, and on devices before sm_90, mma.sync and ldmatrix are used.
PRODUCTS = (
    *(Product(64, columns, depth, 4) for columns in (16, 64) for depth in (32, 64, 128)),
    Product(128, 128, 64, 4),
    Product(128, 32, 128, 8),
    Product(64, 64, 64, 4, turned=True),
    *(Product(16, 16, depth, 1) for depth in (32, 64, 128)),
    Product(32, 64, 64, 2),
    Product(32, 16, 128, 1, turned=True),
)


@dataclass
class Confirmation:
    """One product. ``wrong`` counts the elements that differ; None if it could not be computed."""

    name: str
    instructions: list[str] = field(default_factory=list)
    wrong: int | None = None
    failed: str = ""

    @property
    def good(self) -> bool:
        return self.wrong == 0


def confirm(device: torch.device, products: tuple[Product, ...] = PRODUCTS) -> Iterator[Confirmation]:
    """Compute each product on ``device``, with the driver that Triton has, and compare it with torch's."""
    generator = torch.Generator().manual_seed(0)
    for product in products:
        found = Confirmation(product.name)
        size = product.turns * product.depth
        left, right = (
            torch.randint(-128, 128, (n, size), dtype=torch.int8, generator=generator)
            for n in (product.rows, product.columns)
        )
        expected = left.long() @ right.long().T
        result = torch.full((product.rows, product.columns), -1, dtype=torch.int32, device=device)
        try:
            compiled = multiply[(1,)](
                left.to(device),
                right.to(device),
                result,
                product.turns,
                ROWS=product.rows,
                COLUMNS=product.columns,
                DEPTH=product.depth,
                TURNED=product.turned,
                num_warps=product.warps,
            )
            found.wrong = int((result.cpu().long() != expected).sum())
            found.instructions = instructions(compiled)
        except Exception as error:  # a product that does not compile must not hide the others
            found.failed = f"{type(error).__name__}: {error}".split("\n")[0][:200]
        yield found


def instructions(compiled: Any) -> list[str]:
    """The instructions in question that a compiled kernel has, as far as Triton keeps a listing."""
    listings = getattr(compiled, "asm", {})
    texts = [listings[name] for name in _LISTINGS if isinstance(listings.get(name), str)]
    return sorted({match[1].rstrip(".") for text in texts for match in _IN_QUESTION.finditer(text)})
