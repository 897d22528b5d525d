"""The batch driver: feeds messages of any length and alignment to a block function."""

import triton
import triton.language as tl

from .bits import bswap32, columns, load_words, select, store_words


@triton.jit
def load_block(
    address,
    first_word,
    left,
    valid,
    BLOCK_WORDS: tl.constexpr,
    ALIGN: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """One block of each lane's message as ``BLOCK_WORDS`` raw little-endian uint32 tiles.

    address: int64 ``[lanes]``, where each message starts. first_word: int64 scalar, the block's
    offset in the message, in words. left: int32 ``[lanes]``, message bytes from the block's start
    on, at most the block's size; negative if the message ended before. valid: bool ``[lanes]``,
    lanes that exist. ALIGN: a power of two that divides every address. VECTOR: words loaded by one
    instruction.

    Reads only aligned vectors (of VECTOR words if ALIGN allows that, else single words) that hold
    at least one byte of the message; bytes of such a vector beyond the message are returned as read.
    """
    out = ()
    PAIRS: tl.constexpr = VECTOR == 2 and ALIGN >= 8
    # Pairs are worth it as 64-bit words alone.
    WIDTH: tl.constexpr = 1 if VECTOR == 2 and not PAIRS else VECTOR
    for g in tl.static_range(BLOCK_WORDS // WIDTH):
        # Positions in this block, in words.
        if VECTOR <= 2:
            i = tl.full((), g * WIDTH, tl.int32)
            base, end, mask = address, left, valid
        else:
            i = (g * VECTOR + tl.arange(0, VECTOR))[None, :]
            base, end, mask = address[:, None], left[:, None], valid[:, None]
        if PAIRS:
            # Where lanes' loads are gathered one element at a time, half as many elements are to gather.
            pointer = base.to(tl.pointer_type(tl.uint64)) + (first_word // 2 + g)
            pair = tl.load(pointer, mask=mask & (end > 8 * g), other=0)
            out = out + ((pair & 0xFFFFFFFF).to(tl.uint32), (pair >> 32).to(tl.uint32))
        elif ALIGN >= 4:
            # The compiler vectorises what it sees as a pointer of known alignment plus consecutive
            # elements; an address computed as an integer would hide that.
            pointer = base.to(tl.pointer_type(tl.uint32))
            if ALIGN >= 16:
                pointer = tl.multiple_of(pointer, 16 if VECTOR <= 2 else (16, 16))
            # One mask for a whole vector: a mask that changes inside it would split the load.
            if ALIGN >= 4 * VECTOR:
                mask = mask & (end > 4 * g * VECTOR)
            else:
                mask = mask & (end > 4 * i)
            word = tl.load(pointer + (first_word + i), mask=mask, other=0)
            out = out + columns(word, WIDTH)
        else:
            skew = (base & 3).to(tl.int32)
            pointer = (base - skew).to(tl.pointer_type(tl.uint32)) + (first_word + i)
            low = tl.load(pointer, mask=mask & (end > 4 * i), other=0)
            high = tl.load(pointer + 1, mask=mask & (skew > 0) & (end + skew > 4 * i + 4), other=0)
            shift = (skew * 8).to(tl.uint32)
            # Shifted left in two steps, because with no skew a shift by 32 would be undefined.
            word = (low >> shift) | ((high << 1) << (31 - shift))
            out = out + columns(word, WIDTH)
    return out


@triton.jit
def end_block(words, left, total, last, PAD: tl.constexpr, BLOCK_WORDS: tl.constexpr):
    """Clear what ``load_block`` read beyond each message's end, and pad.

    left: as for ``load_block``. total, last and PAD: as in ``padding.py``.
    """
    out = ()
    for i in tl.static_range(BLOCK_WORDS):
        remaining = left - 4 * i
        kept_bits = (tl.minimum(tl.maximum(remaining, 0), 3) * 8).to(tl.uint32)
        kept = (tl.full((), 1, tl.uint32) << kept_bits) - 1
        word = tl.where(remaining >= 4, words[i], words[i] & kept)
        out = out + (PAD(word, i, remaining, total, last, BLOCK_WORDS),)
    return out


@triton.jit
def swap_words(words, WORDS: tl.constexpr):
    """Reverse the bytes of each word."""
    out = ()
    for i in tl.static_range(WORDS):
        out = out + (bswap32(words[i]),)
    return out


@triton.jit(do_not_specialize=["address", "count", "stride", "length", "total", "prefix"])
def hash_messages(
    table_ptr,
    state_ptr,
    out_ptr,
    address: tl.int64,
    count: tl.int64,
    stride: tl.int64,
    length: tl.int64,
    total: tl.int64,
    prefix: tl.int64,
    BLOCK: tl.constexpr,
    PAD: tl.constexpr,
    BLOCK_WORDS: tl.constexpr,
    STATE_WORDS: tl.constexpr,
    MINIMUM_PADDING: tl.constexpr,
    BIG_ENDIAN: tl.constexpr,
    TABLE: tl.constexpr,
    OWN_STATE: tl.constexpr,
    FINAL: tl.constexpr,
    ALIGN: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """Hash ``count`` messages, one a lane.

    With TABLE, ``table_ptr`` is int64 ``[3, count]``: each message's address, its length in bytes
    and the row of its result, sorted by descending length so that the lanes of a program run
    together. Otherwise message i starts at ``address + i * stride`` and is ``length`` bytes long,
    or as many as are left of ``total``.

    ``state_ptr``, uint32 ``[STATE_WORDS]``, is the initial state of every message; with OWN_STATE
    it is ``[count, STATE_WORDS]``, one a result row. ``prefix`` bytes were absorbed into it already.

    STATE_WORDS words a row are stored at ``out_ptr``. With FINAL each message is padded, and they are
    its final state in the algorithm's byte order, which starts with the digest. Otherwise the whole
    blocks alone are absorbed, and they are the state in native order.

    BLOCK is the block function ``(state, words, absorbed, last) -> state``: ``words`` in native
    order, ``absorbed`` the int64 ``[lanes]`` count of message bytes up to and with this block,
    ``last`` whether it is the message's last. PAD is a padding function of ``padding.py`` and
    MINIMUM_PADDING the fewest bytes it adds.
    """
    BLOCK_BYTES: tl.constexpr = BLOCK_WORDS * 4
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
    whole_blocks = shortest // BLOCK_BYTES
    if FINAL:
        blocks = (size + (MINIMUM_PADDING + BLOCK_BYTES - 1)) // BLOCK_BYTES
        most_blocks = (longest + (MINIMUM_PADDING + BLOCK_BYTES - 1)) // BLOCK_BYTES
        if MINIMUM_PADDING == 0:  # an empty message is one block of zeros
            blocks = tl.maximum(blocks, 1)
            most_blocks = tl.maximum(most_blocks, 1)
    else:
        blocks = size // BLOCK_BYTES
        most_blocks = longest // BLOCK_BYTES

    if OWN_STATE:
        state = load_words(state_ptr + row * STATE_WORDS, valid, STATE_WORDS)
    else:
        state = ()
        for i in tl.static_range(STATE_WORDS):
            state = state + (tl.full((BLOCK_MSGS,), 0, tl.uint32) | tl.load(state_ptr + i),)
    for n in range(most_blocks):
        word = tl.full((), 0, tl.int64) + n * BLOCK_WORDS
        # -1 in a block that holds nothing but padding, to tell it from one that starts with it.
        left = tl.minimum(tl.maximum(size - word * 4, -1), BLOCK_BYTES).to(tl.int32)
        last = n + 1 >= blocks
        words = load_block(message, word, left, valid, BLOCK_WORDS, ALIGN, VECTOR)
        if n >= whole_blocks:
            words = end_block(words, left, prefix + size, last, PAD, BLOCK_WORDS)
        if BIG_ENDIAN:
            words = swap_words(words, BLOCK_WORDS)
        absorbed = prefix + tl.minimum(size, word * 4 + BLOCK_BYTES)
        state = select(n < blocks, BLOCK(state, words, absorbed, last), state, STATE_WORDS)

    if FINAL and BIG_ENDIAN:
        state = swap_words(state, STATE_WORDS)
    store_words(out_ptr + row * STATE_WORDS, state, valid, STATE_WORDS, VECTOR)
