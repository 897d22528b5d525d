"""AES encryption (FIPS 197) in constant time, and CMAC (NIST SP 800-38B), which is built on it.

The implementation is bitsliced. A block is a tuple of 8 planes, uint32 tiles; plane j holds bit j of every
byte. Bit 8 r + c of a plane belongs to the byte in row r and column c of the state (section 3.4), where r and
c are below 4; the other bits have no meaning. There are no lookup tables: addresses and branches depend only
on lengths and positions, never on data.
"""

import triton
import triton.language as tl

from .bits import bswap32_apart, rotr32, store_words
from .jit import kernel

_LOW_BITS = tl.constexpr(0x01010101)
_LOW_NIBBLES = tl.constexpr(0x0F0F0F0F)


@triton.jit
def aes_planes(words):
    """The planes of a block, which is given as 4 little-endian uint32 words, the columns of the state."""
    out = ()
    for j in tl.static_range(8):
        plane = (words[0] >> j) & _LOW_BITS
        for c in tl.static_range(1, 4):
            bit = words[c] >> (j - c) if j >= c else words[c] << (c - j)
            plane = plane | (bit & (_LOW_BITS << c))
        out = out + (plane,)
    return out


@triton.jit
def aes_words(planes):
    """The inverse of ``aes_planes``."""
    out = ()
    for c in tl.static_range(4):
        word = (planes[0] >> c) & _LOW_BITS
        for j in tl.static_range(1, 8):
            bit = planes[j] << (j - c) if j >= c else planes[j] >> (c - j)
            word = word | (bit & (_LOW_BITS << j))
        out = out + (word,)
    return out


@triton.jit
def _sub_bytes(p):
    """SubBytes (section 5.1.1) of 8 planes.

    This is the circuit with the fewest gates from J. Boyar and R. Peralta, "A depth-16 circuit for the AES
    S-box", 2011 (IACR ePrint 2011/332). It inverts in the field of 256 elements through its subfields,
    between two linear maps.
    """
    x7, x6, x5, x4, x3, x2, x1, x0 = p
    # The linear map into the tower of fields.
    y14 = x3 ^ x5
    y13 = x0 ^ x6
    y9 = x0 ^ x3
    y8 = x0 ^ x5
    t0 = x1 ^ x2
    y1 = t0 ^ x7
    y4 = y1 ^ x3
    y12 = y13 ^ y14
    y2 = y1 ^ x0
    y5 = y1 ^ x6
    y3 = y5 ^ y8
    t1 = x4 ^ y12
    y15 = t1 ^ x5
    y20 = t1 ^ x1
    y6 = y15 ^ x7
    y10 = y15 ^ t0
    y11 = y20 ^ y9
    y7 = x7 ^ y11
    y17 = y10 ^ y11
    y19 = y10 ^ y8
    y16 = t0 ^ y11
    y21 = y13 ^ y16
    y18 = x0 ^ y16
    # The inversion.
    t2 = y12 & y15
    t4 = (y3 & y6) ^ t2
    t6 = (y4 & x7) ^ t2
    t7 = y13 & y16
    t9 = (y5 & y1) ^ t7
    t11 = (y2 & y7) ^ t7
    t12 = y9 & y11
    t14 = (y14 & y17) ^ t12
    t16 = (y8 & y10) ^ t12
    t21 = t4 ^ t14 ^ y20
    t22 = t6 ^ t16 ^ y19
    t23 = t9 ^ t14 ^ y21
    t24 = t11 ^ t16 ^ y18
    t25 = t21 ^ t22
    t26 = t21 & t23
    t27 = t24 ^ t26
    t29 = (t25 & t27) ^ t22
    t33 = ((t22 ^ t26) & (t23 ^ t24)) ^ t24
    t36 = t24 & (t27 ^ t33)
    t37 = t36 ^ t23 ^ t33
    t40 = t25 ^ (t29 & (t27 ^ t36))
    t41 = t40 ^ t37
    t42 = t29 ^ t33
    t43 = t29 ^ t40
    t44 = t33 ^ t37
    t45 = t42 ^ t41
    z0 = t44 & y15
    z1 = t37 & y6
    z2 = t33 & x7
    z3 = t43 & y16
    z4 = t40 & y1
    z5 = t29 & y7
    z6 = t42 & y11
    z7 = t45 & y17
    z8 = t41 & y10
    z9 = t44 & y12
    z10 = t37 & y3
    z11 = t33 & y4
    z12 = t43 & y13
    z13 = t40 & y5
    z14 = t29 & y2
    z15 = t42 & y9
    z16 = t45 & y14
    z17 = t41 & y8
    # The inverse linear map, combined with the affine map of the S-box.
    t46 = z15 ^ z16
    t48 = z5 ^ z13
    t53 = z0 ^ z3
    t57 = z2 ^ z12 ^ t53
    t58 = z4 ^ t46
    t59 = z3 ^ z6 ^ z7
    t62 = z7 ^ z8 ^ t58
    t63 = z9 ^ z10 ^ t58
    t64 = z4 ^ t59
    t65 = z14 ^ t57 ^ t62
    t66 = z1 ^ t63
    s0 = t59 ^ t63
    s3 = t53 ^ t66
    s4 = z2 ^ z5 ^ t66
    s5 = z10 ^ z11 ^ t65
    s1 = ~(t64 ^ s3)
    s2 = ~(z16 ^ z17 ^ t64 ^ t65)
    s6 = ~(z12 ^ t48 ^ t62)
    s7 = ~(t48 ^ t46 ^ t57)
    return s7, s6, s5, s4, s3, s2, s1, s0


