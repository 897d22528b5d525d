"""Poly1305 (RFC 8439, section 2.5) over batches of messages of any length: with limbs, and on matrix units.

A message of n blocks c[1] .. c[n], each of at most 16 bytes and a one behind them, has the value c[1] * r**n
+ c[2] * r**(n-1) + ... + c[n] * r modulo p = 2**130 - 5. The value is a sum, so its parts are worked out
apart: where a part's blocks end m blocks before the message's end, its own value times r**m adds to the
message's. Parts end at whole multiples of their size before a message's end, so that only the first of them
may be short, and the powers of r that are needed are products of r**(2**k).

- ``poly1305_messages``: a lane a message, block by block.
- ``poly1305_parts``: a program a part. Each lane takes every LANES-th block or half of one, so that
  neighbours read neighbouring bytes. Words of 32 bits are multiplied, as they are, by 2**(32 * w) * r**m mod
  p.
- ``poly1305_rows``: a row of a matrix a part. Bytes of the message, less 128 so that they are int8, times the
  digits of 2**(8 * b) * r**m in balanced base 256 are sums of products that int32 holds exactly. What the 128
  and the ones behind the blocks add is the same for all rows of as many blocks, and is added later.
- ``poly1305_sum`` multiplies each part's value by its power of r and adds it to its message's; sums of limbs
  in 64 bits need no order. ``poly1305_finish`` reduces them and adds s.

Numbers modulo p are five limbs of 26 bits, a little more where carries are left, in tiles of uint64. No step
depends on the value of a key, a message or a sum but by selection.
"""

import triton
import triton.language as tl

from .batch import end_block, load_block, locate_message, message_of_piece, messages_of_lanes
from .bits import columns, store_words

BLOCK_BYTES = tl.constexpr(16)
# Values that are not of limbs: sums of a row's products, of which there is one for each digit.
DIGITS = tl.constexpr(17)
COLUMNS = tl.constexpr(32)
_MASK = tl.constexpr(0x3FFFFFF)
_WORD = tl.constexpr(0xFFFFFFFF)
# 2**128, the one behind a whole block, in the highest limb.
_ONE = tl.constexpr(1 << 24)
# Section 2.5.1: the bits of r that are clear are clear in these.
_CLAMP = tl.constexpr((0x0FFFFFFF, 0x0FFFFFFC, 0x0FFFFFFC, 0x0FFFFFFC))
# 2**27 * p in limbs: makes signed limbs of up to 53 bits positive.
_LARGE = tl.constexpr(((0x3FFFFFB) << 27, 0x3FFFFFF << 27, 0x3FFFFFF << 27, 0x3FFFFFF << 27, 0x3FFFFFF << 27))
# 128 * (1 + 2**8 + ... + 2**120) + 2**128: what a whole block has beyond its bytes less 128.
_BLOCK_OFFSET = tl.constexpr((0x0808080, 0x0202020, 0x0080808, 0x2020202, 0x1808080))


@triton.jit
def _limbs(low, high):
    """The limbs of numbers of 128 bits, from their uint64 halves."""
    return (
        low & _MASK,
        (low >> 26) & _MASK,
        ((low >> 52) | (high << 12)) & _MASK,
        (high >> 14) & _MASK,
        high >> 40,
    )


@triton.jit
def _clamped(words):
    """r's limbs from the first four words of a key (section 2.5.1)."""
    out = ()
    for i in tl.static_range(4):
        out = out + ((words[i] & _CLAMP[i]).to(tl.uint64),)
    return _limbs(out[0] | (out[1] << 32), out[2] | (out[3] << 32))


