"""Functions that pad a message for ``hash_messages``.

A padding function has the signature ``pad(word, i, remaining, total, last, padding, WORDS)`` and returns the
padded word. It sees raw little-endian words of 32 bits, so that one function serves every byte order and word
size:

- ``word``: uint32, the bytes of the message, zeros after its end
- ``i``: the index of the word in its block of ``WORDS`` such words, a constexpr
- ``remaining``: int32, the number of message bytes from the first byte of this word on; zero or negative
  after the end
- ``total``: int64, the length of the whole message in bytes, with bytes that were absorbed earlier
- ``last``: bool, whether this is the last block of the padded message
- ``padding``: int64 scalar, whose meaning the padding function defines
"""

import triton
import triton.language as tl

from .bits import bswap32, bswap32_apart


@triton.jit
def pad_zeros(word, i, remaining, total, last, padding, WORDS: tl.constexpr):
    """Only zeros."""
    return word


@triton.jit
def _pad_one_bit(word, remaining):
    """The byte 0x80 after the message."""
    ends_here = (remaining >= 0) & (remaining < 4)
    marker = tl.full((), 0x80, tl.uint32) << (tl.where(ends_here, remaining, 0) * 8).to(tl.uint32)
    return tl.where(ends_here, word | marker, word)


@triton.jit
def pad_one_bit(word, i, remaining, total, last, padding, WORDS: tl.constexpr):
    """A one bit and zeros, if the message does not fill its last block (SP 800-38B, section 6.2)."""
    return _pad_one_bit(word, remaining)


@triton.jit
def pad_length_be64(word, i, remaining, total, last, padding, WORDS: tl.constexpr):
    """A one bit, zeros, and the length in bits as 64 bits, big-endian (FIPS 180-4, section 5.1.1)."""
    word = _pad_one_bit(word, remaining)
    bits = total.to(tl.uint64) << 3
    if i == WORDS - 2:
        word = tl.where(last, bswap32_apart((bits >> 32).to(tl.uint32), total), word)
    if i == WORDS - 1:
        word = tl.where(last, bswap32((bits & 0xFFFFFFFF).to(tl.uint32)), word)
    return word


@triton.jit
def pad_length_le64(word, i, remaining, total, last, padding, WORDS: tl.constexpr):
    """A one bit, zeros, and the length in bits as 64 bits, little-endian (RFC 1321, sections 3.1 and 3.2)."""
    word = _pad_one_bit(word, remaining)
    bits = total.to(tl.uint64) << 3
    if i == WORDS - 2:
        word = tl.where(last, (bits & 0xFFFFFFFF).to(tl.uint32), word)
    if i == WORDS - 1:
        word = tl.where(last, (bits >> 32).to(tl.uint32), word)
    return word


@triton.jit
def pad_length_be128(word, i, remaining, total, last, padding, WORDS: tl.constexpr):
    """A one bit, zeros, and the length in bits as 128 bits, big-endian (FIPS 180-4, section 5.1.2)."""
    word = pad_length_be64(word, i, remaining, total, last, padding, WORDS)
    if i == WORDS - 3:  # the number of bits has three bits beyond its low 64
        word = tl.where(last, bswap32_apart((total.to(tl.uint64) >> 61).to(tl.uint32), total), word)
    return word


@triton.jit
def pad_sponge(word, i, remaining, total, last, padding, WORDS: tl.constexpr):
    """A suffix and pad10*1 (FIPS 202, section 5.1 and appendix B.2).

    The low 48 bits of ``padding`` are the one to six bytes that directly follow the message, little-endian.
    The last of them holds the suffix bits of the domain and the first 1 of pad10*1. Their number is the
    minimum padding. The bits above these 48 are the rate in bytes; the last bit of the rate is the final 1.
    """
    rate = padding >> 48
    suffix = (padding & 0xFFFFFFFFFFFF).to(tl.uint64)
    within = rate > 4 * i  # a block that is shorter than WORDS ends among them
    starts = within & (remaining >= 0) & (remaining < 4)
    goes_on = within & (remaining < 0) & (remaining > -6)
    up = (tl.where(starts, remaining, 0) * 8).to(tl.uint64)
    down = (tl.where(goes_on, -remaining, 0) * 8).to(tl.uint64)
    word = tl.where(starts, word | ((suffix << up) & 0xFFFFFFFF).to(tl.uint32), word)
    word = tl.where(goes_on, word | ((suffix >> down) & 0xFFFFFFFF).to(tl.uint32), word)
    return tl.where(last & (rate == 4 * (i + 1)), word ^ 0x80000000, word)


@triton.jit
def pad_length_ghash(word, i, remaining, total, last, padding, WORDS: tl.constexpr):
    """Zeros up to the end of a block, and a block with two lengths in bits, each as 64 bits, big-endian (SP
    800-38D, sections 7.1 and 6.4). The length of the message is the first of them if ``padding`` is 0, and
    the second if it is 1. The other length is zero."""
    bits = total.to(tl.uint64) << 3
    here = last & (padding == i // 2)
    if i % 2 == 0:
        word = tl.where(here, bswap32_apart((bits >> 32).to(tl.uint32), total), word)
    else:
        word = tl.where(here, bswap32((bits & 0xFFFFFFFF).to(tl.uint32)), word)
    return word