@triton.jit
def _shift_rows(p):
    """ShiftRows (section 5.1.2) rotates row r by r columns."""
    out = ()
    for j in tl.static_range(8):
        # Each row is repeated within its byte. Then rows 1 and 3 move by one column, and rows 2 and 3 by two.
        x = (p[j] & _LOW_NIBBLES) | ((p[j] << 4) & (_LOW_NIBBLES << 4))
        x = (x & 0x00FF00FF) | ((x >> 1) & 0xFF00FF00)
        out = out + ((x & 0x0000FFFF) | ((x >> 2) & 0xFFFF0000),)
    return out


@triton.jit
def _mix_columns(p):
    """MixColumns (section 5.1.3). In a column with the bytes a, b, c, d, the byte a becomes
    2 (a + b) + b + (c + d)."""
    below = ()
    sums = ()
    for j in tl.static_range(8):
        x = rotr32(p[j], 8)
        below = below + (x,)
        sums = sums + (p[j] ^ x,)
    out = ()
    for j in tl.static_range(8):
        x = below[j] ^ rotr32(sums[j], 16)
        # Doubling shifts a byte left by one bit, and adds 0x1B if a bit is shifted out (section 4.2.1).
        if j > 0:
            x = x ^ sums[j - 1]
        if (0x1B >> j) & 1 == 1:
            x = x ^ sums[7]
        out = out + (x,)
    return out


@triton.jit
def _add_round_key(p, keys_ptr):
    out = ()
    for j in tl.static_range(8):
        out = out + (p[j] ^ tl.load(keys_ptr + j),)
    return out


@triton.jit
def aes_encrypt(words, keys_ptr, rounds):
    """The cipher (section 5.1), applied to a block of 4 little-endian uint32 words. Returns 4 such words.

    keys_ptr: the ``rounds + 1`` round keys, each as 8 planes of uint32, as ``aes_expand_keys`` stores them;
    one pointer for all lanes, or one for each lane. rounds: an integer scalar, 10, 12 or 14.
    """
    p = _add_round_key(aes_planes(words), keys_ptr)
    for i in range(1, rounds):
        p = _add_round_key(_mix_columns(_shift_rows(_sub_bytes(p))), keys_ptr + 8 * i)
    p = _add_round_key(_shift_rows(_sub_bytes(p)), keys_ptr + 8 * rounds)
    return aes_words(p)


@triton.jit
def _sub_word(word):
    planes = ()
    for j in tl.static_range(8):
        planes = planes + (word >> j,)
    planes = _sub_bytes(planes)
    out = planes[0] & _LOW_BITS
    for j in tl.static_range(1, 8):
        out = out | ((planes[j] & _LOW_BITS) << j)
    return out


