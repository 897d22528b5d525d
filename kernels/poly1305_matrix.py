"""Poly1305 on matrix units: the values of parts as rows of an int8 matrix product."""

import triton
import triton.language as tl

from .batch import locate_message, message_of_piece
from .jit import kernel
from .poly1305_limbs import (
    BLOCK_ONE,
    LARGE,
    add,
    carried,
    halves,
    load_power,
    multiply,
    plus,
    reduced,
    select_limbs,
    store_limbs,
    times,
)

# A row's products have one sum for each digit of a number modulo p, in a tile of so many columns.
DIGITS = tl.constexpr(17)
COLUMNS = tl.constexpr(32)
# 128 * (1 + 2**8 + ... + 2**120) + 2**128: the value of a whole block less that of its bytes less 128.
_BLOCK_OFFSET = tl.constexpr((0x0808080, 0x0202020, 0x0080808, 0x2020202, 0x1808080))


@triton.jit(do_not_specialize=["power_ptr"])
def poly1305_matrix(
    power_ptr, digits_ptr, ROW_BITS: tl.constexpr, VECTOR: tl.constexpr, BLOCK_MSGS: tl.constexpr
):
    """What bytes of a row of ``1 << ROW_BITS`` are multiplied by: int8 ``[COLUMNS, row]`` at ``digits_ptr``,
    of which DIGITS are written. Byte b of the block that is the m-th from the row's end has the digits of
    2**(8 * b) * r**m, of weights 1, 256, ..., all but the highest from -128 to 127."""
    lane = tl.program_id(0).to(tl.int64) * BLOCK_MSGS + tl.arange(0, BLOCK_MSGS)
    row = tl.full((), 1, tl.int64) << ROW_BITS
    valid = lane < row
    m = (row - tl.minimum(lane, row - 1) + 15) >> 4
    h = ()
    for i in tl.static_range(5):
        up = (lane & 15) * 8 - 26 * i
        here = (up >= 0) & (up < 26)
        h = h + (tl.where(here, tl.full((), 1, tl.uint64) << tl.where(here, up, 0).to(tl.uint64), 0),)
    for k in range(ROW_BITS - 3):
        h = select_limbs((m >> k) & 1 != 0, multiply(h, load_power(power_ptr, k)), h)
    h = reduced(h)
    low, high = halves(h)
    # With 128 added, a digit is a byte, which is its digit again less 128; and nothing is carried by hand.
    bias = tl.full((), 0x8080808080808080, tl.uint64)
    low += bias
    carry = (low < bias).to(tl.uint64)
    high += bias
    top = (high < bias).to(tl.uint64)
    high += carry
    top += (high < carry).to(tl.uint64) + (h[4] >> 24)
    low ^= bias
    high ^= bias
    for j in tl.static_range(8):
        tl.store(digits_ptr + (j * row + lane), ((low >> (8 * j)) & 0xFF).to(tl.int8), mask=valid)
        tl.store(digits_ptr + ((j + 8) * row + lane), ((high >> (8 * j)) & 0xFF).to(tl.int8), mask=valid)
    tl.store(digits_ptr + (16 * row + lane), top.to(tl.int8), mask=valid)


@triton.jit(do_not_specialize=["power_ptr"])
def poly1305_offsets(
    power_ptr, offsets_ptr, ROW_BITS: tl.constexpr, VECTOR: tl.constexpr, BLOCK_MSGS: tl.constexpr
):
    """What a row's value has beyond its products: uint32 ``[5, row / 16 + 2]`` at ``offsets_ptr``. At m for
    a row that has the last m blocks, all whole; and at the end, what is to be added if the last is not
    whole."""
    BLOCKS: tl.constexpr = 1 << (ROW_BITS - 4)
    ENTRIES: tl.constexpr = BLOCKS + 2
    lane = tl.program_id(0).to(tl.int64) * BLOCK_MSGS + tl.arange(0, BLOCK_MSGS)
    r = load_power(power_ptr, 0)
    zero = tl.full((BLOCK_MSGS,), 0, tl.uint64)
    sums = (zero, zero, zero, zero, zero)
    power = (zero + 1, zero, zero, zero, zero)
    # r + r**2 + ... + r**m and r**m, for m of one bit of the lane's number after the other.
    for k in range(ROW_BITS - 3):
        sums = carried(plus(times(sums, power), sums))
        power = multiply(power, power)
        odd = (lane >> (ROW_BITS - 4 - k)) & 1 != 0
        sums = select_limbs(odd, carried(plus(times(sums, r), r)), sums)
        power = select_limbs(odd, multiply(power, r), power)
    beyond = ()
    for i in tl.static_range(5):
        beyond = beyond + (zero + _BLOCK_OFFSET[i],)
    offset = multiply(sums, beyond)
    one = multiply((zero, zero, zero, zero, zero + BLOCK_ONE), r)
    less = ()
    for i in tl.static_range(5):
        less = less + (zero + LARGE[i] - one[i],)
    offset = select_limbs(lane == BLOCKS + 1, carried(less), offset)
    store_limbs(offsets_ptr + lane, ENTRIES, offset, lane < ENTRIES)


