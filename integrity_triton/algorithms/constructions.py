"""A construction says what an algorithm is made of, as frozen, validated data.

A construction does not hold device code but names it (``"package.module:name"``). So Triton is not imported
when an algorithm is listed, looked up, or run with a CPU library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from .binary_field import BinaryField

if TYPE_CHECKING:
    from .record import Algorithm

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")


def check_reference(record: str, field_name: str, value: str) -> None:
    if not _REFERENCE.match(value):
        raise ValueError(f"{record}: {field_name} must look like 'package.module:name', not {value!r}")


BEYOND_16_BITS = 66_001
"""The length in bytes of a message that is too long for a length of 16 bits."""


def around(*sizes: int) -> set[int]:
    """Return each size, and the lengths that are one below and one above it."""
    return {max(0, size + offset) for size in sizes for offset in (-1, 0, 1)}


class Construction:
    """The base class answers the questions that other code asks of a construction. A new construction
    overrides the answers that differ for it."""

    takes_tuples: ClassVar[bool] = False
    """Whether a message is a tuple of byte strings."""
    in_pieces: ClassVar[bool] = False
    """Whether several lanes share a message, so that each lane takes one piece of it, in a few launches."""
    chunk_size: int | None = None
    """The number of bytes in each of the chunks that a tree hashes separately; None for a construction that
    is no such tree."""

    @property
    def hmac_of(self) -> str | None:
        """The name of the hash that an HMAC uses, or None for any other construction."""
        return None

    @property
    def leaf_size(self) -> int | None:
        """The number of bytes in a leaf, for a binary tree that has a lane for each leaf and a launch for
        each level; None for any other construction."""
        return None

    @property
    def crc_field(self) -> BinaryField | None:
        """The arithmetic modulo the polynomial of a CRC, or None for any other construction."""
        return None

    @property
    def kind(self) -> str | None:
        """The kind of function in words, if the record does not show it."""
        return None

    def check(self, record: Algorithm) -> None:
        """Raise ValueError if the construction does not allow the sizes of ``record``."""

    def kernel_family(self, record: Algorithm) -> object:
        """Return a hashable value that is equal for algorithms that run the same kernels. These may differ in
        their constants and in the truncation of the digest."""
        return record.name

    def reading_family(self) -> object:
        """Return a hashable value that is equal for constructions whose kernels read messages in the same
        way."""
        return type(self)

    def edges(self, record: Algorithm) -> set[int]:
        """Return the lengths of messages, in bytes, at which an implementation may switch to another case."""
        block = record.block_size
        lengths = {0, 1, 2, 3, 4, 5, 7, 8, 1000} | around(block, 2 * block)
        if block <= 32:
            # A kernel may process several short blocks at a time.
            lengths |= set(range(2 * block + 2)) | around(32, 64, 96)
        return lengths | self.special_edges(record)

    def special_edges(self, record: Algorithm) -> set[int]:
        """Return the ``edges`` that do not follow from the size of a block."""
        return {BEYOND_16_BITS} | (around(8192) | {5 * 8192 + 3} if record.parallel else set())

    def key_sizes(self, record: Algorithm, usual: set[int]) -> set[int]:
        """Return the key sizes, in bytes, that known answers are made for, if a key may have any length in a
        range. ``usual`` holds the shortest and the ordinary size."""
        return usual

    def special_messages(self, key: bytes) -> Iterator[bytes]:
        """Yield messages for which the arithmetic under ``key`` reaches values that other messages hardly
        ever reach."""
        yield from ()


@dataclass(frozen=True, kw_only=True)
class IteratedHash(Construction):
    """A hash with a chaining state and a block function that is applied block by block (Merkle-Damgard and
    similar constructions).

    The device module supplies ``block``, a ``@triton.jit`` function
    ``block(state, words, absorbed, last, flags, constants_ptr) -> state`` over tuples of tiles, and
    ``pad``, which turns the raw words of a message's last block or blocks into padded words.
    ``kernels/batch.py`` and ``kernels/padding.py`` specify both. ``iv`` names a ``tl.constexpr`` tuple of
    ``state_words`` integers.
    """

    block: str
    pad: str
    iv: str | None = None
    """It is None if the driver makes the initial state."""
    constants: str | None = None
    """Names a ``tl.constexpr`` tuple of words. The block function reads them at ``constants_ptr``."""
    word_bits: Literal[32, 64] = 32
    """The size in bits of the words of the chaining state and of a message block."""
    state_words: int
    byteorder: Literal["big", "little"]
    minimum_padding: int
    """The least number of bytes that padding adds. For Merkle-Damgard this is 1 plus the size of the length
    field."""
    padding: int = 0
    """The value that the padding function takes as its argument ``padding``."""
    largest_block: int | None = None
    """The size in bytes of the largest block that the block function takes, if an algorithm's block may be
    smaller than that."""

    def __post_init__(self) -> None:
        for name in ("block", "pad", "iv", "constants"):
            if name in ("block", "pad") or getattr(self, name) is not None:
                check_reference("IteratedHash", name, getattr(self, name))
        if self.state_words < 1 or self.minimum_padding < 0:
            raise ValueError(
                "IteratedHash: state_words must be positive, and minimum_padding must not be negative"
            )
        if self.word_bits not in (32, 64):
            raise ValueError(f"IteratedHash: words must have 32 or 64 bits, not {self.word_bits}")

    def check(self, record: Algorithm) -> None:
        label = f"algorithm {record.name!r}"
        if record.block_size % 4:
            raise ValueError(f"{label}: block_size must be a multiple of 4 bytes")
        if record.digest_size > self.state_words * self.word_bits // 8:
            raise ValueError(f"{label}: digest_size is larger than the state")

    def kernel_family(self, record: Algorithm) -> object:
        return self.block, self.pad

    def reading_family(self) -> object:
        return self.word_bits, self.byteorder, self.largest_block

    def special_edges(self, record: Algorithm) -> set[int]:
        block = record.block_size
        ends = around(block - self.minimum_padding, 2 * block - self.minimum_padding)
        return super().special_edges(record) | ends | {5000}


@dataclass(frozen=True, kw_only=True)
class Sponge(IteratedHash):
    """A sponge that uses the permutation Keccak-p[1600], which is in ``kernels/keccak.py``."""

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
    """The rate in bytes, which is the algorithm's block size."""
    suffix: int
    """The byte that follows the message. It holds the domain separation bits and the first bit of the
    padding."""
    rounds: int = 24
    function_name: bytes = b""
    """The function name N of cSHAKE (SP 800-185, section 3), if the algorithm fixes it."""
    customizable: bool = False
    """Whether cSHAKE's N and S come before the message if they are not both empty."""
    tells: Literal["nothing", "length", "zero"] = "nothing"
    """What ``right_encode`` (SP 800-185, section 2.3.1) appends to the message: the length of the digest in
    bits, or 0 for output of any length."""


