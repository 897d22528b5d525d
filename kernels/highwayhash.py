"""HighwayHash: J. Alakuijala, B. Cox, J. Wassenberg, "Fast keyed hash/pseudo-random function using SIMD
multiply and permute", 2016. The ends of messages and the outputs of more than 64 bits follow its reference
implementation, which is frozen.

Each lane has one message. A state is 16 uint64 tiles: four for each of the variables v0, v1, mul0 and mul1.
"""

import triton
import triton.language as tl

from .batch import end_block, load_block, messages_of_lanes
from .bits import load_state, native_words, rotl64, select, store_words, wrap_add, wrap_mul
from .jit import kernel
from .padding import pad_zeros

# The initial values of mul0 and mul1. Those of v0 and v1 are made of these and the key.
HIGHWAYHASH_INIT0 = tl.constexpr(
    (0xDBE6D5D5FE4CCE2F, 0xA4093822299F31D0, 0x13198A2E03707344, 0x243F6A8885A308D3)
)
HIGHWAYHASH_INIT1 = tl.constexpr(
    (0x3BD39E10CB0EF593, 0xC0ACF169B5F18A8C, 0xBE5466CF34E90C6C, 0x452821E638D01377)
)


@triton.jit
def _zipper_merge(a, b):
    """Sixteen bytes, whose lower half is ``a``, in the order 3 12 2 5 14 1 15 0 11 4 10 13 9 6 8 7."""
    low = ((a & 0xFF000000) | (b & 0xFF00000000)) >> 24
    low = low | (((a & 0xFF0000000000) | (b & 0xFF000000000000)) >> 16)
    low = low | (a & 0xFF0000) | ((a & 0xFF00) << 32) | ((b >> 56) << 48) | (a << 56)
    high = ((b & 0xFF000000) | (a & 0xFF00000000)) >> 24
    high = high | (b & 0xFF0000) | ((b & 0xFF0000000000) >> 16) | ((b & 0xFF00) << 24)
    high = high | ((a & 0xFF000000000000) >> 8) | ((b & 0xFF) << 48) | ((a >> 56) << 56)
    return low, high


@triton.jit
def _add_merged(x, y):
    out = ()
    for i in tl.static_range(2):
        low, high = _zipper_merge(y[2 * i], y[2 * i + 1])
        out = out + (wrap_add(x[2 * i], low), wrap_add(x[2 * i + 1], high))
    return out


@triton.jit
def highwayhash_update(state, words):
    """The state after a packet of 4 uint64 words."""
    v0, v1, mul0, mul1 = (), (), (), ()
    for i in tl.static_range(4):
        v1 = v1 + (wrap_add(state[4 + i], wrap_add(state[8 + i], words[i])),)
        mul0 = mul0 + (state[8 + i] ^ wrap_mul(v1[i] & 0xFFFFFFFF, state[i] >> 32),)
        v0 = v0 + (wrap_add(state[i], state[12 + i]),)
        mul1 = mul1 + (state[12 + i] ^ wrap_mul(v0[i] & 0xFFFFFFFF, v1[i] >> 32),)
    v0 = _add_merged(v0, v1)
    v1 = _add_merged(v1, v0)
    return v0 + v1 + mul0 + mul1


@triton.jit
def _last_packet(raw, tail):
    """The packet made of the last ``tail`` < 32 bytes of a message. raw: these bytes as 8 words of 32 bits,
    with zeros after the end.

    Whole words stay in their places. If ``tail`` is 16 or more, the last word of the packet is the last four
    bytes. If it is less, the fifth word has the first, the middle and the last of the bytes after the whole
    words.
    """
    whole = tail >> 2
    rest = (tail & 3).to(tl.uint32)
    partial = raw[0]
    before = raw[0]
    for i in tl.static_range(1, 8):
        before = tl.where(whole == i, raw[i - 1], before)
        partial = tl.where(whole == i, raw[i], partial)
    # The left shift has two steps, because one shift by 32 would be undefined if the rest is 0.
    end = (before >> (rest * 8)) | ((partial << 1) << (31 - rest * 8))
    middle = (partial >> ((rest >> 1) * 8)) & 0xFF
    final = (partial >> (tl.where(rest > 0, rest - 1, 0) * 8)) & 0xFF
    few = (partial & 0xFF) | (middle << 8) | (final << 16)
    zero = raw[0] ^ raw[0]
    out = ()
    for i in tl.static_range(8):
        word = zero
        if i == 4:
            word = tl.where((tail < 16) & (rest > 0), few, zero)
        if i == 7:
            word = tl.where(tail >= 16, end, zero)
        out = out + (tl.where(whole > i, raw[i], word),)
    return out


