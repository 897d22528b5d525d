"""The chain of HMACs in PBKDF2 (RFC 8018, section 5.2)."""

import triton
import triton.language as tl

from .batch import end_block
from .bits import bswap32_apart, join64, load_words, native_words, store_words
from .jit import kernel
from .padding import pad_zeros


@triton.jit
def _other_order(words, size, WORDS: tl.constexpr, WORD_BITS: tl.constexpr, BIG_ENDIAN: tl.constexpr):
    """Words in native order from the algorithm's byte order, or the reverse. size: as for
    ``bswap32_apart``."""
    out = ()
    for i in tl.static_range(WORDS):
        if not BIG_ENDIAN:
            out = out + (words[i],)
        elif WORD_BITS == 64:
            high, low = (words[i] >> 32).to(tl.uint32), (words[i] & 0xFFFFFFFF).to(tl.uint32)
            out = out + (join64(bswap32_apart(high, size), bswap32_apart(low, size)),)
        else:
            out = out + (bswap32_apart(words[i], size),)
    return out


@kernel
def hmac_chain(
    states_ptr,
    first_ptr,
    constants_ptr,
    out_ptr,
    count: tl.int64,
    rounds: tl.int64,
    prefix: tl.int64,
    size: tl.int64,
    padding: tl.int64,
    flags: tl.int64,
    BLOCK: tl.constexpr,
    PAD: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
    WORD_BITS: tl.constexpr,
    STATE_WORDS: tl.constexpr,
    DIGEST_WORDS: tl.constexpr,
    BIG_ENDIAN: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """The exclusive or of U_1 and ``rounds`` more values, each the HMAC of the one before. There are
    ``count`` chains, one per lane.

    All words have WORD_BITS bits. ``states_ptr`` is ``[2, count, STATE_WORDS]``: the states after the inner
    and after the outer block of the keys, which have ``prefix`` bytes. ``first_ptr`` is U_1,
    ``[count, DIGEST_WORDS]`` in the algorithm's byte order; the digest is its first ``size`` bytes.
    ``out_ptr`` receives the result in the same form. BLOCK, PAD, ``padding``, ``flags`` and ``constants_ptr``
    are those of ``hash_messages``. A digest and its padding must fit into one block.
    """
    RAW_WORDS: tl.constexpr = BLOCK_BYTES // 4
    WORDS: tl.constexpr = BLOCK_BYTES * 8 // WORD_BITS
    lane = tl.program_id(0).to(tl.int64) * BLOCK_MSGS + tl.arange(0, BLOCK_MSGS)
    valid = lane < count
    # Padding does the same to every digest: it keeps some bits and sets others.
    zero = tl.full((), 0, tl.uint32)
    zeros = ()
    ones = ()
    for _ in tl.static_range(RAW_WORDS):
        zeros = zeros + (zero,)
        ones = ones + (zero | 0xFFFFFFFF,)
    left = size.to(tl.int32)
    kept = end_block(ones, left, prefix + size, left >= 0, padding, pad_zeros, RAW_WORDS)
    kept = native_words(kept, count, RAW_WORDS, WORD_BITS, False)
    kept = _other_order(kept, count, DIGEST_WORDS, WORD_BITS, BIG_ENDIAN)
    set_ = end_block(zeros, left, prefix + size, left >= 0, padding, PAD, RAW_WORDS)
    set_ = native_words(set_, count, RAW_WORDS, WORD_BITS, False)
    set_ = _other_order(set_, count, WORDS, WORD_BITS, BIG_ENDIAN)

    u = load_words(first_ptr + lane * DIGEST_WORDS, valid, DIGEST_WORDS, VECTOR)
    u = _other_order(u, count, DIGEST_WORDS, WORD_BITS, BIG_ENDIAN)
    total = u
    last = valid | (valid == 0)
    absorbed = lane * 0 + (prefix + size)
    for n in range(2 * rounds):
        outer = n % 2
        # The states are loaded again in each round, to save registers.
        state = load_words(states_ptr + (outer * count + lane) * STATE_WORDS, valid, STATE_WORDS, VECTOR)
        words = ()
        for i in tl.static_range(WORDS):
            if i < DIGEST_WORDS:
                words = words + ((u[i] & kept[i]) | set_[i],)
            else:
                words = words + ((u[0] ^ u[0]) | set_[i],)
        state = BLOCK(state, words, absorbed, last, flags, constants_ptr)
        u = state[:DIGEST_WORDS]
        mixed = ()
        for i in tl.static_range(DIGEST_WORDS):
            mixed = mixed + (tl.where(outer == 1, total[i] ^ u[i], total[i]),)
        total = mixed
    total = _other_order(total, count, DIGEST_WORDS, WORD_BITS, BIG_ENDIAN)
    store_words(out_ptr + lane * DIGEST_WORDS, total, valid, DIGEST_WORDS, VECTOR)