@triton.jit
def _times(x, y):
    """x * y without carries: sums of 32 x 32 -> 64-bit products. Limbs of x are below 2**29, y's below
    2**27."""
    # The masks tell compilers what they cannot see: that these are factors of 32 bits.
    s1 = y[1] * 5 & _WORD
    s2 = y[2] * 5 & _WORD
    s3 = y[3] * 5 & _WORD
    s4 = y[4] * 5 & _WORD
    return (
        x[0] * y[0] + x[1] * s4 + x[2] * s3 + x[3] * s2 + x[4] * s1,
        x[0] * y[1] + x[1] * y[0] + x[2] * s4 + x[3] * s3 + x[4] * s2,
        x[0] * y[2] + x[1] * y[1] + x[2] * y[0] + x[3] * s4 + x[4] * s3,
        x[0] * y[3] + x[1] * y[2] + x[2] * y[1] + x[3] * y[0] + x[4] * s4,
        x[0] * y[4] + x[1] * y[3] + x[2] * y[2] + x[3] * y[1] + x[4] * y[0],
    )


@triton.jit
def _where(condition, x, y):
    out = ()
    for i in tl.static_range(5):
        out = out + (tl.where(condition, x[i], y[i]),)
    return out


@triton.jit
def _plus(x, y):
    out = ()
    for i in tl.static_range(5):
        out = out + (x[i] + y[i],)
    return out


@triton.jit
def _carried(d):
    """Limbs below 2**26, the second below 2**26 + 2**14, of the same value modulo p; d's are below
    2**63.5."""
    d0, d1, d2, d3, d4 = d
    # Two chains of carries, each half as long.
    d1 += d0 >> 26
    d4 += d3 >> 26
    d0 &= _MASK
    d3 &= _MASK
    d2 += d1 >> 26
    d0 += (d4 >> 26) * 5
    d1 &= _MASK
    d4 &= _MASK
    d3 += d2 >> 26
    d1 += d0 >> 26
    d2 &= _MASK
    d0 &= _MASK
    d4 += d3 >> 26
    d3 &= _MASK
    d0 += (d4 >> 26) * 5
    d4 &= _MASK
    d1 += d0 >> 26
    d0 &= _MASK
    return d0, d1 & _WORD, d2, d3, d4


@triton.jit
def _multiply(x, y):
    return _carried(_times(x, y))


@triton.jit
def _reduced(h):
    """The limbs of h modulo p, from 0 to p - 1; h's are below 2**62."""
    h = _carried(h)
    h0, h1, h2, h3, h4 = h
    for _ in tl.static_range(2):
        h2 += h1 >> 26
        h1 &= _MASK
        h3 += h2 >> 26
        h2 &= _MASK
        h4 += h3 >> 26
        h3 &= _MASK
        h0 += (h4 >> 26) * 5
        h4 &= _MASK
        h1 += h0 >> 26
        h0 &= _MASK
    # h - p is h + 5 without its bit of 2**130, which tells whether there was a p.
    g0 = h0 + 5
    g1 = h1 + (g0 >> 26)
    g2 = h2 + (g1 >> 26)
    g3 = h3 + (g2 >> 26)
    g4 = h4 + (g3 >> 26)
    return _where(
        g4 >> 26 != 0, (g0 & _MASK, g1 & _MASK, g2 & _MASK, g3 & _MASK, g4 & _MASK), (h0, h1, h2, h3, h4)
    )


@triton.jit
def _halves(h):
    """The low 128 bits of reduced limbs as uint64 halves."""
    low = h[0] | (h[1] << 26) | (h[2] << 52)
    high = (h[2] >> 12) | (h[3] << 14) | (h[4] << 40)
    return low, high


@triton.jit
def _load_limbs(pointer, step, mask):
    """Five limbs of 32 bits, ``step`` words from each to the next."""
    out = ()
    for i in tl.static_range(5):
        out = out + (tl.load(pointer + i * step, mask=mask, other=0).to(tl.uint64),)
    return out


@triton.jit
def _load_power(power_ptr, k):
    """r**(2**k) of one key, a scalar a limb."""
    out = ()
    for i in tl.static_range(5):
        out = out + (tl.load(power_ptr + (5 * k + i)).to(tl.uint64),)
    return out


