"""Keccak: SHA-3 and SHAKE (FIPS 202), cSHAKE (SP 800-185), TurboSHAKE (RFC 9861), and the original
submission's padding."""

from __future__ import annotations

from .record import Algorithm, Parameter, Security, Sponge

_CUSTOMIZATION = Parameter(
    name="customization", type=bytes, doc="a string S that sets this use of the function apart from others"
)


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


RECORDS = (
    *map(_sha3, (224, 256, 384, 512)),
    *map(_shake, (128, 256)),
    *map(_keccak, (256, 512)),
    *map(_cshake, (128, 256)),
    *map(_turboshake, (128, 256)),
)
