"""The batch kernel, which feeds messages of any length and alignment to a block function, and its parts."""

import triton
import triton.language as tl

from .bits import columns, load_state, native_words, select, store_words, swap_words
from .jit import kernel


@triton.jit
def load_block(
    address,
    first_word,
    left,
    valid,
    BLOCK_WORDS: tl.constexpr,
    ALIGN: tl.constexpr,
    VECTOR: tl.constexpr,
    SHORT: tl.constexpr = False,
    STEP: tl.constexpr = 1,
):
    """One block of each lane's message as a tuple of ``BLOCK_WORDS`` uint32 tiles, raw little-endian words.

    address: int64 ``[lanes]``, the address where each message starts. first_word: int64 scalar, the offset of
    the block in the message, in words. left: int32 ``[lanes]``, the number of message bytes from the start of
    the block on, at most the size of the block; negative if the message ended before. valid: bool
    ``[lanes]``, whether the lane has a message. ALIGN: a power of two that divides every address. VECTOR: the
    number of words that one instruction loads. STEP: the distance between words of the block, in words; it
    may differ from 1 only if VECTOR is 1.

    Only aligned vectors that hold at least one byte of the message are read. A vector has VECTOR words if
    ALIGN allows it, else it is a single word. Bytes of such a vector that lie beyond the message are returned
    as they were read. With SHORT, vectors after ``left`` are zeros, because the message may continue after
    the end of the block. With VECTOR of 2, ``first_word`` is even.
    """
    if (VECTOR == 2 and ALIGN < 8) and (STEP == 1 and BLOCK_WORDS % 2 == 0):
        out = _load_unaligned_pairs(address, first_word, left, valid, BLOCK_WORDS, SHORT)
    else:
        out = _load_vectors(address, first_word, left, valid, BLOCK_WORDS, ALIGN, VECTOR, SHORT, STEP)
    return out


@triton.jit
def load_whole_block(address, WORDS: tl.constexpr, WORD_BITS: tl.constexpr, BIG_ENDIAN: tl.constexpr):
    """``WORDS`` words of WORD_BITS, 32 or 64, of each lane, as a tuple of tiles in native order.

    address: int64 ``[lanes]``, where the words start. It may be any address, because ``aot/spirv.py`` makes
    of these loads some of 16 bytes that need no alignment. So this is only for targets whose VECTOR is 0.
    """
    pointer = address.to(tl.pointer_type(tl.uint32 if WORD_BITS == 32 else tl.uint64))
    out = ()
    for i in tl.static_range(WORDS):
        out = out + (tl.load(pointer + i),)
    if BIG_ENDIAN:
        out = swap_words(out, WORDS, WORD_BITS)
    return out


