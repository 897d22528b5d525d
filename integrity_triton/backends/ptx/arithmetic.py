"""Arithmetic of PTX instructions that is more than one operation of NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_32, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)

PERMUTATIONS = {
    "f4e": (0x3210, 0x4321, 0x5432, 0x6543),
    "b4e": (0x5670, 0x6701, 0x7012, 0x0123),
    "rc8": (0x0000, 0x1111, 0x2222, 0x3333),
    "ecl": (0x3210, 0x3211, 0x3222, 0x3333),
    "ecr": (0x0000, 0x1110, 0x2210, 0x3210),
    "rc16": (0x1010, 0x3232, 0x1010, 0x3232),
}
"""For each mode of ``prmt``, the selectors of the form without a mode that the two lowest bits of its last
operand stand for (PTX ISA 9.0, section 9.7.9.7)."""


def divide(a: Array, b: Array, *, signed: bool) -> tuple[Array, Array]:
    """The quotient, rounded towards zero, and the remainder, as unsigned integers (``div`` and ``rem``).

    The ISA leaves the result of a division by zero to the machine; here all bits of the quotient are set, and
    the remainder is ``a``."""
    a, b = np.broadcast_arrays(a, b)
    bits = a.dtype.itemsize * 8
    unsigned = np.dtype(f"u{a.dtype.itemsize}")
    minus = np.zeros((), unsigned)
    one, two = a.view(unsigned), b.view(unsigned)
    if signed:
        one, two = np.where(a < 0, minus - one, one), np.where(b < 0, minus - two, two)
    by_zero = two == 0
    quotient, rest = np.divmod(one, np.where(by_zero, np.ones((), unsigned), two))
    if signed:
        quotient = np.where((a < 0) != (b < 0), minus - quotient, quotient)
        rest = np.where(a < 0, minus - rest, rest)
    quotient = np.where(by_zero, np.array((1 << bits) - 1, unsigned), quotient)
    return quotient, np.where(by_zero, a.view(unsigned), rest)


def funnel(a: Array, b: Array, n: Array, *, left: bool, wrap: bool) -> Array:
    """``shf``: the 64 bits ``b:a`` shifted by ``n``, of which the upper half (left) or the lower half (right)
    remains."""
    n = n & np.uint32(31) if wrap else np.minimum(n, np.uint32(32))
    both = b.astype(np.uint64) << _32 | a
    wide = n.astype(np.uint64)
    return np.asarray(((both << wide) >> _32 if left else both >> wide).astype(np.uint32))


def permute(a: Array, b: Array, selector: Array) -> Array:
    """``prmt`` without a mode: byte i of the result is the byte of ``b:a`` that nibble i of the selector
    chooses, or its sign in all bits if the nibble's highest bit is set."""
    both = b.astype(np.uint64) << _32 | a
    chosen = selector.astype(np.uint64)
    result = np.zeros((), np.uint64)
    for i in range(4):
        nibble = chosen >> np.uint64(4 * i) & np.uint64(15)
        byte = both >> ((nibble & np.uint64(7)) << np.uint64(3)) & np.uint64(255)
        sign = np.where(byte & np.uint64(128), np.uint64(255), np.uint64(0))
        result = result | np.where(nibble & np.uint64(8), sign, byte) << np.uint64(8 * i)
    return np.asarray(result.astype(np.uint32))


def permute_in_mode(a: Array, b: Array, selector: Array, mode: str) -> Array:
    """``prmt`` with one of the modes of :data:`PERMUTATIONS`."""
    return permute(a, b, np.array(PERMUTATIONS[mode], np.uint32)[selector & np.uint32(3)])


def multiply_high(a: Array, b: Array, *, signed: bool) -> Array:
    """The upper 64 bits of the product of 64-bit integers (``mul.hi``), as unsigned integers."""
    x, y = np.broadcast_arrays(a, b)
    x, y = x.view(np.uint64), y.view(np.uint64)
    low_x, high_x, low_y, high_y = x & _LOW, x >> _32, y & _LOW, y >> _32
    middle = high_x * low_y + (low_x * low_y >> _32)
    other = low_x * high_y + (middle & _LOW)
    high = high_x * high_y + (middle >> _32) + (other >> _32)
    if signed:
        high = high - np.where(x >> np.uint64(63) != 0, y, np.uint64(0))
        high = high - np.where(y >> np.uint64(63) != 0, x, np.uint64(0))
    return np.asarray(high)


