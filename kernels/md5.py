"""MD5: RFC 1321."""

import triton
import triton.language as tl

from .bits import rotl32, wrap_add

# Section 3.4: the integer part of 2**32 * abs(sin(i)), where i is in radians and starts at 1.
MD5_T = tl.constexpr(
    (
        0xD76AA478, 0xE8C7B756, 0x242070DB, 0xC1BDCEEE, 0xF57C0FAF, 0x4787C62A, 0xA8304613, 0xFD469501,
        0x698098D8, 0x8B44F7AF, 0xFFFF5BB1, 0x895CD7BE, 0x6B901122, 0xFD987193, 0xA679438E, 0x49B40821,
        0xF61E2562, 0xC040B340, 0x265E5A51, 0xE9B6C7AA, 0xD62F105D, 0x02441453, 0xD8A1E681, 0xE7D3FBC8,
        0x21E1CDE6, 0xC33707D6, 0xF4D50D87, 0x455A14ED, 0xA9E3E905, 0xFCEFA3F8, 0x676F02D9, 0x8D2A4C8A,
        0xFFFA3942, 0x8771F681, 0x6D9D6122, 0xFDE5380C, 0xA4BEEA44, 0x4BDECFA9, 0xF6BB4B60, 0xBEBFBC70,
        0x289B7EC6, 0xEAA127FA, 0xD4EF3085, 0x04881D05, 0xD9D4D039, 0xE6DB99E5, 0x1FA27CF8, 0xC4AC5665,
        0xF4292244, 0x432AFF97, 0xAB9423A7, 0xFC93A039, 0x655B59C3, 0x8F0CCC92, 0xFFEFF47D, 0x85845DD1,
        0x6FA87E4F, 0xFE2CE6E0, 0xA3014314, 0x4E0811A1, 0xF7537E82, 0xBD3AF235, 0x2AD7D2BB, 0xEB86D391,
    )
)  # fmt: skip
# Section 3.3: the initial value.
MD5_IV = tl.constexpr((0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476))
# Section 3.4: the rotations of each round, and the step between the words that it uses, and the first word.
_S = tl.constexpr((7, 12, 17, 22, 5, 9, 14, 20, 4, 11, 16, 23, 6, 10, 15, 21))
_STEP = tl.constexpr((1, 5, 3, 7))
_FIRST = tl.constexpr((0, 1, 5, 0))


@triton.jit
def md5_compress(state, x):
    """One application of the MD5 compression function (RFC 1321, section 3.4).

    state: 4 uint32 tiles. x: the 16 words of a message block, uint32 tiles. Returns the next state.
    """
    a, b, c, d = state
    for i in tl.static_range(64):
        if i < 16:
            f = d ^ (b & (c ^ d))
        elif i < 32:
            f = c ^ (d & (b ^ c))
        elif i < 48:
            f = b ^ c ^ d
        else:
            f = c ^ (b | (d ^ 0xFFFFFFFF))
        word = x[(_FIRST[i // 16] + _STEP[i // 16] * i) % 16]
        total = wrap_add(wrap_add(wrap_add(a, MD5_T[i]), word), f)
        a, d, c, b = d, c, b, wrap_add(b, rotl32(total, _S[i // 16 * 4 + i % 4]))
    return wrap_add(state[0], a), wrap_add(state[1], b), wrap_add(state[2], c), wrap_add(state[3], d)


@triton.jit
def md5_block(state, words, absorbed, last, flags, constants_ptr):
    """The block function for ``hash_messages``."""
    return md5_compress(state, words)
