"""Reflected cyclic redundancy checks of 32 and 64 bits over batches of messages of any length.

A message is a polynomial M over GF(2), whose first bit is the coefficient of the highest power of x. Its
check is M(x) * x**WIDTH mod P(x). Over GF(2), P(x)**(2**k) = P(x**(2**k)). So P(y) with y = x**(32 * S),
where S is a power of two, is a multiple of P(x). Reducing modulo P(y) therefore keeps the remainder, and it
works on whole words, S words apart, with the taps of P itself, without tables and without multiplications:

    b[j] = w[j] ^ (XOR of b[j - d] for every tap d of P),   d = WIDTH - k for a term x**k of P

In ``crc_fold``, LANES lanes take the words of a chunk in turn (S = LANES), so that neighbouring lanes load
neighbouring words. A long chunk is reduced to WIDTH * LANES words with the same remainder. ``crc_finish``
reduces these rows, or short messages as they are, with one lane for each (S = 1). It multiplies each
remainder by x**n, where n is the number of message bits after it, and adds it to the check of its message by
exclusive or.
"""

import triton
import triton.language as tl

from .batch import end_block, load_block, locate_message, message_of_piece
from .bits import bswap32
from .jit import kernel
from .padding import pad_zeros

# How many words a lane loads before it uses them. More would compile slowly, because the time of the compiler
# grows with the number of loads times the number of operations.
FOLD_WORDS = tl.constexpr(16)
FINISH_WORDS = tl.constexpr(8)
_ONES = tl.constexpr(0xFFFFFFFF)


@triton.jit
def _fold_block(state, words, REFLECTED: tl.constexpr, WIDTH: tl.constexpr, WORDS: tl.constexpr):
    """The last WIDTH values of b after WORDS more words; ``state`` holds those before."""
    for m in tl.static_range(WORDS):
        x = words[m]
        for e in tl.static_range(WIDTH):
            if (REFLECTED >> (WIDTH - 1 - e)) & 1:
                x = x ^ state[e]
        state = state[1:] + (x,)
    return state


@triton.jit
def _fold_end(state, REFLECTED: tl.constexpr, WIDTH: tl.constexpr):
    """The remainder of all words so far modulo P(y), WIDTH words, multiplied by y**WIDTH."""
    out = ()
    for m in tl.static_range(WIDTH):
        x = state[m] ^ state[m]
        for e in tl.static_range(WIDTH - m):
            if (REFLECTED >> (WIDTH - 1 - e)) & 1:
                x = x ^ state[m + e]
        out = out + (x,)
    return out


@triton.jit
def _spread(bit, WIDTH: tl.constexpr):
    """A word of WIDTH bits, all of which are equal to ``bit``, a word that is 0 or 1."""
    if WIDTH == 64:
        out = ((bit << 63).to(tl.int64, bitcast=True) >> 63).to(tl.uint64, bitcast=True)
    else:
        out = ((bit << 31).to(tl.int32, bitcast=True) >> 31).to(tl.uint32, bitcast=True)
    return out


@triton.jit
def _times_x(v, REFLECTED: tl.constexpr, WIDTH: tl.constexpr):
    return (v >> 1) ^ (_spread(v & 1, WIDTH) & tl.full((), REFLECTED, v.dtype))


@triton.jit
def _multiply(a, b, REFLECTED: tl.constexpr, WIDTH: tl.constexpr):
    """``a * b`` mod P, where all polynomials are reflected."""
    product = a ^ a
    for _ in range(WIDTH):
        # The lowest bit of b is the coefficient of its highest power. Powers are taken in descending order.
        product = _times_x(product, REFLECTED, WIDTH) ^ (a & _spread(b & 1, WIDTH))
        b = b >> 1
    return product


