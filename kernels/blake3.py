"""The compression function of BLAKE3: BLAKE3 specification (2020), section 2.2."""

import triton
import triton.language as tl

from .bits import rotr32, wrap_add

# Table 1: the initial value, which is that of SHA-256.
BLAKE3_IV = tl.constexpr(
    (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
)
# Table 2: how the message words are permuted between rounds.
BLAKE3_PERMUTATION = tl.constexpr((2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8))
# Table 3: the domain flags.
CHUNK_START = tl.constexpr(1 << 0)
CHUNK_END = tl.constexpr(1 << 1)
PARENT = tl.constexpr(1 << 2)
ROOT = tl.constexpr(1 << 3)
KEYED_HASH = tl.constexpr(1 << 4)
DERIVE_KEY_CONTEXT = tl.constexpr(1 << 5)
DERIVE_KEY_MATERIAL = tl.constexpr(1 << 6)


@triton.jit
def _mix(a, b, c, d, x, y):
    a = wrap_add(wrap_add(a, b), x)
    d = rotr32(d ^ a, 16)
    c = wrap_add(c, d)
    b = rotr32(b ^ c, 12)
    a = wrap_add(wrap_add(a, b), y)
    d = rotr32(d ^ a, 8)
    c = wrap_add(c, d)
    b = rotr32(b ^ c, 7)
    return a, b, c, d


@triton.jit
def blake3_compress(cv, m, counter_low, counter_high, block_len, flags):
    """One application of the compression function, with all 16 words of output.

    cv: 8 uint32 tiles, the input chaining value. m: the 16 message words, uint32 tiles in native order.
    counter_low, counter_high, block_len, flags: uint32 tiles. Returns 16 tiles: the first 8 are the new
    chaining value, and all 16 are a block of root output. The compiler removes the computation of words that
    the caller does not use.
    """
    v0, v1, v2, v3, v4, v5, v6, v7 = cv
    zero = v0 ^ v0
    v8 = zero | BLAKE3_IV[0]
    v9 = zero | BLAKE3_IV[1]
    v10 = zero | BLAKE3_IV[2]
    v11 = zero | BLAKE3_IV[3]
    v12 = zero | counter_low
    v13 = zero | counter_high
    v14 = zero | block_len
    v15 = zero | flags
    for r in tl.static_range(7):
        v0, v4, v8, v12 = _mix(v0, v4, v8, v12, m[0], m[1])
        v1, v5, v9, v13 = _mix(v1, v5, v9, v13, m[2], m[3])
        v2, v6, v10, v14 = _mix(v2, v6, v10, v14, m[4], m[5])
        v3, v7, v11, v15 = _mix(v3, v7, v11, v15, m[6], m[7])
        v0, v5, v10, v15 = _mix(v0, v5, v10, v15, m[8], m[9])
        v1, v6, v11, v12 = _mix(v1, v6, v11, v12, m[10], m[11])
        v2, v7, v8, v13 = _mix(v2, v7, v8, v13, m[12], m[13])
        v3, v4, v9, v14 = _mix(v3, v4, v9, v14, m[14], m[15])
        if r < 6:
            permuted = ()
            for i in tl.static_range(16):
                permuted = permuted + (m[BLAKE3_PERMUTATION[i]],)
            m = permuted
    return (
        v0 ^ v8,
        v1 ^ v9,
        v2 ^ v10,
        v3 ^ v11,
        v4 ^ v12,
        v5 ^ v13,
        v6 ^ v14,
        v7 ^ v15,
        v8 ^ cv[0],
        v9 ^ cv[1],
        v10 ^ cv[2],
        v11 ^ cv[3],
        v12 ^ cv[4],
        v13 ^ cv[5],
        v14 ^ cv[6],
        v15 ^ cv[7],
    )