@triton.jit
def _take_tail(state, raw, tail, count):
    """The state after the last ``tail`` bytes of a message, 1 to 31."""
    size = tail.to(tl.uint64)
    up = tail.to(tl.uint32)
    down = (32 - up) & 31
    out = ()
    for i in tl.static_range(4):
        out = out + (wrap_add(state[i], (size << 32) | size),)
    for i in tl.static_range(4, 8):
        low = (state[i] & 0xFFFFFFFF).to(tl.uint32)
        high = (state[i] >> 32).to(tl.uint32)
        low = ((low << up) | (low >> down)).to(tl.uint64)
        high = ((high << up) | (high >> down)).to(tl.uint64)
        out = out + ((high << 32) | low,)
    return highwayhash_update(out + state[8:], native_words(_last_packet(raw, tail), count, 8, 64, False))


@triton.jit
def _reduce(a3, a2, a1, a0):
    """256 bits, of which the two highest are ignored, modulo the polynomial x**128 + x**2 + x."""
    a3 = a3 & 0x3FFFFFFFFFFFFFFF
    high = a1 ^ ((a3 << 1) | (a2 >> 63)) ^ ((a3 << 2) | (a2 >> 62))
    return a0 ^ (a2 << 1) ^ (a2 << 2), high


@kernel
def highwayhash_messages(
    table_ptr,
    state_ptr,
    out_ptr,
    address: tl.int64,
    count: tl.int64,
    stride: tl.int64,
    length: tl.int64,
    total: tl.int64,
    rounds: tl.int64,
    out_words: tl.int64,
    TABLE: tl.constexpr,
    STATE_PER_MESSAGE: tl.constexpr,
    FINAL: tl.constexpr,
    ALIGN: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """HighwayHash of ``count`` messages, one message per lane.

    The arguments that describe the messages are those of ``hash_messages`` (``batch.py``). ``state_ptr`` is
    uint64 ``[16]``, the initial state of every message, which may have absorbed packets before it. With
    STATE_PER_MESSAGE it is ``[count, 16]``, one state for each result row.

    With FINAL, ``out_ptr`` receives uint64 ``[count, out_words]``, the 1, 2 or 4 words of output after
    ``rounds`` rounds of finalization, little-endian. Otherwise it receives ``[count, 16]``, the state after
    the whole packets of 32 bytes.
    """
    valid, message, size, row, longest, shortest = messages_of_lanes(
        table_ptr, address, count, stride, length, total, TABLE, BLOCK_MSGS
    )
    state = load_state(state_ptr, row, valid, STATE_PER_MESSAGE, 16, BLOCK_MSGS)
    common = shortest >> 5
    packets = size >> 5
    for n in range(longest >> 5):
        first = tl.full((), 0, tl.int64) + n * 8
        left = tl.minimum(tl.maximum(size - first * 4, 0), 32).to(tl.int32)
        raw = load_block(message, first, left, valid, 8, ALIGN, VECTOR)
        new = highwayhash_update(state, native_words(raw, count, 8, 64, False))
        if n >= common:
            new = select(n < packets, new, state, 16)
        state = new
    if FINAL:
        tail = (size & 31).to(tl.int32)
        zero = tl.full((), 0, tl.int64)
        raw = load_block(message + (packets << 5), zero, tail, valid, 8, ALIGN, VECTOR)
        raw = end_block(raw, tail, size, tail < 0, 0, pad_zeros, 8)
        state = select(tail > 0, _take_tail(state, raw, tail, count), state, 16)
        for _ in range(rounds):
            turned = (rotl64(state[2], 32), rotl64(state[3], 32), rotl64(state[0], 32), rotl64(state[1], 32))
            state = highwayhash_update(state, turned)
        pointer = out_ptr + row * out_words
        if out_words == 1:
            both = wrap_add(wrap_add(state[0], state[4]), wrap_add(state[8], state[12]))
            tl.store(pointer, both, mask=valid)
        if out_words == 2:
            for i in tl.static_range(2):
                half = wrap_add(wrap_add(state[i], state[8 + i]), wrap_add(state[6 + i], state[14 + i]))
                tl.store(pointer + i, half, mask=valid)
        if out_words == 4:
            for i in tl.static_range(2):
                low, high = _reduce(
                    wrap_add(state[4 + 2 * i + 1], state[12 + 2 * i + 1]),
                    wrap_add(state[4 + 2 * i], state[12 + 2 * i]),
                    wrap_add(state[2 * i + 1], state[8 + 2 * i + 1]),
                    wrap_add(state[2 * i], state[8 + 2 * i]),
                )
                tl.store(pointer + 2 * i, low, mask=valid)
                tl.store(pointer + 2 * i + 1, high, mask=valid)
    else:
        store_words(out_ptr + row * 16, state, valid, 16, VECTOR)
