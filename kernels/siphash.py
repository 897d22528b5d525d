"""SipHash: J.-P. Aumasson, D. J. Bernstein, "SipHash: a fast short-input PRF", 2012."""

import triton
import triton.language as tl

from .batch import end_block, load_block, messages_of_lanes
from .bits import load_state, native_words, rotl64, select, store_words, wrap_add
from .jit import kernel

# Section 2.1: the initial state is these words xored with the two words of the key, each of which is used
# twice.
SIPHASH_IV = tl.constexpr((0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573))


@triton.jit
def sip_round(v):
    """One SipRound (section 2.2) of a state of 4 uint64 tiles."""
    v0, v1, v2, v3 = v
    v0 = wrap_add(v0, v1)
    v2 = wrap_add(v2, v3)
    v1 = rotl64(v1, 13) ^ v0
    v3 = rotl64(v3, 16) ^ v2
    v0 = rotl64(v0, 32)
    v2 = wrap_add(v2, v1)
    v0 = wrap_add(v0, v3)
    v1 = rotl64(v1, 17) ^ v2
    v3 = rotl64(v3, 21) ^ v0
    v2 = rotl64(v2, 32)
    return v0, v1, v2, v3


@triton.jit
def siphash_absorb(v, word, C: tl.constexpr):
    """The state after one more word of the padded message, with C rounds (section 2.2)."""
    v = (v[0], v[1], v[2], v[3] ^ word)
    for _ in tl.static_range(C):
        v = sip_round(v)
    return v[0] ^ word, v[1], v[2], v[3]


@triton.jit
def siphash_finish(v, out_words, D: tl.constexpr):
    """Two words of output, with D rounds for each (section 2.3). If ``out_words``, a scalar, is 2, this
    follows SipHash-128 of the reference implementation. If it is 1, the second word repeats the first."""
    v = (v[0], v[1], v[2] ^ tl.where(out_words == 2, 0xEE, 0xFF).to(tl.uint64), v[3])
    for _ in tl.static_range(D):
        v = sip_round(v)
    first = v[0] ^ v[1] ^ v[2] ^ v[3]
    second = first
    if out_words == 2:
        v = (v[0], v[1] ^ 0xDD, v[2], v[3])
        for _ in tl.static_range(D):
            v = sip_round(v)
        second = v[0] ^ v[1] ^ v[2] ^ v[3]
    return first, second


@triton.jit
def siphash_pad(word, i, remaining, total, last, padding, WORDS: tl.constexpr):
    """Zeros up to the end of a word of 64 bits, whose last byte is the length modulo 256 (section 2.2)."""
    if i % 2 == 1:
        length = (total & 0xFF).to(tl.uint32) << 24
        word = tl.where((remaining >= -4) & (remaining < 4), word | length, word)
    return word


@kernel
def siphash_messages(
    table_ptr,
    state_ptr,
    out_ptr,
    address: tl.int64,
    count: tl.int64,
    stride: tl.int64,
    length: tl.int64,
    total: tl.int64,
    prefix: tl.int64,
    out_words: tl.int64,
    C: tl.constexpr,
    D: tl.constexpr,
    TABLE: tl.constexpr,
    STATE_PER_MESSAGE: tl.constexpr,
    FINAL: tl.constexpr,
    ALIGN: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """SipHash-C-D of ``count`` messages, one message per lane.

    The arguments that describe the messages are those of ``hash_messages`` (``batch.py``). ``state_ptr`` is
    uint64 ``[4]``, the initial state of every message, into which ``prefix`` bytes, a multiple of 32, have
    been absorbed. With STATE_PER_MESSAGE it is ``[count, 4]``, one state for each result row.

    With FINAL, ``out_ptr`` receives uint64 ``[count, out_words]``, 1 or 2 words of output, little-endian.
    Otherwise it receives ``[count, 4]``, the state after the whole blocks of 32 bytes.
    """
    valid, message, size, row, longest, shortest = messages_of_lanes(
        table_ptr, address, count, stride, length, total, TABLE, BLOCK_MSGS
    )
    state = load_state(state_ptr, row, valid, STATE_PER_MESSAGE, 4, BLOCK_MSGS)
    common = shortest >> 5
    full = tl.full((BLOCK_MSGS,), 32, tl.int32)
    for n in range(common):
        first = tl.full((), 0, tl.int64) + n * 8
        raw = load_block(message, first, full, valid, 8, ALIGN, VECTOR)
        words = native_words(raw, count, 8, 64, False)
        for i in tl.static_range(4):
            state = siphash_absorb(state, words[i], C)
    # The number of words that are absorbed. The last one holds the end of the message and its length.
    if FINAL:
        wanted = (size >> 3) + 1
        most_wanted = (longest >> 3) + 1
        blocks = (longest >> 5) + 1
    else:
        wanted = size >> 5 << 2
        most_wanted = longest >> 5 << 2
        blocks = longest >> 5
    for n in range(common, blocks):
        first = tl.full((), 0, tl.int64) + n * 8
        left = tl.minimum(tl.maximum(size - first * 4, -8), 32).to(tl.int32)
        raw = load_block(message, first, left, valid, 8, ALIGN, VECTOR)
        raw = end_block(raw, left, prefix + size, valid, 0, siphash_pad, 8)
        words = native_words(raw, count, 8, 64, False)
        for i in tl.static_range(4):
            place = first // 2 + i
            if place < most_wanted:
                state = select(place < wanted, siphash_absorb(state, words[i], C), state, 4)
    if FINAL:
        out = siphash_finish(state, out_words, D)
        tl.store(out_ptr + row * out_words, out[0], mask=valid)
        if out_words == 2:
            tl.store(out_ptr + row * 2 + 1, out[1], mask=valid)
    else:
        store_words(out_ptr + row * 4, state, valid, 4, VECTOR)
