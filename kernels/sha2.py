"""SHA-224 and SHA-256: FIPS 180-4."""

import triton
import triton.language as tl

from .bits import rotr32, wrap_add

# FIPS 180-4, section 4.2.2: first 32 bits of the fractional parts of the cube roots of the first
# 64 primes.
SHA256_K = tl.constexpr(
    (
        0x428A2F98, 0x71374491, 0xB5C0FBCF, 0xE9B5DBA5, 0x3956C25B, 0x59F111F1, 0x923F82A4, 0xAB1C5ED5,
        0xD807AA98, 0x12835B01, 0x243185BE, 0x550C7DC3, 0x72BE5D74, 0x80DEB1FE, 0x9BDC06A7, 0xC19BF174,
        0xE49B69C1, 0xEFBE4786, 0x0FC19DC6, 0x240CA1CC, 0x2DE92C6F, 0x4A7484AA, 0x5CB0A9DC, 0x76F988DA,
        0x983E5152, 0xA831C66D, 0xB00327C8, 0xBF597FC7, 0xC6E00BF3, 0xD5A79147, 0x06CA6351, 0x14292967,
        0x27B70A85, 0x2E1B2138, 0x4D2C6DFC, 0x53380D13, 0x650A7354, 0x766A0ABB, 0x81C2C92E, 0x92722C85,
        0xA2BFE8A1, 0xA81A664B, 0xC24B8B70, 0xC76C51A3, 0xD192E819, 0xD6990624, 0xF40E3585, 0x106AA070,
        0x19A4C116, 0x1E376C08, 0x2748774C, 0x34B0BCB5, 0x391C0CB3, 0x4ED8AA4A, 0x5B9CCA4F, 0x682E6FF3,
        0x748F82EE, 0x78A5636F, 0x84C87814, 0x8CC70208, 0x90BEFFFA, 0xA4506CEB, 0xBEF9A3F7, 0xC67178F2,
    )
)  # fmt: skip
# FIPS 180-4, sections 5.3.3 and 5.3.2.
SHA256_IV = tl.constexpr(
    (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
)
SHA224_IV = tl.constexpr(
    (0xC1059ED8, 0x367CD507, 0x3070DD17, 0xF70E5939, 0xFFC00B31, 0x68581511, 0x64F98FA7, 0xBEFA4FA4)
)


@triton.jit
def sha256_compress(state, w):
    """One application of the SHA-256 compression function (FIPS 180-4, section 6.2.2).

    state: 8 uint32 tiles. w: the 16 words of a message block, uint32 tiles, big-endian words
    already in native order. Returns the next state. SHA-224 differs in its initial value alone.
    """
    a, b, c, d, e, f, g, h = state
    for t in tl.static_range(64):
        if t >= 16:
            s0 = rotr32(w[1], 7) ^ rotr32(w[1], 18) ^ (w[1] >> 3)
            s1 = rotr32(w[14], 17) ^ rotr32(w[14], 19) ^ (w[14] >> 10)
            x = wrap_add(wrap_add(w[0], s0), wrap_add(w[9], s1))
            w = w[1:] + (x,)
        else:
            x = w[t]
        sum1 = rotr32(e, 6) ^ rotr32(e, 11) ^ rotr32(e, 25)
        ch = g ^ (e & (f ^ g))
        t1 = wrap_add(wrap_add(wrap_add(h, sum1), wrap_add(ch, SHA256_K[t])), x)
        sum0 = rotr32(a, 2) ^ rotr32(a, 13) ^ rotr32(a, 22)
        maj = (a & b) | (c & (a | b))
        h, g, f, e, d, c, b, a = g, f, e, wrap_add(d, t1), c, b, a, wrap_add(t1, wrap_add(sum0, maj))
    return (
        wrap_add(state[0], a),
        wrap_add(state[1], b),
        wrap_add(state[2], c),
        wrap_add(state[3], d),
        wrap_add(state[4], e),
        wrap_add(state[5], f),
        wrap_add(state[6], g),
        wrap_add(state[7], h),
    )


@triton.jit
def sha256_block(state, words, absorbed, last):
    """The block function of the batch driver; SHA-2 needs neither the byte count nor the end."""
    return sha256_compress(state, words)