@dataclass(frozen=True, kw_only=True)
class TupleSponge(Sponge):
    """A sponge over a sequence of byte strings (TupleHash). A message is a tuple of byte strings."""

    takes_tuples: ClassVar[bool] = True

    @property
    def kind(self) -> str:
        return "hash of a tuple"


@dataclass(frozen=True, kw_only=True)
class SpongeTree(Construction):
    """A tree with two levels of sponges. Each chunk gives a chaining value, and one root absorbs these
    values."""

    leaf: Sponge
    root: Sponge
    chaining_size: int
    """The size of a chunk's chaining value in bytes."""
    chunk_size: int = field()
    """The size of a chunk in bytes. If the algorithm has a parameter ``block_size``, a value of it replaces
    this number."""

    def kernel_family(self, record: Algorithm) -> object:
        return type(self), self.leaf.block

    def special_edges(self, record: Algorithm) -> set[int]:
        chunk = self.chunk_size
        return around(chunk, 2 * chunk, 3 * chunk) | {chunk - 2, 5 * chunk + 3, BEYOND_16_BITS}


@dataclass(frozen=True, kw_only=True)
class KangarooTree(SpongeTree):
    """KangarooTwelve (RFC 9861, section 3). The root absorbs the first chunk itself, and a message that fits
    in one chunk has no tree."""

    single: Sponge
    """The sponge for a message that fits in one chunk together with the customization string and its
    length."""


