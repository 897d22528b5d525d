"""SM3: GB/T 32905-2016 (also ISO/IEC 10118-3:2018)."""

import triton
import triton.language as tl

from .bits import rotl32, wrap_add

# Section 4.2: T_j, rotated left by j bits, which is how section 5.3.3 uses it.
SM3_T = tl.constexpr(
    (
        0x79CC4519, 0xF3988A32, 0xE7311465, 0xCE6228CB, 0x9CC45197, 0x3988A32F, 0x7311465E, 0xE6228CBC,
        0xCC451979, 0x988A32F3, 0x311465E7, 0x6228CBCE, 0xC451979C, 0x88A32F39, 0x11465E73, 0x228CBCE6,
        0x9D8A7A87, 0x3B14F50F, 0x7629EA1E, 0xEC53D43C, 0xD8A7A879, 0xB14F50F3, 0x629EA1E7, 0xC53D43CE,
        0x8A7A879D, 0x14F50F3B, 0x29EA1E76, 0x53D43CEC, 0xA7A879D8, 0x4F50F3B1, 0x9EA1E762, 0x3D43CEC5,
        0x7A879D8A, 0xF50F3B14, 0xEA1E7629, 0xD43CEC53, 0xA879D8A7, 0x50F3B14F, 0xA1E7629E, 0x43CEC53D,
        0x879D8A7A, 0x0F3B14F5, 0x1E7629EA, 0x3CEC53D4, 0x79D8A7A8, 0xF3B14F50, 0xE7629EA1, 0xCEC53D43,
        0x9D8A7A87, 0x3B14F50F, 0x7629EA1E, 0xEC53D43C, 0xD8A7A879, 0xB14F50F3, 0x629EA1E7, 0xC53D43CE,
        0x8A7A879D, 0x14F50F3B, 0x29EA1E76, 0x53D43CEC, 0xA7A879D8, 0x4F50F3B1, 0x9EA1E762, 0x3D43CEC5,
    )
)  # fmt: skip
# Section 4.1: the initial value.
SM3_IV = tl.constexpr(
    (0x7380166F, 0x4914B2B9, 0x172442D7, 0xDA8A0600, 0xA96F30BC, 0x163138AA, 0xE38DEE4D, 0xB0FB0E4E)
)


@triton.jit
def _expand(w, FIRST: tl.constexpr, COUNT: tl.constexpr):
    """Append COUNT words of the message expansion (section 5.3.2) to ``w``, which may start at any word of it
    and holds 16 + FIRST words."""
    for j in tl.static_range(FIRST, FIRST + COUNT):
        x = w[j] ^ w[j + 7] ^ rotl32(w[j + 13], 15)
        x = x ^ rotl32(x, 15) ^ rotl32(x, 23)
        w = w + (x ^ rotl32(w[j + 3], 7) ^ w[j + 10],)
    return w


@triton.jit
def _rounds(v, w, t_ptr, EARLY: tl.constexpr, EXPAND: tl.constexpr):
    """Sixteen rounds (section 5.3.3) with 20 words, or, if EXPAND, with 16 words, to which each round appends
    one. EARLY tells whether they are the first sixteen. Returns the variables and all words."""
    a, b, c, d, e, f, g, h = v
    for j in tl.static_range(16):
        if EXPAND:
            w = _expand(w, j, 1)
        a12 = rotl32(a, 12)
        ss1 = rotl32(wrap_add(wrap_add(a12, e), tl.load(t_ptr + j)), 7)
        if EARLY:
            ff = a ^ b ^ c
            gg = e ^ f ^ g
        else:
            ff = (a & b) | (c & (a | b))
            gg = g ^ (e & (f ^ g))
        tt1 = wrap_add(wrap_add(ff, d), wrap_add(ss1 ^ a12, w[j] ^ w[j + 4]))
        tt2 = wrap_add(wrap_add(gg, h), wrap_add(ss1, w[j]))
        d, c, b, a = c, rotl32(b, 9), a, tt1
        h, g, f, e = g, rotl32(f, 19), e, tt2 ^ rotl32(tt2, 9) ^ rotl32(tt2, 17)
    return (a, b, c, d, e, f, g, h), w


@triton.jit
def sm3_compress(state, w, t_ptr, INTERLEAVED: tl.constexpr = False):
    """One application of the SM3 compression function (GB/T 32905-2016, section 5.3).

    state: 8 uint32 tiles. w: the 16 words of a message block, uint32 tiles in native order. t_ptr: the words
    of ``SM3_T`` in memory. INTERLEAVED expands the message beside the rounds, and not before sixteen of them.
    Returns the next state.
    """
    if INTERLEAVED:
        v, w32 = _rounds(state, w, t_ptr, True, True)
        w = w32[16:]
        for i in range(1, 3):
            v, w32 = _rounds(v, w, t_ptr + 16 * i, False, True)
            w = w32[16:]
        v, w20 = _rounds(v, _expand(w, 0, 4), t_ptr + 48, False, False)
    else:
        v, w20 = _rounds(state, _expand(w, 0, 4), t_ptr, True, False)
        w = _expand(w20, 4, 12)[16:]
        for i in range(1, 4):
            v, w20 = _rounds(v, _expand(w, 0, 4), t_ptr + 16 * i, False, False)
            if i < 3:
                w = _expand(w20, 4, 12)[16:]
    out = ()
    for i in tl.static_range(8):
        out = out + (state[i] ^ v[i],)
    return out


@triton.jit
def sm3_block(state, words, absorbed, last, flags, constants_ptr):
    """The block function for ``hash_messages``."""
    return sm3_compress(state, words, constants_ptr)


@triton.jit
def sm3_block_interleaved(state, words, absorbed, last, flags, constants_ptr):
    """``sm3_block`` for processors that wait for the results of a round: the message expansion fills the
    time."""
    return sm3_compress(state, words, constants_ptr, True)
