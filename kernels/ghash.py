"""GHASH (NIST SP 800-38D, section 6.4) in constant time, for GMAC.

A block is two uint64 words, the first of which holds the first bytes; the coefficient of x**0 is its highest
bit. Polynomials over GF(2) are multiplied as integers whose bits have holes between them. The carries stay in
the holes, as T. Pornin describes it ("Constant-time multiplications", BearSSL).
"""

import triton
import triton.language as tl

from .bits import wrap_mul


@triton.jit
def _with_holes(x):
    """Four uint64 tiles: tile i has the bits of a uint32 tile whose positions are i modulo 4, zeros between
    them."""
    out = ()
    for i in tl.static_range(4):
        out = out + ((x & (0x11111111 << i)).to(tl.uint64),)
    return out


@triton.jit
def _multiply32(x, y):
    """The product, uint64, of two polynomials of 32 coefficients, each given as what ``_with_holes``
    returns."""
    out = ()
    for c in tl.static_range(4):
        # At most eight ones are added at a bit, and the hole above it has room for their count.
        total = wrap_mul(x[0], y[c]) ^ wrap_mul(x[1], y[(c + 3) % 4])
        total = total ^ wrap_mul(x[2], y[(c + 2) % 4]) ^ wrap_mul(x[3], y[(c + 1) % 4])
        out = out + (total & (0x1111111111111111 << c),)
    return out[0] | out[1] | out[2] | out[3]


@triton.jit
def _multiply64(x, y):
    """The low and the high half of the product of two polynomials of 64 coefficients, by Karatsuba's
    method."""
    x0, x1 = (x & 0xFFFFFFFF).to(tl.uint32), (x >> 32).to(tl.uint32)
    y0, y1 = (y & 0xFFFFFFFF).to(tl.uint32), (y >> 32).to(tl.uint32)
    low = _multiply32(_with_holes(x0), _with_holes(y0))
    high = _multiply32(_with_holes(x1), _with_holes(y1))
    middle = _multiply32(_with_holes(x0 ^ x1), _with_holes(y0 ^ y1)) ^ low ^ high
    return low ^ (middle << 32), high ^ (middle >> 32)


@triton.jit
def ghash_multiply(x, h):
    """The product of two blocks in the field of 2**128 elements (section 6.3). A block is a tuple of two
    uint64 tiles."""
    x1, x0 = x
    h1, h0 = h
    a0, a1 = _multiply64(x0, h0)
    c0, c1 = _multiply64(x1, h1)
    b0, b1 = _multiply64(x0 ^ x1, h0 ^ h1)
    z1 = a1 ^ b0 ^ a0 ^ c0
    z2 = c0 ^ b1 ^ a1 ^ c1
    # With bits in reverse order, the product is one bit too low.
    v0 = a0 << 1
    v1 = (z1 << 1) | (a0 >> 63)
    v2 = (z2 << 1) | (z1 >> 63)
    v3 = (c1 << 1) | (z2 >> 63)
    # The lower half holds multiples of x**128, which is equal to x**7 + x**2 + x + 1. Its lowest quarter is
    # reduced first.
    v1 = v1 ^ (v0 << 62) ^ (v0 << 57)  # v0 is even
    v2 = v2 ^ v0 ^ (v0 >> 1) ^ (v0 >> 2) ^ (v0 >> 7)
    v2 = v2 ^ (v1 << 63) ^ (v1 << 62) ^ (v1 << 57)
    v3 = v3 ^ v1 ^ (v1 >> 1) ^ (v1 >> 2) ^ (v1 >> 7)
    return v3, v2


@triton.jit
def gmac_block(state, words, absorbed, last, flags, constants_ptr):
    """The block function of GHASH for ``hash_messages``, with the end of GMAC (section 7.1).
    ``constants_ptr`` points to the hash subkey H and to the encrypted counter block J0, 2 words each. J0 is
    xored into the last state of a message."""
    h = (tl.load(constants_ptr), tl.load(constants_ptr + 1))
    y = ghash_multiply((state[0] ^ words[0], state[1] ^ words[1]), h)
    out = ()
    for i in tl.static_range(2):
        out = out + (y[i] ^ tl.where(last, tl.load(constants_ptr + 2 + i), 0),)
    return out
