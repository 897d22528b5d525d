"""Poly1305 (RFC 8439, section 2.5) over batches of messages of any length.

A message has n blocks c[1] .. c[n] of at most 16 bytes, and a one is appended to each of them. Its value is

    c[1] * r**n + c[2] * r**(n-1) + ... + c[n] * r   modulo   p = 2**130 - 5

This is a sum, so parts of a message can be computed independently: a part that ends m blocks before the end
of the message adds its own value times r**m. Parts end at multiples of their size before the end of a
message. So only the first part may be short, and the powers of r that are needed are products of r**(2**k).

There are three ways to the value of a message:

- ``poly1305_messages`` computes a message per lane, block by block.
- ``poly1305_parts`` (``poly1305_parts.py``) computes a part per program, with products of words.
- ``poly1305_rows`` (``poly1305_matrix.py``) computes a part per row of an int8 matrix product.

After the second and the third, ``poly1305_sum`` multiplies the value of each part by its power of r and adds
it to the value of its message. Limbs are summed in 64 bits, in any order. ``poly1305_finish`` reduces the
values and adds s. The arithmetic modulo p is in ``poly1305_limbs.py``.
"""

import triton.language as tl

from .batch import end_block, load_block, locate_message, message_of_piece, messages_of_lanes
from .bits import store_words
from .jit import kernel
from .poly1305_limbs import (
    BLOCK_BYTES,
    BLOCK_ONE,
    LARGE,
    add,
    block_limbs,
    carried,
    clamped,
    halves,
    load_limbs,
    load_power,
    multiply,
    pad_one,
    plus,
    reduced,
    select_limbs,
    store_limbs,
)
from .poly1305_matrix import COLUMNS, DIGITS


