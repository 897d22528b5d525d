"""What the batch driver puts after a message.

A padding function has the signature ``pad(word, i, remaining, total, last, BLOCK_WORDS)`` and
returns the padded word. It sees raw little-endian 32-bit words, so that one function serves every
byte order:

- ``word``: uint32, the bytes of the message, zero beyond its end
- ``i``: the word's index in its block, a constexpr
- ``remaining``: int32, message bytes from this word's first byte on; zero or negative past the end
- ``total``: int64, length in bytes of the whole message, bytes absorbed earlier included
- ``last``: bool, whether this is the last block of the padded message
"""

import triton
import triton.language as tl

from .bits import bswap32


@triton.jit
def pad_zeros(word, i, remaining, total, last, BLOCK_WORDS: tl.constexpr):
    """No padding but zeros."""
    return word


@triton.jit
def pad_length_be64(word, i, remaining, total, last, BLOCK_WORDS: tl.constexpr):
    """A one bit, zeros, and the length in bits as 64 bits, big-endian (FIPS 180-4, section 5.1.1)."""
    ends_here = (remaining >= 0) & (remaining < 4)
    marker = tl.full((), 0x80, tl.uint32) << (tl.where(ends_here, remaining, 0) * 8).to(tl.uint32)
    word = tl.where(ends_here, word | marker, word)
    bits = total.to(tl.uint64) << 3
    if i == BLOCK_WORDS - 2:
        word = tl.where(last, bswap32((bits >> 32).to(tl.uint32)), word)
    if i == BLOCK_WORDS - 1:
        word = tl.where(last, bswap32((bits & 0xFFFFFFFF).to(tl.uint32)), word)
    return word
