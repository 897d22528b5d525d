"""Kernels of a user: sums of rows, of which two have a fault that a GPU may never show."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def row_sums(x, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    values = tl.load(x + row * columns + at, mask=at < columns, other=0)
    tl.store(out + row, tl.sum(values, 0))


@triton.jit
def row_sums_without_mask(x, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    values = tl.load(x + row * columns + at)  # reads beyond the end of the last row
    tl.store(out + row, tl.sum(values, 0))


@triton.jit
def total_without_atomics(x, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    values = tl.load(x + row * columns + at, mask=at < columns, other=0)
    before = tl.load(out)
    tl.store(out, before + tl.sum(values, 0))  # every program adds to the same number