@triton.jit
def _row_bytes(base, low, high, k, CUT: tl.constexpr, BLOCK_K: tl.constexpr, ALIGN: tl.constexpr):
    """Bytes k to k + BLOCK_K of rows that start at the addresses ``base``: uint8 ``[rows, BLOCK_K]``. With
    CUT those from ``low`` to before ``high`` alone are read, and the others are anything."""
    if ALIGN >= 4:
        WIDTH: tl.constexpr = 16 if ALIGN >= 16 else 4
        at = (k + tl.arange(0, BLOCK_K))[None, :]
        pointer = tl.multiple_of(base.to(tl.pointer_type(tl.uint8))[:, None], (WIDTH, WIDTH)) + at
        if CUT:
            out = tl.load(pointer, mask=(at >= low[:, None]) & (at < high[:, None]), other=0)
        else:
            out = tl.load(pointer)
    else:
        # Words around the bytes: each of these by itself would be an address and a load of its own.
        skew = (base & 3).to(tl.int32)[:, None]
        pointer = (base - (base & 3)).to(tl.pointer_type(tl.uint32))[:, None]
        word = (k // 4 + tl.arange(0, BLOCK_K // 4))[None, :]
        pointer = pointer + word
        after = skew + word * 0 > 0
        if CUT:
            at = 4 * word - skew
            here = (at + 4 > low[:, None]) & (at < high[:, None])
            after = after & (at + 8 > low[:, None]) & (at + 4 < high[:, None])
            this = tl.load(pointer, mask=here, other=0)
        else:
            this = tl.load(pointer)
        shift = (skew * 8).to(tl.uint32)
        this = (this >> shift) | ((tl.load(pointer + 1, mask=after, other=0) << 1) << (31 - shift))
        even = tl.join((this & 0xFF).to(tl.uint8), ((this >> 16) & 0xFF).to(tl.uint8))
        odd = tl.join(((this >> 8) & 0xFF).to(tl.uint8), (this >> 24).to(tl.uint8))
        out = tl.reshape(tl.join(even, odd), (base.shape[0], BLOCK_K))
    return out


@kernel
def poly1305_rows(
    table_ptr,
    digits_ptr,
    sums_ptr,
    address: tl.int64,
    count: tl.int64,
    stride: tl.int64,
    length: tl.int64,
    total: tl.int64,
    parts: tl.int64,
    per_row: tl.int64,
    ROW_BITS: tl.constexpr,
    TABLE: tl.constexpr,
    ALIGN: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """The sums of products of every part of ``count`` messages, a part of ``1 << ROW_BITS`` bytes a row of
    the matrix product: int32 ``[parts, COLUMNS]`` at ``sums_ptr``. ``digits_ptr`` is what
    ``poly1305_matrix`` stores; the other arguments are those of ``poly1305_parts``."""
    ROW: tl.constexpr = 1 << ROW_BITS
    # Words around bytes take more registers.
    STEP_K: tl.constexpr = BLOCK_K if ALIGN >= 4 else BLOCK_K // 2
    first = tl.program_id(0).to(tl.int64) * BLOCK_MSGS
    lane = first + tl.arange(0, BLOCK_MSGS)
    number = tl.minimum(lane, parts - 1)
    message, index = message_of_piece(table_ptr, number, count, per_row, 2, TABLE)
    begin, size = locate_message(table_ptr, message, address, count, stride, length, total, TABLE)
    blocks = (size + 15) // 16
    own = tl.maximum((blocks * 16 + (ROW - 1)) >> ROW_BITS, 1)
    # A part's first byte in its message; before it, if it is negative.
    start = blocks * 16 - (own - index) * ROW
    valid = (lane < parts) & (index < own)
    size = tl.where(valid, size, 0)
    start = tl.where(valid, start, -ROW)
    # Bytes of the row that are the message's: from ``low`` to before ``high``.
    low = tl.maximum(-start, 0).to(tl.int32)
    high = tl.minimum(tl.maximum(size - start, 0), ROW).to(tl.int32)
    cut = (low > 0) | (high < ROW)
    base = begin + start
    ks = tl.arange(0, STEP_K)
    column = tl.arange(0, COLUMNS)
    digits = digits_ptr + (column[None, :] * ROW + ks[:, None])
    sums = tl.full((BLOCK_MSGS, COLUMNS), 0, tl.int32)
    if tl.reduce(cut.to(tl.int32), 0, add) == 0:
        for k in range(0, ROW, STEP_K):
            a = _row_bytes(base, low, high, k, False, STEP_K, ALIGN)
            b = tl.load(digits + k)
            sums = tl.dot((a ^ 0x80).to(tl.int8, bitcast=True), b, sums, out_dtype=tl.int32)
    else:
        for k in range(0, ROW, STEP_K):
            at = (k + ks)[None, :]
            a = _row_bytes(base, low, high, k, True, STEP_K, ALIGN)
            a = tl.where(at < high[:, None], a, tl.where(at == high[:, None], 1, 0).to(tl.uint8))
            # Before the message there is nothing, not even a byte of 0, which would be -128.
            a = tl.where(at < low[:, None], tl.full((), 0x80, tl.uint8), a)
            b = tl.load(digits + k)
            sums = tl.dot((a ^ 0x80).to(tl.int8, bitcast=True), b, sums, out_dtype=tl.int32)
    tl.store(
        sums_ptr + (lane[:, None] * COLUMNS + column[None, :]),
        sums,
        mask=(lane < parts)[:, None] & (column < DIGITS)[None, :],
    )
