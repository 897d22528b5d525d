"""GHASH (NIST SP 800-38D, section 6.4) in constant time, for GMAC.

A block is two uint64 words, the first bytes uppermost: the coefficient of x**0 is the highest bit. Products
of polynomials over two elements are made of products of integers whose bits have holes between them, which
the carries of the sums stay in, as T. Pornin describes it ("Constant-time multiplications", BearSSL).
"""

import triton
import triton.language as tl

from .bits import wrap_mul


@triton.jit
def _with_holes(x):
    """Every fourth bit of uint32 tiles, from bits 0 to 3 on, as four uint64 tiles."""
    out = ()
    for i in tl.static_range(4):
        out = out + ((x & (0x11111111 << i)).to(tl.uint64),)
    return out


@triton.jit
def _multiply32(x, y):
    """The product of two polynomials of 32 coefficients, uint64, from ``_with_holes`` of each."""
    out = ()
    for c in tl.static_range(4):
        # At most eight ones meet in a bit, whose count has room in the hole above it.
        total = wrap_mul(x[0], y[c]) ^ wrap_mul(x[1], y[(c + 3) % 4])
        total = total ^ wrap_mul(x[2], y[(c + 2) % 4]) ^ wrap_mul(x[3], y[(c + 1) % 4])
        out = out + (total & (0x1111111111111111 << c),)
    return out[0] | out[1] | out[2] | out[3]


@triton.jit
def _multiply64(x, y):
    """The low and the high half of the product of two polynomials of 64 coefficients (Karatsuba's way)."""
    x0, x1 = (x & 0xFFFFFFFF).to(tl.uint32), (x >> 32).to(tl.uint32)
    y0, y1 = (y & 0xFFFFFFFF).to(tl.uint32), (y >> 32).to(tl.uint32)
    low = _multiply32(_with_holes(x0), _with_holes(y0))
    high = _multiply32(_with_holes(x1), _with_holes(y1))
    middle = _multiply32(_with_holes(x0 ^ x1), _with_holes(y0 ^ y1)) ^ low ^ high
    return low ^ (middle << 32), high ^ (middle >> 32)


@triton.jit
def ghash_multiply(x, h):
    """The product of two blocks, tuples of two uint64 tiles (section 6.3)."""
    x1, x0 = x
    h1, h0 = h
    a0, a1 = _multiply64(x0, h0)
    c0, c1 = _multiply64(x1, h1)
    b0, b1 = _multiply64(x0 ^ x1, h0 ^ h1)
    z1 = a1 ^ b0 ^ a0 ^ c0
    z2 = c0 ^ b1 ^ a1 ^ c1
    # The product of polynomials whose bits are in reverse order is one place too low.
    v0 = a0 << 1
    v1 = (z1 << 1) | (a0 >> 63)
    v2 = (z2 << 1) | (z1 >> 63)
    v3 = (c1 << 1) | (z2 >> 63)
    # The lower half are the multiples of x**128, which is x**7 + x**2 + x + 1: first the lowest quarter.
    v1 = v1 ^ (v0 << 62) ^ (v0 << 57)  # v0 is even
    v2 = v2 ^ v0 ^ (v0 >> 1) ^ (v0 >> 2) ^ (v0 >> 7)
    v2 = v2 ^ (v1 << 63) ^ (v1 << 62) ^ (v1 << 57)
    v3 = v3 ^ v1 ^ (v1 >> 1) ^ (v1 >> 2) ^ (v1 >> 7)
    return v3, v2


@triton.jit
def gmac_block(state, words, absorbed, last, flags, constants_ptr):
    """GHASH's step for the batch driver, and GMAC's end (section 7.1): at ``constants_ptr`` are the hash
    subkey H and the encrypted counter block J0 that a message's last state is xored with, 2 words each."""
    h = (tl.load(constants_ptr), tl.load(constants_ptr + 1))
    y = ghash_multiply((state[0] ^ words[0], state[1] ^ words[1]), h)
    out = ()
    for i in tl.static_range(2):
        out = out + (y[i] ^ tl.where(last, tl.load(constants_ptr + 2 + i), 0),)
    return out