@dataclass(frozen=True, kw_only=True)
class AesCmac(IteratedHash):
    """CMAC with AES. The round keys and subkeys take the place of constants, and a state begins with
    zeros."""

    block: str = "integrity_triton.kernels.aes:cmac_block"
    pad: str = "integrity_triton.kernels.padding:pad_one_bit"
    state_words: int = 4
    byteorder: Literal["big", "little"] = "little"
    minimum_padding: int = 0


@dataclass(frozen=True, kw_only=True)
class AesGmac(IteratedHash):
    """GMAC with AES. The hash subkey and the encrypted counter block take the place of constants."""

    block: str = "integrity_triton.kernels.ghash:gmac_block"
    pad: str = "integrity_triton.kernels.padding:pad_length_ghash"
    word_bits: Literal[32, 64] = 64
    state_words: int = 2
    byteorder: Literal["big", "little"] = "big"
    minimum_padding: int = 16


@dataclass(frozen=True, kw_only=True)
class Blake2(IteratedHash):
    """BLAKE2b or BLAKE2s. The initial state depends on the parameters, and a key is put before the message as
    its first block."""


@dataclass(frozen=True, kw_only=True)
class Blake2Parallel(Construction):
    """BLAKE2bp or BLAKE2sp. The leaves receive the blocks of a message in turn, and a root hashes the digests
    of the leaves."""

    node: str
    """The name of the algorithm that every node uses."""
    leaf_block: str
    """Names the block function of the leaves."""
    leaves: int

    @property
    def kind(self) -> str:
        return f"tree of {self.leaves} leaves"


@dataclass(frozen=True, kw_only=True)
class Blake2X(Construction):
    """Extendable output from a BLAKE2 root hash. A parameter ``digest_size`` fixes the length in advance."""

    node: str
    """The name of the algorithm that makes the root hash and the blocks of output."""
    unknown_length: int
    """The number in the parameter block that means that the length is not known in advance."""


@dataclass(frozen=True, kw_only=True)
class Blake3Tree(Construction):
    """The chunk tree of BLAKE3, whose kernels are in ``kernels/blake3_tree.py``."""

    chunk_size: int = 1024
    """The size of a chunk in bytes."""

    @property
    def leaf_size(self) -> int:
        return self.chunk_size

    def special_edges(self, record: Algorithm) -> set[int]:
        chunk, block = self.chunk_size, record.block_size
        counts = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 64)
        lengths = around(*(chunk * n for n in counts))
        # The counter of the last chunk needs a second byte, and the tree has nine levels of parents.
        many = 300 * chunk + 7
        return lengths | {chunk - block - 1, chunk + block + 1, 5 * chunk + 3, 100 * chunk + 7, many}


@dataclass(frozen=True, kw_only=True)
class Crc(Construction):
    """A cyclic redundancy check, whose kernels are in ``kernels/crc.py``. The bits are reflected, and the
    initial register and the result are inverted, as in all CRCs that are used for storage."""

    in_pieces: ClassVar[bool] = True
    width: Literal[32, 64]
    polynomial: int
    """The polynomial without its highest term. The coefficient of x**k is bit k."""

    def __post_init__(self) -> None:
        if self.width not in (32, 64) or not 0 < self.polynomial < 1 << self.width:
            raise ValueError("Crc: the polynomial must be of 32 or 64 bits and fit in that width")
        if not self.polynomial & 1:
            raise ValueError("Crc: the polynomial must have a constant term")

    @property
    def crc_field(self) -> BinaryField:
        return BinaryField(self.width, self.polynomial)

    def kernel_family(self, record: Algorithm) -> object:
        return type(self), self.width

    def special_edges(self, record: Algorithm) -> set[int]:
        return super().special_edges(record) | around(32, 128, 256, 4096, 8192) | {140_003}


