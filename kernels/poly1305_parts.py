"""Poly1305 (RFC 8439, section 2.5) with products of words: the value of every part of a message.

A program computes a part. Each of its lanes takes every LANES-th item, which is a block or half of one, so
that neighbouring lanes read neighbouring bytes. An item's words of 32 bits are multiplied, as they are, by
2**(32 * w) * r**m mod p.
"""

import triton
import triton.language as tl

from .batch import end_block, load_block, locate_message, message_of_piece
from .bits import columns
from .jit import kernel
from .poly1305_limbs import (
    BLOCK_BYTES,
    WORD_MASK,
    add,
    carried,
    load_power,
    multiply,
    pad_one,
    plus,
    select_limbs,
    times,
)


@triton.jit
def _whole_item(base, n, place, WORDS: tl.constexpr, ALIGN: tl.constexpr, VECTOR: tl.constexpr):
    """The item of each lane: WORDS words of 32 bits, as uint64 tiles, from ``n + place`` items after the
    address ``base``."""
    # Addresses are scalars plus the lane's place, so that the compiler sees that lanes load neighbours.
    if WORDS == 2:
        skew = base & 7 if ALIGN < 8 else base ^ base
        pointer = (base - skew).to(tl.pointer_type(tl.uint64)) + n + place
        pair = tl.load(pointer)
        if ALIGN < 8:
            shift = (skew * 8).to(tl.uint64)
            # If the item is not aligned, its last bytes are in the next pair.
            after = tl.load(pointer + 1, mask=place * 0 + skew > 0, other=0)
            pair = (pair >> shift) | ((after << 1) << (63 - shift))
        out = (pair & WORD_MASK, pair >> 32)
    else:
        if ALIGN >= 16 and VECTOR == 4:
            pointer = tl.multiple_of(base.to(tl.pointer_type(tl.uint32)), 16)
            tile = pointer + 4 * n + (4 * place[:, None] + tl.arange(0, 4)[None, :])
            words = columns(tl.load(tile), 4)
        elif ALIGN >= 4:
            word = base.to(tl.pointer_type(tl.uint32)) + 4 * n + 4 * place
            words = (tl.load(word), tl.load(word + 1), tl.load(word + 2), tl.load(word + 3))
        else:
            left = (place * 0 + 16).to(tl.int32)
            words = load_block(
                base + (n + place) * 16, tl.full((), 0, tl.int64), left, left > 0, 4, ALIGN, VECTOR
            )
        out = ()
        for i in tl.static_range(4):
            out = out + (words[i].to(tl.uint64),)
    return out


@triton.jit
def _edge_item(base, n, place, start, size, WORDS: tl.constexpr, ALIGN: tl.constexpr, VECTOR: tl.constexpr):
    """``_whole_item`` for items of which some bytes may lie outside the message.

    ``base`` is the address of byte ``start`` of a message of ``size`` bytes; ``start`` is negative if it lies
    before the message. Bytes outside the message are zeros, and a one is appended to a short block. One more
    word is 1 if a whole block starts with the item, else 0.
    """
    at = start + (n + place) * (4 * WORDS)
    left = tl.minimum(tl.maximum(size - at, -1), 4 * WORDS).to(tl.int32)
    left = tl.where(at >= 0, left, -1)
    words = load_block(
        base + (n + place) * (4 * WORDS),
        tl.full((), 0, tl.int64),
        tl.maximum(left, 0),
        left > 0,
        WORDS,
        ALIGN,
        VECTOR,
    )
    # A message may end exactly where the second half of a block starts.
    ends = (left >= 0) & (left < 4 * WORDS) & (size % 16 != 0)
    words = end_block(words, left, left, ends, 0, pad_one, WORDS)
    out = ()
    for i in tl.static_range(WORDS):
        out = out + (words[i].to(tl.uint64),)
    whole = (at >= 0) & (at % 16 == 0) & (size - at >= 16)
    return out + (whole.to(tl.uint64),)


@triton.jit
def _plus_words(d, words, factors, first: tl.constexpr, WORDS: tl.constexpr):
    """d plus the sum of the products of WORDS words and as many factors, from factor number ``first`` on."""
    for w in tl.static_range(WORDS):
        f = factors[5 * (first + w) : 5 * (first + w) + 5]
        x = words[w]
        d = (d[0] + x * f[0], d[1] + x * f[1], d[2] + x * f[2], d[3] + x * f[3], d[4] + x * f[4])
    return d


