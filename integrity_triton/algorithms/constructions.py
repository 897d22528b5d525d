"""What an algorithm is made of: constructions, as frozen, validated data.

A construction names device code instead of holding it (``"package.module:name"``), so that listing, looking
up and natively running an algorithm never imports Triton.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")


def check_reference(record: str, field_name: str, value: str) -> None:
    if not _REFERENCE.match(value):
        raise ValueError(f"{record}: {field_name} must look like 'package.module:name', not {value!r}")


@dataclass(frozen=True, kw_only=True)
class IteratedHash:
    """A chaining state and a block function, applied block by block (Merkle-Damgard and kin).

    The device module supplies ``block``, a ``@triton.jit`` function
    ``block(state, words, absorbed, last, flags, constants_ptr) -> state`` over tuples of tiles, and
    ``pad``, which turns the raw words of a message's last block or blocks into padded ones;
    ``kernels/batch.py`` and ``kernels/padding.py`` specify them. ``iv`` is a ``tl.constexpr`` tuple of
    ``state_words`` integers.
    """

    block: str
    pad: str
    iv: str | None = None
    """None where the driver makes the initial state."""
    constants: str | None = None
    """A ``tl.constexpr`` tuple of words that the block function is to find at ``constants_ptr``."""
    word_bits: Literal[32, 64] = 32
    """Of the chaining state's words, and of a message block's."""
    state_words: int
    byteorder: Literal["big", "little"]
    minimum_padding: int
    """Bytes that padding adds at the least: 1 + the length field for Merkle-Damgard."""
    padding: int = 0
    """What the padding function takes under that name."""
    largest_block: int | None = None
    """Bytes of the largest block that the block function takes, if the algorithm's may be smaller."""

    def __post_init__(self) -> None:
        for name in ("block", "pad", "iv", "constants"):
            if name in ("block", "pad") or getattr(self, name) is not None:
                check_reference("IteratedHash", name, getattr(self, name))
        if self.state_words < 1 or self.minimum_padding < 0:
            raise ValueError("IteratedHash: state_words must be positive, minimum_padding not negative")
        if self.word_bits not in (32, 64):
            raise ValueError(f"IteratedHash: words are of 32 or 64 bits, not {self.word_bits}")


@dataclass(frozen=True, kw_only=True)
class Sponge(IteratedHash):
    """A sponge over Keccak-p[1600]; ``kernels/keccak.py`` has the permutation."""

    block: str = "integrity_triton.kernels.keccak:keccak_block"
    pad: str = "integrity_triton.kernels.padding:pad_sponge"
    iv: str = "integrity_triton.kernels.keccak:KECCAK_IV"
    constants: str | None = "integrity_triton.kernels.keccak:KECCAK_RC"
    word_bits: Literal[32, 64] = 64
    state_words: int = 25
    byteorder: Literal["big", "little"] = "little"
    minimum_padding: int = 1
    largest_block: int | None = 168
    rate: int
    """Bytes; the algorithm's block size."""
    suffix: int
    """The byte behind the message: the domain's bits and the first bit of the padding."""
    rounds: int = 24
    function_name: bytes = b""
    """cSHAKE's N (SP 800-185, section 3), where the algorithm fixes it."""
    customizable: bool = False
    """Whether the message follows cSHAKE's N and S, where these are not both empty."""
    tells: Literal["nothing", "length", "zero"] = "nothing"
    """What ``right_encode`` puts behind the message: the digest's bits, or 0 for "any number" (2.3.1)."""


@dataclass(frozen=True, kw_only=True)
class TupleSponge(Sponge):
    """A sponge over a sequence of byte strings (TupleHash): a message is a tuple, not a string."""


@dataclass(frozen=True, kw_only=True)
class SpongeTree:
    """Two levels of sponges: chunks give chaining values, which one root takes in."""

    leaf: Sponge
    root: Sponge
    chaining_size: int
    """Bytes of a chunk's chaining value."""
    chunk_size: int
    """Bytes; what an algorithm has by default whose parameter ``block_size`` sets it."""


@dataclass(frozen=True, kw_only=True)
class KangarooTree(SpongeTree):
    """KangarooTwelve (RFC 9861, section 3): the root takes the first chunk itself, and a message of one
    chunk has no tree."""

    single: Sponge
    """For a message, with all that follows it, of one chunk."""