@dataclass(frozen=True, kw_only=True)
class XxHash(Construction):
    """XXH64 or XXH3, whose kernels are in ``kernels/xxhash.py``. The size of the digest selects the variant
    of XXH3."""

    function: Literal["xxh64", "xxh3"]

    def reading_family(self) -> object:
        return self.function

    def special_edges(self, record: Algorithm) -> set[int]:
        sizes = (16, 32, 96, 128, 144, 160, 176, 240, 1024, 1088, 2048)
        return super().special_edges(record) | around(*sizes) | {5000}


@dataclass(frozen=True, kw_only=True)
class SipHash(Construction):
    """SipHash-c-d, whose kernel is in ``kernels/siphash.py``."""

    rounds: tuple[int, int]
    """The pair (c, d): c rounds for each word of the message, and d rounds before each word of output."""

    def special_edges(self, record: Algorithm) -> set[int]:
        return super().special_edges(record) | around(24, 256)


@dataclass(frozen=True, kw_only=True)
class HighwayHash(Construction):
    """HighwayHash, whose kernel is in ``kernels/highwayhash.py``. The size of the digest selects the
    variant."""

    rounds: int
    """The number of times that the state is permuted and updated before the output."""


@dataclass(frozen=True, kw_only=True)
class Kmac(Sponge):
    """KMAC, which is cSHAKE of the padded key and the message (SP 800-185, section 4)."""


@dataclass(frozen=True, kw_only=True)
class Hmac(Construction):
    """HMAC over a hash."""

    hash: str
    """The name of the hash."""

    @property
    def hmac_of(self) -> str:
        return self.hash

    def edges(self, record: Algorithm) -> set[int]:
        """Return only a few lengths, since the hash's own known answers cover all of its edges."""
        block = record.block_size
        lengths = {0, 1, 4, record.digest_size, block - 1, block, 2 * block + 5, BEYOND_16_BITS}
        return lengths | {5 * 8192 + 3} if record.parallel else lengths

    def key_sizes(self, record: Algorithm, usual: set[int]) -> set[int]:
        return {1, record.block_size, record.block_size + 1}


@dataclass(frozen=True, kw_only=True)
class Poly1305(Construction):
    """A polynomial whose coefficients are the blocks of a message, plus a one-time pad. The kernels are in
    ``kernels/poly1305.py``."""

    in_pieces: ClassVar[bool] = True

    def point(self, key: bytes) -> bytes:
        """Return the part of a key that becomes r, the number at which the polynomial is evaluated, after
        clamping."""
        return key[:16]

    def special_messages(self, key: bytes) -> Iterator[bytes]:
        """Yield messages of two blocks whose polynomials have the values 0 to 5 and -1. An error in the last
        reduction would leave these values unreduced or reduce them too far (RFC 8439, section 2.5)."""
        prime = (1 << 130) - 5
        r = int.from_bytes(self.point(key), "little") & 0x0FFFFFFC_0FFFFFFC_0FFFFFFC_0FFFFFFF
        for value in (0, 1, 2, 3, 4, 5, -1):
            for first in range(0, 1 << 128, 1 << 120):
                block = pow(r, -1, prime) * value - ((1 << 128) + first) * r
                # The number that stands for a whole block has 2**128 added.
                last = block % prime - (1 << 128)
                if 0 <= last < 1 << 128:
                    yield first.to_bytes(16, "little") + last.to_bytes(16, "little")
                    break


@dataclass(frozen=True, kw_only=True)
class Poly1305Aes(Poly1305):
    """Poly1305 whose one-time pad is the AES encryption of a nonce."""

    def point(self, key: bytes) -> bytes:
        # The key of AES comes before r (section 2 of the paper).
        return key[-16:]