@triton.jit
def _start_words(start_ptr, WIDTH: tl.constexpr):
    """The value of the register before the first byte of a message, which is xored into the first words of
    the message. ``start_ptr`` holds the check of the bytes before the message. Returns the lower word
    first."""
    low = bswap32(tl.load(start_ptr + (WIDTH // 32 - 1))) ^ _ONES
    if WIDTH == 64:
        high = bswap32(tl.load(start_ptr)) ^ _ONES
    else:
        high = low ^ low
    return low, high


@kernel
def crc_fold(
    table_ptr,
    start_ptr,
    rows_ptr,
    address: tl.int64,
    count: tl.int64,
    stride: tl.int64,
    length: tl.int64,
    total: tl.int64,
    per_row: tl.int64,
    chunk_bits: tl.int64,
    REFLECTED: tl.constexpr,
    WIDTH: tl.constexpr,
    LANES: tl.constexpr,
    TABLE: tl.constexpr,
    ALIGN: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """Reduce every chunk of ``count`` messages to a row of words, one chunk per program.

    ``rows_ptr`` receives uint32 ``[chunks, WIDTH, LANES]``. The words of a row have the same remainder as the
    chunk multiplied by x**(32 * WIDTH * LANES).

    A unit is WIDTH * LANES words. A chunk has ``1 << chunk_bits`` bytes, at least a unit. The last chunk ends
    with the last whole unit of its message, and the first may be shorter. Bytes after the last whole unit
    belong to no chunk. Without TABLE, each message has ``per_row`` chunks. The other arguments are those of
    ``crc_finish``.
    """
    # Addresses are scalars plus the lane's number, so that the compiler sees that lanes load neighbours.
    tl.static_assert(BLOCK_MSGS == LANES)
    UNIT_BYTES: tl.constexpr = 4 * WIDTH * LANES
    BLOCK_WORDS: tl.constexpr = FOLD_WORDS * LANES
    chunk = tl.full((), 1, tl.int64) << chunk_bits
    row = tl.program_id(0).to(tl.int64)
    message, index = message_of_piece(table_ptr, row, count, per_row, 3, TABLE)
    begin, size = locate_message(table_ptr, message, address, count, stride, length, total, TABLE)
    body = size // UNIT_BYTES * UNIT_BYTES
    own = (body + chunk - 1) >> chunk_bits
    offset = body - (own - index) * chunk
    place = tl.arange(0, LANES)
    low, high = _start_words(start_ptr, WIDTH)
    start = tl.where(place == 0, low, tl.where(place == 1, high, 0))
    start = tl.where(index == 0, start, 0)
    everywhere = place >= 0
    left = 4 * BLOCK_WORDS - 4 * place
    base = begin + offset
    if ALIGN < 4:
        base = base + place * 0  # a tile, because the interpreter does not mask loads by a scalar

    if index < own:
        state = ()
        for _ in tl.static_range(WIDTH):
            state = state + (tl.full((LANES,), 0, tl.uint32),)
        # The first chunk may be shorter than the others.
        skipped = tl.maximum(-offset, 0) // (4 * BLOCK_WORDS)
        for n in range(skipped, chunk // (4 * BLOCK_WORDS)):
            word = tl.full((), 0, tl.int64) + n * BLOCK_WORDS + place
            if ALIGN >= 4:
                pointer = base.to(tl.pointer_type(tl.uint32)) + n * BLOCK_WORDS + place
                words = ()
                for m in tl.static_range(FOLD_WORDS):
                    words = words + (tl.load(pointer + m * LANES),)
            else:
                words = load_block(base, word, left, everywhere, FOLD_WORDS, ALIGN, VECTOR, STEP=LANES)
            words = (words[0] ^ tl.where(n == skipped, start, 0),) + words[1:]
            state = _fold_block(state, words, REFLECTED, WIDTH, FOLD_WORDS)
        out = _fold_end(state, REFLECTED, WIDTH)
        pointer = rows_ptr + row * (WIDTH * LANES) + place
        for m in tl.static_range(WIDTH):
            tl.store(pointer + m * LANES, out[m])


@kernel
def crc_finish(
    table_ptr,
    start_ptr,
    powers_ptr,
    out_ptr,
    address: tl.int64,
    rows: tl.int64,
    count: tl.int64,
    stride: tl.int64,
    length: tl.int64,
    total: tl.int64,
    pieces: tl.int64,
    per_row: tl.int64,
    chunks_per_row: tl.int64,
    chunk_bits: tl.int64,
    unit_bits: tl.int64,
    blocks: tl.int64,
    digits: tl.int64,
    REFLECTED: tl.constexpr,
    WIDTH: tl.constexpr,
    TABLE: tl.constexpr,
    FOLDED: tl.constexpr,
    ALIGN: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """Xor the checks of ``count`` messages into ``out_ptr``, one piece of a message per lane.

    ``out_ptr`` is uint32 ``[count, WIDTH // 32]``, zeros at first; its bytes are big-endian checks.

    The pieces of a message are its chunks, and after them a rest. Chunks have ``1 << chunk_bits`` bytes and
    cover the whole units of ``unit = 1 << unit_bits`` bytes; the rest is what is left, if anything. An empty
    message has one empty piece. Without FOLDED, a chunk is a unit. With FOLDED, chunks and units are those of
    ``crc_fold``, and instead of a chunk its row is read, from the address ``rows`` on.

    With TABLE, ``table_ptr`` is int64 ``[4, count]``: the address, the length in bytes, the number of the
    first piece and the number of the first chunk of each message. Without TABLE, message i starts at
    ``address + i * stride`` and has ``per_row`` pieces, ``chunks_per_row`` of which are chunks; a shorter one
    has fewer. It has ``length`` bytes, or the rest of ``total`` bytes if that is less. ``pieces`` is the
    number of pieces of all messages, and ``blocks`` the number of blocks of FINISH_WORDS words in the longest
    piece.

    ``start_ptr`` has the form of a row of ``out_ptr`` and is the check of the bytes before each message, or
    zeros if there are none. ``powers_ptr`` is ``[16, 16]`` words of WIDTH bits: x**(8 * d * 16**k) at
    ``[k, d]``. Row 0 is multiplied by x**(-8 * (4 * WIDTH + unit)), or with FOLDED by x**(-8 * (4 * WIDTH + 2
    * unit)). ``digits`` is the number of hexadecimal digits of the greatest length plus ``2 * unit``.
    REFLECTED is P without its highest term, with x**0 in the highest bit.
    """
    chunk = tl.full((), 1, tl.int64) << chunk_bits
    unit = tl.full((), 1, tl.int64) << unit_bits
    lane = tl.program_id(0).to(tl.int64) * BLOCK_MSGS + tl.arange(0, BLOCK_MSGS)
    piece = tl.minimum(lane, pieces - 1)
    message, index = message_of_piece(table_ptr, piece, count, per_row, 2, TABLE)
    begin, size = locate_message(table_ptr, message, address, count, stride, length, total, TABLE)
    body = size >> unit_bits << unit_bits
    own = (body + chunk - 1) >> chunk_bits
    valid = (lane < pieces) & (index < tl.maximum(own + (size > body).to(tl.int64), 1))
    whole = index < own
    if FOLDED:
        first_row = tl.load(table_ptr + 3 * count + message) if TABLE else message * chunks_per_row
        begin = tl.where(whole, rows + (first_row + index) * unit, begin + body)
        piece_size = tl.where(whole, unit, size - body)
        after = tl.where(whole, (own - 1 - index) * chunk + size - body, unit)
        fresh = (index == 0) & (own == 0)
    else:
        begin = begin + index * chunk
        piece_size = tl.where(whole, chunk, size - body)
        after = tl.where(whole, size - (index + 1) * chunk, 0)
        fresh = index == 0
    low, high = _start_words(start_ptr, WIDTH)

    state = ()
    for _ in tl.static_range(WIDTH):
        state = state + (tl.full((BLOCK_MSGS,), 0, tl.uint32),)
    for n in range(blocks):
        word = tl.full((), 0, tl.int64) + n * FINISH_WORDS
        left = tl.minimum(tl.maximum(piece_size - word * 4, -4), 4 * FINISH_WORDS).to(tl.int32)
        words = load_block(begin, word, left, valid, FINISH_WORDS, ALIGN, VECTOR)
        words = end_block(words, left, left, left < 0, 0, pad_zeros, FINISH_WORDS)
        starts = fresh & (n == 0)
        words = (words[0] ^ tl.where(starts, low, 0), words[1] ^ tl.where(starts, high, 0)) + words[2:]
        state = _fold_block(state, words, REFLECTED, WIDTH, FINISH_WORDS)

    # The WIDTH words are reduced to the check bit by bit.
    words = _fold_end(state, REFLECTED, WIDTH)
    VALUE: tl.constexpr = tl.uint64 if WIDTH == 64 else tl.uint32
    check = tl.full((BLOCK_MSGS,), 0, VALUE)
    for _ in range(WIDTH):
        check = check ^ words[0].to(VALUE)
        for _ in range(32):
            check = _times_x(check, REFLECTED, WIDTH)
        words = words[1:] + (words[0],)

    # The exponent is never negative, because row 0 divides by more than the reductions, and the zeros after a
    # piece, have multiplied by.
    exponent = after + unit + piece_size - blocks * (4 * FINISH_WORDS)
    for k in range(digits):
        digit = (exponent >> (4 * k)) & 15
        power = tl.load(powers_ptr + (k * 16 + digit))
        check = _multiply(check, power, REFLECTED, WIDTH)

    inverted = tl.where(index == 0, _ONES, 0).to(tl.uint32)
    for i in tl.static_range(WIDTH // 32):
        part = (check >> (WIDTH - 32 * (i + 1))) & 0xFFFFFFFF
        tl.atomic_xor(
            out_ptr + (message * (WIDTH // 32) + i),
            bswap32(part.to(tl.uint32) ^ inverted),
            mask=valid,
            sem="relaxed",
        )
