"""xxHash: XXH64, and XXH3 with 64 and 128 bits.

XXH64 follows Y. Collet, "xxHash fast digest algorithm", version 0.2.0. XXH3 follows the reference
implementation of version 0.8.0, since which its output is frozen.
"""

import triton
import triton.language as tl

from .batch import end_block, load_block, messages_of_lanes
from .bits import bswap32, bswap64, join64, load_state, rotl32, rotl64, select, wrap_add, wrap_mul, wrap_sub
from .jit import kernel
from .padding import pad_zeros

XXH_PRIME32_1 = tl.constexpr(0x9E3779B1)
XXH_PRIME32_2 = tl.constexpr(0x85EBCA77)
XXH_PRIME64_1 = tl.constexpr(0x9E3779B185EBCA87)
XXH_PRIME64_2 = tl.constexpr(0xC2B2AE3D27D4EB4F)
XXH_PRIME64_3 = tl.constexpr(0x165667B19E3779F9)
XXH_PRIME64_4 = tl.constexpr(0x85EBCA77C2B2AE63)
XXH_PRIME64_5 = tl.constexpr(0x27D4EB2F165667C5)
XXH3_PRIME_MX1 = tl.constexpr(0x165667919E3779F9)
XXH3_PRIME_MX2 = tl.constexpr(0x9FB21C651E98DF25)

# The initial accumulators of a long message.
XXH3_ACC = tl.constexpr(
    (
        0xC2B2AE3D, 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9,
        0x85EBCA77C2B2AE63, 0x85EBCA77, 0x27D4EB2F165667C5, 0x9E3779B1,
    )
)  # fmt: skip
# The default secret as little-endian words.
XXH3_SECRET = tl.constexpr(
    (
        0xBE4BA423396CFEB8, 0x1CAD21F72C81017C, 0xDB979083E96DD4DE, 0x1F67B3B7A4A44072,
        0x78E5C0CC4EE679CB, 0x2172FFCC7DD05A82, 0x8E2443F7744608B8, 0x4C263A81E69035E0,
        0xCB00C391BB52283C, 0xA32E531B8B65D088, 0x4EF90DA297486471, 0xD8ACDEA946EF1938,
        0x3F349CE33F76FAA8, 0x1D4F0BC7C7BBDCF9, 0x3159B4CD4BE0518A, 0x647378D9C97E9FC8,
        0xC3EBD33483ACC5EA, 0xEB6313FAFFA081C5, 0x49DAF0B751DD0D17, 0x9E68D429265516D3,
        0xFCA1477D58BE162B, 0xCE31D07AD1B8F88F, 0x280416958F3ACB45, 0x7E404BBBCAFBD7AF,
    )
)  # fmt: skip
# A secret is stored as one word of 64 bits for each byte, which begins at that byte. This is how many there
# are.
SECRET_WORDS = tl.constexpr(185)

_STRIPES = tl.constexpr(16)  # stripes of 64 bytes between two scramblings
_SHORT = tl.constexpr(240)  # the length of the longest message that is not cut into stripes


@triton.jit
def _times_prime(x, PRIME: tl.constexpr):
    return wrap_mul(x, tl.full((), PRIME, tl.uint64))


@triton.jit
def _xxh64_avalanche(h):
    h = _times_prime(h ^ (h >> 33), XXH_PRIME64_2)
    h = _times_prime(h ^ (h >> 29), XXH_PRIME64_3)
    return h ^ (h >> 32)


@triton.jit
def _xxh64_round(acc, lane):
    acc = wrap_add(acc, _times_prime(lane, XXH_PRIME64_2))
    return _times_prime(rotl64(acc, 31), XXH_PRIME64_1)


@triton.jit
def _xxh64_stripe(state, raw):
    out = ()
    for i in tl.static_range(4):
        out = out + (_xxh64_round(state[i], join64(raw[2 * i], raw[2 * i + 1])),)
    return out


@triton.jit
def _step(h, addend, ROTATION: tl.constexpr, FACTOR: tl.constexpr, TERM: tl.constexpr):
    h = _times_prime(rotl64(h ^ addend, ROTATION), FACTOR)
    return wrap_add(h, tl.full((), TERM, tl.uint64))


