"""Bit operations that Triton does not provide, and functions that split tiles into words.

Throughout this package, a tile is a Triton tensor with one lane for each message (or chunk), and a state or a
block is a tuple of tiles, one for each word.
"""

import triton
import triton.language as tl

if not hasattr(tl.constexpr, "__getitem__"):  # Triton 3.3 cannot index tables of constants

    def _getitem(self, index):
        return tl.constexpr(self.value[index.value if isinstance(index, tl.constexpr) else index])

    tl.constexpr.__getitem__ = _getitem

if not hasattr(tl, "mul"):  # Triton 3.3 has these only in tl.core
    tl.mul, tl.sub = tl.core.mul, tl.core.sub


@triton.jit
def wrap_add(x, y):
    """``x + y`` modulo 2**32 or 2**64. In Triton's debug mode, a bare ``+`` asserts that there is no
    overflow."""
    return tl.add(x, y, sanitize_overflow=False)


@triton.jit
def wrap_sub(x, y):
    """``x - y`` modulo 2**32 or 2**64, as ``wrap_add``."""
    return tl.sub(x, y, sanitize_overflow=False)


@triton.jit
def wrap_mul(x, y):
    """``x * y`` modulo 2**32 or 2**64, as ``wrap_add``."""
    return tl.mul(x, y, sanitize_overflow=False)


@triton.jit
def rotr32(x, n: tl.constexpr):
    """Rotate each uint32 right by ``n`` bits, 0 < n < 32."""
    return (x >> n) | (x << (32 - n))


@triton.jit
def rotl32(x, n: tl.constexpr):
    """Rotate each uint32 left by ``n`` bits, 0 < n < 32."""
    return (x << n) | (x >> (32 - n))


@triton.jit
def rotr64(x, n: tl.constexpr):
    """Rotate each uint64 right by ``n`` bits, 0 < n < 64."""
    return (x >> n) | (x << (64 - n))


@triton.jit
def rotl64(x, n: tl.constexpr):
    """Rotate each uint64 left by ``n`` bits, 0 < n < 64."""
    return (x << n) | (x >> (64 - n))


@triton.jit
def bswap32(x):
    """Reverse the bytes of each uint32."""
    return ((x & 0xFF) << 24) | ((x & 0xFF00) << 8) | ((x >> 8) & 0xFF00) | (x >> 24)


@triton.jit
def bswap32_apart(x, size):
    """``bswap32`` in a form that LLVM does not recognize as a byte swap. size: any int64 that is not
    negative.

    LLVM would merge adjacent byte swaps into one of a vector, for which it (in Triton 3.9) has no instruction
    on sm_100.
    """
    mask = (size >> 63).to(tl.uint32) | 0x00FF00FF
    return (rotl32(x, 8) & mask) | (rotr32(x, 8) & (mask ^ 0xFFFFFFFF))


@triton.jit
def join64(low, high):
    """uint64 tiles whose low and high halves are the given uint32 tiles."""
    return low.to(tl.uint64) | (high.to(tl.uint64) << 32)


@triton.jit
def bswap64(x):
    """Reverse the bytes of each uint64."""
    return join64(bswap32((x >> 32).to(tl.uint32)), bswap32((x & 0xFFFFFFFF).to(tl.uint32)))


