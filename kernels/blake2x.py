"""The output of BLAKE2X: J.-P. Aumasson, S. Neves, Z. Wilcox-O'Hearn, C. Winnerlein, "BLAKE2X", 2016."""

import triton.language as tl

from .bits import load_words, store_words
from .jit import kernel


@kernel
def blake2x_output(
    roots_ptr,
    state_ptr,
    out_ptr,
    count: tl.int64,
    per_message: tl.int64,
    first_block: tl.int64,
    final_block: tl.int64,
    change: tl.int64,
    flags: tl.int64,
    BLOCK: tl.constexpr,
    WORD_BITS: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """Blocks of output of ``count`` messages, ``per_message`` of each from number ``first_block`` on, one
    block per lane (section 2.1).

    All words have WORD_BITS bits. ``roots_ptr`` is ``[count, 8]``: the root hashes of the messages.
    ``state_ptr``, ``[8]``, is the initial state of block 0; other blocks have their number in the node
    offset. The first word of the initial state of block ``final_block``, if there is such a block, is xored
    with ``change``, because the block has another size. ``out_ptr`` receives ``[count, per_message, 8]``.
    BLOCK is the block function of BLAKE2b or BLAKE2s for ``hash_messages``, and ``flags`` is 0.
    """
    lane = tl.program_id(0).to(tl.int64) * BLOCK_MSGS + tl.arange(0, BLOCK_MSGS)
    valid = lane < count * per_message
    message = lane // per_message
    number = first_block + lane - message * per_message
    root = load_words(roots_ptr + message * 8, valid, 8)
    zero = root[0] ^ root[0]
    words = root
    for _ in tl.static_range(8):
        words = words + (zero,)
    # Bytes 8 to 11 of the parameter block are the node offset.
    OFFSET_WORD: tl.constexpr = 64 // WORD_BITS
    state = ()
    for i in tl.static_range(8):
        word = zero | tl.load(state_ptr + i)
        if i == 0:
            word = word ^ tl.where(number == final_block, change, 0).to(word.dtype)
        if i == OFFSET_WORD:
            word = word ^ number.to(word.dtype)
        state = state + (word,)
    new = BLOCK(state, words, number * 0 + WORD_BITS, number >= 0, flags, None)
    store_words(out_ptr + lane * 8, new, valid, 8, VECTOR)
