"""The places of the kernels that a conformance run on an emulated backend need not execute, with reasons."""

from __future__ import annotations

from .execution import Unexecuted

_HASHES = (
    "blake2b", "blake2s", "blake2xb", "blake2xs", "blake3", "keccak_224", "keccak_256",
    "keccak_384", "keccak_512", "kt128", "kt256", "md5", "parallelhash_128", "parallelhash_256",
    "parallelhashxof_128", "parallelhashxof_256", "ripemd160", "sha1", "sha224", "sha256", "sha384",
    "sha3_224", "sha3_256", "sha3_384", "sha3_512", "sha512", "sha512_224", "sha512_256", "sm3",
)  # fmt: skip
_OTHERS = (
    "cmac_aes", "crc32", "crc32c", "crc64_nvme", "cshake_128", "cshake_256", "gmac_aes", "kmac_128",
    "kmac_256", "kmacxof_128", "kmacxof_256", "poly1305", "poly1305_aes", "shake_128", "shake_256",
    "siphash_1_3", "siphash_2_4", "siphash_4_8", "tuplehash_128", "tuplehash_256", "tuplehashxof_128",
    "tuplehashxof_256", "turboshake_128", "turboshake_256", "xxh3_128", "xxh3_64", "xxh64",
)  # fmt: skip

_TREES = ("blake2bp", "blake2sp")
_HIGHWAY = frozenset(("highwayhash_64", "highwayhash_128", "highwayhash_256"))
_LOWER_RATES = (
    "sha3_224", "sha3_256", "sha3_384", "sha3_512", "keccak_224", "keccak_256", "keccak_384", "keccak_512",
    "shake_256", "cshake_256", "kmac_256", "kmacxof_256", "tuplehash_256", "tuplehashxof_256",
    "parallelhash_256", "parallelhashxof_256", "turboshake_256", "kt256",
)  # fmt: skip
"""Algorithms that absorb less than the 168 bytes of a block for which the kernel of Keccak has code."""

_ALL = frozenset((*_HASHES, *_TREES, *(f"hmac_{name}" for name in (*_HASHES, *_TREES)), *_OTHERS, *_HIGHWAY))

REVIEWED: dict[str, frozenset[str]] = {
    "emulated sm_90": _ALL,
    "emulated gfx942": _ALL,
}
"""For each emulated device, the algorithms whose kernels have been gone through: a run fails if it leaves
code of these out, even if it checks only one of them, but for those in ``TOGETHER``. Of the others, the
report says what was not executed."""

TOGETHER: dict[str, frozenset[str]] = {
    **{name: _HIGHWAY - {name} for name in _HIGHWAY},
    "blake2bp": frozenset(("blake2b",)),
    "blake2sp": frozenset(("blake2s",)),
    "hmac_blake2bp": frozenset(("blake2b",)),
    "hmac_blake2sp": frozenset(("blake2s",)),
}
"""Algorithms that execute a kernel in full only together with others: the three forms of HighwayHash share
one, and the roots of BLAKE2bp and BLAKE2sp, all of one length, are messages of BLAKE2b and BLAKE2s. A run is
judged by their kernels if it checks these others, too."""

TOGETHER_ON: dict[str, dict[str, frozenset[str]]] = {
    "emulated gfx942": {
        **dict.fromkeys(
            (*_LOWER_RATES, *(f"hmac_{name}" for name in _LOWER_RATES)), frozenset(("shake_128",))
        ),
        **dict.fromkeys(("blake2b", "blake2xb"), frozenset(("hmac_blake2b",))),
    }
}
"""Further ones on some devices, where each load of a word of a block is a branch of its own. Those of the
last words are only taken by algorithms with the highest rate, and those in the kernels of BLAKE2b for keys of
their own by HMAC, which has a key in any case."""


def together_with(algorithm: str, device: str) -> frozenset[str]:
    """The others with which an algorithm executes its kernels in full on an emulated device; none if it does
    so by itself."""
    return TOGETHER.get(algorithm, frozenset()) | TOGETHER_ON.get(device, {}).get(algorithm, frozenset())


_SHORT = (
    "The compiler divides numbers below 2^32 in a way of their own, and other numbers only occur with "
    "messages of 4 GiB, or of 2^32 pieces, which take too long to emulate."
)
_WHOLE_BLOCKS = (
    "A launch that only absorbs whole blocks (without FINAL) gives all of its messages equally many, so that "
    "none of them ends before the others."
)

