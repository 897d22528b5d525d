"""The operations that an algorithm needs for a block, counted in its standard.

The imagined machine has words of 32 bits and these operations, each of which counts once: any Boolean
function of three words; the sum of three words, with a carry in and a carry out; a rotation or shift, whose
second word may be another one, as words of 64 bits need, with or without the addition of another word; any
rearrangement of the bytes of a word. So any operation on words of 64 bits counts twice, except that a
rotation by 32 bits is none: its two halves change places. Constants are operands, and everything is
straight-line code. Loads, and what a loop or an address costs, are not counted.

These are the operations of the standard's own formulas, grouped as well as we know how. They are not proven
to be the fewest, so a ratio a little below 1 would not be an error. Algorithms that consist of
multiplications have no entry, because targets multiply words of different sizes at different rates.
"""

from __future__ import annotations

from fractions import Fraction


def _sha2(rounds: int, words: int) -> int:
    """Operations on words of SHA-2 (FIPS 180-4, sections 6.2.2 and 6.4.2)."""
    # Sum1(e) is three rotations and one xor of three words, Ch(e, f, g) one Boolean function; the same for
    # Sum0(a) and Maj(a, b, c). T1 is a sum of five, so two additions; d + T1 is one, T1 + Sum0 + Maj is one.
    each = 3 + 1 + 1 + 3 + 1 + 1 + 2 + 1 + 1
    # sigma0 and sigma1 are three rotations or shifts and one xor each. The sum of four words is two
    # additions.
    schedule = 2 * (3 + 1) + 2
    # The first sixteen words of the schedule are the block's, in big-endian order: one rearrangement each,
    # which the caller counts. Eight words are added to the state at the end.
    return rounds * each + (rounds - words) * schedule + 8


def _sha1() -> int:
    """SHA-1 (FIPS 180-4, section 6.1.2)."""
    # ROTL5(a) + f + e + K + W is one rotation, one Boolean function and two additions; ROTL30(b) is a
    # rotation.
    each = 1 + 1 + 2 + 1
    # The xor of four words is two Boolean functions; then one rotation.
    schedule = 2 + 1
    return 80 * each + 64 * schedule + 5 + 16


def _md5() -> int:
    """MD5 (RFC 1321, section 3.4)."""
    # a + F(b, c, d) + X + T is one Boolean function and two additions; then a rotation with the addition of
    # b.
    return 64 * (1 + 2 + 1) + 4


def _sm3() -> int:
    """SM3 (GB/T 32905-2016, section 5.3)."""
    # SS1 = ((A <<< 12) + E + T) <<< 7 is two rotations and an addition, SS2 = SS1 ^ (A <<< 12) a Boolean
    # function. TT1 = FF + D + SS2 + W' and TT2 = GG + H + SS1 + W are a Boolean function and two additions
    # each; W' is the xor of two words. B and F are rotated. P0(TT2) is two rotations and a Boolean function.
    each = (2 + 1) + 1 + 2 * (1 + 2) + 1 + 2 + (2 + 1)
    # P1(x ^ y ^ (z <<< 15)) ^ (u <<< 7) ^ v, with P1(t) = t ^ (t <<< 15) ^ (t <<< 23): four rotations; one
    # Boolean function for t, and two for the xor of the five words.
    schedule = 4 + 1 + 2
    return 64 * each + 52 * schedule + 8 + 16


def _ripemd160() -> int:
    """RIPEMD-160 (ISO/IEC 10118-3, clause 9)."""
    # A + f(B, C, D) + X + K is one Boolean function and two additions, or one addition where K is 0, as in
    # sixteen steps of each line; then a rotation with the addition of E. C is rotated by 10.
    steps = 160 * (1 + 2 + 1 + 1) - 32
    return steps + 5


def _keccak(rate: int) -> int:
    """A sponge over Keccak-f[1600] with a rate in bytes (FIPS 202, sections 3.2 and 4)."""
    # In lanes. Theta: each of five parities is the xor of five lanes, two Boolean functions. Each lane is
    # xored with one parity and with another one that is rotated: five rotations, 25 Boolean functions. Rho
    # rotates 24 lanes. Pi moves lanes, which is nothing. Chi is 25 Boolean functions, and iota is one.
    each = 5 * 2 + 5 + 25 + 24 + 25 + 1
    return 2 * (24 * each + rate // 8)


def _blake2(rounds: int, halves: int, free: int) -> int:
    """BLAKE2 (RFC 7693, section 3), with words of ``halves`` times 32 bits, whose G has ``free`` rotations
    that cost nothing."""
    # G: a + b + x twice, c + d twice; four xors of two words; four rotations.
    mix = 4 + 4 + 4 - free
    # The counter and the flags are xored into words that are xored next anyway. Eight words of the next state
    # are the xor of three.
    return halves * (8 * rounds * mix + 8)


def _blake3() -> int:
    """BLAKE3 (the specification of 2021, section 2.2)."""
    # Seven rounds of eight G as in BLAKE2s. The chaining value is the xor of two words, eight times.
    return 7 * 8 * 12 + 8


def _siphash(rounds: int) -> int:
    """SipHash for a word of 64 bits (Aumasson and Bernstein 2012, section 2.2)."""
    # A round has four additions, four xors and six rotations, two of them by 32. The word is xored in twice,
    # the first time into a word whose last operation was an xor of two.
    return 2 * (rounds * (4 + 4 + 4) + 1)


OPERATIONS: dict[str, tuple[int, int]] = {
    # The big-endian words of a block are rearranged, one operation for each word of 32 bits.
    "sha256": (_sha2(64, 16) + 16, 64),
    "sha512": (2 * _sha2(80, 16) + 32, 128),
    "sha1": (_sha1(), 64),
    "md5": (_md5(), 64),
    "sm3": (_sm3(), 64),
    "ripemd160": (_ripemd160(), 64),
    "sha3_256": (_keccak(136), 136),
    "blake2b": (_blake2(12, 2, 1), 128),
    "blake2bp": (_blake2(12, 2, 1), 128),
    "blake2s": (_blake2(10, 1, 0), 64),
    "blake3": (_blake3(), 64),
    "siphash_2_4": (_siphash(2), 8),
}
"""The operations for a block, and the bytes of the block."""


def per_byte(algorithm: str) -> Fraction | None:
    """The least operations for a byte. None if they are not derived here."""
    if algorithm not in OPERATIONS:
        return None
    operations, size = OPERATIONS[algorithm]
    return Fraction(operations, size)