@kernel
def aes_expand_keys(
    keys_ptr,
    out_ptr,
    count: tl.int64,
    key_words: tl.int64,
    stride: tl.int64,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """KeyExpansion (section 5.2) of ``count`` keys, one key per lane.

    ``keys_ptr`` is uint32 ``[count, key_words]``: keys of 4, 6 or 8 little-endian words. Row i of ``out_ptr``
    starts ``i * stride`` words from its start and receives the ``key_words + 7`` round keys, each as 8
    planes.
    """
    lane = tl.program_id(0).to(tl.int64) * BLOCK_MSGS + tl.arange(0, BLOCK_MSGS)
    valid = lane < count
    out = out_ptr + lane * stride
    # The last eight words of the schedule. At first the key is the last of them.
    w = ()
    for i in tl.static_range(8):
        place = lane * 0 + key_words + (i - 8)
        pointer = keys_ptr + lane * key_words + place
        w = w + (tl.load(pointer, mask=valid & (place >= 0), other=0),)
    first = ()
    for i in tl.static_range(4):
        first = first + (tl.where(key_words == 4, w[4 + i], tl.where(key_words == 6, w[2 + i], w[i])),)
    store_words(out, aes_planes(first), valid, 8, VECTOR)
    constant = tl.full((), 1, tl.uint32)
    for t in range(key_words, 4 * key_words + 29):
        if t % 4 == 0:
            store_words(out + 8 * (t // 4 - 1), aes_planes(w[4:]), valid, 8, VECTOR)
        new = w[7]
        if t % key_words == 0:
            new = _sub_word(rotr32(new, 8)) ^ constant
            constant = (constant << 1) ^ tl.where(constant >= 0x80, 0x11B, 0).to(tl.uint32)
        if (key_words == 8) & (t % 8 == 4):
            new = _sub_word(new)
        old = tl.where(key_words == 4, w[4], tl.where(key_words == 6, w[2], w[0]))
        w = w[1:] + (old ^ new,)


@kernel
def aes_encrypt_blocks(
    keys_ptr,
    blocks_ptr,
    out_ptr,
    count: tl.int64,
    key_stride: tl.int64,
    rounds: tl.int64,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """Encrypt ``count`` blocks, one block per lane.

    ``blocks_ptr`` and ``out_ptr`` are uint32 ``[count, 4]``, little-endian. ``keys_ptr`` points to round keys
    as ``aes_expand_keys`` stores them. The round keys of block i start ``i * key_stride`` words from there,
    so that 0 gives all blocks the same key.
    """
    lane = tl.program_id(0).to(tl.int64) * BLOCK_MSGS + tl.arange(0, BLOCK_MSGS)
    valid = lane < count
    words = ()
    for i in tl.static_range(4):
        words = words + (tl.load(blocks_ptr + lane * 4 + i, mask=valid, other=0),)
    keys = keys_ptr + tl.where(valid, lane, 0) * key_stride
    store_words(out_ptr + lane * 4, aes_encrypt(words, keys, rounds), valid, 4, VECTOR)


@triton.jit
def _doubled(words, size):
    """A block multiplied by x in the field of 2**128 elements (SP 800-38B, section 5.3): it is shifted left
    by one bit, and R_128 is added if a bit is shifted out."""
    big = ()
    for i in tl.static_range(4):
        big = big + (bswap32_apart(words[i], size),)
    out = ()
    for i in tl.static_range(4):
        carry = big[i + 1] >> 31 if i < 3 else (big[0] >> 31) * 0x87
        out = out + (bswap32_apart((big[i] << 1) ^ carry, size),)
    return out


@kernel
def cmac_subkeys(
    keys_ptr,
    count: tl.int64,
    stride: tl.int64,
    rounds: tl.int64,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """CMAC's subkeys K1 and K2 (SP 800-38B, section 6.1) of ``count`` keys, one key per lane.

    Row i of ``keys_ptr``, uint32, starts ``i * stride`` words from its start and holds the planes of the
    round keys. K1 and K2 are stored after them, as 4 little-endian words each.
    """
    lane = tl.program_id(0).to(tl.int64) * BLOCK_MSGS + tl.arange(0, BLOCK_MSGS)
    valid = lane < count
    keys = keys_ptr + tl.where(valid, lane, 0) * stride
    zero = tl.full((BLOCK_MSGS,), 0, tl.uint32)
    first = _doubled(aes_encrypt((zero, zero, zero, zero), keys, rounds), count)
    out = keys + 8 * (rounds + 1)
    store_words(out, first, valid, 4, VECTOR)
    store_words(out + 4, _doubled(first, count), valid, 4, VECTOR)


@triton.jit
def cmac_block(state, words, absorbed, last, flags, constants_ptr):
    """The block function of CMAC (SP 800-38B, section 6.2) for ``hash_messages``. ``constants_ptr`` points to
    a row that ``cmac_subkeys`` has completed; ``flags`` is the number of rounds."""
    whole = (absorbed > 0) & (absorbed % 16 == 0)
    x = ()
    for i in tl.static_range(4):
        first = tl.load(constants_ptr + 8 * (flags + 1) + i)
        second = tl.load(constants_ptr + 8 * (flags + 1) + 4 + i)
        subkey = tl.where(last, tl.where(whole, first, second), 0)
        x = x + (state[i] ^ words[i] ^ subkey,)
    return aes_encrypt(x, constants_ptr, flags)
