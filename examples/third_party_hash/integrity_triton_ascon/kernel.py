"""Ascon-Hash256 as a block function of integrity_triton's batch driver: NIST SP 800-232, section 5.1."""

import triton
import triton.language as tl

from integrity_triton.kernels.bits import rotr64, select

# The state after the permutation of its initial value (section 5.1, step 1).
ASCON_HASH256_IV = tl.constexpr(
    (0x9B1E5494E934D681, 0x4BC3A01E333751D2, 0xAE65396C6B34B81A, 0x3C7FD4A4D56A4DB3, 0x1A5C464906C5976D)
)
# Table 5, of the twelve rounds.
ASCON_ROUND_CONSTANTS = tl.constexpr((0xF0, 0xE1, 0xD2, 0xC3, 0xB4, 0xA5, 0x96, 0x87, 0x78, 0x69, 0x5A, 0x4B))
ROUNDS = tl.constexpr(12)


@triton.jit
def ascon_permute(state, constants_ptr):
    """Ascon-p[12] (section 3) of five uint64 tiles."""
    x0, x1, x2, x3, x4 = state
    for i in range(ROUNDS):
        x2 ^= tl.load(constants_ptr + i)
        # Section 3.3: all columns at once.
        x0 ^= x4
        x4 ^= x3
        x2 ^= x1
        t0 = x0 ^ (~x1 & x2)
        t1 = x1 ^ (~x2 & x3)
        t2 = x2 ^ (~x3 & x4)
        t3 = x3 ^ (~x4 & x0)
        t4 = x4 ^ (~x0 & x1)
        t1 ^= t0
        t0 ^= t4
        t3 ^= t2
        t2 = ~t2
        # Section 3.4.
        x0 = t0 ^ rotr64(t0, 19) ^ rotr64(t0, 28)
        x1 = t1 ^ rotr64(t1, 61) ^ rotr64(t1, 39)
        x2 = t2 ^ rotr64(t2, 1) ^ rotr64(t2, 6)
        x3 = t3 ^ rotr64(t3, 10) ^ rotr64(t3, 17)
        x4 = t4 ^ rotr64(t4, 7) ^ rotr64(t4, 41)
    return (x0, x1, x2, x3, x4)


@triton.jit
def _or(x, y):
    return x | y


@triton.jit
def ascon_block(state, words, absorbed, last, flags, constants_ptr):
    """Absorb a block of 8 bytes; of a message's last, the first four words are the digest."""
    x0, x1, x2, x3, x4 = state
    new = ascon_permute((x0 ^ words[0], x1, x2, x3, x4), constants_ptr)
    if tl.reduce(last.to(tl.int32), 0, _or) != 0:
        second = ascon_permute(new, constants_ptr)
        third = ascon_permute(second, constants_ptr)
        fourth = ascon_permute(third, constants_ptr)
        new = select(last, (new[0], second[0], third[0], fourth[0], new[4]), new, 5)
    return new


@triton.jit
def pad_ascon(word, i, remaining, total, last, padding, WORDS: tl.constexpr):
    """A one and zeros behind the message (section 5.1, step 2), as a padding function of the batch driver."""
    here = (remaining >= 0) & (remaining < 4)
    one = tl.full((), 1, tl.uint32) << (tl.where(here, remaining, 0) * 8).to(tl.uint32)
    return tl.where(here, word | one, word)