@kernel
def poly1305_powers(
    key_ptr,
    power_ptr,
    count: tl.int64,
    stride: tl.int64,
    bits: tl.int64,
    row_bits: tl.int64,
    items: tl.int64,
    words: tl.int64,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """The powers of r of ``count`` keys that the other kernels need, one key per lane.

    ``power_ptr`` receives uint32 ``[count, bits + items * (words + 1), 5]``, numbers of five limbs. The first
    are r**(2**k) for k below ``bits``. After them are the factors of ``poly1305_parts``. Let R be
    r**(2**row_bits). For each of R**(items - 1), ..., R, 1 these are that number times 2**(32 * w) for w
    below ``words``, and that number times 2**128.

    ``key_ptr`` is uint32 ``[count, stride]``. The first four words of a key are r, which is not yet clamped.
    """
    lane = tl.program_id(0).to(tl.int64) * BLOCK_MSGS + tl.arange(0, BLOCK_MSGS)
    valid = lane < count
    key = ()
    for i in tl.static_range(4):
        key = key + (tl.load(key_ptr + (lane * stride + i), mask=valid, other=0),)
    h = clamped(key)
    row = h
    pointer = power_ptr + lane * ((bits + items * (words + 1)) * 5)
    for k in range(bits):
        store_limbs(pointer + k * 5, 1, h, valid)
        row = select_limbs(valid & (k == row_bits), h, row)
        h = multiply(h, h)
    zero = tl.full((BLOCK_MSGS,), 0, tl.uint64)
    h = (zero + 1, zero, zero, zero, zero)
    for i in range(items):
        place = pointer + (bits + (items - 1 - i) * (words + 1)) * 5
        x = h
        for w in range(words):
            store_limbs(place + w * 5, 1, x, valid)
            x = multiply(x, (zero, zero + 64, zero, zero, zero))
        x = multiply(h, (zero, zero, zero, zero, zero + BLOCK_ONE))
        store_limbs(place + words * 5, 1, x, valid)
        h = multiply(h, row)


@kernel
def poly1305_messages(
    table_ptr,
    key_ptr,
    out_ptr,
    address: tl.int64,
    count: tl.int64,
    stride: tl.int64,
    length: tl.int64,
    total: tl.int64,
    key_stride: tl.int64,
    results: tl.int64,
    TABLE: tl.constexpr,
    ALIGN: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """The values of ``count`` messages, one message per lane. ``out_ptr`` receives uint64 ``[5, results]``.

    The arguments that describe the messages are those of ``hash_messages`` (``batch.py``). The key of result
    row i starts ``i * key_stride`` words from ``key_ptr``, so that 0 gives all messages the same key.
    """
    valid, message, size, row, longest, shortest = messages_of_lanes(
        table_ptr, address, count, stride, length, total, TABLE, BLOCK_MSGS
    )
    words = ()
    for i in tl.static_range(4):
        words = words + (tl.load(key_ptr + (row * key_stride + i), mask=valid, other=0),)
    r = clamped(words)
    zero = tl.full((BLOCK_MSGS,), 0, tl.uint64)
    h = (zero, zero, zero, zero, zero)
    whole = shortest // BLOCK_BYTES
    for n in range((longest + (BLOCK_BYTES - 1)) // BLOCK_BYTES):
        done = (tl.full((), 0, tl.int64) + n) * BLOCK_BYTES
        left = tl.minimum(tl.maximum(size - done, 0), 16).to(tl.int32)
        words = load_block(message, done // 4, left, valid, 4, ALIGN, VECTOR)
        one = zero | BLOCK_ONE
        if n >= whole:
            words = end_block(words, left, left, (left > 0) & (left < 16), 0, pad_one, 4)
            one = tl.where(left >= 16, one, 0)
        c = block_limbs(words)
        new = multiply(plus(h, (c[0], c[1], c[2], c[3], c[4] + one)), r)
        h = select_limbs(left > 0, new, h)
    for i in tl.static_range(5):
        tl.store(out_ptr + (i * results + row), h[i], mask=valid)


@kernel
def poly1305_sum(
    table_ptr,
    power_ptr,
    values_ptr,
    offsets_ptr,
    out_ptr,
    count: tl.int64,
    stride: tl.int64,
    length: tl.int64,
    total: tl.int64,
    parts: tl.int64,
    per_row: tl.int64,
    part_bits: tl.int64,
    power_stride: tl.int64,
    most_bits: tl.int64,
    results: tl.int64,
    MATRIX: tl.constexpr,
    TABLE: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """Add the value of every part to that of its message, one part per lane. ``out_ptr`` is uint64
    ``[5, results]``, zeros at first.

    With MATRIX, ``values_ptr`` is what ``poly1305_rows`` stores, and ``offsets_ptr`` what
    ``poly1305_offsets`` stores. Otherwise ``values_ptr`` is what ``poly1305_parts`` stores, and
    ``offsets_ptr`` is not used. No message has more than ``1 << most_bits`` parts. The other arguments are
    those of ``poly1305_parts``.
    """
    first = tl.program_id(0).to(tl.int64) * BLOCK_MSGS
    lane = first + tl.arange(0, BLOCK_MSGS)
    number = tl.minimum(lane, parts - 1)
    final = tl.minimum(first + BLOCK_MSGS, parts) - 1
    message, index = message_of_piece(table_ptr, number, count, per_row, 2, TABLE)
    first_message, _ = message_of_piece(table_ptr, first, count, per_row, 2, TABLE)
    final_message, _ = message_of_piece(table_ptr, final, count, per_row, 2, TABLE)
    _, size = locate_message(table_ptr, message, 0, count, stride, length, total, TABLE)
    row = tl.load(table_ptr + 3 * count + message) if TABLE else message
    part = tl.full((), 1, tl.int64) << part_bits
    blocks = (size + 15) // 16
    own = tl.maximum((blocks + part - 1) >> part_bits, 1)
    valid = (lane < parts) & (index < own)
    if MATRIX:
        pointer = values_ptr + number * COLUMNS
        zero = (number * 0).to(tl.int64)
        d = (zero, zero, zero, zero, zero)
        for j in tl.static_range(DIGITS):
            x = tl.load(pointer + j, mask=valid, other=0).to(tl.int64) << (8 * j % 26)
            if 8 * j // 26 == 0:
                d = (d[0] + x, d[1], d[2], d[3], d[4])
            elif 8 * j // 26 == 1:
                d = (d[0], d[1] + x, d[2], d[3], d[4])
            elif 8 * j // 26 == 2:
                d = (d[0], d[1], d[2] + x, d[3], d[4])
            elif 8 * j // 26 == 3:
                d = (d[0], d[1], d[2], d[3] + x, d[4])
            else:
                d = (d[0], d[1], d[2], d[3], d[4] + x)
        entries = part + 2
        here = tl.where(index == 0, blocks - (own - 1) * part, part)
        offset = load_limbs(offsets_ptr + here, entries, valid)
        short = valid & (index == own - 1) & (size & 15 != 0)
        less = load_limbs(offsets_ptr + (here * 0 + (part + 1)), entries, short)
        h = ()
        for i in tl.static_range(5):
            h = h + ((d[i] + LARGE[i]).to(tl.uint64) + offset[i] + less[i],)
        h = carried(h)
    else:
        h = load_limbs(values_ptr + number, parts, valid)
    after = own - 1 - index
    powers = power_ptr + (row * power_stride + 5 * part_bits)
    for k in range(most_bits):
        h = select_limbs((after >> k) & 1 != 0, multiply(h, load_limbs(powers + 5 * k, 1, valid)), h)
    if first_message == final_message:
        place = tl.load(table_ptr + 3 * count + first_message) if TABLE else first_message
        for i in tl.static_range(5):
            s = tl.reduce(tl.where(valid, h[i], 0), 0, add)
            tl.atomic_add(out_ptr + (i * results + place), s, sem="relaxed")
    else:
        for i in tl.static_range(5):
            tl.atomic_add(out_ptr + (i * results + row), h[i], mask=valid, sem="relaxed")


@kernel
def poly1305_finish(
    values_ptr,
    power_ptr,
    start_ptr,
    pad_ptr,
    out_ptr,
    count: tl.int64,
    pad_stride: tl.int64,
    blocks: tl.int64,
    bits: tl.int64,
    FINAL: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """The tags of ``count`` messages from their values, one message per lane.

    ``values_ptr`` is uint64 ``[5, count]``. To each value is added the value of an earlier part of the
    message, ``start_ptr``, uint64 ``[5]``, times r**blocks, where ``blocks`` has at most ``bits`` bits. With
    FINAL, s is added as well: four words that start ``i * pad_stride`` words from ``pad_ptr`` for message i;
    and ``out_ptr`` receives the tags, uint32 ``[count, 4]``. Without FINAL, it receives the values, uint64
    ``[5, count]``, with carries propagated.
    """
    lane = tl.program_id(0).to(tl.int64) * BLOCK_MSGS + tl.arange(0, BLOCK_MSGS)
    valid = lane < count
    begun = ()
    for i in tl.static_range(5):
        begun = begun + (tl.load(start_ptr + i),)
    for k in range(bits):
        begun = select_limbs((blocks >> k) & 1 != 0, multiply(begun, load_power(power_ptr, k)), begun)
    h = ()
    for i in tl.static_range(5):
        h = h + (tl.load(values_ptr + (i * count + lane), mask=valid, other=0) + begun[i],)
    if FINAL:
        low, high = halves(reduced(h))
        pad = ()
        for i in tl.static_range(4):
            pad = pad + (tl.load(pad_ptr + (lane * pad_stride + i), mask=valid, other=0).to(tl.uint64),)
        pad_low = pad[0] | (pad[1] << 32)
        low += pad_low
        high += (pad[2] | (pad[3] << 32)) + (low < pad_low).to(tl.uint64)
        words = (
            (low & 0xFFFFFFFF).to(tl.uint32),
            (low >> 32).to(tl.uint32),
            (high & 0xFFFFFFFF).to(tl.uint32),
            (high >> 32).to(tl.uint32),
        )
        store_words(out_ptr + lane * 4, words, valid, 4, VECTOR)
    else:
        h = carried(h)
        for i in tl.static_range(5):
            tl.store(out_ptr + (i * count + lane), h[i], mask=valid)