@triton.jit
def load_whole_pairs(address, size, WORDS: tl.constexpr):
    """``WORDS`` words of 64 bits of each lane, of which the first ``size`` bytes exist, as a tuple of tiles:
    zeros beyond them.

    address: int64 ``[lanes]``, where the words start. It may be any address, as for ``load_whole_block``.
    size: int64 scalar, a multiple of 8, from 16 to ``8 * WORDS``. Nothing beyond it is read: two words of
    which the second does not exist are loaded 8 bytes earlier, and others that do not exist from the end.
    """
    out = ()
    for g in tl.static_range((WORDS + 1) // 2):
        pointer = (address + tl.minimum(size - 16, 16 * g)).to(tl.pointer_type(tl.uint64))
        low = tl.load(pointer)
        high = tl.load(pointer + 1)
        # The size is the same for all lanes, so that these choices are made once for a vector.
        out = out + (tl.where(size >= 16 * g + 16, low, tl.where(size > 16 * g, high, 0)),)
        out = out + (tl.where(size >= 16 * g + 16, high, 0),)
    return out[:WORDS]


@triton.jit
def _load_vectors(
    address,
    first_word,
    left,
    valid,
    BLOCK_WORDS: tl.constexpr,
    ALIGN: tl.constexpr,
    VECTOR: tl.constexpr,
    SHORT: tl.constexpr,
    STEP: tl.constexpr,
):
    """``load_block`` with loads of single words, or of vectors where ALIGN allows them."""
    out = ()
    PAIRS: tl.constexpr = VECTOR == 2 and ALIGN >= 8
    # Pairs of words are faster only if they are loaded as 64-bit words.
    WIDTH: tl.constexpr = 1 if VECTOR == 2 and not PAIRS else VECTOR
    # If messages may start within a word, the aligned words that contain them are read. These are one more
    # than the block has; or two for each word of the block, if its words are not consecutive.
    WORDS: tl.constexpr = BLOCK_WORDS if ALIGN >= 4 else BLOCK_WORDS + 1 if STEP == 1 else 2 * BLOCK_WORDS
    skew = (address & 3).to(tl.int32)
    start = address if ALIGN >= 4 else address - skew
    for g in tl.static_range((WORDS + WIDTH - 1) // WIDTH):
        # Positions in this block are counted in words.
        if VECTOR <= 2:
            # Words that are not consecutive share no aligned word with each other.
            if ALIGN < 4 and STEP != 1:
                i = tl.full((), g // 2 * STEP + g % 2, tl.int32)
            else:
                i = tl.full((), g * WIDTH * STEP, tl.int32)
            base, end, off, mask = start, left, skew, valid
        else:
            i = (g * VECTOR + tl.arange(0, VECTOR))[None, :]
            base, end, off, mask = start[:, None], left[:, None], skew[:, None], valid[:, None]
        if PAIRS:
            # On devices that gather the loads of lanes one element at a time, this halves the elements.
            pointer = base.to(tl.pointer_type(tl.uint64)) + (first_word // 2 + g)
            pair = tl.load(pointer, mask=mask & (end > 8 * g), other=0)
            out = out + ((pair & 0xFFFFFFFF).to(tl.uint32), (pair >> 32).to(tl.uint32))
        else:
            # The compiler vectorizes loads if it sees a pointer of known alignment and consecutive elements.
            # An address that is computed as an integer would hide this.
            pointer = base.to(tl.pointer_type(tl.uint32))
            if ALIGN >= 16:
                pointer = tl.multiple_of(pointer, 16 if VECTOR <= 2 else (16, 16))
            # The mask is the same for a whole vector, because a mask that varies would split the load.
            if ALIGN >= 4 * VECTOR:
                mask = mask & (end > 4 * g * VECTOR)
            elif ALIGN >= 4:
                mask = mask & (end > 4 * i)
            elif STEP == 1 or g % 2 == 1:
                mask = mask & (end > 0) & (end + off > 4 * i)
            else:
                mask = mask & (end > 4 * i)
            out = out + columns(tl.load(pointer + (first_word + i), mask=mask, other=0), WIDTH)
    if ALIGN < 4:
        shift = (skew * 8).to(tl.uint32)
        PER: tl.constexpr = 1 if STEP == 1 else 2
        words = ()
        for k in tl.static_range(BLOCK_WORDS):
            # The left shift has two steps, because one shift by 32 would be undefined if the skew is 0.
            word = (out[k * PER] >> shift) | ((out[k * PER + 1] << 1) << (31 - shift))
            if SHORT:
                word = tl.where(left > 4 * k, word, 0)
            words = words + (word,)
        out = words
    return out[:BLOCK_WORDS]


@triton.jit
def _load_unaligned_pairs(address, first_word, left, valid, BLOCK_WORDS: tl.constexpr, SHORT: tl.constexpr):
    """``load_block`` of messages that may start within a 64-bit word, with half as many loads and shifts."""
    skew = (address & 7).to(tl.int32)
    pointer = (address - skew).to(tl.pointer_type(tl.uint64)) + first_word // 2
    shift = (skew * 8).to(tl.uint64)
    # A lane that has no byte in this block reads no word.
    end = tl.where(valid & (left > 0), left + skew, 0)
    words = ()
    low = tl.load(pointer, mask=end > 0, other=0)
    for k in tl.static_range(BLOCK_WORDS // 2):
        high = tl.load(pointer + (k + 1), mask=end > 8 * (k + 1), other=0)
        # The left shift has two steps, because one shift by 64 would be undefined if the skew is 0.
        pair = (low >> shift) | ((high << 1) << (63 - shift))
        if SHORT:
            pair = tl.where(left > 8 * k, pair, 0)
        words = words + ((pair & 0xFFFFFFFF).to(tl.uint32), (pair >> 32).to(tl.uint32))
        low = high
    return words


@triton.jit
def messages_of_lanes(
    table_ptr, address, count, stride, length, total, TABLE: tl.constexpr, BLOCK_MSGS: tl.constexpr
):
    """The messages of this program's lanes, one message per lane. The arguments are those of
    ``hash_messages``.

    Returns tiles ``[BLOCK_MSGS]``: whether the lane has a message (bool), and the message's address, length
    in bytes and result row (int64). Then int64 scalars: the greatest and the least of the lengths.
    """
    first = tl.program_id(0).to(tl.int64) * BLOCK_MSGS
    lane = first + tl.arange(0, BLOCK_MSGS)
    valid = lane < count
    final_lane = tl.minimum(first + BLOCK_MSGS, count) - 1
    if TABLE:
        message = tl.load(table_ptr + lane, mask=valid, other=0)
        size = tl.load(table_ptr + count + lane, mask=valid, other=0)
        row = tl.load(table_ptr + 2 * count + lane, mask=valid, other=0)
        longest = tl.load(table_ptr + count + first)
        shortest = tl.load(table_ptr + count + final_lane)
    else:
        message = address + lane * stride
        size = tl.where(valid, tl.minimum(length, total - lane * stride), 0)
        row = lane
        longest = tl.minimum(length, total - first * stride)
        shortest = tl.minimum(length, total - final_lane * stride)
    return valid, message, size, row, longest, shortest


@triton.jit
def find_message(prefix_ptr, place, low, high, level=None):
    """The last message in ``[low, high]`` that starts at or before each ``place``, found by binary search.

    place: an int64 scalar or tile. low, high: int64 scalars. Message i starts at ``prefix_ptr[i]``, int64
    values in ascending order. With ``level``, an integer scalar, it starts at
    ``(prefix_ptr[i] >> level) + i``.
    """
    found = place * 0 + low
    bound = place * 0 + high
    width = high - low
    while width > 0:
        middle = (found + bound + 1) // 2
        start = tl.load(prefix_ptr + middle)
        if level is not None:
            start = (start >> level) + middle
        found = tl.where(start <= place, middle, found)
        bound = tl.where(start <= place, bound, middle - 1)
        width = width // 2
    return found


@triton.jit
def message_of_piece(table_ptr, piece, count, per_row, FIRSTS: tl.constexpr, TABLE: tl.constexpr):
    """The number of the message that each piece belongs to, and the number of the piece within that message.

    ``count`` messages are cut into pieces, and ``piece``, an int64 scalar or tile, numbers them across all
    messages. With TABLE, row FIRSTS of ``table_ptr``, int64 ``[rows, count]``, has the number of each
    message's first piece. Otherwise each message has ``per_row`` pieces.
    """
    if TABLE:
        firsts_ptr = table_ptr + FIRSTS * count
        message = find_message(firsts_ptr, piece, tl.full((), 0, tl.int64), count - 1)
        index = piece - tl.load(firsts_ptr + message)
    else:
        message = piece // per_row
        index = piece - message * per_row
    return message, index


@triton.jit
def locate_message(table_ptr, message, address, count, stride, length, total, TABLE: tl.constexpr):
    """The address and the length in bytes of the messages numbered ``message``, int64, all of which exist.
    The other arguments are those of ``hash_messages``."""
    if TABLE:
        begin = tl.load(table_ptr + message)
        size = tl.load(table_ptr + count + message)
    else:
        begin = address + message * stride
        size = tl.minimum(length, total - message * stride)
    return begin, size


@triton.jit
def end_block(words, left, total, last, padding, PAD: tl.constexpr, BLOCK_WORDS: tl.constexpr):
    """Clear the bytes that ``load_block`` read beyond the end of each message, and pad.

    left: as for ``load_block``. total, last, padding, PAD: see ``padding.py``.
    """
    out = ()
    for i in tl.static_range(BLOCK_WORDS):
        remaining = left - 4 * i
        kept_bits = (tl.minimum(tl.maximum(remaining, 0), 3) * 8).to(tl.uint32)
        kept = (tl.full((), 1, tl.uint32) << kept_bits) - 1
        word = tl.where(remaining >= 4, words[i], words[i] & kept)
        out = out + (PAD(word, i, remaining, total, last, padding, BLOCK_WORDS),)
    return out


@kernel
def hash_messages(
    table_ptr,
    state_ptr,
    constants_ptr,
    out_ptr,
    address: tl.int64,
    count: tl.int64,
    stride: tl.int64,
    length: tl.int64,
    total: tl.int64,
    prefix: tl.int64,
    step: tl.int64,
    padding: tl.int64,
    minimum_padding: tl.int64,
    flags: tl.int64,
    BLOCK: tl.constexpr,
    PAD: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
    VARIABLE_BLOCK: tl.constexpr,
    WORD_BITS: tl.constexpr,
    STATE_WORDS: tl.constexpr,
    BIG_ENDIAN: tl.constexpr,
    TABLE: tl.constexpr,
    STATE_PER_MESSAGE: tl.constexpr,
    CONSTANTS_PER_MESSAGE: tl.constexpr,
    FINAL: tl.constexpr,
    ALIGN: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """Hash ``count`` messages, one message per lane. Words of the hash have WORD_BITS bits, 32 or 64.

    With TABLE, ``table_ptr`` is int64 ``[3, count]``: the address, the length in bytes and the result row of
    each message. The messages are sorted by descending length, so that the lanes of a program end at about
    the same time. Without TABLE, message i starts at ``address + i * stride`` and its result row is i. It has
    ``length`` bytes, or the rest of ``total`` bytes if that is less. The blocks of a message start ``step``
    bytes apart: the size of a block if the message is contiguous, more if several are interleaved. A block
    has BLOCK_BYTES bytes; with VARIABLE_BLOCK it has ``step``, at most BLOCK_BYTES, and the block function
    sees zeros after them. With VECTOR of 0, such a block has little-endian words of 64 bits.

    ``state_ptr`` is the initial state of every message, words ``[STATE_WORDS]``, into which ``prefix`` bytes
    have been absorbed. With STATE_PER_MESSAGE it is ``[count, STATE_WORDS]``, one state for each result row.

    ``out_ptr`` receives ``[count, STATE_WORDS]`` words. With FINAL, each message is padded, and its row is
    the final state in the algorithm's byte order, which starts with the digest. Otherwise only whole blocks
    are absorbed, and the row is the state in native order.

    BLOCK is the block function ``(state, words, absorbed, last, flags, constants_ptr) -> state``. ``words``
    are in native order; ``absorbed``, int64 ``[lanes]``, counts the message bytes up to the end of this
    block; ``last`` tells whether it is the last block of the message; the algorithm defines ``flags``; and
    ``constants_ptr`` points to the words of its table of constants. If CONSTANTS_PER_MESSAGE is not 0, the
    table is ``[count, CONSTANTS_PER_MESSAGE]``, one row for each result row, and the block function gets a
    pointer for each lane. PAD is a padding function of ``padding.py``, ``padding`` its parameter, and
    ``minimum_padding`` the least number of bytes that it adds. If that is 0, an empty message is hashed as
    one block of zeros.
    """
    RAW_WORDS: tl.constexpr = BLOCK_BYTES // 4
    BLOCK_WORDS: tl.constexpr = BLOCK_BYTES * 8 // WORD_BITS
    WHOLE: tl.constexpr = VECTOR == 0
    WIDTH: tl.constexpr = 2 if VECTOR == 0 else VECTOR
    block = step if VARIABLE_BLOCK else BLOCK_BYTES
    # Where loads are vectors, this is a product with WIDTH, because the compiler must see the alignment.
    step_words = step // (4 * WIDTH) * WIDTH if ALIGN >= 4 * WIDTH else step // 4
    valid, message, size, row, longest, shortest = messages_of_lanes(
        table_ptr, address, count, stride, length, total, TABLE, BLOCK_MSGS
    )
    whole_blocks = shortest // block
    if FINAL:
        blocks = tl.maximum((size + (minimum_padding + block - 1)) // block, 1)
        most_blocks = tl.maximum((longest + (minimum_padding + block - 1)) // block, 1)
    else:
        blocks = size // block
        most_blocks = longest // block

    state = load_state(state_ptr, row, valid, STATE_PER_MESSAGE, STATE_WORDS, BLOCK_MSGS, VECTOR)
    if CONSTANTS_PER_MESSAGE > 0:
        # Lanes without a message read the constants of row 0, because block functions load without a mask.
        constants_ptr = constants_ptr + tl.where(valid, row, 0) * CONSTANTS_PER_MESSAGE
    if WHOLE:
        # Lanes without a message read the whole blocks of the program's last message.
        final_lane = tl.minimum((tl.program_id(0).to(tl.int64) + 1) * BLOCK_MSGS, count) - 1
        final = tl.load(table_ptr + final_lane) if TABLE else address + final_lane * stride
        readable = tl.where(valid, message, final)
    for n in range(most_blocks):
        number = tl.full((), 0, tl.int64) + n
        # This is 0 where the padding starts with this block, and negative where it started before. No padding
        # function needs to look back further than 8 bytes.
        left = tl.minimum(tl.maximum(size - number * block, -8), block).to(tl.int32)
        last = (n + 1 >= blocks) & FINAL
        if WHOLE:
            if n < whole_blocks:
                if VARIABLE_BLOCK:
                    words = load_whole_pairs(readable + number * step, block, BLOCK_WORDS)
                else:
                    words = load_whole_block(readable + number * step, BLOCK_WORDS, WORD_BITS, BIG_ENDIAN)
            else:
                first = number * step_words
                raw = load_block(message, first, left, valid, RAW_WORDS, ALIGN, WIDTH, VARIABLE_BLOCK)
                raw = end_block(raw, left, prefix + size, last, padding, PAD, RAW_WORDS)
                words = native_words(raw, count, RAW_WORDS, WORD_BITS, BIG_ENDIAN)
        else:
            first = number * step_words
            raw = load_block(message, first, left, valid, RAW_WORDS, ALIGN, WIDTH, VARIABLE_BLOCK)
            if n >= whole_blocks:
                raw = end_block(raw, left, prefix + size, last, padding, PAD, RAW_WORDS)
            words = native_words(raw, count, RAW_WORDS, WORD_BITS, BIG_ENDIAN)
        absorbed = prefix + tl.minimum(size, (number + 1) * block)
        new = BLOCK(state, words, absorbed, last, flags, constants_ptr)
        state = select(n < blocks, new, state, STATE_WORDS)

    if FINAL and BIG_ENDIAN:
        state = swap_words(state, STATE_WORDS, WORD_BITS)
    store_words(out_ptr + row * STATE_WORDS, state, valid, STATE_WORDS, VECTOR)
