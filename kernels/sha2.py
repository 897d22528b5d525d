"""SHA-2: FIPS 180-4."""

import triton
import triton.language as tl

from .bits import rotr32, rotr64, wrap_add
from .halves import rotr64_in_halves

# FIPS 180-4, section 4.2.2: the first 32 bits of the fractional parts of the cube roots of the first
# 64 primes.
SHA256_K = tl.constexpr(
    (
        0x428A2F98, 0x71374491, 0xB5C0FBCF, 0xE9B5DBA5, 0x3956C25B, 0x59F111F1, 0x923F82A4, 0xAB1C5ED5,
        0xD807AA98, 0x12835B01, 0x243185BE, 0x550C7DC3, 0x72BE5D74, 0x80DEB1FE, 0x9BDC06A7, 0xC19BF174,
        0xE49B69C1, 0xEFBE4786, 0x0FC19DC6, 0x240CA1CC, 0x2DE92C6F, 0x4A7484AA, 0x5CB0A9DC, 0x76F988DA,
        0x983E5152, 0xA831C66D, 0xB00327C8, 0xBF597FC7, 0xC6E00BF3, 0xD5A79147, 0x06CA6351, 0x14292967,
        0x27B70A85, 0x2E1B2138, 0x4D2C6DFC, 0x53380D13, 0x650A7354, 0x766A0ABB, 0x81C2C92E, 0x92722C85,
        0xA2BFE8A1, 0xA81A664B, 0xC24B8B70, 0xC76C51A3, 0xD192E819, 0xD6990624, 0xF40E3585, 0x106AA070,
        0x19A4C116, 0x1E376C08, 0x2748774C, 0x34B0BCB5, 0x391C0CB3, 0x4ED8AA4A, 0x5B9CCA4F, 0x682E6FF3,
        0x748F82EE, 0x78A5636F, 0x84C87814, 0x8CC70208, 0x90BEFFFA, 0xA4506CEB, 0xBEF9A3F7, 0xC67178F2,
    )
)  # fmt: skip
# FIPS 180-4, sections 5.3.3 and 5.3.2.
SHA256_IV = tl.constexpr(
    (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
)
SHA224_IV = tl.constexpr(
    (0xC1059ED8, 0x367CD507, 0x3070DD17, 0xF70E5939, 0xFFC00B31, 0x68581511, 0x64F98FA7, 0xBEFA4FA4)
)

# Section 4.2.3: the first 64 bits of the fractional parts of the cube roots of the first 80 primes.
SHA512_K = tl.constexpr(
    (
        0x428A2F98D728AE22, 0x7137449123EF65CD, 0xB5C0FBCFEC4D3B2F, 0xE9B5DBA58189DBBC,
        0x3956C25BF348B538, 0x59F111F1B605D019, 0x923F82A4AF194F9B, 0xAB1C5ED5DA6D8118,
        0xD807AA98A3030242, 0x12835B0145706FBE, 0x243185BE4EE4B28C, 0x550C7DC3D5FFB4E2,
        0x72BE5D74F27B896F, 0x80DEB1FE3B1696B1, 0x9BDC06A725C71235, 0xC19BF174CF692694,
        0xE49B69C19EF14AD2, 0xEFBE4786384F25E3, 0x0FC19DC68B8CD5B5, 0x240CA1CC77AC9C65,
        0x2DE92C6F592B0275, 0x4A7484AA6EA6E483, 0x5CB0A9DCBD41FBD4, 0x76F988DA831153B5,
        0x983E5152EE66DFAB, 0xA831C66D2DB43210, 0xB00327C898FB213F, 0xBF597FC7BEEF0EE4,
        0xC6E00BF33DA88FC2, 0xD5A79147930AA725, 0x06CA6351E003826F, 0x142929670A0E6E70,
        0x27B70A8546D22FFC, 0x2E1B21385C26C926, 0x4D2C6DFC5AC42AED, 0x53380D139D95B3DF,
        0x650A73548BAF63DE, 0x766A0ABB3C77B2A8, 0x81C2C92E47EDAEE6, 0x92722C851482353B,
        0xA2BFE8A14CF10364, 0xA81A664BBC423001, 0xC24B8B70D0F89791, 0xC76C51A30654BE30,
        0xD192E819D6EF5218, 0xD69906245565A910, 0xF40E35855771202A, 0x106AA07032BBD1B8,
        0x19A4C116B8D2D0C8, 0x1E376C085141AB53, 0x2748774CDF8EEB99, 0x34B0BCB5E19B48A8,
        0x391C0CB3C5C95A63, 0x4ED8AA4AE3418ACB, 0x5B9CCA4F7763E373, 0x682E6FF3D6B2B8A3,
        0x748F82EE5DEFB2FC, 0x78A5636F43172F60, 0x84C87814A1F0AB72, 0x8CC702081A6439EC,
        0x90BEFFFA23631E28, 0xA4506CEBDE82BDE9, 0xBEF9A3F7B2C67915, 0xC67178F2E372532B,
        0xCA273ECEEA26619C, 0xD186B8C721C0C207, 0xEADA7DD6CDE0EB1E, 0xF57D4F7FEE6ED178,
        0x06F067AA72176FBA, 0x0A637DC5A2C898A6, 0x113F9804BEF90DAE, 0x1B710B35131C471B,
        0x28DB77F523047D84, 0x32CAAB7B40C72493, 0x3C9EBE0A15C9BEBC, 0x431D67C49C100D4C,
        0x4CC5D4BECB3E42B6, 0x597F299CFC657E2A, 0x5FCB6FAB3AD6FAEC, 0x6C44198C4A475817,
    )
)  # fmt: skip
# Sections 5.3.5, 5.3.4, 5.3.6.1 and 5.3.6.2.
SHA512_IV = tl.constexpr(
    (
        0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
        0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179,
    )
)  # fmt: skip
SHA384_IV = tl.constexpr(
    (
        0xCBBB9D5DC1059ED8, 0x629A292A367CD507, 0x9159015A3070DD17, 0x152FECD8F70E5939,
        0x67332667FFC00B31, 0x8EB44A8768581511, 0xDB0C2E0D64F98FA7, 0x47B5481DBEFA4FA4,
    )
)  # fmt: skip
SHA512_224_IV = tl.constexpr(
    (
        0x8C3D37C819544DA2, 0x73E1996689DCD4D6, 0x1DFAB7AE32FF9C82, 0x679DD514582F9FCF,
        0x0F6D2B697BD44DA8, 0x77E36F7304C48942, 0x3F9D85A86A1D36C8, 0x1112E6AD91D692A1,
    )
)  # fmt: skip
SHA512_256_IV = tl.constexpr(
    (
        0x22312194FC2BF72C, 0x9F555FA3C84C64C2, 0x2393B86B6F53B151, 0x963877195940EABD,
        0x96283EE2A88EFFE3, 0xBE5E1E2553863992, 0x2B0199FC2C85B8AA, 0x0EB72DDC81C52CA2,
    )
)  # fmt: skip


@triton.jit
def _sha2_rounds(v, w, k, SUM0, SUM1, ROTR):
    """Sixteen rounds with the words ``w`` and the constants ``k`` (sections 6.2.2 and 6.4.2, step 3)."""
    a, b, c, d, e, f, g, h = v
    for t in tl.static_range(16):
        ch = g ^ (e & (f ^ g))
        t1 = wrap_add(wrap_add(wrap_add(h, SUM1(e, ROTR)), wrap_add(ch, k[t])), w[t])
        maj = (a & b) | (c & (a | b))
        h, g, f, e, d, c, b, a = g, f, e, wrap_add(d, t1), c, b, a, wrap_add(t1, wrap_add(SUM0(a, ROTR), maj))
    return a, b, c, d, e, f, g, h


@triton.jit
def _sha2_schedule(w, SIGMA0, SIGMA1, ROTR):
    """The next sixteen words of the message schedule (sections 6.2.2 and 6.4.2, step 1)."""
    for t in tl.static_range(16):
        x = wrap_add(wrap_add(w[0], SIGMA0(w[1], ROTR)), wrap_add(w[9], SIGMA1(w[14], ROTR)))
        w = w[1:] + (x,)
    return w


@triton.jit
def _sha2_rounds_and_schedule(v, w, k, SUM0, SUM1, SIGMA0, SIGMA1, ROTR):
    """``_sha2_rounds`` and ``_sha2_schedule`` in turn: a word is computed as soon as a round has used the one
    that it replaces. What a round waits for longest, SUM1, is added last."""
    a, b, c, d, e, f, g, h = v
    for t in tl.static_range(16):
        x = wrap_add(wrap_add(w[0], SIGMA0(w[1], ROTR)), wrap_add(w[9], SIGMA1(w[14], ROTR)))
        ch = g ^ (e & (f ^ g))
        t1 = wrap_add(wrap_add(wrap_add(h, k[t]), w[0]), ch)
        maj = (a & b) | (c & (a | b))
        t2 = wrap_add(SUM0(a, ROTR), maj)
        sum1 = SUM1(e, ROTR)
        h, g, f, e = g, f, e, wrap_add(wrap_add(d, t1), sum1)
        d, c, b, a = c, b, a, wrap_add(wrap_add(t1, t2), sum1)
        w = w[1:] + (x,)
    return (a, b, c, d, e, f, g, h), w


@triton.jit
def _sixteen(k_ptr):
    """The sixteen constants at ``k_ptr``."""
    k = ()
    for t in tl.static_range(16):
        k = k + (tl.load(k_ptr + t),)
    return k


@triton.jit
def _sha2_compress(
    state,
    w,
    k_ptr,
    K: tl.constexpr,
    ROUNDS: tl.constexpr,
    SUM0: tl.constexpr,
    SUM1: tl.constexpr,
    SIGMA0: tl.constexpr,
    SIGMA1: tl.constexpr,
    ROTR: tl.constexpr,
    INTERLEAVED: tl.constexpr = False,
):
    """ROTR rotates a word to the right. INTERLEAVED computes the schedule beside the rounds, and needs the
    constants in memory."""
    v = state
    if k_ptr is None:
        for i in tl.static_range(ROUNDS // 16):
            k = ()
            for t in tl.static_range(16):
                k = k + (K[16 * i + t],)
            if i > 0:
                w = _sha2_schedule(w, SIGMA0, SIGMA1, ROTR)
            v = _sha2_rounds(v, w, k, SUM0, SUM1, ROTR)
    elif INTERLEAVED:
        for i in range(ROUNDS // 16 - 1):
            v, w = _sha2_rounds_and_schedule(v, w, _sixteen(k_ptr + 16 * i), SUM0, SUM1, SIGMA0, SIGMA1, ROTR)
        v = _sha2_rounds(v, w, _sixteen(k_ptr + (ROUNDS - 16)), SUM0, SUM1, ROTR)
    else:
        for i in range(ROUNDS // 16):
            v = _sha2_rounds(v, w, _sixteen(k_ptr + 16 * i), SUM0, SUM1, ROTR)
            if i < ROUNDS // 16 - 1:
                w = _sha2_schedule(w, SIGMA0, SIGMA1, ROTR)
    out = ()
    for i in tl.static_range(8):
        out = out + (wrap_add(state[i], v[i]),)
    return out


@triton.jit
def _sha256_sum0(x, ROTR):
    return ROTR(x, 2) ^ ROTR(x, 13) ^ ROTR(x, 22)


@triton.jit
def _sha256_sum1(x, ROTR):
    return ROTR(x, 6) ^ ROTR(x, 11) ^ ROTR(x, 25)


@triton.jit
def _sha256_sigma0(x, ROTR):
    return ROTR(x, 7) ^ ROTR(x, 18) ^ (x >> 3)


@triton.jit
def _sha256_sigma1(x, ROTR):
    return ROTR(x, 17) ^ ROTR(x, 19) ^ (x >> 10)


@triton.jit
def _sha256(state, w, k_ptr, INTERLEAVED: tl.constexpr):
    return _sha2_compress(
        state,
        w,
        k_ptr,
        SHA256_K,
        64,
        _sha256_sum0,
        _sha256_sum1,
        _sha256_sigma0,
        _sha256_sigma1,
        rotr32,
        INTERLEAVED,
    )


@triton.jit
def sha256_compress(state, w, k_ptr=None):
    """One application of the SHA-256 compression function (FIPS 180-4, section 6.2.2).

    state: 8 uint32 tiles. w: the 16 words of a message block, uint32 tiles in native order. k_ptr: None, or
    the words of ``SHA256_K`` in memory. With None the rounds are unrolled; otherwise they are a loop, which
    compiles several times as fast. Returns the next state. SHA-224 differs only in its initial value.
    """
    return _sha256(state, w, k_ptr, False)


@triton.jit
def sha256_block(state, words, absorbed, last, flags, constants_ptr):
    """The block function for ``hash_messages``. SHA-2 uses neither the number of bytes nor the end."""
    return _sha256(state, words, constants_ptr, False)


@triton.jit
def sha256_block_interleaved(state, words, absorbed, last, flags, constants_ptr):
    """``sha256_block`` for processors that wait for the results of a round: the message schedule fills the
    time. It needs a third more registers."""
    return _sha256(state, words, constants_ptr, True)


@triton.jit
def _sha512_sum0(x, ROTR):
    return ROTR(x, 28) ^ ROTR(x, 34) ^ ROTR(x, 39)


@triton.jit
def _sha512_sum1(x, ROTR):
    return ROTR(x, 14) ^ ROTR(x, 18) ^ ROTR(x, 41)


@triton.jit
def _sha512_sigma0(x, ROTR):
    return ROTR(x, 1) ^ ROTR(x, 8) ^ (x >> 7)


@triton.jit
def _sha512_sigma1(x, ROTR):
    return ROTR(x, 19) ^ ROTR(x, 61) ^ (x >> 6)


@triton.jit
def _sha512(state, w, k_ptr, ROTR: tl.constexpr, INTERLEAVED: tl.constexpr):
    return _sha2_compress(
        state,
        w,
        k_ptr,
        SHA512_K,
        80,
        _sha512_sum0,
        _sha512_sum1,
        _sha512_sigma0,
        _sha512_sigma1,
        ROTR,
        INTERLEAVED,
    )


@triton.jit
def sha512_compress(state, w, k_ptr=None):
    """One application of the SHA-512 compression function (FIPS 180-4, section 6.4.2).

    It is called as ``sha256_compress``, with uint64 tiles and ``SHA512_K``. SHA-384 and SHA-512/t differ only
    in their initial values.
    """
    return _sha512(state, w, k_ptr, rotr64, False)


@triton.jit
def sha512_block(state, words, absorbed, last, flags, constants_ptr):
    """The block function for ``hash_messages``."""
    return _sha512(state, words, constants_ptr, rotr64, False)


@triton.jit
def sha512_block_in_halves(state, words, absorbed, last, flags, constants_ptr):
    """``sha512_block`` for GPUs that rotate two words of 32 bits in one instruction."""
    return _sha512(state, words, constants_ptr, rotr64_in_halves, False)


@triton.jit
def sha512_block_interleaved(state, words, absorbed, last, flags, constants_ptr):
    """``sha512_block``, as ``sha256_block_interleaved``."""
    return _sha512(state, words, constants_ptr, rotr64, True)
