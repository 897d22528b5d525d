"""The Keccak permutation and the sponge: FIPS 202.

SHA-3, SHAKE, cSHAKE, TurboSHAKE and the original Keccak differ only in the rate, the number of rounds and the
bits that are appended to the message. So one permutation and one sponge serve all of them.
"""

import triton
import triton.language as tl

from .bits import join64, load_words, rotl64
from .halves import rotl64_in_halves, rotl_halves, split64
from .jit import kernel

# FIPS 202, algorithm 5 and section 3.2.5: the round constants of iota.
KECCAK_RC = tl.constexpr(
    (
        0x0000000000000001, 0x0000000000008082, 0x800000000000808A, 0x8000000080008000,
        0x000000000000808B, 0x0000000080000001, 0x8000000080008081, 0x8000000000008009,
        0x000000000000008A, 0x0000000000000088, 0x0000000080008009, 0x000000008000000A,
        0x000000008000808B, 0x800000000000008B, 0x8000000000008089, 0x8000000000008003,
        0x8000000000008002, 0x8000000000000080, 0x000000000000800A, 0x800000008000000A,
        0x8000000080008081, 0x8000000000008080, 0x0000000080000001, 0x8000000080008008,
    )
)  # fmt: skip
# The initial state of every sponge.
KECCAK_IV = tl.constexpr((0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
# Section 3.2.2, table 2: the rotation of the lane A[x, y] is at x + 5 * y.
KECCAK_RHO = tl.constexpr(
    (
        0, 1, 62, 28, 27,
        36, 44, 6, 55, 20,
        3, 10, 43, 25, 39,
        41, 45, 15, 21, 8,
        18, 2, 61, 56, 14,
    )
)  # fmt: skip
# Section 3.2.3: the lane that pi moves to x + 5 * y.
KECCAK_PI = tl.constexpr(
    (
        0, 6, 12, 18, 24,
        3, 9, 10, 16, 22,
        1, 7, 13, 19, 20,
        4, 5, 11, 17, 23,
        2, 8, 14, 15, 21,
    )
)  # fmt: skip
KECCAK_ROUNDS = tl.constexpr(24)


# The forms of a round, which give the same result: with rotations of 64-bit words, with rotations of halves,
# and besides with each lane xored with both columns of theta at once.
_WORDS = tl.constexpr(0)
_IN_HALVES = tl.constexpr(1)
_BY_THREE = tl.constexpr(2)


@triton.jit
def _xor_and_rotate(a, before, after, n: tl.constexpr):
    """``rotl64(a ^ before ^ after, n)``, 0 <= n < 64.

    The first operation is one of 64-bit words and the second one of 32-bit halves. LLVM would otherwise
    compute ``before ^ after`` once for the five lanes of a column; each lane would still take an operation,
    although one operation has room for three words.
    """
    low, high = split64(a ^ before)
    other_low, other_high = split64(after)
    low, high = low ^ other_low, high ^ other_high
    if n > 0:
        low, high = rotl_halves(low, high, n)
    return join64(low, high)


@triton.jit
def keccak_round(a, rc, FORM: tl.constexpr = _WORDS):
    """One round of Keccak-p[1600] (FIPS 202, section 3.3) on 25 uint64 tiles; A[x, y] is at x + 5 * y. rc:
    the round constant."""
    ROTL: tl.constexpr = rotl64 if FORM == _WORDS else rotl64_in_halves
    c = ()
    for x in tl.static_range(5):
        c = c + (a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20],)
    turned = ()
    for x in tl.static_range(5):
        turned = turned + (ROTL(c[(x + 1) % 5], 1),)
    if FORM == _BY_THREE:
        b = ()
        for i in tl.static_range(25):
            lane = a[KECCAK_PI[i]]
            b = b + (
                _xor_and_rotate(
                    lane, c[(KECCAK_PI[i] + 4) % 5], turned[KECCAK_PI[i] % 5], KECCAK_RHO[KECCAK_PI[i]]
                ),
            )
    else:
        d = ()
        for x in tl.static_range(5):
            d = d + (c[(x + 4) % 5] ^ turned[x],)
        b = (a[0] ^ d[0],)
        for i in tl.static_range(1, 25):
            b = b + (ROTL(a[KECCAK_PI[i]] ^ d[KECCAK_PI[i] % 5], KECCAK_RHO[KECCAK_PI[i]]),)
    out = ()
    for i in tl.static_range(25):
        inverted = b[i // 5 * 5 + (i + 1) % 5] ^ 0xFFFFFFFFFFFFFFFF
        chi = b[i] ^ (inverted & b[i // 5 * 5 + (i + 2) % 5])
        out = out + ((chi ^ rc if i == 0 else chi),)
    return out


@triton.jit
def keccak_p(state, first_round, rc_ptr, FORM: tl.constexpr = _WORDS):
    """The permutation Keccak-p[1600] without its first ``first_round`` rounds: 0 gives Keccak-f[1600] (FIPS
    202, section 3.4), 12 the permutation of TurboSHAKE (RFC 9861, section 2.2).

    state: 25 uint64 tiles; A[x, y] is at x + 5 * y. rc_ptr: the words of ``KECCAK_RC`` in memory. Returns the
    next state.
    """
    for i in range(first_round, KECCAK_ROUNDS):
        state = keccak_round(state, tl.load(rc_ptr + i), FORM)
    return state


@triton.jit
def _absorb(state, words, first_round, rc_ptr, FORM: tl.constexpr):
    mixed = ()
    for i in tl.static_range(25):
        mixed = mixed + ((state[i] ^ words[i] if i < 21 else state[i]),)
    return keccak_p(mixed, first_round, rc_ptr, FORM)


@triton.jit
def keccak_block(state, words, absorbed, last, flags, constants_ptr):
    """The block function for ``hash_messages``: the sponge absorbs a block (FIPS 202, algorithm 8).

    words: 21 uint64 tiles, zeros beyond the rate. flags: the number of first rounds that are left out.
    """
    return _absorb(state, words, flags, constants_ptr, _WORDS)


@triton.jit
def keccak_block_in_halves(state, words, absorbed, last, flags, constants_ptr):
    """``keccak_block`` for GPUs that rotate two words of 32 bits in one instruction."""
    return _absorb(state, words, flags, constants_ptr, _IN_HALVES)


@triton.jit
def keccak_block_by_three(state, words, absorbed, last, flags, constants_ptr):
    """``keccak_block_in_halves`` for GPUs that have any operation on the bits of three words as well."""
    return _absorb(state, words, flags, constants_ptr, _BY_THREE)


@kernel
def keccak_squeeze(
    state_ptr,
    constants_ptr,
    out_ptr,
    count: tl.int64,
    blocks: tl.int64,
    rate: tl.int64,
    first_round: tl.int64,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """The output of ``count`` sponges, one sponge per lane (FIPS 202, algorithm 8, steps 7 to 10).

    ``state_ptr`` is uint64 ``[count, 25]``, the states after the last block of the messages. ``out_ptr``
    receives uint64 ``[count, blocks, rate]``: ``blocks`` blocks of ``rate`` words. ``first_round`` is as for
    ``keccak_p``.
    """
    lane = tl.program_id(0).to(tl.int64) * BLOCK_MSGS + tl.arange(0, BLOCK_MSGS)
    valid = lane < count
    words = lane * 0 + rate
    state = load_words(state_ptr + lane * 25, valid, 25)
    for n in range(blocks):
        number = tl.full((), 0, tl.int64) + n
        if n > 0:
            state = keccak_p(state, first_round, constants_ptr)
        pointer = out_ptr + (lane * blocks + number) * rate
        for i in tl.static_range(21):
            tl.store(pointer + i, state[i], mask=valid & (words > i))