@dataclass(frozen=True, kw_only=True)
class AesCmac(IteratedHash):
    """CMAC with AES; round keys and subkeys are in the place of constants. A state begins with zeros."""

    block: str = "integrity_triton.kernels.aes:cmac_block"
    pad: str = "integrity_triton.kernels.padding:pad_one_bit"
    state_words: int = 4
    byteorder: Literal["big", "little"] = "little"
    minimum_padding: int = 0


@dataclass(frozen=True, kw_only=True)
class AesGmac(IteratedHash):
    """GMAC with AES; the hash subkey and the encrypted counter block are in the place of constants."""

    block: str = "integrity_triton.kernels.ghash:gmac_block"
    pad: str = "integrity_triton.kernels.padding:pad_length_ghash"
    word_bits: Literal[32, 64] = 64
    state_words: int = 2
    byteorder: Literal["big", "little"] = "big"
    minimum_padding: int = 16


@dataclass(frozen=True, kw_only=True)
class Blake2(IteratedHash):
    """BLAKE2b or BLAKE2s: the parameters make the initial state, and a key is the message's first block."""


@dataclass(frozen=True, kw_only=True)
class Blake2Parallel:
    """BLAKE2bp or BLAKE2sp: a message's blocks are dealt out to leaves in turn, and a root hashes the
    leaves' digests."""

    node: str
    """The name of the algorithm that every node is."""
    leaf_block: str
    """The block function of the leaves."""
    leaves: int


@dataclass(frozen=True, kw_only=True)
class Blake2X:
    """Extendable output of a BLAKE2 root hash; a parameter ``digest_size`` binds its length in advance."""

    node: str
    """The name of the algorithm that the root and the blocks of output are."""
    unknown_length: int
    """What stands in the parameter block for a length that is not known in advance."""


@dataclass(frozen=True, kw_only=True)
class Blake3Tree:
    """BLAKE3's chunk tree; its kernels are in ``kernels/blake3_tree.py``."""

    chunk_size: int = 1024


@dataclass(frozen=True, kw_only=True)
class Crc:
    """A cyclic redundancy check: bits reflected, register and result inverted, as all that storage uses;
    its kernels are in ``kernels/crc.py``."""

    width: Literal[32, 64]
    polynomial: int
    """Without its highest term; the coefficient of x**k is bit k."""

    def __post_init__(self) -> None:
        if self.width not in (32, 64) or not 0 < self.polynomial < 1 << self.width:
            raise ValueError("Crc: a polynomial of 32 or 64 bits")
        if not self.polynomial & 1:
            raise ValueError("Crc: the polynomial has a constant term")


@dataclass(frozen=True, kw_only=True)
class XxHash:
    """XXH64 or XXH3; the kernels are in ``kernels/xxhash.py``. The digest's size says which XXH3."""

    kind: Literal["xxh64", "xxh3"]


@dataclass(frozen=True, kw_only=True)
class SipHash:
    """SipHash-c-d; its kernel is in ``kernels/siphash.py``."""

    rounds: tuple[int, int]
    """c for each word that is taken in, and d for each of output."""


@dataclass(frozen=True, kw_only=True)
class HighwayHash:
    """HighwayHash; its kernel is in ``kernels/highwayhash.py``. The digest's size says which."""

    rounds: int
    """Packets made of the state itself before the output."""


@dataclass(frozen=True, kw_only=True)
class Kmac(Sponge):
    """KMAC: cSHAKE of the padded key and the message (SP 800-185, section 4)."""


@dataclass(frozen=True, kw_only=True)
class Hmac:
    """HMAC over a hash."""

    hash: str
    """The name of the algorithm."""


@dataclass(frozen=True, kw_only=True)
class Poly1305:
    """A polynomial over the blocks of a message, and a one-time pad; its kernels are in
    ``kernels/poly1305.py``."""


@dataclass(frozen=True, kw_only=True)
class Poly1305Aes(Poly1305):
    """Poly1305 whose pad is AES of a nonce."""


Construction = (
    Hmac
    | IteratedHash
    | Poly1305
    | Blake2Parallel
    | Blake2X
    | Blake3Tree
    | Crc
    | HighwayHash
    | SipHash
    | SpongeTree
    | XxHash
)
