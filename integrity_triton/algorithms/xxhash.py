"""Holds the records of xxHash. Digests are in its canonical form, which is big-endian."""

from __future__ import annotations

from .constructions import XxHash
from .parameter import Parameter
from .record import Algorithm, Security

_NOTE = "detects accidental changes but not deliberate ones: two inputs with the same digest are easy to make"
_SEED = Parameter(
    name="seed",
    type=int,
    default=0,
    minimum=0,
    maximum=(1 << 64) - 1,
    doc="changes the whole digest, but gives no protection against an adversary; the default is 0",
)

RECORDS = (
    Algorithm(
        name="xxh64",
        aliases=("xxhash64", "xxh-64", "xxhash-64"),
        standard="xxHash fast digest algorithm, version 0.2.0: XXH64",
        digest_size=8,
        block_size=32,
        security=Security.CHECKSUM,
        security_note=_NOTE,
        collision_bits=0,
        parameters=(_SEED,),
        construction=XxHash(function="xxh64"),
        native="xxhash:xxh64",
        oracle="xxhash:xxh64",
    ),
    Algorithm(
        name="xxh3_64",
        aliases=("xxh3", "xxh3-64", "xxh3_64bits"),
        standard="xxHash 0.8.0 (reference implementation): XXH3, 64 bits",
        digest_size=8,
        block_size=64,
        security=Security.CHECKSUM,
        security_note=_NOTE,
        collision_bits=0,
        parameters=(_SEED,),
        construction=XxHash(function="xxh3"),
        native="xxhash:xxh3_64",
        oracle="xxhash:xxh3_64",
    ),
    Algorithm(
        name="xxh3_128",
        aliases=("xxh128", "xxh3-128", "xxh3_128bits"),
        standard="xxHash 0.8.0 (reference implementation): XXH3, 128 bits",
        digest_size=16,
        block_size=64,
        security=Security.CHECKSUM,
        security_note=_NOTE,
        collision_bits=0,
        parameters=(_SEED,),
        construction=XxHash(function="xxh3"),
        native="xxhash:xxh3_128",
        oracle="xxhash:xxh3_128",
    ),
)
