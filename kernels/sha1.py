"""SHA-1: FIPS 180-4."""

import triton
import triton.language as tl

from .bits import rotl32, wrap_add

# FIPS 180-4, sections 5.3.1 and 4.2.1.
SHA1_IV = tl.constexpr((0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0))
SHA1_K = tl.constexpr((0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xCA62C1D6))


@triton.jit
def sha1_compress(state, w):
    """One application of the SHA-1 compression function (FIPS 180-4, section 6.1.2).

    state: 5 uint32 tiles. w: the 16 words of a message block, uint32 tiles, big-endian words already
    in native order. Returns the next state.
    """
    a, b, c, d, e = state
    for t in tl.static_range(80):
        if t < 20:
            f = d ^ (b & (c ^ d))
        elif t >= 40 and t < 60:
            f = (b & c) | (d & (b | c))
        else:
            f = b ^ c ^ d
        total = wrap_add(wrap_add(rotl32(a, 5), f), wrap_add(wrap_add(e, SHA1_K[t // 20]), w[0]))
        e, d, c, b, a = d, c, rotl32(b, 30), a, total
        if t < 64:
            w = w[1:] + (rotl32(w[13] ^ w[8] ^ w[2] ^ w[0], 1),)
        else:
            w = w[1:]
    return (
        wrap_add(state[0], a),
        wrap_add(state[1], b),
        wrap_add(state[2], c),
        wrap_add(state[3], d),
        wrap_add(state[4], e),
    )


@triton.jit
def sha1_block(state, words, absorbed, last, flags, constants_ptr):
    """The block function for ``hash_messages``."""
    return sha1_compress(state, words)