@triton.jit
def _whole_step(
    d,
    factors,
    base,
    n,
    place,
    ITEMS: tl.constexpr,
    WORDS: tl.constexpr,
    ALIGN: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """d plus the products of each lane's ITEMS items, ``n`` items after ``base``, without the ones that are
    appended to blocks."""
    for i in tl.static_range(ITEMS):
        item = _whole_item(base, n + i * place.shape[0], place, WORDS, ALIGN, VECTOR)
        d = _plus_words(d, item, factors, i * (WORDS + 1), WORDS)
    return d


@triton.jit
def _edge_step(
    d,
    factors,
    base,
    n,
    place,
    start,
    size,
    ITEMS: tl.constexpr,
    WORDS: tl.constexpr,
    ALIGN: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """d plus all products of each lane's items, some of which may not be whole."""
    for i in tl.static_range(ITEMS):
        item = _edge_item(base, n + i * place.shape[0], place, start, size, WORDS, ALIGN, VECTOR)
        d = _plus_words(d, item, factors, i * (WORDS + 1), WORDS + 1)
    return d


@kernel
def poly1305_parts(
    table_ptr,
    power_ptr,
    values_ptr,
    address: tl.int64,
    count: tl.int64,
    stride: tl.int64,
    length: tl.int64,
    total: tl.int64,
    parts: tl.int64,
    per_row: tl.int64,
    part_bits: tl.int64,
    power_stride: tl.int64,
    bits: tl.int64,
    LANE_BITS: tl.constexpr,
    ITEM_BITS: tl.constexpr,
    WORDS: tl.constexpr,
    TABLE: tl.constexpr,
    ALIGN: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """The value of every part of ``count`` messages, one part per program. ``values_ptr`` receives uint32
    ``[5, parts]``.

    A part has ``1 << part_bits`` blocks, at least as many as a step. The last part ends with its message, and
    the first may be shorter. A message without blocks has one part.

    With TABLE, ``table_ptr`` is int64 ``[4, count]``: the address, the length in bytes, the number of the
    first part and the result row of each message. Without TABLE, message i starts at ``address + i * stride``
    and has ``per_row`` parts; a shorter one has fewer. It has ``length`` bytes, or the rest of ``total``
    bytes if that is less. ``power_ptr`` is what ``poly1305_powers`` stores with ``bits`` powers. The numbers
    of the key of result row i start ``i * power_stride`` words from there, so that 0 gives all messages the
    same key.
    """
    LANES: tl.constexpr = 1 << LANE_BITS
    ITEMS: tl.constexpr = 1 << ITEM_BITS
    # The number of blocks in one item of every lane, and in a step.
    ROW_BITS: tl.constexpr = LANE_BITS - (1 if WORDS == 2 else 0)
    STEP: tl.constexpr = ITEMS << ROW_BITS
    tl.static_assert(BLOCK_MSGS == LANES)
    # Sums of products of 32 bits and a little more than 26 bits must fit into 64 bits.
    tl.static_assert(ITEMS * WORDS <= 32)
    # Half blocks are read word by word, because a vector would read beyond a message.
    tl.static_assert(WORDS == 4 or VECTOR <= 2)
    number = tl.program_id(0).to(tl.int64)
    message, index = message_of_piece(table_ptr, number, count, per_row, 2, TABLE)
    begin, size = locate_message(table_ptr, message, address, count, stride, length, total, TABLE)
    row = tl.load(table_ptr + 3 * count + message) if TABLE else message
    part = tl.full((), 1, tl.int64) << part_bits
    blocks = (size + (BLOCK_BYTES - 1)) // BLOCK_BYTES
    own = tl.maximum((blocks + part - 1) >> part_bits, 1)
    # The number of the part's first block in its message. It is negative if the part starts before it.
    start = blocks - (own - index) * part
    base = begin + start * BLOCK_BYTES
    place = tl.arange(0, LANES)
    powers = power_ptr + row * power_stride

    if index < own:
        ahead = load_power(powers, ROW_BITS + ITEM_BITS)
        factors = ()
        for i in tl.static_range(ITEMS * (WORDS + 1)):
            factors = factors + load_power(powers, bits + i)
        # The sum of the ones of all items. Of the lanes that share a block, one adds it.
        ones = factors[5 * WORDS : 5 * WORDS + 5]
        for i in tl.static_range(ITEMS - 1):
            ones = plus(ones, factors[5 * (WORDS + 1) * (i + 2) - 5 : 5 * (WORDS + 1) * (i + 2)])
        first_half = place % (4 // WORDS) == 0
        zero = tl.full((LANES,), 0, tl.uint64)
        ones = select_limbs(first_half, ones, (zero, zero, zero, zero, zero))
        h = (zero, zero, zero, zero, zero)
        for m in range(tl.maximum(-start, 0) // STEP, part // STEP):
            n = (tl.full((), 0, tl.int64) + m) * (ITEMS * LANES)
            block = start + m * STEP
            d = times(h, ahead)
            if (block < 0) | ((block + STEP) * BLOCK_BYTES > size):
                d = _edge_step(
                    d, factors, base, n, place, start * BLOCK_BYTES, size, ITEMS, WORDS, ALIGN, VECTOR
                )
            else:
                d = _whole_step(plus(d, ones), factors, base, n, place, ITEMS, WORDS, ALIGN, VECTOR)
            h = carried(d)
        if WORDS == 2:
            # Second halves have 2**64 times the value that they were given so far.
            h = select_limbs(first_half, h, multiply(h, (zero, zero, zero + (1 << 12), zero, zero)))
        # The number of blocks from the last block of the lane to that of the part.
        behind = (1 << ROW_BITS) - 1 - place // (4 // WORDS)
        h = multiply(h, load_power(powers, 0))
        for i in tl.static_range(ROW_BITS):
            h = select_limbs((behind >> i) & 1 != 0, multiply(h, load_power(powers, i)), h)
        sums = ()
        for i in tl.static_range(5):
            sums = sums + (tl.reduce(h[i], 0, add),)
        sums = carried(sums)
        for i in tl.static_range(5):
            tl.store(values_ptr + (i * parts + number), sums[i].to(tl.uint32))
