"""Poly1305 (RFC 8439, section 2.5) on matrix units: the parts of messages are the rows of an int8 matrix
product.

The bytes of the message, less 128 so that they are int8, are multiplied by the digits of 2**(8 * b) * r**m in
balanced base 256. int32 holds the sums of these products exactly. The 128 and the ones that are appended to
blocks add the same to all rows of as many blocks; this is added later.
"""

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

# The sums of a row, one for each digit of a number modulo p, and the columns of the tile that holds them.
DIGITS = tl.constexpr(17)
COLUMNS = tl.constexpr(32)
# 128 * (1 + 2**8 + ... + 2**120) + 2**128: the value of a whole block is this plus that of its bytes less
# 128.
_BLOCK_OFFSET = tl.constexpr((0x0808080, 0x0202020, 0x0080808, 0x2020202, 0x1808080))


# Scalars are loaded from power_ptr, which gains nothing from its alignment.
@triton.jit(do_not_specialize=["power_ptr"])
def poly1305_matrix(
    power_ptr, digits_ptr, ROW_BITS: tl.constexpr, VECTOR: tl.constexpr, BLOCK_MSGS: tl.constexpr
):
    """The matrix by which rows of ``1 << ROW_BITS`` bytes are multiplied, one byte of the row per lane.

    ``digits_ptr`` is int8 ``[COLUMNS, 1 << ROW_BITS]`` and receives its first DIGITS rows. For byte b of the
    block that is the m-th from the end of the row, these are the digits of 2**(8 * b) * r**m in base 256, the
    lowest first. All digits but the highest are from -128 to 127. ``power_ptr`` is what ``poly1305_powers``
    stores for one key.
    """
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
    # After 128 is added to every digit by one addition with its carries, the bytes are the digits plus 128.
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
    """The numbers that are added to the sums of a row's products: uint32 ``[5, (1 << ROW_BITS) / 16 + 2]`` at
    ``offsets_ptr``, one number per lane.

    Number m is for a row in which the last m blocks belong to the message and are whole. The last number is
    added as well if the last block is not whole. ``power_ptr`` is as for ``poly1305_matrix``.
    """
    BLOCKS: tl.constexpr = 1 << (ROW_BITS - 4)
    ENTRIES: tl.constexpr = BLOCKS + 2
    lane = tl.program_id(0).to(tl.int64) * BLOCK_MSGS + tl.arange(0, BLOCK_MSGS)
    r = load_power(power_ptr, 0)
    zero = tl.full((BLOCK_MSGS,), 0, tl.uint64)
    sums = (zero, zero, zero, zero, zero)
    power = (zero + 1, zero, zero, zero, zero)
    # r + r**2 + ... + r**m and r**m, where m is the first bits of the lane's number, one more in each step.
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
    """Bytes k to k + BLOCK_K - 1 of the rows that start at the addresses ``base``, less 128: int8
    ``[rows, BLOCK_K]``. With CUT, only the words are read that have one of bytes ``low`` to ``high - 1`` of a
    row, and the values of other bytes are undefined.

    Compilers for AMD's and Intel's GPUs take one instruction and more for each byte of a word, so the 128 is
    subtracted in words. Taking these apart costs nothing where the bytes are put together again.
    """
    word = (k // 4 + tl.arange(0, BLOCK_K // 4))[None, :]
    if ALIGN >= 4:
        at = 4 * word
        pointer = tl.multiple_of(base.to(tl.pointer_type(tl.uint32))[:, None], (ALIGN, ALIGN)) + word
    else:
        # The aligned words that contain the bytes are loaded; bytes would need an address and a load each.
        skew = (base & 3).to(tl.int32)[:, None]
        at = 4 * word - skew
        pointer = (base - (base & 3)).to(tl.pointer_type(tl.uint32))[:, None] + word
    if CUT:
        this = tl.load(pointer, mask=(at + 4 > low[:, None]) & (at < high[:, None]), other=0)
    else:
        this = tl.load(pointer)
    if ALIGN < 4:
        after = skew + word * 0 > 0
        if CUT:
            after = after & (at + 8 > low[:, None]) & (at + 4 < high[:, None])
        shift = (skew * 8).to(tl.uint32)
        this = (this >> shift) | ((tl.load(pointer + 1, mask=after, other=0) << 1) << (31 - shift))
    this = this ^ 0x80808080
    even = tl.join((this & 0xFF).to(tl.uint8), ((this >> 16) & 0xFF).to(tl.uint8))
    odd = tl.join(((this >> 8) & 0xFF).to(tl.uint8), (this >> 24).to(tl.uint8))
    return tl.reshape(tl.join(even, odd), (base.shape[0], BLOCK_K)).to(tl.int8, bitcast=True)


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
    """The sums of products of every part of ``count`` messages. A part has ``1 << ROW_BITS`` bytes and is a
    row of the matrix product.

    ``digits_ptr`` is what ``poly1305_matrix`` stores, and ``sums_ptr`` receives the first DIGITS columns of
    int32 ``[parts, COLUMNS]``. The other arguments are those of ``poly1305_parts``.
    """
    ROW: tl.constexpr = 1 << ROW_BITS
    # Bytes that begin within words take more registers. Matrix units take at least 32 bytes of a row.
    STEP_K: tl.constexpr = BLOCK_K if ALIGN >= 4 or BLOCK_K == 32 else BLOCK_K // 2
    first = tl.program_id(0).to(tl.int64) * BLOCK_MSGS
    lane = first + tl.arange(0, BLOCK_MSGS)
    number = tl.minimum(lane, parts - 1)
    message, index = message_of_piece(table_ptr, number, count, per_row, 2, TABLE)
    begin, size = locate_message(table_ptr, message, address, count, stride, length, total, TABLE)
    blocks = (size + 15) // 16
    own = tl.maximum((blocks * 16 + (ROW - 1)) >> ROW_BITS, 1)
    # The number of the part's first byte in its message. It is negative if the part starts before it.
    start = blocks * 16 - (own - index) * ROW
    valid = (lane < parts) & (index < own)
    size = tl.where(valid, size, 0)
    start = tl.where(valid, start, -ROW)
    # Bytes ``low`` to ``high - 1`` of the row belong to the message.
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
            sums = tl.dot(a, b, sums, out_dtype=tl.int32)
    else:
        for k in range(0, ROW, STEP_K):
            at = (k + ks)[None, :]
            a = _row_bytes(base, low, high, k, True, STEP_K, ALIGN)
            # Behind the message, there is a one and then zeros; before it, values are not 0 less 128, but 0.
            behind = tl.where(at == high[:, None], -127, -128).to(tl.int8)
            a = tl.where(at < high[:, None], a, behind)
            a = tl.where(at < low[:, None], tl.full((), 0, tl.int8), a)
            b = tl.load(digits + k)
            sums = tl.dot(a, b, sums, out_dtype=tl.int32)
    tl.store(
        sums_ptr + (lane[:, None] * COLUMNS + column[None, :]),
        sums,
        mask=(lane < parts)[:, None] & (column < DIGITS)[None, :],
    )
