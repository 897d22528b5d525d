"""BLAKE2 is specified in RFC 7693 and in J.-P. Aumasson, S. Neves, Z. Wilcox-O'Hearn, C. Winnerlein,
"BLAKE2", 2013."""

from __future__ import annotations

from .constructions import Blake2, Blake2Parallel, Blake2X
from .parameter import Parameter
from .record import Algorithm, Security

_KERNELS = "integrity_triton.kernels"


def _parameters(word: int) -> tuple[Parameter, ...]:
    """Return the parameters that hashlib has, for words of ``word`` bytes (the BLAKE2 paper, section 2.8)."""
    largest = 8 * word

    def integer(name: str, minimum: int, maximum: int, default: int, doc: str) -> Parameter:
        return Parameter(name=name, type=int, minimum=minimum, maximum=maximum, default=default, doc=doc)

    return (
        integer(
            "digest_size", 1, largest, largest, "length of the digest in bytes; it changes the whole digest"
        ),
        Parameter(
            name="key",
            type=bytes,
            max_size=largest,
            per_message=True,
            doc="selects the keyed mode, a MAC and PRF; an empty key means no key",
        ),
        Parameter(name="salt", type=bytes, max_size=2 * word, doc="randomises the hash"),
        Parameter(
            name="person", type=bytes, max_size=2 * word, doc="separates this use of the hash from others"
        ),
        integer(
            "fanout", 0, 255, 1, "largest number of children of a node; 0 for no limit, 1 without a tree"
        ),
        integer("depth", 1, 255, 1, "largest number of levels; 255 for no limit, 1 without a tree"),
        integer("leaf_size", 0, 2**32 - 1, 0, "largest number of bytes in a leaf; 0 for no limit"),
        integer(
            "node_offset",
            0,
            2 ** (8 * (word if word == 8 else 6)) - 1,
            0,
            "the node's number in its level, from 0",
        ),
        integer("node_depth", 0, 255, 0, "the node's level; 0 for a leaf"),
        integer("inner_size", 0, largest, 0, "length of an inner node's digest in bytes; 0 without a tree"),
        Parameter(
            name="last_node", type=bool, default=False, doc="whether the node is the last of its level"
        ),
    )


def _construction(letter: str, word: int) -> Blake2:
    return Blake2(
        block=f"{_KERNELS}.blake2:blake2{letter}_block",
        pad=f"{_KERNELS}.padding:pad_zeros",
        iv=f"{_KERNELS}.blake2:BLAKE2{letter.upper()}_IV",
        word_bits=64 if word == 8 else 32,
        state_words=8,
        byteorder="little",
        minimum_padding=0,
    )


RECORDS = (
    Algorithm(
        name="blake2b",
        aliases=("blake2b-512", "blake2b512"),
        standard="RFC 7693; the BLAKE2 paper (2013), sections 2.8 to 2.10, for salt, person and trees",
        digest_size=64,
        block_size=128,
        security=Security.SECURE,
        security_note="256-bit collision resistance with 64 bytes; with a shorter digest, half of its length "
        "in bits; with a key it is a MAC",
        collision_bits=256,
        keyed="optional",
        parameters=_parameters(8),
        construction=_construction("b", 8),
        native="hashlib:blake2b",
        oracle="hashlib:blake2b",
    ),
    Algorithm(
        name="blake2s",
        aliases=("blake2s-256", "blake2s256"),
        standard="RFC 7693; the BLAKE2 paper (2013), sections 2.8 to 2.10, for salt, person and trees",
        digest_size=32,
        block_size=64,
        security=Security.SECURE,
        security_note="128-bit collision resistance with 32 bytes; with a shorter digest, half of its length "
        "in bits; with a key it is a MAC",
        collision_bits=128,
        keyed="optional",
        parameters=_parameters(4),
        construction=_construction("s", 4),
        native="hashlib:blake2s",
        oracle="hashlib:blake2s",
    ),
    Algorithm(
        name="blake2bp",
        standard="the BLAKE2 paper (2013), section 2.10",
        digest_size=64,
        block_size=4 * 128,
        security=Security.SECURE,
        security_note="as strong as BLAKE2b; a tree of four leaves, so its digests differ from BLAKE2b's",
        collision_bits=256,
        keyed="optional",
        parameters=_parameters(8)[:2],
        construction=Blake2Parallel(
            node="blake2b", leaf_block=f"{_KERNELS}.blake2:blake2b_leaf_block", leaves=4
        ),
        oracle="oracles.blake2_plain:blake2bp",
    ),
    Algorithm(
        name="blake2sp",
        standard="the BLAKE2 paper (2013), section 2.10",
        digest_size=32,
        block_size=8 * 64,
        security=Security.SECURE,
        security_note="as strong as BLAKE2s; a tree of eight leaves, so its digests differ from BLAKE2s's",
        collision_bits=128,
        keyed="optional",
        parameters=_parameters(4)[:2],
        construction=Blake2Parallel(
            node="blake2s", leaf_block=f"{_KERNELS}.blake2:blake2s_leaf_block", leaves=8
        ),
        oracle="oracles.blake2_plain:blake2sp",
    ),
    Algorithm(
        name="blake2xb",
        standard='"BLAKE2X" (2016), section 2',
        digest_size=64,
        block_size=128,
        security=Security.SECURE,
        security_note="as strong as BLAKE2b; outputs of different digest_size are unrelated",
        collision_bits=256,
        xof=True,
        seekable=True,
        output_limit=1 << 38,
        keyed="optional",
        parameters=(
            Parameter(
                name="digest_size",
                type=int,
                minimum=1,
                maximum=2**32 - 2,
                doc="length of the output in bytes, fixed in advance; it changes the whole output. By "
                "default the output can have any length",
            ),
            *_parameters(8)[1:4],
        ),
        construction=Blake2X(node="blake2b", unknown_length=2**32 - 1),
        oracle="oracles.blake2_plain:blake2xb",
    ),
    Algorithm(
        name="blake2xs",
        standard='"BLAKE2X" (2016), section 2',
        digest_size=32,
        block_size=64,
        security=Security.SECURE,
        security_note="as strong as BLAKE2s; outputs of different digest_size are unrelated",
        collision_bits=128,
        xof=True,
        seekable=True,
        output_limit=1 << 37,
        keyed="optional",
        parameters=(
            Parameter(
                name="digest_size",
                type=int,
                minimum=1,
                maximum=2**16 - 2,
                doc="length of the output in bytes, fixed in advance; it changes the whole output. By "
                "default the output can have any length",
            ),
            *_parameters(4)[1:4],
        ),
        construction=Blake2X(node="blake2s", unknown_length=2**16 - 1),
        oracle="oracles.blake2_plain:blake2xs",
    ),
)
