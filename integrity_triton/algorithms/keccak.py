"""Keccak: SHA-3 and SHAKE (FIPS 202), cSHAKE, TupleHash and ParallelHash (SP 800-185), TurboSHAKE and
KangarooTwelve (RFC 9861), and the original submission's padding."""

from __future__ import annotations

from .record import Algorithm, KangarooTree, Kmac, Parameter, Security, Sponge, SpongeTree, TupleSponge

_CUSTOMIZATION = Parameter(
    name="customization", type=bytes, doc="a string S that sets this use of the function apart from others"
)


# Output bits are told in 32 bits behind the message.
_MOST_BYTES = ((1 << 32) - 1) // 8
_LEAST_TAG = 4  # SP 800-185, section 8.4.2


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
        security_note=f"{bits // 2}-bit collision resistance; not SHA-3: its padding is the older one",
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
                doc="the name N of a function defined on top of cSHAKE; NIST's alone",
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
        security_note=f"{bits}-bit security of 12 rounds, with {bits // 4} bytes of output or more",
        collision_bits=bits,
        xof=True,
        parameters=(
            Parameter(
                name="domain",
                type=int,
                minimum=0x01,
                maximum=0x7F,
                doc="the domain separation byte D, 0x1F if not given",
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
        security_note=f"{bits}-bit security of 12 rounds; a tree, parallel within one message",
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


def _digest_size(default: int, least: int = 1) -> Parameter:
    return Parameter(
        name="digest_size",
        type=int,
        minimum=least,
        maximum=_MOST_BYTES,
        doc=f"bytes in the digest, on which all of it depends; {default} if not given",
    )


def _parallelhash(bits: int, xof: bool) -> Algorithm:
    rate, name = 200 - bits // 4, "parallelhashxof" if xof else "parallelhash"
    return Algorithm(
        name=f"{name}_{bits}",
        aliases=(f"{name}-{bits}", f"{name}{bits}"),
        standard=f"NIST SP 800-185, section 6{'.3.1' if xof else ''}",
        digest_size=bits // 4,
        block_size=rate,
        security=Security.SECURE,
        security_note=f"{bits}-bit security; a tree of one level, parallel within one message",
        collision_bits=bits,
        xof=xof,
        parallel=True,
        parameters=(
            _CUSTOMIZATION,
            Parameter(
                name="block_size",
                type=int,
                minimum=1,
                maximum=1 << 40,
                doc="bytes that a leaf hashes, on which the digest depends; 8192 if not given",
            ),
            *(() if xof else (_digest_size(bits // 4),)),
        ),
        construction=SpongeTree(
            leaf=Sponge(rate=rate, suffix=0x1F),
            root=Sponge(
                rate=rate,
                suffix=0x1F,
                customizable=True,
                function_name=b"ParallelHash",
                tells="zero" if xof else "length",
            ),
            chaining_size=bits // 4,
            chunk_size=8192,
        ),
        oracle=f"oracles.keccak_plain:{name}_{bits}",
    )


def _tuplehash(bits: int, xof: bool) -> Algorithm:
    rate, name = 200 - bits // 4, "tuplehashxof" if xof else "tuplehash"
    return Algorithm(
        name=f"{name}_{bits}",
        aliases=(f"{name}-{bits}", f"{name}{bits}"),
        standard=f"NIST SP 800-185, section 5{'.3.1' if xof else ''}",
        digest_size=bits // 4,
        block_size=rate,
        security=Security.SECURE,
        security_note=f"{bits}-bit security; where one string of the tuple ends and the next begins counts",
        collision_bits=bits,
        xof=xof,
        parameters=(_CUSTOMIZATION, *(() if xof else (_digest_size(bits // 4),))),
        construction=TupleSponge(
            rate=rate,
            suffix=0x1F,
            customizable=True,
            function_name=b"TupleHash",
            tells="zero" if xof else "length",
        ),
        oracle=f"oracles.keccak_plain:{name}_{bits}",
    )


def _kmac(bits: int, xof: bool) -> Algorithm:
    rate, name = 200 - bits // 4, "kmacxof" if xof else "kmac"
    return Algorithm(
        name=f"{name}_{bits}",
        aliases=(f"{name}-{bits}", f"{name}{bits}"),
        standard=f"NIST SP 800-185, section 4{'.3.1' if xof else ''}",
        digest_size=bits // 4,
        block_size=rate,
        security=Security.SECURE,
        security_note=f"a MAC and PRF of {bits}-bit strength, with a key of {bits // 8} bytes or more",
        collision_bits=bits,
        xof=xof,
        keyed="required",
        parameters=(
            Parameter(
                name="key",
                type=bytes,
                min_size=1,
                per_message=True,
                doc=f"secret, best {bits // 8} random bytes or more",
            ),
            _CUSTOMIZATION,
            *(() if xof else (_digest_size(bits // 4, _LEAST_TAG),)),
        ),
        construction=Kmac(
            rate=rate,
            suffix=0x1F,
            customizable=True,
            function_name=b"KMAC",
            tells="zero" if xof else "length",
        ),
        oracle=f"oracles.keccak_plain:{name}_{bits}",
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