@triton.jit
def _store_limbs(pointer, step, h, mask):
    for i in tl.static_range(5):
        tl.store(pointer + i * step, h[i].to(tl.uint32), mask=mask)


@triton.jit
def _add(x, y):
    return x + y


@triton.jit
def _pad_one(word, i, remaining, total, last, padding, WORDS: tl.constexpr):
    """The one behind a block that is not whole."""
    here = (remaining >= 0) & (remaining < 4) & last
    one = tl.full((), 1, tl.uint32) << (tl.where(here, remaining, 0) * 8).to(tl.uint32)
    return tl.where(here, word | one, word)


@triton.jit
def _block_limbs(words):
    low = words[0].to(tl.uint64) | (words[1].to(tl.uint64) << 32)
    high = words[2].to(tl.uint64) | (words[3].to(tl.uint64) << 32)
    return _limbs(low, high)


@triton.jit(do_not_specialize=["count", "stride", "bits", "row_bits", "items", "words"])
def poly1305_powers(
    key_ptr,
    power_ptr,
    count: tl.int64,
    stride: tl.int64,
    bits: tl.int64,
    row_bits: tl.int64,
    items: tl.int64,
    words: tl.int64,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """What is made of ``count`` keys, a row of numbers of five limbs for each at ``power_ptr``, uint32
    ``[count, bits + items * (words + 1), 5]``: first r**(2**k) for k below ``bits``.

    Behind them are the factors of ``poly1305_parts``: where R is r**(2**row_bits), for R**(items - 1), ...,
    R, 1 each that number times 2**(32 * w) for w below ``words``, and times 2**128.

    ``key_ptr`` is uint32 words; a key's r is the first four of ``stride``, not yet clamped.
    """
    lane = tl.program_id(0).to(tl.int64) * BLOCK_MSGS + tl.arange(0, BLOCK_MSGS)
    valid = lane < count
    key = ()
    for i in tl.static_range(4):
        key = key + (tl.load(key_ptr + (lane * stride + i), mask=valid, other=0),)
    h = _clamped(key)
    row = h
    pointer = power_ptr + lane * ((bits + items * (words + 1)) * 5)
    for k in range(bits):
        _store_limbs(pointer + k * 5, 1, h, valid)
        row = _where(valid & (k == row_bits), h, row)
        h = _multiply(h, h)
    zero = tl.full((BLOCK_MSGS,), 0, tl.uint64)
    h = (zero + 1, zero, zero, zero, zero)
    for i in range(items):
        place = pointer + (bits + (items - 1 - i) * (words + 1)) * 5
        x = h
        for w in range(words):
            _store_limbs(place + w * 5, 1, x, valid)
            x = _multiply(x, (zero, zero + 64, zero, zero, zero))
        x = _multiply(h, (zero, zero, zero, zero, zero + _ONE))
        _store_limbs(place + words * 5, 1, x, valid)
        h = _multiply(h, row)


@triton.jit(do_not_specialize=["address", "count", "stride", "length", "total", "key_stride", "results"])
def poly1305_messages(
    table_ptr,
    key_ptr,
    out_ptr,
    address: tl.int64,
    count: tl.int64,
    stride: tl.int64,
    length: tl.int64,
    total: tl.int64,
    key_stride: tl.int64,
    results: tl.int64,
    TABLE: tl.constexpr,
    ALIGN: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """The values of ``count`` messages, one a lane: uint64 ``[5, results]`` at ``out_ptr``.

    With TABLE, ``table_ptr`` is int64 ``[3, count]``: each message's address, its length in bytes, and the
    row of its result, sorted by descending length. Otherwise message i starts at ``address + i * stride``
    and is ``length`` bytes long, or as many as are left of ``total``. Message i has the key of ``key_stride
    * i`` words behind ``key_ptr``.
    """
    valid, message, size, row, longest, shortest = messages_of_lanes(
        table_ptr, address, count, stride, length, total, TABLE, BLOCK_MSGS
    )
    words = ()
    for i in tl.static_range(4):
        words = words + (tl.load(key_ptr + (row * key_stride + i), mask=valid, other=0),)
    r = _clamped(words)
    zero = tl.full((BLOCK_MSGS,), 0, tl.uint64)
    h = (zero, zero, zero, zero, zero)
    whole = shortest // BLOCK_BYTES
    for n in range((longest + (BLOCK_BYTES - 1)) // BLOCK_BYTES):
        done = (tl.full((), 0, tl.int64) + n) * BLOCK_BYTES
        left = tl.minimum(tl.maximum(size - done, 0), 16).to(tl.int32)
        words = load_block(message, done // 4, left, valid, 4, ALIGN, VECTOR)
        one = zero | _ONE
        if n >= whole:
            words = end_block(words, left, left, (left > 0) & (left < 16), 0, _pad_one, 4)
            one = tl.where(left >= 16, one, 0)
        c = _block_limbs(words)
        new = _multiply(_plus(h, (c[0], c[1], c[2], c[3], c[4] + one)), r)
        h = _where(left > 0, new, h)
    for i in tl.static_range(5):
        tl.store(out_ptr + (i * results + row), h[i], mask=valid)


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
        out = (pair & _WORD, pair >> 32)
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
    words = end_block(words, left, left, ends, 0, _pad_one, WORDS)
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


@triton.jit(
    do_not_specialize=[
        "address",
        "count",
        "stride",
        "length",
        "total",
        "parts",
        "per_row",
        "part_bits",
        "power_stride",
        "bits",
    ]
)
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
        ahead = _load_power(powers, ROW_BITS + ITEM_BITS)
        factors = ()
        for i in tl.static_range(ITEMS * (WORDS + 1)):
            factors = factors + _load_power(powers, bits + i)
        # All items' ones together, which one of the lanes that share a block adds.
        ones = factors[5 * WORDS : 5 * WORDS + 5]
        for i in tl.static_range(ITEMS - 1):
            ones = _plus(ones, factors[5 * (WORDS + 1) * (i + 2) - 5 : 5 * (WORDS + 1) * (i + 2)])
        first_half = place % (4 // WORDS) == 0
        zero = tl.full((LANES,), 0, tl.uint64)
        ones = _where(first_half, ones, (zero, zero, zero, zero, zero))
        h = (zero, zero, zero, zero, zero)
        for m in range(tl.maximum(-start, 0) // STEP, part // STEP):
            n = (tl.full((), 0, tl.int64) + m) * (ITEMS * LANES)
            block = start + m * STEP
            d = _times(h, ahead)
            if (block < 0) | ((block + STEP) * BLOCK_BYTES > size):
                d = _edge_step(
                    d, factors, base, n, place, start * BLOCK_BYTES, size, ITEMS, WORDS, ALIGN, VECTOR
                )
            else:
                d = _whole_step(_plus(d, ones), factors, base, n, place, ITEMS, WORDS, ALIGN, VECTOR)
            h = _carried(d)
        if WORDS == 2:
            # Second halves are 2**64 times what they were taken for.
            h = _where(first_half, h, _multiply(h, (zero, zero, zero + (1 << 12), zero, zero)))
        # A lane's last block is this many before the part's last.
        behind = (1 << ROW_BITS) - 1 - place // (4 // WORDS)
        h = _multiply(h, _load_power(powers, 0))
        for i in tl.static_range(ROW_BITS):
            h = _where((behind >> i) & 1 != 0, _multiply(h, _load_power(powers, i)), h)
        sums = ()
        for i in tl.static_range(5):
            sums = sums + (tl.reduce(h[i], 0, _add),)
        sums = _carried(sums)
        for i in tl.static_range(5):
            tl.store(values_ptr + (i * parts + number), sums[i].to(tl.uint32))


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
        h = _where((m >> k) & 1 != 0, _multiply(h, _load_power(power_ptr, k)), h)
    h = _reduced(h)
    low, high = _halves(h)
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
    r = _load_power(power_ptr, 0)
    zero = tl.full((BLOCK_MSGS,), 0, tl.uint64)
    sums = (zero, zero, zero, zero, zero)
    power = (zero + 1, zero, zero, zero, zero)
    # r + r**2 + ... + r**m and r**m, for m of one bit of the lane's number after the other.
    for k in range(ROW_BITS - 3):
        sums = _carried(_plus(_times(sums, power), sums))
        power = _multiply(power, power)
        odd = (lane >> (ROW_BITS - 4 - k)) & 1 != 0
        sums = _where(odd, _carried(_plus(_times(sums, r), r)), sums)
        power = _where(odd, _multiply(power, r), power)
    beyond = ()
    for i in tl.static_range(5):
        beyond = beyond + (zero + _BLOCK_OFFSET[i],)
    offset = _multiply(sums, beyond)
    one = _multiply((zero, zero, zero, zero, zero + _ONE), r)
    less = ()
    for i in tl.static_range(5):
        less = less + (zero + _LARGE[i] - one[i],)
    offset = _where(lane == BLOCKS + 1, _carried(less), offset)
    _store_limbs(offsets_ptr + lane, ENTRIES, offset, lane < ENTRIES)


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


@triton.jit(do_not_specialize=["address", "count", "stride", "length", "total", "parts", "per_row"])
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
    if tl.reduce(cut.to(tl.int32), 0, _add) == 0:
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


@triton.jit(
    do_not_specialize=[
        "count",
        "stride",
        "length",
        "total",
        "parts",
        "per_row",
        "part_bits",
        "power_stride",
        "most_bits",
        "results",
    ]
)
def poly1305_sum(
    table_ptr,
    power_ptr,
    values_ptr,
    offsets_ptr,
    out_ptr,
    count: tl.int64,
    stride: tl.int64,
    length: tl.int64,
    total: tl.int64,
    parts: tl.int64,
    per_row: tl.int64,
    part_bits: tl.int64,
    power_stride: tl.int64,
    most_bits: tl.int64,
    results: tl.int64,
    MATRIX: tl.constexpr,
    TABLE: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """Add every part's value, a part a lane, to its message's: uint64 ``[5, results]`` at ``out_ptr``, which
    starts as zeros. Of ``values_ptr`` and ``offsets_ptr``, with MATRIX they are what ``poly1305_rows`` and
    ``poly1305_offsets`` store, without the first is what ``poly1305_parts`` stores. The number of parts of no
    message has more than ``most_bits`` bits; the other arguments are those of ``poly1305_parts``."""
    first = tl.program_id(0).to(tl.int64) * BLOCK_MSGS
    lane = first + tl.arange(0, BLOCK_MSGS)
    number = tl.minimum(lane, parts - 1)
    final = tl.minimum(first + BLOCK_MSGS, parts) - 1
    message, index = message_of_piece(table_ptr, number, count, per_row, 2, TABLE)
    first_message, _ = message_of_piece(table_ptr, first, count, per_row, 2, TABLE)
    final_message, _ = message_of_piece(table_ptr, final, count, per_row, 2, TABLE)
    _, size = locate_message(table_ptr, message, 0, count, stride, length, total, TABLE)
    row = tl.load(table_ptr + 3 * count + message) if TABLE else message
    part = tl.full((), 1, tl.int64) << part_bits
    blocks = (size + 15) // 16
    own = tl.maximum((blocks + part - 1) >> part_bits, 1)
    valid = (lane < parts) & (index < own)
    if MATRIX:
        pointer = values_ptr + number * COLUMNS
        zero = (number * 0).to(tl.int64)
        d = (zero, zero, zero, zero, zero)
        for j in tl.static_range(DIGITS):
            x = tl.load(pointer + j, mask=valid, other=0).to(tl.int64) << (8 * j % 26)
            if 8 * j // 26 == 0:
                d = (d[0] + x, d[1], d[2], d[3], d[4])
            elif 8 * j // 26 == 1:
                d = (d[0], d[1] + x, d[2], d[3], d[4])
            elif 8 * j // 26 == 2:
                d = (d[0], d[1], d[2] + x, d[3], d[4])
            elif 8 * j // 26 == 3:
                d = (d[0], d[1], d[2], d[3] + x, d[4])
            else:
                d = (d[0], d[1], d[2], d[3], d[4] + x)
        entries = part + 2
        here = tl.where(index == 0, blocks - (own - 1) * part, part)
        offset = _load_limbs(offsets_ptr + here, entries, valid)
        short = valid & (index == own - 1) & (size & 15 != 0)
        less = _load_limbs(offsets_ptr + (here * 0 + (part + 1)), entries, short)
        h = ()
        for i in tl.static_range(5):
            h = h + ((d[i] + _LARGE[i]).to(tl.uint64) + offset[i] + less[i],)
        h = _carried(h)
    else:
        h = _load_limbs(values_ptr + number, parts, valid)
    after = own - 1 - index
    powers = power_ptr + (row * power_stride + 5 * part_bits)
    for k in range(most_bits):
        h = _where((after >> k) & 1 != 0, _multiply(h, _load_limbs(powers + 5 * k, 1, valid)), h)
    if first_message == final_message:
        place = tl.load(table_ptr + 3 * count + first_message) if TABLE else first_message
        for i in tl.static_range(5):
            s = tl.reduce(tl.where(valid, h[i], 0), 0, _add)
            tl.atomic_add(out_ptr + (i * results + place), s, sem="relaxed")
    else:
        for i in tl.static_range(5):
            tl.atomic_add(out_ptr + (i * results + row), h[i], mask=valid, sem="relaxed")


@triton.jit(do_not_specialize=["count", "pad_stride", "blocks", "bits"])
def poly1305_finish(
    values_ptr,
    power_ptr,
    start_ptr,
    pad_ptr,
    out_ptr,
    count: tl.int64,
    pad_stride: tl.int64,
    blocks: tl.int64,
    bits: tl.int64,
    FINAL: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """From the values of ``count`` messages, uint64 ``[5, count]``, their tags, uint32 ``[count, 4]``, one a
    lane.

    Added to each are ``start_ptr``, uint64 ``[5]``, times r**blocks, of which the number has no more than
    ``bits`` bits, and s, four words at ``pad_ptr``, ``pad_stride`` words from one message's to the next's.
    Without FINAL there is no s, and values are stored, uint64 ``[5, count]``, with carries made.
    """
    lane = tl.program_id(0).to(tl.int64) * BLOCK_MSGS + tl.arange(0, BLOCK_MSGS)
    valid = lane < count
    begun = ()
    for i in tl.static_range(5):
        begun = begun + (tl.load(start_ptr + i),)
    for k in range(bits):
        begun = _where((blocks >> k) & 1 != 0, _multiply(begun, _load_power(power_ptr, k)), begun)
    h = ()
    for i in tl.static_range(5):
        h = h + (tl.load(values_ptr + (i * count + lane), mask=valid, other=0) + begun[i],)
    if FINAL:
        low, high = _halves(_reduced(h))
        pad = ()
        for i in tl.static_range(4):
            pad = pad + (tl.load(pad_ptr + (lane * pad_stride + i), mask=valid, other=0).to(tl.uint64),)
        pad_low = pad[0] | (pad[1] << 32)
        low += pad_low
        high += (pad[2] | (pad[3] << 32)) + (low < pad_low).to(tl.uint64)
        words = (
            (low & 0xFFFFFFFF).to(tl.uint32),
            (low >> 32).to(tl.uint32),
            (high & 0xFFFFFFFF).to(tl.uint32),
            (high >> 32).to(tl.uint32),
        )
        store_words(out_ptr + lane * 4, words, valid, 4, VECTOR)
    else:
        h = _carried(h)
        for i in tl.static_range(5):
            tl.store(out_ptr + (i * count + lane), h[i], mask=valid)
