"""Holds the records of the Keccak family: SHA-3 and SHAKE (FIPS 202), cSHAKE, KMAC, TupleHash and
ParallelHash (SP 800-185), TurboSHAKE and KangarooTwelve (RFC 9861), and Keccak with the padding of the
original submission."""

from __future__ import annotations

from typing import Any, TypeVar

from .constructions import KangarooTree, Kmac, Sponge, SpongeTree, TupleSponge
from .parameter import Parameter
from .record import Algorithm, Security

_CUSTOMIZATION = Parameter(
    name="customization", type=bytes, doc="a string S that separates this use of the function from others"
)
# The length of the output is encoded in bits after the message, in at most 32 bits.
_MOST_BYTES = ((1 << 32) - 1) // 8
AnySponge = TypeVar("AnySponge", bound=Sponge)


def _sha3(bits: int) -> Algorithm:
    rate = 200 - bits // 4
    return Algorithm(
        name=f"sha3_{bits}",
        aliases=(f"sha3-{bits}",),
        standard="FIPS 202, section 6.1",
        digest_size=bits // 8,
        block_size=rate,
        security=Security.SECURE,
        security_note=f"{bits // 2}-bit collision resistance; no length extension",
        collision_bits=bits // 2,
        construction=Sponge(rate=rate, suffix=0x06),
        native=f"hashlib:sha3_{bits}",
        oracle=f"hashlib:sha3_{bits}",
    )


def _keccak(bits: int) -> Algorithm:
    rate = 200 - bits // 4
    return Algorithm(
        name=f"keccak_{bits}",
        aliases=(f"keccak-{bits}", f"keccak{bits}"),
        standard="Keccak reference 3.0 (2011), before FIPS 202 added a suffix",
        digest_size=bits // 8,
        block_size=rate,
        security=Security.SECURE,
        security_note=f"{bits // 2}-bit collision resistance; differs from SHA-3 by its older padding",
        collision_bits=bits // 2,
        construction=Sponge(rate=rate, suffix=0x01),
        oracle=f"oracles.keccak_plain:keccak_{bits}",
    )


def _shake(bits: int) -> Algorithm:
    rate = 200 - bits // 4
    return Algorithm(
        name=f"shake_{bits}",
        aliases=(f"shake-{bits}", f"shake{bits}"),
        standard="FIPS 202, section 6.2",
        digest_size=0,
        block_size=rate,
        security=Security.SECURE,
        security_note=f"{bits}-bit security, with {bits // 4} bytes of output or more against collisions",
        collision_bits=bits,
        xof=True,
        construction=Sponge(rate=rate, suffix=0x1F),
        native=f"hashlib:shake_{bits}",
        oracle=f"hashlib:shake_{bits}",
    )


def _cshake(bits: int) -> Algorithm:
    rate = 200 - bits // 4
    return Algorithm(
        name=f"cshake_{bits}",
        aliases=(f"cshake-{bits}", f"cshake{bits}"),
        standard="NIST SP 800-185, section 3",
        digest_size=0,
        block_size=rate,
        security=Security.SECURE,
        security_note=f"{bits}-bit security, with {bits // 4} bytes of output or more against collisions",
        collision_bits=bits,
        xof=True,
        parameters=(
            _CUSTOMIZATION,
            Parameter(
                name="function_name",
                type=bytes,
                doc="the name N of a function that is built on cSHAKE; only NIST defines such names",
            ),
        ),
        construction=Sponge(rate=rate, suffix=0x1F, customizable=True),
        oracle=f"oracles.keccak_plain:cshake_{bits}",
    )


def _turboshake(bits: int) -> Algorithm:
    rate = 200 - bits // 4
    return Algorithm(
        name=f"turboshake_{bits}",
        aliases=(f"turboshake-{bits}", f"turboshake{bits}"),
        standard="RFC 9861, section 2",
        digest_size=0,
        block_size=rate,
        security=Security.SECURE,
        security_note=f"{bits}-bit security from 12 rounds, with {bits // 4} bytes of output or more "
        "against collisions",
        collision_bits=bits,
        xof=True,
        parameters=(
            Parameter(
                name="domain",
                type=int,
                minimum=0x01,
                maximum=0x7F,
                doc="the domain separation byte D; the default is 0x1F",
            ),
        ),
        construction=Sponge(rate=rate, suffix=0x1F, rounds=12),
        oracle=f"oracles.keccak_plain:turboshake_{bits}",
    )


