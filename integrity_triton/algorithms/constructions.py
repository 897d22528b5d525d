"""What an algorithm is made of: constructions, as frozen, validated data.

A construction names device code instead of holding it (``"package.module:name"``), so that listing, looking
up and natively running an algorithm never imports Triton.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from .record import Algorithm

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")


def check_reference(record: str, field_name: str, value: str) -> None:
    if not _REFERENCE.match(value):
        raise ValueError(f"{record}: {field_name} must look like 'package.module:name', not {value!r}")


def around(*sizes: int) -> set[int]:
    """Each size, and the lengths one below and one above it."""
    return {max(0, size + offset) for size in sizes for offset in (-1, 0, 1)}


class Construction:
    """What others ask of a construction. A new one overrides the answers that are not the usual ones."""

    takes_tuples: ClassVar[bool] = False
    """Whether a message is a tuple of byte strings."""
    in_pieces: ClassVar[bool] = False
    """Whether several lanes share a message, each with a piece of it, in few launches."""

    @property
    def hmac_of(self) -> str | None:
        """The name of the hash that an HMAC is over, and None for any other construction."""
        return None

    @property
    def leaf_size(self) -> int | None:
        """Bytes in a leaf of a binary tree that has a lane for each leaf and a launch for each level."""
        return None

    @property
    def kind(self) -> str | None:
        """What sort of function it is, in words, where the record does not say so."""
        return None

    def check(self, record: Algorithm) -> None:
        """Raises ValueError if the construction cannot have the sizes of ``record``."""

    def edges(self, record: Algorithm) -> set[int]:
        """Lengths of messages in bytes at which an implementation takes another case."""
        block = record.block_size
        lengths = {0, 1, 2, 3, 4, 5, 7, 8, 1000} | around(block, 2 * block)
        if block <= 32:
            # A kernel may take several short blocks at a time.
            lengths |= set(range(2 * block + 2)) | around(32, 64, 96)
        return lengths | self.own_edges(record)

    def own_edges(self, record: Algorithm) -> set[int]:
        """Those of the ``edges`` that do not follow from the size of a block."""
        return around(8192) | {5 * 8192 + 3} if record.parallel else set()

    def key_sizes(self, record: Algorithm, usual: set[int]) -> set[int]:
        """Bytes of the keys that known answers are asked for, if any length in a range may be a key's.
        ``usual`` are the shortest and the ordinary ones."""
        return usual

    def special_messages(self, key: bytes) -> Iterator[bytes]:
        """Messages that drive the arithmetic under ``key`` to values that hardly any other reaches."""
        yield from ()


@dataclass(frozen=True, kw_only=True)
class IteratedHash(Construction):
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

    def check(self, record: Algorithm) -> None:
        label = f"algorithm {record.name!r}"
        if record.block_size % 4:
            raise ValueError(f"{label}: block_size must be a multiple of 4 bytes")
        if record.digest_size > self.state_words * self.word_bits // 8:
            raise ValueError(f"{label}: digest_size is larger than the state")

    def own_edges(self, record: Algorithm) -> set[int]:
        block = record.block_size
        ends = around(block - self.minimum_padding, 2 * block - self.minimum_padding)
        return super().own_edges(record) | ends | {5000}


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

    takes_tuples: ClassVar[bool] = True

    @property
    def kind(self) -> str:
        return "hash of a tuple"


@dataclass(frozen=True, kw_only=True)
class SpongeTree(Construction):
    """Two levels of sponges: chunks give chaining values, which one root takes in."""

    leaf: Sponge
    root: Sponge
    chaining_size: int
    """Bytes of a chunk's chaining value."""
    chunk_size: int
    """Bytes. A parameter ``block_size`` of the algorithm, if it has one, takes the place of this number."""

    def own_edges(self, record: Algorithm) -> set[int]:
        chunk = self.chunk_size
        return around(chunk, 2 * chunk, 3 * chunk) | {chunk - 2, 5 * chunk + 3}


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
class Blake2Parallel(Construction):
    """BLAKE2bp or BLAKE2sp: a message's blocks are dealt out to leaves in turn, and a root hashes the
    leaves' digests."""

    node: str
    """The name of the algorithm that every node is."""
    leaf_block: str
    """The block function of the leaves."""
    leaves: int

    @property
    def kind(self) -> str:
        return f"tree of {self.leaves} leaves"


@dataclass(frozen=True, kw_only=True)
class Blake2X(Construction):
    """Extendable output of a BLAKE2 root hash; a parameter ``digest_size`` binds its length in advance."""

    node: str
    """The name of the algorithm that the root and the blocks of output are."""
    unknown_length: int
    """What stands in the parameter block for a length that is not known in advance."""


