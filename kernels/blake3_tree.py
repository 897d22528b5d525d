"""The tree of BLAKE3 over batches of messages: first the chunks, then the parents level by level, then the
roots.

Each level has one array with the chaining values of all messages. Let P[i] be the number of chunks of the
messages before message i. Then the values of message i at level k start at row ``(P[i] >> k) + i``. The
ranges of different messages do not overlap, because ceil(c / 2**k) <= ((P + c) >> k) - (P >> k) + 1. So one
table serves every level, and the host has no work between levels. In a batch of equal rows every message has
the same number of values at a level, ``per_row``, and no table is needed.

Pairing neighbours, and promoting an odd last node unchanged, gives the left-full binary tree of the
specification (section 2.1).
"""

import triton
import triton.language as tl

from .batch import end_block, find_message, load_block, load_whole_block
from .bits import load_state, load_words, select, store_words
from .blake3 import CHUNK_END, CHUNK_START, PARENT, ROOT, blake3_compress
from .jit import kernel
from .padding import pad_zeros

CHUNK_BYTES = tl.constexpr(1024)
BLOCK_BYTES = tl.constexpr(64)
BLOCK_WORDS = tl.constexpr(16)
# A root node whose output is computed later: chaining value, message words, block length and flags. Two
# unused words make it a multiple of vectors of four words.
NODE_WORDS = tl.constexpr(28)


@triton.jit
def _first_row(prefix_ptr, message, level, mask):
    """The row of the first chaining value of ``message`` at ``level``."""
    return (tl.load(prefix_ptr + message, mask=mask, other=0) >> level) + message