def _kangaroo(bits: int) -> Algorithm:
    rate = 200 - bits // 4

    def sponge(suffix: int) -> Sponge:
        return Sponge(rate=rate, suffix=suffix, rounds=12)

    return Algorithm(
        name=f"kt{bits}",
        aliases=("kangarootwelve", "k12") if bits == 128 else (),
        standard="RFC 9861, section 3",
        digest_size=bits // 4,
        block_size=rate,
        security=Security.SECURE,
        security_note=f"{bits}-bit security from 12 rounds; a tree, parallel within one message",
        collision_bits=bits,
        xof=True,
        parallel=True,
        parameters=(_CUSTOMIZATION,),
        construction=KangarooTree(
            leaf=sponge(0x0B),
            root=sponge(0x06),
            single=sponge(0x07),
            chaining_size=bits // 4,
            chunk_size=8192,
        ),
        oracle=f"oracles.keccak_plain:kt{bits}",
    )


def _named_sponge(kind: type[AnySponge], function: str, bits: int, xof: bool) -> AnySponge:
    """Return cSHAKE under a function name that NIST defines. It encodes the length of the output after the
    message, or 0 if the output can have any length."""
    return kind(
        rate=200 - bits // 4,
        suffix=0x1F,
        customizable=True,
        function_name=function.encode(),
        tells="zero" if xof else "length",
    )


def _derived(
    function: str,
    bits: int,
    xof: bool,
    *,
    section: int,
    parameters: tuple[Parameter, ...],
    least_digest: int = 1,
    **fields: Any,
) -> Algorithm:
    """Return the record of a function that NIST SP 800-185 derives from cSHAKE. Its digest depends on the
    digest's size; with ``xof`` the output can have any length instead. ``fields`` are the other fields of the
    record."""
    name, size = function.lower() + ("xof" if xof else ""), bits // 4
    digest_size = Parameter(
        name="digest_size",
        type=int,
        minimum=least_digest,
        maximum=_MOST_BYTES,
        doc=f"length of the digest in bytes; it changes the whole digest. The default is {size}",
    )
    return Algorithm(
        name=f"{name}_{bits}",
        aliases=(f"{name}-{bits}", f"{name}{bits}"),
        standard=f"NIST SP 800-185, section {section}{'.3.1' if xof else ''}",
        digest_size=size,
        block_size=200 - size,
        security=Security.SECURE,
        collision_bits=bits,
        xof=xof,
        parameters=parameters if xof else (*parameters, digest_size),
        oracle=f"oracles.keccak_plain:{name}_{bits}",
        **fields,
    )


def _parallelhash(bits: int, xof: bool) -> Algorithm:
    block_size = Parameter(
        name="block_size",
        type=int,
        minimum=1,
        maximum=1 << 40,
        doc="number of bytes that a leaf hashes; it changes the digest. The default is 8192",
    )
    return _derived(
        "ParallelHash",
        bits,
        xof,
        section=6,
        parameters=(_CUSTOMIZATION, block_size),
        security_note=f"{bits}-bit security; a tree of one level, parallel within one message",
        parallel=True,
        construction=SpongeTree(
            leaf=Sponge(rate=200 - bits // 4, suffix=0x1F),
            root=_named_sponge(Sponge, "ParallelHash", bits, xof),
            chaining_size=bits // 4,
            chunk_size=8192,
        ),
    )


def _tuplehash(bits: int, xof: bool) -> Algorithm:
    return _derived(
        "TupleHash",
        bits,
        xof,
        section=5,
        parameters=(_CUSTOMIZATION,),
        security_note=f"{bits}-bit security; tuples that differ only in where a string ends have unrelated "
        "digests",
        construction=_named_sponge(TupleSponge, "TupleHash", bits, xof),
    )


def _kmac(bits: int, xof: bool) -> Algorithm:
    key = Parameter(
        name="key",
        type=bytes,
        min_size=1,
        per_message=True,
        doc=f"secret; {bits // 8} random bytes or more are recommended",
    )
    return _derived(
        "KMAC",
        bits,
        xof,
        section=4,
        parameters=(key, _CUSTOMIZATION),
        least_digest=4,  # SP 800-185, section 8.4.2
        security_note=f"a MAC and PRF of {bits}-bit strength, with a key of {bits // 8} bytes or more",
        keyed="required",
        construction=_named_sponge(Kmac, "KMAC", bits, xof),
    )


RECORDS = (
    *map(_sha3, (224, 256, 384, 512)),
    *map(_shake, (128, 256)),
    *map(_keccak, (224, 256, 384, 512)),
    *map(_cshake, (128, 256)),
    *map(_turboshake, (128, 256)),
    *map(_kangaroo, (128, 256)),
    *(_parallelhash(bits, xof) for xof in (False, True) for bits in (128, 256)),
    *(_tuplehash(bits, xof) for xof in (False, True) for bits in (128, 256)),
    *(_kmac(bits, xof) for xof in (False, True) for bits in (128, 256)),
)