@triton.jit
def native_words(words, size, WORDS: tl.constexpr, WORD_BITS: tl.constexpr, BIG_ENDIAN: tl.constexpr):
    """The words of a block in native order, from its ``WORDS`` raw little-endian uint32 words.

    WORD_BITS, 32 or 64, and BIG_ENDIAN describe the words that are returned. size: any int64 scalar that is
    not negative.
    """
    out = ()
    for i in tl.static_range(WORDS * 32 // WORD_BITS):
        if WORD_BITS == 64 and BIG_ENDIAN:
            out = out + (join64(bswap32(words[2 * i + 1]), bswap32(words[2 * i])),)
        elif WORD_BITS == 64:
            out = out + (join64(words[2 * i], words[2 * i + 1]),)
        elif BIG_ENDIAN:
            out = out + (bswap32_apart(words[i], size),)
        else:
            out = out + (words[i],)
    return out


@triton.jit
def swap_words(words, WORDS: tl.constexpr, WORD_BITS: tl.constexpr):
    """Reverse the bytes of each word."""
    out = ()
    for i in tl.static_range(WORDS):
        out = out + ((bswap64(words[i]) if WORD_BITS == 64 else bswap32(words[i])),)
    return out


@triton.jit
def select(condition, x, y, WORDS: tl.constexpr):
    """``tl.where(condition, x, y)`` for each word of tuples of ``WORDS`` tiles."""
    out = ()
    for i in tl.static_range(WORDS):
        out = out + (tl.where(condition, x[i], y[i]),)
    return out


@triton.jit
def columns(tile, VECTOR: tl.constexpr):
    """The columns of a tile as a tuple. The tile is ``[lanes, 4]`` if VECTOR is 4, ``[lanes]`` if it is 1."""
    if VECTOR == 1:
        out = (tile,)
    else:
        even, odd = tl.split(tl.reshape(tile, (tile.shape[0], 2, 2)))
        a, c = tl.split(even)
        b, d = tl.split(odd)
        out = (a, b, c, d)
    return out


@triton.jit
def store_words(pointer, words, mask, WORDS: tl.constexpr, VECTOR: tl.constexpr):
    """Store ``WORDS`` consecutive words of each lane, from the lane's ``pointer`` on. One instruction stores
    4 words if VECTOR is 4 and WORDS is a multiple of 4, else one word."""
    if VECTOR == 4 and WORDS % 4 == 0:
        for g in tl.static_range(WORDS // 4):
            even = tl.join(words[4 * g], words[4 * g + 2])
            odd = tl.join(words[4 * g + 1], words[4 * g + 3])
            tile = tl.reshape(tl.join(even, odd), (pointer.shape[0], 4))
            tl.store(pointer[:, None] + (4 * g + tl.arange(0, 4))[None, :], tile, mask=mask[:, None])
    else:
        for i in tl.static_range(WORDS):
            tl.store(pointer + i, words[i], mask=mask)


@triton.jit
def load_words(pointer, mask, WORDS: tl.constexpr, VECTOR: tl.constexpr = 1):
    """``WORDS`` consecutive words of each lane, from the lane's ``pointer`` on; zeros where ``mask`` is
    false. One instruction loads 4 words if VECTOR is 4 and WORDS is a multiple of 4, else one word."""
    out = ()
    if VECTOR == 4 and WORDS % 4 == 0:
        for g in tl.static_range(WORDS // 4):
            place = pointer[:, None] + (4 * g + tl.arange(0, 4))[None, :]
            out = out + columns(tl.load(place, mask=mask[:, None], other=0), 4)
    else:
        for i in tl.static_range(WORDS):
            out = out + (tl.load(pointer + i, mask=mask, other=0),)
    return out


@triton.jit
def load_state(
    pointer,
    row,
    mask,
    PER_MESSAGE: tl.constexpr,
    WORDS: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
    VECTOR: tl.constexpr = 1,
):
    """The ``WORDS`` words of each lane's initial state. With PER_MESSAGE, ``pointer`` is ``[rows, WORDS]``,
    and each lane loads its ``row`` as ``load_words`` does. Otherwise it is ``[WORDS]``, the same state for
    all lanes."""
    if PER_MESSAGE:
        out = load_words(pointer + row * WORDS, mask, WORDS, VECTOR)
    else:
        out = ()
        for i in tl.static_range(WORDS):
            word = tl.load(pointer + i)
            out = out + (tl.full((BLOCK_MSGS,), 0, word.dtype) | word,)
    return out
