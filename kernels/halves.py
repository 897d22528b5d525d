"""Rotations of 64-bit words as operations on their halves.

Registers of GPUs have 32 bits. Each half of a rotated word is 32 consecutive bits of the two halves, which
NVIDIA and AMD have one instruction for. LLVM does not find it for AMD: it makes two shifts of 64 bits and two
ors. On processors with rotations of 64 bits, these functions would be slower than those in ``bits.py``.
"""

import triton
import triton.language as tl

from .bits import join64


@triton.jit
def split64(x):
    """The low and the high halves of uint64 tiles, uint32."""
    return (x & 0xFFFFFFFF).to(tl.uint32), (x >> 32).to(tl.uint32)


@triton.jit
def rotl_halves(low, high, n: tl.constexpr):
    """Rotate each uint64 left by ``n`` bits, 0 < n < 64, given as its halves. Returns the halves."""
    if n >= 32:
        low, high = high, low
    if n % 32 != 0:
        low, high = (low << n % 32) | (high >> 32 - n % 32), (high << n % 32) | (low >> 32 - n % 32)
    return low, high


@triton.jit
def rotl64_in_halves(x, n: tl.constexpr):
    """``rotl64``."""
    low, high = split64(x)
    low, high = rotl_halves(low, high, n)
    return join64(low, high)


@triton.jit
def rotr64_in_halves(x, n: tl.constexpr):
    """``rotr64``."""
    return rotl64_in_halves(x, 64 - n)