_ONE_MESSAGE = (
    "Without FINAL, a stream hands over its bytes, and it is one message. Threads that load several messages "
    "have code of their own for each."
)
_LOADS = {
    "hash_messages": "raw = load_block(message, first, left",
    "siphash_messages": "raw = load_block(message, first, full",
    "xxh64_messages": "state = _xxh64_stripe(state, load_block(message, word, left",
    "highwayhash_messages": "raw = load_block(message, first, left",
}
_LEAVES = ("blake2b_leaf_block", "blake2b_leaf_block_in_halves", "blake2s_leaf_block")
_BLAKE2 = ("blake2b_block", "blake2b_block_in_halves", "blake2s_block", *_LEAVES)
_STREAMS = (
    *(("hash_messages", align) for align in (1, 4)),  # keys of HMAC are aligned, and may be several
    *(
        (kernel, align)
        for kernel in ("siphash_messages", "xxh64_messages", "highwayhash_messages")
        for align in (1, 4, 16)
    ),
)
"""Kernels with the alignments at which only streams launch them without FINAL."""

UNEXECUTED: tuple[Unexecuted, ...] = (
    Unexecuted(_SHORT, instruction="div.s64", backends=("ptx",)),
    Unexecuted(_SHORT, instruction="rem.s64", backends=("ptx",)),
    # LLVM takes the signs of both numbers first.
    Unexecuted(_SHORT, instruction="s_ashr_i32", source=" // ", backends=("amdgcn",)),
    Unexecuted(_SHORT, instruction="s_ashr_i32", source=" % ", backends=("amdgcn",)),
    Unexecuted(
        "The block only branches: it computes nothing, and the code to which it goes is looked at by itself.",
        instruction="s_branch",
        backends=("amdgcn",),
    ),
    Unexecuted(
        "Only keys of 256 bits take this step, and Poly1305-AES has keys of 128 bits. CMAC and GMAC launch "
        "the same kernel with keys of every size.",
        kernel="aes_expand_keys",
        function="aes.py:aes_expand_keys",
        source="new = _sub_word(new)",
    ),
    Unexecuted(
        _WHOLE_BLOCKS,
        kernel="hash_messages",
        function="batch.py:hash_messages",
        constants={"FINAL": False},
        source="left = tl.minimum(tl.maximum(size - number * block, -8), block)",
    ),
    Unexecuted(
        _WHOLE_BLOCKS,
        kernel="hash_messages",
        function="batch.py:hash_messages",
        constants={"FINAL": False},
        source="raw = end_block(",
    ),
    Unexecuted(
        f"{_WHOLE_BLOCKS} The compiler gives no line for a part of the padding.",
        kernel="hash_messages",
        function="batch.py:",
        constants={"FINAL": False},
    ),
    *(
        Unexecuted(
            _ONE_MESSAGE,
            kernel=kernel,
            constants={"FINAL": False, "TABLE": False, "ALIGN": align},
            source=source,
            backends=("amdgcn",),
            share=0.2,
        )
        for kernel, align in _STREAMS
        for source in (_LOADS[kernel], "messages_of_lanes(")
    ),
    *(
        Unexecuted(
            f"{_ONE_MESSAGE} The compiler gives no line for the ends of the branches around loads.",
            kernel=kernel,
            constants={"FINAL": False, "TABLE": False, "ALIGN": align},
            instruction=instruction,
            backends=("amdgcn",),
            share=0.15,
        )
        for kernel, align in _STREAMS
        for instruction in ("s_or_b64 exec, exec", "s_mov_b64", "v_lshl_add_u64")
    ),
    *(
        Unexecuted(
            "Without FINAL, a stream hands over its bytes, and it has four or eight leaves. Threads that "
            "load several messages have code of their own for each.",
            kernel="hash_messages",
            constants={
                "FINAL": False,
                "TABLE": True,
                "ALIGN": align,
                "BLOCK": f"integrity_triton.kernels.blake2:{block}",
            },
            source=_LOADS["hash_messages"],
            backends=("amdgcn",),
            share=0.15,
        )
        for block in _LEAVES
        for align in (1, 4)
    ),
    *(
        Unexecuted(
            "Each round of BLAKE2 is in a branch that is always taken, so that compilers keep rounds apart. "
            "This is what would follow if none were; the compiler gives no line for it.",
            kernel=kernel,
            constants=constants,
            instruction=instruction,
            backends=("amdgcn",),
            share=0.04,
        )
        for kernel, constants in (
            *(("hash_messages", {"BLOCK": f"integrity_triton.kernels.blake2:{block}"}) for block in _BLAKE2),
            *(("hmac_chain", {"BLOCK": f"integrity_triton.kernels.blake2:{block}"}) for block in _BLAKE2),
            ("blake2x_output", {}),
        )
        for instruction in ("v_mov_b64", "v_mov_b32", "s_waitcnt")
    ),
    Unexecuted(
        "Kernels with a state for each message are those of HMAC over SHA-3 and Keccak, which absorb at most "
        "144 bytes at a time. The words behind these are not loaded.",
        kernel="hash_messages",
        function="batch.py:hash_messages",
        constants={"STATE_PER_MESSAGE": True, "BLOCK_BYTES": 168},
        source="raw = load_block(message, first, left",
        backends=("amdgcn",),
        share=0.2,
    ),
    *(
        Unexecuted(
            "Short inputs are loaded as though they might begin within a word. The word behind the last one "
            "is only needed by those that do, and kernels for messages that begin with a word have none.",
            kernel="xxh3_messages",
            function="xxhash.py:_load_words" if source else "xxhash.py:_xxh3_1_to_3",
            constants={"ALIGN": align},
            source=source,
            backends=("amdgcn",),
            share=0.1,
        )
        for align in (4, 8, 16)
        for source in ("return load_block(address, zero, left, mask, WORDS, 1, 1)", "")
    ),
    *(
        Unexecuted(
            _WHOLE_BLOCKS,
            kernel="siphash_messages",
            function="siphash.py:siphash_messages",
            constants={"FINAL": False},
            source=source,
        )
        for source in (
            "for n in range(common, blocks):",
            "left = tl.minimum(tl.maximum(size - first * 4, -8), 32).to(tl.int32)",
            "raw = load_block(message, first, left, valid, 8, ALIGN, VECTOR)",
            "raw = end_block(raw, left, prefix + size, valid, 0, siphash_pad, 8)",
            "if place < most_wanted:",
            "state = select(place < wanted,",
        )
    ),
    Unexecuted(
        f"{_WHOLE_BLOCKS} The compiler gives no line for a part of the loop after the common blocks.",
        kernel="siphash_messages",
        function="siphash.py:",
        constants={"FINAL": False},
    ),
    *(
        Unexecuted(
            _WHOLE_BLOCKS,
            kernel="xxh64_messages",
            function="xxhash.py:xxh64_messages",
            constants={"FINAL": False},
            source=source,
        )
        for source in (
            "for n in range(common, longest >> 5):",
            "left = tl.minimum(tl.maximum(size - word * 4, 0), 32).to(tl.int32)",
            "new = _xxh64_stripe(state, load_block(message, word, left, valid, 8, ALIGN, VECTOR))",
        )
    ),
    Unexecuted(
        f"{_WHOLE_BLOCKS} The compiler gives no line for a part of the loop after the common stripes.",
        kernel="xxh64_messages",
        function="xxhash.py:",
        constants={"FINAL": False},
    ),
    *(
        Unexecuted(
            "The compiler makes a loop of its own for digests of a negative size, which do not exist.",
            kernel="hmac_chain",
            constants={"BLOCK": "integrity_triton.kernels.blake2:blake2s_block"},
            backends=("ptx",),
            function=function,
            source=source,
        )
        for function, source in (("pbkdf2.py:hmac_chain", "outer = n % 2"), ("pbkdf2.py:", ""))
    ),
    # The compiler for AMD's GPUs multiplies the other way round.
    *(
        Unexecuted(
            f"A part of a message has 17 sums. The other {kind} of the product are zeros, and they are not "
            "stored.",
            kernel="poly1305_rows",
            function="poly1305_matrix.py:poly1305_rows",
            kind=kind,
            numbers=range(17, 32),
            backends=(backend,),
        )
        for kind, backend in (("columns", "ptx"), ("rows", "amdgcn"))
    ),
    *(
        Unexecuted(
            "Rows without bytes have no address and count as aligned, so that others always have a block, "
            "and the loop over the blocks is never left out. The compiler gives no line for what would "
            "follow.",
            kernel="poly1305_messages",
            constants={"TABLE": False, "ALIGN": align},
            instruction="v_mov_b64",
            backends=("amdgcn",),
            share=0.04,
        )
        for align in (1, 4)
    ),
    *(
        Unexecuted(
            f"{_SHORT} This is where a program goes that divides no smaller number.",
            kernel=kernel,
            constants=constants,
            instruction=instruction,
            source=source,
            backends=("amdgcn",),
            share=0.02 if kernel == "poly1305_sum" else 0.015,
        )
        for kernel, constants, places in (
            (
                "poly1305_sum",
                {"TABLE": False},
                (
                    ("s_or_b64 exec, exec", ""),
                    ("s_or_b64", "message = piece // per_row"),
                    ("s_cbranch_execz", "message = piece // per_row"),
                ),
            ),
            (
                "hash_messages",
                {"FINAL": False, "VARIABLE_BLOCK": True},
                (
                    ("s_or_b64 exec, exec", ""),
                    ("s_waitcnt", "most_blocks = longest // block"),
                    ("s_cbranch_execz", "blocks = size // block"),
                ),
            ),
        )
        for instruction, source in places
    ),
    Unexecuted(
        "A launch always has a message with a block, so that the loop over the blocks is never left out.",
        kernel="hash_messages",
        function="batch.py:hash_messages",
        source="store_words(out_ptr + row * STATE_WORDS",
    ),
    *(
        Unexecuted(
            "A launch that only absorbs whole packets (without FINAL) always has a message with one, so that "
            "the loop over the packets is never left out.",
            kernel="highwayhash_messages",
            function="highwayhash.py:highwayhash_messages",
            constants={"FINAL": False},
            source=source,
        )
        for source in (
            "valid, message, size, row, longest, shortest = messages_of_lanes(",
            "store_words(out_ptr + row * 16, state",
        )
    ),
    *(
        Unexecuted(
            "A single message is given by its address and not in a table, so that the search for the message "
            "of a piece always has a step. The compiler gives no line for what would take its place.",
            kernel=kernel,
            constants={"TABLE": True},
            instruction=instruction,
            backends=("amdgcn",),
            share=0.08,
        )
        for kernel, instructions in (
            ("blake3_chunks", ("s_mov_b64", "v_mov_b64")),
            ("blake3_parents", ("s_mov_b64", "v_mov_b64")),
            ("crc_fold", ("s_mov_b64", "v_mov_b64")),
            ("crc_finish", ("s_mov_b64", "v_mov_b64*, 0", "v_mov_b64*, s")),
        )
        for instruction in instructions
    ),
    Unexecuted(
        "A launch that only absorbs whole packets (without FINAL) gives all of its messages equally many, so "
        "that none of them ends before the others.",
        kernel="highwayhash_messages",
        function="highwayhash.py:highwayhash_messages",
        constants={"FINAL": False},
        source="new = select(n < packets",
        backends=("amdgcn",),
    ),
    Unexecuted(
        "Before its end, a stream only hashes whole chunks (ROOTS is 0), so that none of them ends early.",
        kernel="blake3_chunks",
        function="blake3_tree.py:blake3_chunks",
        source="m = end_block(",
    ),
    *(
        Unexecuted(
            "Every chunk and every piece has at least one block, so that the loop over its blocks is never "
            "left out. The compiler gives no line for what would follow.",
            kernel=kernel,
            instruction="v_mov_b32",
            backends=("amdgcn",),
            share=0.08,
        )
        for kernel in ("crc_fold", "crc_finish")
    ),
    Unexecuted(
        "A check is multiplied by powers of x that always have digits, so that the loop over the digits is "
        "never left out. The compiler gives no line for what would follow.",
        kernel="crc_finish",
        constants={"WIDTH": 64},
        instruction="v_mov_b64*, v",
        backends=("amdgcn",),
        share=0.06,
    ),
    Unexecuted(
        "Every chunk has at least one block, so that the loop over its blocks is never left out.",
        kernel="crc_fold",
        function="crc.py:crc_fold",
        source="pointer = rows_ptr + row",
    ),
)