@triton.jit
def _xxh64_end(state, raw, tail, total, seed):
    """The digest, from the accumulators and the last ``tail`` < 32 bytes. raw: these bytes as 8 words of 32
    bits, with zeros after them."""
    long = wrap_add(
        wrap_add(rotl64(state[0], 1), rotl64(state[1], 7)),
        wrap_add(rotl64(state[2], 12), rotl64(state[3], 18)),
    )
    for i in tl.static_range(4):
        zero = state[i] ^ state[i]
        long = wrap_add(
            _times_prime(long ^ _xxh64_round(zero, state[i]), XXH_PRIME64_1),
            tl.full((), XXH_PRIME64_4, tl.uint64),
        )
    h = tl.where(total >= 32, long, wrap_add(seed, tl.full((), XXH_PRIME64_5, tl.uint64)))
    h = wrap_add(h, total.to(tl.uint64))
    for i in tl.static_range(3):
        zero = state[i] ^ state[i]
        k = _xxh64_round(zero, join64(raw[2 * i], raw[2 * i + 1]))
        h = tl.where(tail >= 8 * (i + 1), _step(h, k, 27, XXH_PRIME64_1, XXH_PRIME64_4), h)
    word = raw[0]
    rest = raw[0]
    for i in tl.static_range(1, 8):
        if i % 2 == 0:
            word = tl.where(tail >> 3 == i // 2, raw[i], word)
        rest = tl.where(tail >> 2 == i, raw[i], rest)
    k = _times_prime(word.to(tl.uint64), XXH_PRIME64_1)
    h = tl.where((tail & 4) != 0, _step(h, k, 23, XXH_PRIME64_2, XXH_PRIME64_3), h)
    for i in tl.static_range(3):
        k = _times_prime(((rest >> (8 * i)) & 0xFF).to(tl.uint64), XXH_PRIME64_5)
        h = tl.where((tail & 3) > i, _step(h, k, 11, XXH_PRIME64_1, 0), h)
    return _xxh64_avalanche(h)


@kernel
def xxh64_messages(
    table_ptr,
    state_ptr,
    out_ptr,
    address: tl.int64,
    count: tl.int64,
    stride: tl.int64,
    length: tl.int64,
    total: tl.int64,
    prefix: tl.int64,
    seed: tl.int64,
    FINAL: tl.constexpr,
    TABLE: tl.constexpr,
    ALIGN: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """XXH64 of ``count`` messages, one message per lane (section "XXH64 algorithm description", steps 1 to
    6).

    The arguments that describe the messages are those of ``hash_messages`` (``batch.py``). ``state_ptr`` is
    uint64 ``[4]``, the accumulators after ``prefix`` bytes, a multiple of 32. ``seed`` is an unsigned
    integer.

    With FINAL, ``out_ptr`` receives uint64 ``[count]``, the digests as big-endian bytes. Otherwise it
    receives ``[count, 4]``, the accumulators after the whole stripes of 32 bytes.
    """
    valid, message, size, row, longest, shortest = messages_of_lanes(
        table_ptr, address, count, stride, length, total, TABLE, BLOCK_MSGS
    )
    state = load_state(state_ptr, row, valid, False, 4, BLOCK_MSGS)
    stripes = size >> 5
    common = shortest >> 5
    for n in range(common):
        word = tl.full((), 0, tl.int64) + n * 8
        left = tl.full((BLOCK_MSGS,), 32, tl.int32)
        state = _xxh64_stripe(state, load_block(message, word, left, valid, 8, ALIGN, VECTOR))
    for n in range(common, longest >> 5):
        word = tl.full((), 0, tl.int64) + n * 8
        left = tl.minimum(tl.maximum(size - word * 4, 0), 32).to(tl.int32)
        new = _xxh64_stripe(state, load_block(message, word, left, valid, 8, ALIGN, VECTOR))
        state = select(n < stripes, new, state, 4)
    if FINAL:
        tail = (size & 31).to(tl.int32)
        zero = tl.full((), 0, tl.int64)
        raw = load_block(message + (stripes << 5), zero, tail, valid, 8, ALIGN, VECTOR)
        raw = end_block(raw, tail, tail, tail < 0, 0, pad_zeros, 8)
        h = _xxh64_end(state, raw, tail, prefix + size, seed.to(tl.uint64))
        tl.store(out_ptr + row, bswap64(h), mask=valid)
    else:
        for i in tl.static_range(4):
            tl.store(out_ptr + row * 4 + i, state[i], mask=valid)


@triton.jit
def _multiply128(x, y):
    """The low and the high half of the product of two uint64 tiles."""
    x0, x1 = x & 0xFFFFFFFF, x >> 32
    y0, y1 = y & 0xFFFFFFFF, y >> 32
    low = wrap_mul(x0, y0)
    middle = wrap_add(wrap_mul(x1, y0), low >> 32)
    other = wrap_add(wrap_mul(x0, y1), middle & 0xFFFFFFFF)
    high = wrap_add(wrap_add(wrap_mul(x1, y1), middle >> 32), other >> 32)
    return (other << 32) | (low & 0xFFFFFFFF), high


@triton.jit
def _fold128(x, y):
    low, high = _multiply128(x, y)
    return low ^ high


@triton.jit
def _avalanche(h):
    h = _times_prime(h ^ (h >> 37), XXH3_PRIME_MX1)
    return h ^ (h >> 32)


@triton.jit
def _secret(secret_ptr, offset):
    """The word of the secret at a byte offset."""
    return tl.load(secret_ptr + offset)


@triton.jit
def _secret_pair(secret_ptr, offset):
    return _secret(secret_ptr, offset) ^ _secret(secret_ptr, offset + 8)


@triton.jit
def _load_words(address, mask, WORDS: tl.constexpr):
    """``WORDS`` uint32 words of each lane's message, from an address of any alignment on."""
    zero = tl.full((), 0, tl.int64)
    left = (address - address + 4 * WORDS).to(tl.int32)
    return load_block(address, zero, left, mask, WORDS, 1, 1)


@triton.jit
def _load_pair(address, mask):
    w = _load_words(address, mask, 4)
    return join64(w[0], w[1]), join64(w[2], w[3])


@triton.jit
def _mix16(pair, secret_ptr, offset, seed):
    low = pair[0] ^ wrap_add(_secret(secret_ptr, offset), seed)
    return _fold128(low, pair[1] ^ wrap_sub(_secret(secret_ptr, offset + 8), seed))


@triton.jit
def _mix32(low, high, one, two, secret_ptr, offset, seed):
    low = wrap_add(low, _mix16(one, secret_ptr, offset, seed)) ^ wrap_add(two[0], two[1])
    high = wrap_add(high, _mix16(two, secret_ptr, offset + 16, seed)) ^ wrap_add(one[0], one[1])
    return low, high


@triton.jit
def _length_times(size, PRIME: tl.constexpr):
    return _times_prime(size.to(tl.uint64), PRIME)


@triton.jit
def _end_of_middle(low, high, size, seed):
    h = wrap_add(_times_prime(low, XXH_PRIME64_1), _times_prime(high, XXH_PRIME64_4))
    h = wrap_add(h, _times_prime(wrap_sub(size.to(tl.uint64), seed), XXH_PRIME64_2))
    return _avalanche(wrap_add(low, high)), wrap_sub(h ^ h, _avalanche(h))


@triton.jit
def _xxh3_none(secret_ptr, size, seed, WIDE: tl.constexpr):
    """An empty message."""
    zero = size.to(tl.uint64) & 0
    if WIDE:
        low = _xxh64_avalanche(zero ^ seed ^ _secret_pair(secret_ptr, 64))
        high = _xxh64_avalanche(zero ^ seed ^ _secret_pair(secret_ptr, 80))
    else:
        low = _xxh64_avalanche(zero ^ seed ^ _secret_pair(secret_ptr, 56))
        high = zero
    return low, high


@triton.jit
def _halves_xored(word):
    return (word ^ (word >> 32)) & 0xFFFFFFFF


@triton.jit
def _xxh3_1_to_3(secret_ptr, message, size, mask, seed, WIDE: tl.constexpr):
    left = size.to(tl.int32)
    w = load_block(message, tl.full((), 0, tl.int64), left, mask, 1, 1, 1)[0]
    at = tl.where(mask, left, 1)
    second = (w >> ((at >> 1) * 8).to(tl.uint32)) & 0xFF
    third = (w >> ((at - 1) * 8).to(tl.uint32)) & 0xFF
    word = ((w & 0xFF) << 16) | (second << 24) | third | (at.to(tl.uint32) << 8)
    low = word.to(tl.uint64) ^ wrap_add(_halves_xored(_secret(secret_ptr, 0)), seed)
    high = low
    if WIDE:
        turned = rotl32(bswap32(word), 13).to(tl.uint64)
        high = turned ^ wrap_sub(_halves_xored(_secret(secret_ptr, 8)), seed)
    return _xxh64_avalanche(low), _xxh64_avalanche(high)


@triton.jit
def _xxh3_4_to_8(secret_ptr, message, size, mask, seed, WIDE: tl.constexpr):
    first = _load_words(message, mask, 1)[0]
    last = _load_words(message + size - 4, mask, 1)[0]
    seed = seed ^ (bswap32((seed & 0xFFFFFFFF).to(tl.uint32)).to(tl.uint64) << 32)
    n = size.to(tl.uint64)
    if WIDE:
        keyed = join64(first, last) ^ wrap_add(_secret_pair(secret_ptr, 16), seed)
        low, high = _multiply128(keyed, wrap_add(tl.full((), XXH_PRIME64_1, tl.uint64), n << 2))
        high = wrap_add(high, low << 1)
        low = low ^ (high >> 3)
        low = _times_prime(low ^ (low >> 35), XXH3_PRIME_MX2)
        low = low ^ (low >> 28)
        high = _avalanche(high)
    else:
        h = join64(last, first) ^ wrap_sub(_secret_pair(secret_ptr, 8), seed)
        h = _times_prime(h ^ rotl64(h, 49) ^ rotl64(h, 24), XXH3_PRIME_MX2)
        h = _times_prime(h ^ wrap_add(h >> 35, n), XXH3_PRIME_MX2)
        low = h ^ (h >> 28)
        high = low
    return low, high


@triton.jit
def _xxh3_9_to_16(secret_ptr, message, size, mask, seed, WIDE: tl.constexpr):
    a = _load_words(message, mask, 2)
    b = _load_words(message + size - 8, mask, 2)
    first, last = join64(a[0], a[1]), join64(b[0], b[1])
    n = size.to(tl.uint64)
    if WIDE:
        mixed = first ^ last ^ wrap_sub(_secret_pair(secret_ptr, 32), seed)
        prime = tl.full((), XXH_PRIME64_1, tl.uint64)
        low, high = _multiply128(mixed, prime)
        low = wrap_add(low, wrap_sub(n, tl.full((), 1, tl.uint64)) << 54)
        last = last ^ wrap_add(_secret_pair(secret_ptr, 48), seed)
        high = wrap_add(high, wrap_add(last, _times_prime(last & 0xFFFFFFFF, XXH_PRIME32_2 - 1)))
        low = low ^ bswap64(high)
        low, carried = _multiply128(low, tl.full((), XXH_PRIME64_2, tl.uint64))
        high = _avalanche(wrap_add(carried, _times_prime(high, XXH_PRIME64_2)))
        low = _avalanche(low)
    else:
        first = first ^ wrap_add(_secret_pair(secret_ptr, 24), seed)
        last = last ^ wrap_sub(_secret_pair(secret_ptr, 40), seed)
        h = wrap_add(wrap_add(n, bswap64(first)), wrap_add(last, _fold128(first, last)))
        low = _avalanche(h)
        high = low
    return low, high


@triton.jit
def _xxh3_17_to_128(secret_ptr, message, size, mask, seed, WIDE: tl.constexpr):
    low = _length_times(size, XXH_PRIME64_1)
    high = low ^ low
    for k in range(4):
        i = 3 - k
        inside = mask & (size > 32 * i)
        one = _load_pair(message + 16 * i, inside)
        two = _load_pair(message + size - 16 * (i + 1), inside)
        if WIDE:
            new, new_high = _mix32(low, high, one, two, secret_ptr, 32 * i, seed)
            high = tl.where(inside, new_high, high)
        else:
            new = wrap_add(low, _mix16(one, secret_ptr, 32 * i, seed))
            new = wrap_add(new, _mix16(two, secret_ptr, 32 * i + 16, seed))
        low = tl.where(inside, new, low)
    if WIDE:
        low, high = _end_of_middle(low, high, size, seed)
    else:
        low = _avalanche(low)
    return low, high


@triton.jit
def _whole_pairs(low, high, secret_ptr, message, size, mask, seed, FIRST, LAST, SHIFT, WIDE: tl.constexpr):
    """Mix in the pairs of 16-byte pieces numbered FIRST to LAST - 1, as far as the message has them. The
    secret for byte i of the message starts at its byte i + SHIFT."""
    for i in range(FIRST, LAST):
        inside = mask & (size >= 32 * (i + 1))
        one = _load_pair(message + 32 * i, inside)
        two = _load_pair(message + 32 * i + 16, inside)
        if WIDE:
            new, new_high = _mix32(low, high, one, two, secret_ptr, 32 * i + SHIFT, seed)
            high = tl.where(inside, new_high, high)
        else:
            new = wrap_add(low, _mix16(one, secret_ptr, 32 * i + SHIFT, seed))
            new = wrap_add(new, _mix16(two, secret_ptr, 32 * i + 16 + SHIFT, seed))
        low = tl.where(inside, new, low)
    return low, high


@triton.jit
def _xxh3_129_to_240(secret_ptr, message, size, mask, seed, WIDE: tl.constexpr):
    low = _length_times(size, XXH_PRIME64_1)
    low, high = _whole_pairs(low, low ^ low, secret_ptr, message, size, mask, seed, 0, 4, 0, WIDE)
    low = _avalanche(low)
    if WIDE:
        high = _avalanche(high)
    # After the first 128 bytes, the secret starts over from its byte 3.
    low, high = _whole_pairs(low, high, secret_ptr, message, size, mask, seed, 4, 7, 3 - 128, WIDE)
    last = _load_pair(message + size - 16, mask)
    if WIDE:
        before = _load_pair(message + size - 32, mask)
        low, high = _mix32(low, high, last, before, secret_ptr, 103, wrap_sub(seed ^ seed, seed))
        low, high = _end_of_middle(low, high, size, seed)
    else:
        # Sixteen bytes may be left that do not fill a pair.
        odd = mask & ((size & 16) != 0)
        i = size >> 4
        at = ((i - 9) * 16 + 3).to(tl.int32)
        pair = _load_pair(message + (i - 1) * 16, odd)
        at = tl.where(odd, at, 0)
        new = _mix16(pair, secret_ptr, at, seed)
        low = tl.where(odd, wrap_add(low, new), low)
        low = _avalanche(wrap_add(low, _mix16(last, secret_ptr, 119, seed)))
    return low, high


@triton.jit
def _accumulate(acc, raw, secret_ptr, offset, active):
    """The accumulators after a stripe of 64 bytes. The words of ``raw`` are 0 in lanes that are not
    active."""
    product = ()
    data = ()
    for i in tl.static_range(8):
        value = join64(raw[2 * i], raw[2 * i + 1])
        key = tl.where(active, value ^ _secret(secret_ptr, offset + 8 * i), 0)
        product = product + (wrap_mul(key & 0xFFFFFFFF, key >> 32),)
        data = data + (value,)
    out = ()
    for i in tl.static_range(8):
        out = out + (wrap_add(wrap_add(acc[i], data[i ^ 1]), product[i]),)
    return out


@triton.jit
def _scramble(acc, secret_ptr):
    out = ()
    for i in tl.static_range(8):
        x = acc[i] ^ (acc[i] >> 47) ^ _secret(secret_ptr, 128 + 8 * i)
        out = out + (_times_prime(x, XXH_PRIME32_1),)
    return out


@triton.jit
def _accumulate_last(acc, start, secret_ptr, mask):
    """The accumulators after the stripe at the addresses ``start``. A loop compiles faster here."""
    for i in range(4):
        low, high = _load_pair(start + 16 * i, mask)
        one = tl.where(mask, low ^ _secret(secret_ptr, 121 + 16 * i), 0)
        two = tl.where(mask, high ^ _secret(secret_ptr, 129 + 16 * i), 0)
        one = wrap_add(wrap_add(acc[0], high), wrap_mul(one & 0xFFFFFFFF, one >> 32))
        two = wrap_add(wrap_add(acc[1], low), wrap_mul(two & 0xFFFFFFFF, two >> 32))
        acc = acc[2:] + (one, two)
    return acc


@triton.jit
def _merge(acc, start, secret_ptr, OFFSET):
    h = start
    for i in range(4):
        one = acc[0] ^ _secret(secret_ptr, OFFSET + 16 * i)
        two = acc[1] ^ _secret(secret_ptr, OFFSET + 8 + 16 * i)
        h = wrap_add(h, _fold128(one, two))
        acc = acc[2:] + acc[:2]
    return _avalanche(h)


@kernel
def xxh3_messages(
    table_ptr,
    state_ptr,
    secret_ptr,
    out_ptr,
    address: tl.int64,
    count: tl.int64,
    stride: tl.int64,
    length: tl.int64,
    total: tl.int64,
    prefix: tl.int64,
    seed: tl.int64,
    WIDE: tl.constexpr,
    FINAL: tl.constexpr,
    TABLE: tl.constexpr,
    ALIGN: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """XXH3 of ``count`` messages, one message per lane. It has 128 bits with WIDE, else 64.

    The arguments that describe the messages are those of ``hash_messages`` (``batch.py``). ``state_ptr`` is
    uint64 ``[8]``, the accumulators after ``prefix`` bytes, a multiple of 1024. If that is not 0, the
    messages have at least 64 bytes. ``secret_ptr`` is uint64 ``[2, SECRET_WORDS]``: the default secret, and
    the secret that is derived from the seed, each as the words that begin at each of its bytes. ``seed`` is
    an unsigned integer.

    With FINAL, ``out_ptr`` receives uint64 ``[count]``, or with WIDE ``[count, 2]``, the digests as
    big-endian bytes. Otherwise it receives ``[count, 8]``, the accumulators after blocks of 1024 bytes. In
    that case the messages are whole blocks, and more bytes follow them later.
    """
    valid, message, size, row, longest, shortest = messages_of_lanes(
        table_ptr, address, count, stride, length, total, TABLE, BLOCK_MSGS
    )
    seed_word = seed.to(tl.uint64)
    own_secret = secret_ptr + SECRET_WORDS
    low = tl.full((BLOCK_MSGS,), 0, tl.uint64)
    high = low
    if (longest + prefix > _SHORT) | (FINAL == 0):
        acc = load_state(state_ptr, row, valid, False, 8, BLOCK_MSGS)
        long = valid & (size + prefix > _SHORT)
        more = 1 if FINAL else 0
        # The last stripe is accumulated separately, and no scrambling follows it.
        stripes = tl.where(long, (size - more) >> 6, 0)
        scrambles = tl.where(long, (size - more) >> 10, 0)
        for n in range((longest - more) >> 6):
            number = tl.full((), 0, tl.int64) + n
            active = number < stripes
            left = tl.where(active, 64, 0).to(tl.int32)
            raw = load_block(message, number * 16, left, valid, 16, ALIGN, VECTOR)
            place = number & (_STRIPES - 1)
            acc = _accumulate(acc, raw, own_secret, place * 8, active)
            if place == _STRIPES - 1:
                acc = select(number // _STRIPES < scrambles, _scramble(acc, own_secret), acc, 8)
        if FINAL:
            acc = _accumulate_last(acc, message + size - 64, own_secret, long)
            all_bytes = prefix + size
            low = _merge(acc, _length_times(all_bytes, XXH_PRIME64_1), own_secret, 11)
            if WIDE:
                start = _length_times(all_bytes, XXH_PRIME64_2)
                high = _merge(acc, start ^ 0xFFFFFFFFFFFFFFFF, own_secret, 117)
        else:
            for i in tl.static_range(8):
                tl.store(out_ptr + row * 8 + i, acc[i], mask=valid)
    if FINAL:
        if shortest + prefix <= _SHORT:
            if longest > 128:
                inside = valid & (size > 128) & (size <= _SHORT)
                x, y = _xxh3_129_to_240(secret_ptr, message, size, inside, seed_word, WIDE)
                low, high = tl.where(inside, x, low), tl.where(inside, y, high)
            if (shortest <= 128) & (longest > 16):
                inside = valid & (size > 16) & (size <= 128)
                x, y = _xxh3_17_to_128(secret_ptr, message, size, inside, seed_word, WIDE)
                low, high = tl.where(inside, x, low), tl.where(inside, y, high)
            if (shortest <= 16) & (longest > 8):
                inside = valid & (size > 8) & (size <= 16)
                x, y = _xxh3_9_to_16(secret_ptr, message, size, inside, seed_word, WIDE)
                low, high = tl.where(inside, x, low), tl.where(inside, y, high)
            if (shortest <= 8) & (longest > 3):
                inside = valid & (size > 3) & (size <= 8)
                x, y = _xxh3_4_to_8(secret_ptr, message, size, inside, seed_word, WIDE)
                low, high = tl.where(inside, x, low), tl.where(inside, y, high)
            if (shortest <= 3) & (longest > 0):
                inside = valid & (size > 0) & (size <= 3)
                x, y = _xxh3_1_to_3(secret_ptr, message, size, inside, seed_word, WIDE)
                low, high = tl.where(inside, x, low), tl.where(inside, y, high)
            if shortest == 0:
                x, y = _xxh3_none(secret_ptr, size, seed_word, WIDE)
                low, high = tl.where(size == 0, x, low), tl.where(size == 0, y, high)
        if WIDE:
            tl.store(out_ptr + row * 2, bswap64(high), mask=valid)
            tl.store(out_ptr + row * 2 + 1, bswap64(low), mask=valid)
        else:
            tl.store(out_ptr + row, bswap64(low), mask=valid)