@dataclass(frozen=True, kw_only=True)
class Blake3Tree(Construction):
    """BLAKE3's chunk tree; its kernels are in ``kernels/blake3_tree.py``."""

    chunk_size: int = 1024
    """Bytes."""

    @property
    def leaf_size(self) -> int:
        return self.chunk_size

    def own_edges(self, record: Algorithm) -> set[int]:
        chunk, block = self.chunk_size, record.block_size
        counts = (1, 2, 3, 4, 5, 7, 8, 16, 17, 64)
        lengths = around(*(chunk * n for n in counts))
        return lengths | {chunk - block - 1, chunk + block + 1, 5 * chunk + 3, 100 * chunk + 7}


@dataclass(frozen=True, kw_only=True)
class Crc(Construction):
    """A cyclic redundancy check: bits reflected, register and result inverted, as all that storage uses;
    its kernels are in ``kernels/crc.py``."""

    in_pieces: ClassVar[bool] = True
    width: Literal[32, 64]
    polynomial: int
    """Without its highest term; the coefficient of x**k is bit k."""

    def __post_init__(self) -> None:
        if self.width not in (32, 64) or not 0 < self.polynomial < 1 << self.width:
            raise ValueError("Crc: a polynomial of 32 or 64 bits")
        if not self.polynomial & 1:
            raise ValueError("Crc: the polynomial has a constant term")

    def own_edges(self, record: Algorithm) -> set[int]:
        return super().own_edges(record) | around(32, 128, 256, 4096, 8192) | {100_003}


@dataclass(frozen=True, kw_only=True)
class XxHash(Construction):
    """XXH64 or XXH3; the kernels are in ``kernels/xxhash.py``. The digest's size says which XXH3."""

    function: Literal["xxh64", "xxh3"]

    def own_edges(self, record: Algorithm) -> set[int]:
        sizes = (16, 32, 96, 128, 144, 160, 176, 240, 1024, 1088)
        return super().own_edges(record) | around(*sizes) | {5000}


@dataclass(frozen=True, kw_only=True)
class SipHash(Construction):
    """SipHash-c-d; its kernel is in ``kernels/siphash.py``."""

    rounds: tuple[int, int]
    """c for each word that is taken in, and d for each of output."""


@dataclass(frozen=True, kw_only=True)
class HighwayHash(Construction):
    """HighwayHash; its kernel is in ``kernels/highwayhash.py``. The digest's size says which."""

    rounds: int
    """Packets made of the state itself before the output."""


@dataclass(frozen=True, kw_only=True)
class Kmac(Sponge):
    """KMAC: cSHAKE of the padded key and the message (SP 800-185, section 4)."""


@dataclass(frozen=True, kw_only=True)
class Hmac(Construction):
    """HMAC over a hash."""

    hash: str
    """The name of the algorithm."""

    @property
    def hmac_of(self) -> str:
        return self.hash

    def edges(self, record: Algorithm) -> set[int]:
        """Few: the known answers of the hash are at all of its edges."""
        block = record.block_size
        lengths = {0, 1, 4, record.digest_size, block - 1, block, 2 * block + 5}
        return lengths | {5 * 8192 + 3} if record.parallel else lengths

    def key_sizes(self, record: Algorithm, usual: set[int]) -> set[int]:
        return {1, record.block_size, record.block_size + 1}


@dataclass(frozen=True, kw_only=True)
class Poly1305(Construction):
    """A polynomial over the blocks of a message, and a one-time pad; its kernels are in
    ``kernels/poly1305.py``."""

    in_pieces: ClassVar[bool] = True

    def point(self, key: bytes) -> bytes:
        """The part of a key that, clamped, is the number r at which the polynomial is evaluated."""
        return key[:16]

    def special_messages(self, key: bytes) -> Iterator[bytes]:
        """Messages of two blocks whose polynomials are 0 to 5 and -1: a wrong last step leaves these values
        unreduced, or reduces them too far (RFC 8439, section 2.5)."""
        prime = (1 << 130) - 5
        r = int.from_bytes(self.point(key), "little") & 0x0FFFFFFC_0FFFFFFC_0FFFFFFC_0FFFFFFF
        for value in (0, 1, 2, 3, 4, 5, -1):
            for first in range(0, 1 << 128, 1 << 120):
                block = pow(r, -1, prime) * value - ((1 << 128) + first) * r
                # A whole block counts for 2**128 more.
                last = block % prime - (1 << 128)
                if 0 <= last < 1 << 128:
                    yield first.to_bytes(16, "little") + last.to_bytes(16, "little")
                    break


@dataclass(frozen=True, kw_only=True)
class Poly1305Aes(Poly1305):
    """Poly1305 whose pad is AES of a nonce."""

    def point(self, key: bytes) -> bytes:
        # The cipher's key comes before it (section 2 of the paper).
        return key[-16:]