def extract(a: Array, position: Array, length: Array, *, signed: bool) -> Array:
    """``bfe``: a field of ``length`` bits from ``position`` on, as unsigned integers. Beyond the highest bit
    of ``a`` it continues with zeros, or with the sign."""
    bits = a.dtype.itemsize * 8
    unsigned = a.dtype.type
    start = (position & np.uint32(255)).astype(np.int64)
    size = (length & np.uint32(255)).astype(np.int64)
    start, size = np.broadcast_arrays(start, size)
    kept = np.minimum(start, bits - 1).astype(unsigned)
    moved = np.where(start < bits, a >> kept, unsigned(0))
    mask = np.where(
        size >= bits,
        unsigned((1 << bits) - 1),
        (unsigned(1) << np.minimum(size, bits - 1).astype(unsigned)) - unsigned(1),
    )
    field = moved & mask
    if not signed:
        return np.asarray(field)
    at = np.minimum(start + size - 1, bits - 1)  # where the sign is read
    sign = (a >> np.maximum(at, 0).astype(unsigned)) & unsigned(1)
    reach = np.maximum(np.minimum(size, bits - start), 0)  # bits of the field that come from ``a``
    above = np.where(
        reach >= bits,
        unsigned(0),
        ~((unsigned(1) << np.minimum(reach, bits - 1).astype(unsigned)) - unsigned(1)),
    )
    return np.asarray(np.where(size == 0, unsigned(0), np.where(sign == 1, field | above, field)))


def insert(a: Array, b: Array, position: Array, length: Array) -> Array:
    """``bfi``: ``b`` with its bits from ``position`` on replaced by the lowest ``length`` bits of ``a``."""
    bits = b.dtype.itemsize * 8
    unsigned = b.dtype.type
    start = (position & np.uint32(255)).astype(np.int64)
    size = (length & np.uint32(255)).astype(np.int64)
    ones = np.where(
        size >= bits,
        unsigned((1 << bits) - 1),
        (unsigned(1) << np.minimum(size, bits - 1).astype(unsigned)) - unsigned(1),
    )
    shift = np.minimum(start, bits - 1).astype(unsigned)
    mask = np.where(start < bits, ones << shift, unsigned(0))
    return np.asarray((b & ~mask) | (a << shift & mask))


def leading(a: Array) -> Array:
    """``clz``: the number of zeros above the highest bit that is set, as uint32."""
    bits = a.dtype.itemsize * 8
    count = np.full(a.shape, 0, np.uint32)
    rest = a
    step = bits // 2
    while step:
        upper = rest >> rest.dtype.type(step)
        empty = upper == 0
        count = count + np.where(empty, np.uint32(step), np.uint32(0))
        rest = np.where(empty, rest, upper)
        step //= 2
    return np.asarray(np.where(a == 0, np.uint32(bits), count))


def reverse_bits(a: Array) -> Array:
    """``brev``."""
    bytes_ = np.ascontiguousarray(a).view(np.uint8).reshape(-1, a.dtype.itemsize)
    flipped = np.packbits(np.unpackbits(bytes_, axis=1, bitorder="little"), axis=1, bitorder="big")
    return np.ascontiguousarray(flipped[:, ::-1]).view(a.dtype).reshape(a.shape)


def fused(a: Array, b: Array, c: Array) -> Array:
    """``fma.rn.f32``: ``a * b + c``, rounded once.

    The product of two floats is exact in a double. Their sum is rounded to odd there, so that the rounding
    to a float sees whether it was exact."""
    product = a.astype(np.float64) * b.astype(np.float64)
    addend = c.astype(np.float64)
    total = product + addend
    back = total - product
    error = (product - (total - back)) + (addend - back)
    bits = total.view(np.int64)
    inexact = np.isfinite(total) & (error != 0) & ((bits & 1) == 0)
    towards = np.where(error > 0, np.inf, -np.inf)
    return np.asarray(np.where(inexact, np.nextafter(total, towards), total).astype(np.float32))
