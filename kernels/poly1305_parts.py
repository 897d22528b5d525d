"""Poly1305 with words: the value of every part of a message, a program a part."""

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
    """WORDS words of 32 bits of each lane, uint64, which lie ``n + place`` times as many behind ``base``."""
    # Scalars but for a lane's place, so that the loads are seen to be of neighbours.
    if WORDS == 2:
        skew = base & 7 if ALIGN < 8 else base ^ base
        pointer = (base - skew).to(tl.pointer_type(tl.uint64)) + n + place
        pair = tl.load(pointer)
        if ALIGN < 8:
            shift = (skew * 8).to(tl.uint64)
            # Of pairs that are not read in place, the second half's last bytes are in the next.
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
    """As ``_whole_item`` where ``base`` is at byte ``start`` of a message of ``size`` bytes, negative before
    it: 0 outside the message, with the one behind a short block. One word more is 1 where a whole block
    starts.
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
    # A message may end where a block's second half starts.
    ends = (left >= 0) & (left < 4 * WORDS) & (size % 16 != 0)
    words = end_block(words, left, left, ends, 0, pad_one, WORDS)
    out = ()
    for i in tl.static_range(WORDS):
        out = out + (words[i].to(tl.uint64),)
    whole = (at >= 0) & (at % 16 == 0) & (size - at >= 16)
    return out + (whole.to(tl.uint64),)


@triton.jit
def _plus_words(d, words, factors, first: tl.constexpr, WORDS: tl.constexpr):
    """d + the sum of ``words`` times as many of ``factors``, from number ``first`` on."""
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
    """d + the products of each lane's ITEMS items, ``n`` items behind ``base``, but for the ones behind
    blocks."""
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
    """d + all products of each lane's items, where some may not be whole."""
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
    """The value of every part of ``count`` messages, a part a program: uint32 ``[5, parts]`` at
    ``values_ptr``.

    Parts are of ``1 << part_bits`` blocks, at least those of a step, and the last one ends with its message;
    a message without blocks has one part.

    With TABLE, ``table_ptr`` is int64 ``[4, count]``: each message's address, length in bytes, first part
    and the row of its result. Otherwise message i starts at ``address + i * stride``, is ``length`` bytes
    long, or as many as are left of ``total``, and has ``per_row`` parts; a shorter one has fewer.
    ``power_ptr`` is what ``poly1305_powers`` stores with ``bits`` powers, one key's ``power_stride`` words
    from the next one's, or 0.
    """
    LANES: tl.constexpr = 1 << LANE_BITS
    ITEMS: tl.constexpr = 1 << ITEM_BITS
    # Blocks of an item of all lanes, and of a step.
    ROW_BITS: tl.constexpr = LANE_BITS - (1 if WORDS == 2 else 0)
    STEP: tl.constexpr = ITEMS << ROW_BITS
    tl.static_assert(BLOCK_MSGS == LANES)
    # Sums of products of 32 and a little more than 26 bits are to be of 64.
    tl.static_assert(ITEMS * WORDS <= 32)
    # Half blocks are read word by word: a vector would read beyond a message.
    tl.static_assert(WORDS == 4 or VECTOR <= 2)
    number = tl.program_id(0).to(tl.int64)
    message, index = message_of_piece(table_ptr, number, count, per_row, 2, TABLE)
    begin, size = locate_message(table_ptr, message, address, count, stride, length, total, TABLE)
    row = tl.load(table_ptr + 3 * count + message) if TABLE else message
    part = tl.full((), 1, tl.int64) << part_bits
    blocks = (size + (BLOCK_BYTES - 1)) // BLOCK_BYTES
    own = tl.maximum((blocks + part - 1) >> part_bits, 1)
    # The part's first block in its message; before it, if it is negative.
    start = blocks - (own - index) * part
    base = begin + start * BLOCK_BYTES
    place = tl.arange(0, LANES)
    powers = power_ptr + row * power_stride

    if index < own:
        ahead = load_power(powers, ROW_BITS + ITEM_BITS)
        factors = ()
        for i in tl.static_range(ITEMS * (WORDS + 1)):
            factors = factors + load_power(powers, bits + i)
        # All items' ones together, which one of the lanes that share a block adds.
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
            # Second halves are 2**64 times what they were taken for.
            h = select_limbs(first_half, h, multiply(h, (zero, zero, zero + (1 << 12), zero, zero)))
        # A lane's last block is this many before the part's last.
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
