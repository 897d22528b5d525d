"""MD5 is specified in RFC 1321."""

from __future__ import annotations

from .constructions import IteratedHash
from .record import Algorithm, Security

RECORDS = (
    Algorithm(
        name="md5",
        aliases=("md-5",),
        standard="RFC 1321",
        digest_size=16,
        block_size=64,
        security=Security.BROKEN,
        security_note="collisions take seconds (RFC 6151, section 2)",
        collision_bits=0,
        construction=IteratedHash(
            block="integrity_triton.kernels.md5:md5_block",
            pad="integrity_triton.kernels.padding:pad_length_le64",
            iv="integrity_triton.kernels.md5:MD5_IV",
            state_words=4,
            byteorder="little",
            minimum_padding=9,
        ),
        native="hashlib:md5",
        oracle="hashlib:md5",
    ),
)
