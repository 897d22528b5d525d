"""Block functions that call compression functions in the way that the kernels of users do. They do without
the tables in memory and the branches that the batch driver uses to compile faster."""

import triton
import triton.language as tl

from integrity_triton.kernels.blake2 import blake2b_compress, blake2s_compress
from integrity_triton.kernels.sha2 import sha256_compress, sha512_compress


@triton.jit
def unrolled_sha256(state, words, absorbed, last, flags, constants_ptr):
    return sha256_compress(state, words)


@triton.jit
def unrolled_sha512(state, words, absorbed, last, flags, constants_ptr):
    return sha512_compress(state, words)


@triton.jit
def unrolled_blake2b(state, words, absorbed, last, flags, constants_ptr):
    zero = state[0] ^ state[0]
    f0 = tl.where(last, zero ^ 0xFFFFFFFFFFFFFFFF, zero)
    return blake2b_compress(state, words, absorbed.to(tl.uint64), zero, f0, zero)


@triton.jit
def unrolled_blake2s(state, words, absorbed, last, flags, constants_ptr):
    zero = state[0] ^ state[0]
    f0 = tl.where(last, zero ^ 0xFFFFFFFF, zero)
    return blake2s_compress(state, words, absorbed.to(tl.uint32), zero, f0, zero)
