"""RIPEMD-160: H. Dobbertin, A. Bosselaers, B. Preneel, "RIPEMD-160, a strengthened version of RIPEMD",
1996, with the pseudo-code of appendix A."""

import triton
import triton.language as tl

from .bits import rotl32, wrap_add

RIPEMD160_IV = tl.constexpr((0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0))
# The constants that the five rounds add, in the left and in the right line.
_K = tl.constexpr((0x00000000, 0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xA953FD4E))
_K_RIGHT = tl.constexpr((0x50A28BE6, 0x5C4DD124, 0x6D703EF3, 0x7A6D76E9, 0x00000000))
# The message word that each step uses, and the rotation of each step.
_R = tl.constexpr(
    (
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
        7, 4, 13, 1, 10, 6, 15, 3, 12, 0, 9, 5, 2, 14, 11, 8,
        3, 10, 14, 4, 9, 15, 8, 1, 2, 7, 0, 6, 13, 11, 5, 12,
        1, 9, 11, 10, 0, 8, 12, 4, 13, 3, 7, 15, 14, 5, 6, 2,
        4, 0, 5, 9, 7, 12, 2, 10, 14, 1, 3, 8, 11, 6, 15, 13,
    )
)  # fmt: skip
_R_RIGHT = tl.constexpr(
    (
        5, 14, 7, 0, 9, 2, 11, 4, 13, 6, 15, 8, 1, 10, 3, 12,
        6, 11, 3, 7, 0, 13, 5, 10, 14, 15, 8, 12, 4, 9, 1, 2,
        15, 5, 1, 3, 7, 14, 6, 9, 11, 8, 12, 2, 10, 0, 4, 13,
        8, 6, 4, 1, 3, 11, 15, 0, 5, 12, 2, 13, 9, 7, 10, 14,
        12, 15, 10, 4, 1, 5, 8, 7, 6, 2, 13, 14, 0, 3, 9, 11,
    )
)  # fmt: skip
_S = tl.constexpr(
    (
        11, 14, 15, 12, 5, 8, 7, 9, 11, 13, 14, 15, 6, 7, 9, 8,
        7, 6, 8, 13, 11, 9, 7, 15, 7, 12, 15, 9, 11, 7, 13, 12,
        11, 13, 6, 7, 14, 9, 13, 15, 14, 8, 13, 6, 5, 12, 7, 5,
        11, 12, 14, 15, 14, 15, 9, 8, 9, 14, 5, 6, 8, 6, 5, 12,
        9, 15, 5, 11, 6, 8, 13, 12, 5, 12, 13, 14, 11, 8, 5, 6,
    )
)  # fmt: skip
_S_RIGHT = tl.constexpr(
    (
        8, 9, 9, 11, 13, 15, 15, 5, 7, 7, 8, 11, 14, 14, 12, 6,
        9, 13, 15, 7, 12, 8, 9, 11, 7, 7, 12, 7, 6, 15, 13, 11,
        9, 7, 15, 11, 8, 6, 6, 14, 12, 13, 5, 14, 13, 13, 7, 5,
        15, 5, 8, 11, 14, 14, 6, 14, 6, 9, 12, 9, 12, 5, 15, 8,
        8, 5, 12, 9, 12, 5, 14, 6, 8, 13, 6, 5, 15, 13, 11, 11,
    )
)  # fmt: skip


@triton.jit
def _f(x, y, z, ROUND: tl.constexpr):
    """The nonlinear function of a round, numbered 0 to 4."""
    if ROUND == 0:
        f = x ^ y ^ z
    elif ROUND == 1:
        f = z ^ (x & (y ^ z))
    elif ROUND == 2:
        f = (x | (y ^ 0xFFFFFFFF)) ^ z
    elif ROUND == 3:
        f = y ^ (z & (x ^ y))
    else:
        f = x ^ (y | (z ^ 0xFFFFFFFF))
    return f


@triton.jit
def ripemd160_compress(state, x):
    """One application of the RIPEMD-160 compression function.

    state: 5 uint32 tiles. x: the 16 words of a message block, uint32 tiles. Returns the next state.
    """
    a, b, c, d, e = state
    p, q, r, s, t = state  # a to e of the right line
    for j in tl.static_range(80):
        total = wrap_add(wrap_add(a, _f(b, c, d, j // 16)), wrap_add(x[_R[j]], _K[j // 16]))
        a, e, d, c, b = e, d, rotl32(c, 10), b, wrap_add(rotl32(total, _S[j]), e)
        total = wrap_add(wrap_add(p, _f(q, r, s, 4 - j // 16)), wrap_add(x[_R_RIGHT[j]], _K_RIGHT[j // 16]))
        p, t, s, r, q = t, s, rotl32(r, 10), q, wrap_add(rotl32(total, _S_RIGHT[j]), t)
    return (
        wrap_add(wrap_add(state[1], c), s),
        wrap_add(wrap_add(state[2], d), t),
        wrap_add(wrap_add(state[3], e), p),
        wrap_add(wrap_add(state[4], a), q),
        wrap_add(wrap_add(state[0], b), r),
    )


@triton.jit
def ripemd160_block(state, words, absorbed, last, flags, constants_ptr):
    """The block function for ``hash_messages``."""
    return ripemd160_compress(state, words)