@triton.jit
def _chunk_count(length):
    return tl.maximum((length + (CHUNK_BYTES - 1)) // CHUNK_BYTES, 1)


@triton.jit
def _store_node(nodes_ptr, message, cv, m, block_len, flags, mask, VECTOR: tl.constexpr):
    WORDS: tl.constexpr = NODE_WORDS if VECTOR == 4 else NODE_WORDS - 2
    node = cv + m + (block_len, flags, flags, flags)
    store_words(nodes_ptr + message * NODE_WORDS, node, mask, WORDS, VECTOR)


@triton.jit
def _smaller(x, y):
    return tl.minimum(x, y)


@kernel
def blake3_chunks(
    table_ptr,
    key_ptr,
    cv_ptr,
    out_ptr,
    address: tl.int64,
    count: tl.int64,
    stride: tl.int64,
    length: tl.int64,
    total: tl.int64,
    nodes: tl.int64,
    per_row: tl.int64,
    most_blocks: tl.int64,
    counter: tl.int64,
    flags: tl.int64,
    TABLE: tl.constexpr,
    KEY_PER_MESSAGE: tl.constexpr,
    ROOTS: tl.constexpr,
    ALIGN: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """The chaining value of every chunk of ``count`` messages, one chunk per lane.

    With TABLE, ``table_ptr`` is int64 ``[3, count]``: the address, the length in bytes and the number of the
    first chunk of each message. Without TABLE, message i starts at ``address + i * stride`` and has
    ``per_row`` chunks. It has ``length`` bytes, or the rest of ``total`` bytes if that is less. ``nodes`` is
    the number of chunks of all messages, ``most_blocks`` the greatest number of blocks in a chunk.
    ``key_ptr`` is uint32 ``[8]``, or with KEY_PER_MESSAGE ``[count, 8]``, a key for each message. ``flags``
    are the flags of the mode, and ``counter`` is the chunk counter of the first chunk of each message.
    ``cv_ptr`` receives uint32 chaining values, ``[rows, 8]``.

    The only chunk of a message is its root. ROOTS tells what to do with it. 0: the message is a part of a
    longer one, and its chaining value goes to ``cv_ptr`` like the others. 1: the 8 words of its digest go to
    ``out_ptr``, uint32 ``[count, 8]``. 2: its root node goes to ``out_ptr``, uint32 ``[count, NODE_WORDS]``,
    for ``blake3_output``.
    """
    first = tl.program_id(0).to(tl.int64) * BLOCK_MSGS
    lane = tl.arange(0, BLOCK_MSGS)
    if VECTOR == 0:
        # The lanes of a vector read at the same time, each from its own chunk. A processor foresees what
        # they will read only if their chunks lie in different pages of memory. So neighbouring lanes take
        # chunks that lie apart, and those between them belong to the program's other vectors.
        VECTORS: tl.constexpr = BLOCK_MSGS // 16 if BLOCK_MSGS >= 16 else 1
        lane = lane % (BLOCK_MSGS // VECTORS) * VECTORS + lane // (BLOCK_MSGS // VECTORS)
    node = first + lane
    final_node = tl.minimum(first + BLOCK_MSGS, nodes) - 1
    in_range = node < nodes
    if TABLE:
        prefix_ptr = table_ptr + 2 * count
        first_message = find_message(prefix_ptr, first, tl.full((), 0, tl.int64), count - 1)
        final_message = find_message(prefix_ptr, final_node, first_message, count - 1)
        message = find_message(prefix_ptr, tl.minimum(node, final_node), first_message, final_message)
        chunk = node - tl.load(prefix_ptr + message, mask=in_range, other=0)
        start = tl.load(table_ptr + message, mask=in_range, other=0)
        size = tl.load(table_ptr + count + message, mask=in_range, other=0)
        row = node + message
        one_message = first_message == final_message
        final_end = (final_node - tl.load(prefix_ptr + final_message) + 1) * CHUNK_BYTES
        final_size = tl.load(table_ptr + count + final_message)
        all_whole = one_message & (final_end <= final_size)
    else:
        message = node // per_row
        chunk = node - message * per_row
        row = node
        start = address + message * stride
        size = tl.minimum(length, total - message * stride)
        final_message = final_node // per_row
        final_size = tl.minimum(length, total - final_message * stride)
        one_message = first // per_row == final_message
        final_end = (final_node - final_message * per_row + 1) * CHUNK_BYTES
        all_whole = (one_message | (length == per_row * CHUNK_BYTES)) & (final_end <= final_size)
    chunks = _chunk_count(size)
    valid = in_range & (chunk < chunks)
    # With ROOTS of 0, no chunk is a root.
    single = chunks == (1 if ROOTS != 0 else -1)
    chunk_size = tl.minimum(tl.maximum(size - chunk * CHUNK_BYTES, 0), CHUNK_BYTES).to(tl.int32)
    blocks = tl.maximum((chunk_size + (BLOCK_BYTES - 1)) // BLOCK_BYTES, 1)
    number = counter + chunk
    number_low = (number & 0xFFFFFFFF).to(tl.uint32)
    number_high = (number >> 32).to(tl.uint32)

    place = start + chunk * CHUNK_BYTES
    if VECTOR == 0:
        # Blocks that lie whole in all chunks of the program. Lanes without a chunk read those of the last
        # chunk, which has none if the last message is shorter than the others.
        final_rest = tl.minimum(tl.maximum(final_size - (final_end - CHUNK_BYTES), 0), CHUNK_BYTES)
        shortest = tl.reduce(tl.where(valid, chunk_size, CHUNK_BYTES), 0, _smaller)
        whole_blocks = tl.minimum(shortest, final_rest.to(tl.int32)) // BLOCK_BYTES
        final_start = tl.load(table_ptr + final_message) if TABLE else address + final_message * stride
        readable = tl.where(valid, place, final_start + final_end - CHUNK_BYTES)
    cv = load_state(key_ptr, message, in_range, KEY_PER_MESSAGE, 8, BLOCK_MSGS, VECTOR)
    for n in range(most_blocks):
        word = tl.full((), 0, tl.int64) + n * BLOCK_WORDS
        left = tl.minimum(tl.maximum(chunk_size - (word * 4).to(tl.int32), 0), BLOCK_BYTES)
        last = n + 1 == blocks
        if VECTOR == 0:
            if n < whole_blocks:
                m = load_whole_block(readable + word * 4, BLOCK_WORDS, 32, False)
            else:
                m = load_block(place, word, left, valid, BLOCK_WORDS, ALIGN, 2)
                m = end_block(m, left, left, last, 0, pad_zeros, BLOCK_WORDS)
        else:
            m = load_block(place, word, left, valid, BLOCK_WORDS, ALIGN, VECTOR)
            if not all_whole:
                m = end_block(m, left, left, last, 0, pad_zeros, BLOCK_WORDS)
        block_flags = (chunk_size * 0 + flags).to(tl.uint32)
        block_flags = tl.where(n == 0, block_flags | CHUNK_START, block_flags)
        block_flags = tl.where(last, block_flags | CHUNK_END, block_flags)
        if ROOTS == 1:
            block_flags = tl.where(last & single, block_flags | ROOT, block_flags)
        if ROOTS == 2:
            root = valid & last & single
            _store_node(out_ptr, message, cv, m, left.to(tl.uint32), block_flags, root, VECTOR)
        new = blake3_compress(cv, m, number_low, number_high, left.to(tl.uint32), block_flags)
        cv = select(n < blocks, new, cv, 8)

    if ROOTS == 1:
        store_words(out_ptr + message * 8, cv, valid & single, 8, VECTOR)
    store_words(cv_ptr + row * 8, cv, valid & (single == 0), 8, VECTOR)


@kernel
def blake3_parents(
    table_ptr,
    key_ptr,
    cv_ptr,
    parent_ptr,
    out_ptr,
    count: tl.int64,
    stride: tl.int64,
    length: tl.int64,
    total: tl.int64,
    nodes: tl.int64,
    per_row: tl.int64,
    level: tl.int64,
    flags: tl.int64,
    TABLE: tl.constexpr,
    KEY_PER_MESSAGE: tl.constexpr,
    ROOTS: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """The parents at ``parent_ptr`` of the nodes of level ``level`` at ``cv_ptr``, one parent per lane.

    ``nodes`` is the number of rows at the level of the parents, and ``per_row`` the number of values that
    each message has at ``level`` without TABLE. The parent of a message that has two nodes at ``level`` is
    its root, and ROOTS tells what to do with it, as for ``blake3_chunks``. The other arguments are those of
    ``blake3_chunks``.
    """
    first = tl.program_id(0).to(tl.int64) * BLOCK_MSGS
    node = first + tl.arange(0, BLOCK_MSGS)
    in_range = node < nodes
    if TABLE:
        prefix_ptr = table_ptr + 2 * count
        final_node = tl.minimum(first + BLOCK_MSGS, nodes) - 1
        first_message = find_message(prefix_ptr, first, tl.full((), 0, tl.int64), count - 1, level + 1)
        final_message = find_message(prefix_ptr, final_node, first_message, count - 1, level + 1)
        message = find_message(
            prefix_ptr, tl.minimum(node, final_node), first_message, final_message, level + 1
        )
        index = node - _first_row(prefix_ptr, message, level + 1, in_range)
        source = _first_row(prefix_ptr, message, level, in_range)
        size = tl.load(table_ptr + count + message, mask=in_range, other=0)
    else:
        parents_per_row = (per_row + 1) // 2
        message = node // parents_per_row
        index = node - message * parents_per_row
        source = message * per_row
        size = tl.minimum(length, total - message * stride)
    children = (_chunk_count(size) + ((tl.full((), 1, tl.int64) << level) - 1)) >> level
    has_left = in_range & (children > 1) & (2 * index < children)
    has_right = in_range & (2 * index + 1 < children)
    root = children == (2 if ROOTS != 0 else -1)

    pointer = cv_ptr + (source + 2 * index) * 8
    left = load_words(pointer, has_left, 8, VECTOR)
    right = load_words(pointer + 8, has_right, 8, VECTOR)
    key = load_state(key_ptr, message, in_range, KEY_PER_MESSAGE, 8, BLOCK_MSGS, VECTOR)
    zero = tl.full((BLOCK_MSGS,), 0, tl.uint32)
    parent_flags = zero | (flags.to(tl.uint32) | PARENT)
    if ROOTS == 1:
        parent_flags = tl.where(root, parent_flags | ROOT, parent_flags)
    if ROOTS == 2:
        last = has_right & root
        _store_node(out_ptr, message, key, left + right, zero | BLOCK_BYTES, parent_flags, last, VECTOR)
    new = blake3_compress(key, left + right, zero, zero, zero | BLOCK_BYTES, parent_flags)
    cv = select(has_right, new, left, 8)
    if ROOTS == 1:
        store_words(out_ptr + message * 8, cv, has_right & root, 8, VECTOR)
    store_words(parent_ptr + node * 8, cv, has_left & (root == 0), 8, VECTOR)


@kernel
def blake3_output(
    nodes_ptr,
    out_ptr,
    count: tl.int64,
    per_message: tl.int64,
    first_block: tl.int64,
    VECTOR: tl.constexpr,
    BLOCK_MSGS: tl.constexpr,
):
    """Output of ``count`` root nodes: ``per_message`` blocks of 64 bytes of each, from number ``first_block``
    on, one block per lane (section 2.6).

    ``nodes_ptr`` is uint32 ``[count, NODE_WORDS]``; ``out_ptr`` receives uint32 ``[count, per_message, 16]``.
    """
    lane = tl.program_id(0).to(tl.int64) * BLOCK_MSGS + tl.arange(0, BLOCK_MSGS)
    valid = lane < count * per_message
    message = lane // per_message
    number = first_block + lane - message * per_message
    WORDS: tl.constexpr = NODE_WORDS if VECTOR == 4 else NODE_WORDS - 2
    node = load_words(nodes_ptr + message * NODE_WORDS, valid, WORDS, VECTOR)
    cv, m, block_len, flags = node[:8], node[8:24], node[24], node[25] | ROOT
    low = (number & 0xFFFFFFFF).to(tl.uint32)
    high = (number >> 32).to(tl.uint32)
    store_words(out_ptr + lane * 16, blake3_compress(cv, m, low, high, block_len, flags), valid, 16, VECTOR)
