"""SHA-1 is specified in FIPS 180-4."""

from __future__ import annotations

from .constructions import IteratedHash
from .record import Algorithm, Security

RECORDS = (
    Algorithm(
        name="sha1",
        aliases=("sha-1",),
        standard="FIPS 180-4, section 6.1",
        digest_size=20,
        block_size=64,
        security=Security.BROKEN,
        security_note="collisions are practical (2**61.2 work, Leurent and Peyrin 2020); NIST "
        "withdraws SHA-1 by the end of 2030",
        collision_bits=0,
        construction=IteratedHash(
            block="integrity_triton.kernels.sha1:sha1_block",
            pad="integrity_triton.kernels.padding:pad_length_be64",
            iv="integrity_triton.kernels.sha1:SHA1_IV",
            state_words=5,
            byteorder="big",
            minimum_padding=9,
        ),
        native="hashlib:sha1",
        oracle="hashlib:sha1",
    ),
)
