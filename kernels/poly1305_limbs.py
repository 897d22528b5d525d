"""Arithmetic modulo p = 2**130 - 5, the prime of Poly1305 (RFC 8439, section 2.5), on tiles of numbers.

A number is a tuple of five limbs of 26 bits, each a tile of uint64. A limb may be a little larger until its
carry has been propagated. No branch and no address depends on the value of a key, a message or a sum: where a
result depends on a condition, both values are computed and one is selected.
"""

import triton
import triton.language as tl

BLOCK_BYTES = tl.constexpr(16)
LIMB_MASK = tl.constexpr(0x3FFFFFF)
WORD_MASK = tl.constexpr(0xFFFFFFFF)
# 2**128 in the highest limb: the one that is appended to a whole block.
BLOCK_ONE = tl.constexpr(1 << 24)
# The little-endian words of the mask that clamps r (section 2.5.1).
_CLAMP = tl.constexpr((0x0FFFFFFF, 0x0FFFFFFC, 0x0FFFFFFC, 0x0FFFFFFC))
# 2**27 * p in limbs. Adding it makes signed limbs of up to 53 bits positive.
LARGE = tl.constexpr(((0x3FFFFFB) << 27, 0x3FFFFFF << 27, 0x3FFFFFF << 27, 0x3FFFFFF << 27, 0x3FFFFFF << 27))


@triton.jit
def limbs(low, high):
    """The limbs of numbers of 128 bits, which are given as uint64 halves."""
    return (
        low & LIMB_MASK,
        (low >> 26) & LIMB_MASK,
        ((low >> 52) | (high << 12)) & LIMB_MASK,
        (high >> 14) & LIMB_MASK,
        high >> 40,
    )


@triton.jit
def clamped(words):
    """The limbs of r, which is clamped (section 2.5.1), from the first four words of a key."""
    out = ()
    for i in tl.static_range(4):
        out = out + ((words[i] & _CLAMP[i]).to(tl.uint64),)
    return limbs(out[0] | (out[1] << 32), out[2] | (out[3] << 32))


@triton.jit
def times(x, y):
    """x * y, with carries not yet propagated: sums of 64-bit products of 32-bit factors. Limbs of x must be
    below 2**29, and those of y below 2**27."""
    # The masks tell compilers that these factors have 32 bits, which they cannot see otherwise.
    s1 = y[1] * 5 & WORD_MASK
    s2 = y[2] * 5 & WORD_MASK
    s3 = y[3] * 5 & WORD_MASK
    s4 = y[4] * 5 & WORD_MASK
    return (
        x[0] * y[0] + x[1] * s4 + x[2] * s3 + x[3] * s2 + x[4] * s1,
        x[0] * y[1] + x[1] * y[0] + x[2] * s4 + x[3] * s3 + x[4] * s2,
        x[0] * y[2] + x[1] * y[1] + x[2] * y[0] + x[3] * s4 + x[4] * s3,
        x[0] * y[3] + x[1] * y[2] + x[2] * y[1] + x[3] * y[0] + x[4] * s4,
        x[0] * y[4] + x[1] * y[3] + x[2] * y[2] + x[3] * y[1] + x[4] * y[0],
    )


@triton.jit
def select_limbs(condition, x, y):
    out = ()
    for i in tl.static_range(5):
        out = out + (tl.where(condition, x[i], y[i]),)
    return out


@triton.jit
def plus(x, y):
    out = ()
    for i in tl.static_range(5):
        out = out + (x[i] + y[i],)
    return out


@triton.jit
def carried(d):
    """The same value modulo p with carries propagated: limbs are below 2**26, and the second is below
    2**26 + 2**14. Limbs of d must be below 2**63.5."""
    d0, d1, d2, d3, d4 = d
    # Two chains of carries run side by side, each of half the length.
    d1 += d0 >> 26
    d4 += d3 >> 26
    d0 &= LIMB_MASK
    d3 &= LIMB_MASK
    d2 += d1 >> 26
    d0 += (d4 >> 26) * 5
    d1 &= LIMB_MASK
    d4 &= LIMB_MASK
    d3 += d2 >> 26
    d1 += d0 >> 26
    d2 &= LIMB_MASK
    d0 &= LIMB_MASK
    d4 += d3 >> 26
    d3 &= LIMB_MASK
    d0 += (d4 >> 26) * 5
    d4 &= LIMB_MASK
    d1 += d0 >> 26
    d0 &= LIMB_MASK
    return d0, d1 & WORD_MASK, d2, d3, d4


@triton.jit
def multiply(x, y):
    return carried(times(x, y))


@triton.jit
def reduced(h):
    """The limbs of h modulo p, a number from 0 to p - 1. Limbs of h must be below 2**62."""
    h = carried(h)
    h0, h1, h2, h3, h4 = h
    for _ in tl.static_range(2):
        h2 += h1 >> 26
        h1 &= LIMB_MASK
        h3 += h2 >> 26
        h2 &= LIMB_MASK
        h4 += h3 >> 26
        h3 &= LIMB_MASK
        h0 += (h4 >> 26) * 5
        h4 &= LIMB_MASK
        h1 += h0 >> 26
        h0 &= LIMB_MASK
    # h - p is h + 5 without its bit 130, and that bit tells whether h is at least p.
    g0 = h0 + 5
    g1 = h1 + (g0 >> 26)
    g2 = h2 + (g1 >> 26)
    g3 = h3 + (g2 >> 26)
    g4 = h4 + (g3 >> 26)
    return select_limbs(
        g4 >> 26 != 0,
        (g0 & LIMB_MASK, g1 & LIMB_MASK, g2 & LIMB_MASK, g3 & LIMB_MASK, g4 & LIMB_MASK),
        (h0, h1, h2, h3, h4),
    )


@triton.jit
def halves(h):
    """The low 128 bits of a reduced number as uint64 halves."""
    low = h[0] | (h[1] << 26) | (h[2] << 52)
    high = (h[2] >> 12) | (h[3] << 14) | (h[4] << 40)
    return low, high


@triton.jit
def load_limbs(pointer, step, mask):
    """Five limbs, stored as uint32 words that are ``step`` words apart."""
    out = ()
    for i in tl.static_range(5):
        out = out + (tl.load(pointer + i * step, mask=mask, other=0).to(tl.uint64),)
    return out


@triton.jit
def load_power(power_ptr, k):
    """r**(2**k) of one key, with scalars as limbs."""
    out = ()
    for i in tl.static_range(5):
        out = out + (tl.load(power_ptr + (5 * k + i)).to(tl.uint64),)
    return out


@triton.jit
def store_limbs(pointer, step, h, mask):
    for i in tl.static_range(5):
        tl.store(pointer + i * step, h[i].to(tl.uint32), mask=mask)


@triton.jit
def add(x, y):
    return x + y


@triton.jit
def pad_one(word, i, remaining, total, last, padding, WORDS: tl.constexpr):
    """A padding function (``padding.py``): the one that is appended to a block that is not whole."""
    here = (remaining >= 0) & (remaining < 4) & last
    one = tl.full((), 1, tl.uint32) << (tl.where(here, remaining, 0) * 8).to(tl.uint32)
    return tl.where(here, word | one, word)


@triton.jit
def block_limbs(words):
    low = words[0].to(tl.uint64) | (words[1].to(tl.uint64) << 32)
    high = words[2].to(tl.uint64) | (words[3].to(tl.uint64) << 32)
    return limbs(low, high)
