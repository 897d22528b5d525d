"""What the package knows of one algorithm, as frozen, validated data.

A record names device code instead of holding it (``"package.module:name"``), so that listing,
looking up and natively running an algorithm never imports Triton.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")
_RESOURCE = re.compile(r"[A-Za-z_][\w.]*:[\w][\w./-]*\Z")


class Security(enum.Enum):
    """How far an algorithm can be trusted today."""

    SECURE = "secure"
    LEGACY = "legacy"  # no practical break, but no longer recommended
    BROKEN = "broken"  # collisions or worse are practical
    CHECKSUM = "checksum"  # never meant to resist an adversary


def _check_reference(record: str, field_name: str, value: str) -> None:
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
                _check_reference("IteratedHash", name, getattr(self, name))
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


class EachMessage:
    """A parameter's values, of type bytes, of which every message of a batch has its own."""

    sizes: tuple[int, ...]
    """Bytes in each."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One keyword that a constructor takes beside its data."""

    name: str
    type: type
    doc: str
    default: Any = None
    min_size: int | None = None
    """For ``bytes``: fewest bytes allowed."""
    max_size: int | None = None
    minimum: int | None = None
    """For ``int``: the range allowed, both ends included."""
    maximum: int | None = None
    choices: tuple[Any, ...] | None = None
    sizes: tuple[int, ...] | None = None
    """For ``bytes``: the only lengths allowed, where they are no range."""
    excludes: tuple[str, ...] = ()
    """Parameters that may not be given together with this one."""
    required: bool = False
    """Whether there is no default; a key's own is in the algorithm's ``keyed``."""
    per_message: bool = False
    """For ``bytes``: whether each message of a batch may have its own."""

    def check(self, algorithm: str, value: Any) -> Any:
        """Return ``value`` in canonical form, or raise TypeError or ValueError naming what is allowed.

        Errors tell lengths and types of bytes alone, which may be a key.
        """
        label = f"{algorithm}: {self.name}"
        if isinstance(value, EachMessage):
            return self._check_each(label, value)
        if self.type is bytes:
            try:
                view = memoryview(value)
            except TypeError:
                raise TypeError(f"{label} must be bytes-like, not {type(value).__name__}") from None
            if not view.c_contiguous:
                raise BufferError(f"{label} must be a C-contiguous buffer")
            value = bytes(view)
            if not self.allows(len(value)):
                raise ValueError(f"{label} must be {self._sizes()} long, not {len(value)}")
            return value
        if (self.type is int and isinstance(value, bool)) or not isinstance(value, self.type):
            raise TypeError(f"{label} must be {self.type.__name__}, not {type(value).__name__}")
        if self.choices is not None and value not in self.choices:
            raise ValueError(f"{label} must be one of {', '.join(map(repr, self.choices))}, not {value!r}")
        if isinstance(value, int):
            self._check_range(label, value)
        return value

    def _check_each(self, label: str, values: EachMessage) -> EachMessage:
        if not self.per_message:
            raise TypeError(f"{label} is one for all messages of a batch")
        for i, size in enumerate(values.sizes):
            if not size or not self.allows(size):
                raise ValueError(f"{label} of message {i} must be {self._sizes()} long, not {size}")
        return values

    def allows(self, size: int) -> bool:
        """For ``bytes``: whether a value may be so many long."""
        if self.sizes is not None:
            return size in self.sizes
        return size >= (self.min_size or 0) and (self.max_size is None or size <= self.max_size)

    def _sizes(self) -> str:
        if self.sizes is not None:
            return " or ".join(map(str, self.sizes)) + " bytes"
        low, high = self.min_size or 0, self.max_size
        if high is None:
            return f"at least {low} bytes"
        return f"{low} bytes" if low == high else f"{low} to {high} bytes"

    def _check_range(self, label: str, value: int) -> None:
        below = self.minimum is not None and value < self.minimum
        if below or (self.maximum is not None and value > self.maximum):
            raise ValueError(f"{label} must be {self._range()}, not {value}")

    def _range(self) -> str:
        if self.minimum is None or self.maximum is None:
            return f"at least {self.minimum}" if self.maximum is None else f"at most {self.maximum}"
        return f"between {self.minimum} and {self.maximum}"


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """One hash or MAC. Sizes are in bytes."""

    name: str
    """hashlib's spelling where hashlib has the algorithm."""
    aliases: tuple[str, ...] = ()
    standard: str
    """The document that defines it, with the section."""
    digest_size: int
    block_size: int
    security: Security
    security_note: str
    collision_bits: int
    """log2 of the work of the best known collision search; 0 for broken and checksums."""
    xof: bool = False
    """Output of any length; ``digest_size`` is then the default length, or 0 if there is none."""
    seekable: bool = False
    """Any part of the output can be had without the parts before it."""
    output_limit: int = 1 << 64
    """Bytes of extendable output that there are."""
    parallel: bool = False
    """One long message spreads over a device's lanes (a tree); a sequential hash has one lane."""
    keyed: Literal["no", "optional", "required"] = "no"
    parameters: tuple[Parameter, ...] = ()
    construction: Construction
    native: str | None = None
    """Constructor of a hashlib-like object in a CPU library, ``"module:callable"``; the library may be
    absent. None if there is none."""
    native_one_message: Mapping[str, Any] = field(default_factory=dict)
    """Keywords with which the CPU library spreads a single long message over all cores."""
    oracle: str
    """An independent implementation with the same calling convention, for the tests."""
    answers: str | None = None
    """Where another package has the algorithm's known answers, ``"package:file"``;
    docs/reference/known_answers.md describes the file. None for the built-in algorithms, whose answers come
    with the conformance suite."""
    _by_name: Mapping[str, Parameter] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        label = f"algorithm {self.name!r}"
        if not _NAME.match(self.name):
            raise ValueError(f"{label}: a name is lower-case letters, digits and underscores")
        for alias in self.aliases:
            if alias != alias.lower() or not alias:
                raise ValueError(f"{label}: alias {alias!r} must be lower case (look-ups ignore case)")
        if self.digest_size < (0 if self.xof else 1) or self.block_size < 1:
            raise ValueError(f"{label}: digest_size and block_size must be positive")
        if self.seekable and not self.xof:
            raise ValueError(f"{label}: only extendable output can be seekable")
        if isinstance(self.construction, IteratedHash):
            if self.block_size % 4:
                raise ValueError(f"{label}: block_size must be a multiple of 4 bytes")
            if self.digest_size > self.construction.state_words * self.construction.word_bits // 8:
                raise ValueError(f"{label}: digest_size is larger than the state")
        if self.native is not None:
            _check_reference(label, "native", self.native)
        _check_reference(label, "oracle", self.oracle)
        if self.answers is not None and not _RESOURCE.match(self.answers):
            raise ValueError(f"{label}: answers must look like 'package:file', not {self.answers!r}")
        object.__setattr__(self, "native_one_message", MappingProxyType(dict(self.native_one_message)))
        by_name = {p.name: p for p in self.parameters}
        if len(by_name) != len(self.parameters):
            raise ValueError(f"{label}: duplicate parameter")
        if (self.keyed != "no") != ("key" in by_name):
            raise ValueError(f"{label}: a keyed algorithm, and only such, has a parameter 'key'")
        object.__setattr__(self, "_by_name", MappingProxyType(by_name))

    @property
    def takes_tuples(self) -> bool:
        """Whether a message is a tuple of byte strings."""
        return isinstance(self.construction, TupleSponge)

    @property
    def required(self) -> tuple[str, ...]:
        """Parameters that have to be given."""
        return tuple(
            p.name for p in self.parameters if p.required or (p.name == "key" and self.keyed == "required")
        )

    def trial_parameters(self) -> dict[str, bytes]:
        """The fewest parameters with which the algorithm runs: keys that are no secret, for trials."""
        sizes = {p.name: p.sizes[-1] if p.sizes else p.min_size or 16 for p in self.parameters}
        return {name: bytes(i % 256 for i in range(sizes[name])) for name in self.required}

    def check_parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Validate constructor keywords; None stands for "not given" and is dropped.

        Raises TypeError for a value of the wrong type, ValueError for an unknown keyword, a bad
        size, a missing key, or a combination that the algorithm does not have.
        """
        checked: dict[str, Any] = {}
        for name, value in given.items():
            if value is None:
                continue
            parameter = self._by_name.get(name)
            if parameter is None:
                if name == "key":
                    raise ValueError(f"{self.name} takes no key; for a MAC use a keyed algorithm")
                allowed = ", ".join(self._by_name) or "none"
                raise ValueError(f"{self.name} has no parameter {name!r} (allowed: {allowed})")
            checked[name] = parameter.check(self.name, value)
        for name in checked:
            for other in self._by_name[name].excludes:
                if other in checked:
                    raise ValueError(f"{self.name}: {name} and {other} exclude each other")
        for name in self.required:
            if name not in checked:
                raise ValueError(f"{self.name} needs {'an' if name[0] in 'aeiou' else 'a'} {name}")
        return checked

    def size(self, parameters: Mapping[str, Any]) -> int:
        """Bytes in the digest under ``parameters``, by default where the output is extendable."""
        return int(parameters.get("digest_size", self.digest_size))

    def output_end(self, parameters: Mapping[str, Any]) -> int:
        """Bytes of extendable output that there are; a parameter ``digest_size`` ends it there."""
        return min(self.output_limit, int(parameters.get("digest_size", self.output_limit)))

    def check_length(self, length: int | None, parameters: Mapping[str, Any]) -> int:
        """Digest length in bytes for a requested ``length``; None means the default.

        Raises TypeError or ValueError for a length that cannot be, or where one is needed.
        """
        size = self.size(parameters)
        if length is None:
            if size == 0:
                raise TypeError(f"{self.name} has no default length: give length=, in bytes")
            return size
        if isinstance(length, bool) or not isinstance(length, int):
            raise TypeError(f"length must be int, not {type(length).__name__}")
        if length < 0:
            raise ValueError(f"length must not be negative, got {length}")
        if self.xof and length > self.output_end(parameters):
            raise ValueError(f"{self.name} has {self.output_end(parameters)} bytes of output, not {length}")
        if not self.xof and length != size:
            raise ValueError(f"{self.name} has a fixed digest of {size} bytes, not {length}")
        return length
