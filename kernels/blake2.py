"""BLAKE2: RFC 7693; J.-P. Aumasson, S. Neves, Z. Wilcox-O'Hearn, C. Winnerlein, "BLAKE2", 2013."""

import triton
import triton.language as tl

from .bits import rotr32, rotr64, wrap_add
from .halves import rotr64_in_halves

# RFC 7693, section 2.6: the initial values of SHA-512 and SHA-256.
BLAKE2B_IV = tl.constexpr(
    (
        0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
        0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179,
    )
)  # fmt: skip
BLAKE2S_IV = tl.constexpr(
    (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
)
# Section 2.7: the order of the message words in each of ten rounds. Later rounds start over from the first.
BLAKE2_SIGMA = tl.constexpr(
    (
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
        14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3,
        11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4,
        7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8,
        9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13,
        2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9,
        12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11,
        13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10,
        6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5,
        10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0,
    )
)  # fmt: skip


@triton.jit
def _mix(
    a,
    b,
    c,
    d,
    x,
    y,
    ROTR: tl.constexpr,
    R1: tl.constexpr,
    R2: tl.constexpr,
    R3: tl.constexpr,
    R4: tl.constexpr,
):
    """The mixing function G (section 3.1)."""
    a = wrap_add(wrap_add(a, b), x)
    d = ROTR(d ^ a, R1)
    c = wrap_add(c, d)
    b = ROTR(b ^ c, R2)
    a = wrap_add(wrap_add(a, b), y)
    d = ROTR(d ^ a, R3)
    c = wrap_add(c, d)
    b = ROTR(b ^ c, R4)
    return a, b, c, d


@triton.jit
def _round(
    v,
    m,
    R: tl.constexpr,
    ROTR: tl.constexpr,
    R1: tl.constexpr,
    R2: tl.constexpr,
    R3: tl.constexpr,
    R4: tl.constexpr,
):
    """Round R (the loop of section 3.2)."""
    v0, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11, v12, v13, v14, v15 = v
    s = ()
    for i in tl.static_range(16):
        s = s + (m[BLAKE2_SIGMA[16 * R + i]],)
    v0, v4, v8, v12 = _mix(v0, v4, v8, v12, s[0], s[1], ROTR, R1, R2, R3, R4)
    v1, v5, v9, v13 = _mix(v1, v5, v9, v13, s[2], s[3], ROTR, R1, R2, R3, R4)
    v2, v6, v10, v14 = _mix(v2, v6, v10, v14, s[4], s[5], ROTR, R1, R2, R3, R4)
    v3, v7, v11, v15 = _mix(v3, v7, v11, v15, s[6], s[7], ROTR, R1, R2, R3, R4)
    v0, v5, v10, v15 = _mix(v0, v5, v10, v15, s[8], s[9], ROTR, R1, R2, R3, R4)
    v1, v6, v11, v12 = _mix(v1, v6, v11, v12, s[10], s[11], ROTR, R1, R2, R3, R4)
    v2, v7, v8, v13 = _mix(v2, v7, v8, v13, s[12], s[13], ROTR, R1, R2, R3, R4)
    v3, v4, v9, v14 = _mix(v3, v4, v9, v14, s[14], s[15], ROTR, R1, R2, R3, R4)
    return v0, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11, v12, v13, v14, v15


@triton.jit
def _compress(
    h,
    m,
    t0,
    t1,
    f0,
    f1,
    apart,
    IV: tl.constexpr,
    ROUNDS: tl.constexpr,
    ROTR: tl.constexpr,
    R1: tl.constexpr,
    R2: tl.constexpr,
    R3: tl.constexpr,
    R4: tl.constexpr,
):
    zero = h[0] ^ h[0]
    v = h + (zero | IV[0], zero | IV[1], zero | IV[2], zero | IV[3])
    v = v + (t0 ^ IV[4], t1 ^ IV[5], f0 ^ IV[6], f1 ^ IV[7])
    for i in tl.static_range(ROUNDS):
        # Both conditions are always true. LLVM sees that they are equal and merges the branches; MLIR, whose
        # passes are the slow ones, does not.
        if True if apart is None else (apart >= 0 if i % 2 == 0 else apart > -1):
            v = _round(v, m, i % 10, ROTR, R1, R2, R3, R4)
    out = ()
    for i in tl.static_range(8):
        out = out + (h[i] ^ v[i] ^ v[i + 8],)
    return out


@triton.jit
def blake2b_compress(h, m, t0, t1, f0, f1, apart=None, ROTR: tl.constexpr = rotr64):
    """One application of the BLAKE2b compression function (RFC 7693, section 3.2).

    h: 8 uint64 tiles. m: the 16 words of a message block, uint64 tiles in native order. t0, t1: the low and
    the high word of the number of bytes hashed so far, with those of this block. f0, f1: the finalization
    flags for the last block and the last node, all ones or zero. t0, t1, f0 and f1 are uint64 tiles. apart:
    None, or any integer scalar that is not negative. With a scalar, each round lies in a branch that is
    always taken, which compiles several times as fast, because the time of Triton's coalescing pass grows
    with the square of a branch's length. ROTR: ``rotr64`` or a function that gives the same. Returns the next
    state.
    """
    return _compress(h, m, t0, t1, f0, f1, apart, BLAKE2B_IV, 12, ROTR, 32, 24, 16, 63)


@triton.jit
def blake2s_compress(h, m, t0, t1, f0, f1, apart=None):
    """One application of the BLAKE2s compression function, as ``blake2b_compress`` with uint32 tiles."""
    return _compress(h, m, t0, t1, f0, f1, apart, BLAKE2S_IV, 10, rotr32, 16, 12, 8, 7)


@triton.jit
def _blake2b_node(state, words, absorbed, last, flags, ROTR: tl.constexpr):
    zero = state[0] ^ state[0]
    f0 = tl.where(last, zero ^ 0xFFFFFFFFFFFFFFFF, zero)
    f1 = tl.where(last & (flags != 0), zero ^ 0xFFFFFFFFFFFFFFFF, zero)
    return blake2b_compress(state, words, absorbed.to(tl.uint64), zero, f0, f1, flags, ROTR)


@triton.jit
def blake2b_block(state, words, absorbed, last, flags, constants_ptr):
    """The block function for ``hash_messages``. ``flags`` is 1 for the last node of a tree level, else 0."""
    return _blake2b_node(state, words, absorbed, last, flags, rotr64)


@triton.jit
def blake2b_block_in_halves(state, words, absorbed, last, flags, constants_ptr):
    """``blake2b_block`` for GPUs that rotate two words of 32 bits in one instruction."""
    return _blake2b_node(state, words, absorbed, last, flags, rotr64_in_halves)


@triton.jit
def blake2s_block(state, words, absorbed, last, flags, constants_ptr):
    """The block function for ``hash_messages``. ``flags`` is as for ``blake2b_block``."""
    zero = state[0] ^ state[0]
    f0 = tl.where(last, zero ^ 0xFFFFFFFF, zero)
    f1 = tl.where(last & (flags != 0), zero ^ 0xFFFFFFFF, zero)
    low = (absorbed & 0xFFFFFFFF).to(tl.uint32)
    high = (absorbed >> 32).to(tl.uint32)
    return blake2s_compress(state, words, low, high, f0, f1, flags)


@triton.jit
def _blake2b_leaf(state, words, absorbed, last, flags, ROTR: tl.constexpr):
    zero = state[0] ^ state[0]
    f0 = tl.where(last, zero ^ 0xFFFFFFFFFFFFFFFF, zero)
    f1 = tl.where(last, state[8], zero)
    new = blake2b_compress(state[:8], words, absorbed.to(tl.uint64), zero, f0, f1, flags, ROTR)
    return new + (state[8],)


@triton.jit
def blake2b_leaf_block(state, words, absorbed, last, flags, constants_ptr):
    """``blake2b_block`` for nodes some of which are the last of their level. A ninth word of state is all
    ones for these, and zero for the others."""
    return _blake2b_leaf(state, words, absorbed, last, flags, rotr64)


@triton.jit
def blake2b_leaf_block_in_halves(state, words, absorbed, last, flags, constants_ptr):
    """``blake2b_leaf_block`` for GPUs that rotate two words of 32 bits in one instruction."""
    return _blake2b_leaf(state, words, absorbed, last, flags, rotr64_in_halves)


@triton.jit
def blake2s_leaf_block(state, words, absorbed, last, flags, constants_ptr):
    """``blake2b_leaf_block`` for BLAKE2s."""
    zero = state[0] ^ state[0]
    f0 = tl.where(last, zero ^ 0xFFFFFFFF, zero)
    f1 = tl.where(last, state[8], zero)
    low = (absorbed & 0xFFFFFFFF).to(tl.uint32)
    high = (absorbed >> 32).to(tl.uint32)
    return blake2s_compress(state[:8], words, low, high, f0, f1, flags) + (state[8],)
