"""Cyclic redundancy checks of 32 and 64 bits, reflected, over batches of messages of any length.

A message is a polynomial over GF(2), its first bit the coefficient of the highest power of x, and the
check M(x) * x**WIDTH mod P(x). Over GF(2), P(x)**(2**k) = P(x**(2**k)): so P is also a multiple of
what it is with x replaced by y = x**(32 * S), S a power of two, and the words at a distance of S words
can be reduced with P's own taps, a whole word a tap, without tables and without multiplications:

    b[j] = w[j] ^ (XOR of b[j - d] for every tap d of P),   d = WIDTH - k for a term x**k of P

``crc_fold`` has LANES lanes take turns at the words of a chunk (S = LANES), so that their loads are
neighbours, and leaves of a long chunk WIDTH * LANES words with the same remainder. ``crc_finish``
reduces such rows, or short messages themselves, with a lane for each (S = 1), multiplies each remainder by
x to the number of bits behind it and adds it, by exclusive or, to its message's check.
"""

import triton
import triton.language as tl

from .batch import end_block, load_block, locate_message, message_of_piece
from .bits import bswap32
from .jit import kernel
from .padding import pad_zeros

# Words that a lane loads at once. More compile slowly: the compiler's time goes with loads times operations.
FOLD_WORDS = tl.constexpr(16)
FINISH_WORDS = tl.constexpr(8)
_ONES = tl.constexpr(0xFFFFFFFF)


@triton.jit
def _fold_block(state, words, REFLECTED: tl.constexpr, WIDTH: tl.constexpr, WORDS: tl.constexpr):
    """``state``, the last WIDTH values of b, moved on by WORDS words."""
    for m in tl.static_range(WORDS):
        x = words[m]
        for e in tl.static_range(WIDTH):
            if (REFLECTED >> (WIDTH - 1 - e)) & 1:
                x = x ^ state[e]
        state = state[1:] + (x,)
    return state


@triton.jit
def _fold_end(state, REFLECTED: tl.constexpr, WIDTH: tl.constexpr):
    """The WIDTH words that are left of all words so far, multiplied by y**WIDTH."""
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
    """A word of WIDTH with all bits like ``bit``, a word that is 0 or 1."""
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
    """``a * b`` mod P of reflected polynomials."""
    product = a ^ a
    for _ in range(WIDTH):
        # From b's highest power, its lowest bit, down.
        product = _times_x(product, REFLECTED, WIDTH) ^ (a & _spread(b & 1, WIDTH))
        b = b >> 1
    return product


@triton.jit
def _start_words(start_ptr, WIDTH: tl.constexpr):
    """What the register holds before the first message byte, xored into as many bytes of the message: its
    words from the low end up, from the check at ``start_ptr`` of what came before."""
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
    """Of every chunk of ``count`` messages a row at ``rows_ptr``, uint32 ``[chunks, WIDTH, LANES]``: words
    of the same remainder as the chunk's, multiplied by x**(32 * WIDTH * LANES). A chunk a program.

    A unit is WIDTH * LANES words. Chunks are of ``1 << chunk_bits`` bytes, at least a unit, and the last ends
    with the last whole unit of its message; the first may be shorter. What is behind that is left out.
    The other arguments are those of ``crc_finish``; ``per_row`` counts the chunks of a batch row.
    """
    # Scalars but for a lane's place: the loads of a program are seen to be of neighbours.
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
        base = base + place * 0  # the interpreter masks nothing by what a scalar address says

    if index < own:
        state = ()
        for _ in tl.static_range(WIDTH):
            state = state + (tl.full((LANES,), 0, tl.uint32),)
        # A first chunk may be short.
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
    """Xor the checks of ``count`` messages into ``out_ptr``, uint32 ``[count, WIDTH // 32]``, big-endian
    bytes that start as zeros. One piece of a message a lane.

    A message is its whole units of ``unit = 1 << unit_bits`` bytes, cut into chunks of ``1 << chunk_bits``
    bytes, and what is left, if anything; an empty message is an empty piece. Without FOLDED unit and chunk
    are equal. With it they are those of ``crc_fold``, and of a chunk its row is read, at address ``rows``.

    With TABLE, ``table_ptr`` is int64 ``[4, count]``: each message's address, length in bytes, first piece
    and first chunk. Otherwise message i starts at ``address + i * stride``, is ``length`` bytes long, or as
    many as are left of ``total``, and has ``per_row`` pieces, of them ``chunks_per_row`` chunks; a shorter
    one has fewer. ``pieces`` is the number of all, ``blocks`` that of blocks of FINISH_WORDS words in the
    longest.

    ``start_ptr``, like a row of ``out_ptr``, is the check of what came before a message, zeros if nothing.
    ``powers_ptr`` is ``[16, 16]`` words of WIDTH: at ``[k, d]`` x**(8 * d * 16**k), in row 0 times
    x**(-8 * (4 * WIDTH + unit)), with FOLDED x**(-8 * (4 * WIDTH + 2 * unit)). ``digits`` is how many
    hexadecimal digits a message's length needs with ``2 * unit`` added to it.
    REFLECTED is P without its highest term, x**0 in the highest bit.
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

    # The remainder of WIDTH words, bit by bit.
    words = _fold_end(state, REFLECTED, WIDTH)
    VALUE: tl.constexpr = tl.uint64 if WIDTH == 64 else tl.uint32
    check = tl.full((BLOCK_MSGS,), 0, VALUE)
    for _ in range(WIDTH):
        check = check ^ words[0].to(VALUE)
        for _ in range(32):
            check = _times_x(check, REFLECTED, WIDTH)
        words = words[1:] + (words[0],)

    # Never negative: row 0 divides by more than the reductions and the zeros behind a piece multiplied by.
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
