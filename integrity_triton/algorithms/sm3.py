"""SM3 is specified in GB/T 32905-2016."""

from __future__ import annotations

from .constructions import IteratedHash
from .record import Algorithm, Security

RECORDS = (
    Algorithm(
        name="sm3",
        aliases=("sm-3",),
        standard="GB/T 32905-2016 (ISO/IEC 10118-3:2018)",
        digest_size=32,
        block_size=64,
        security=Security.SECURE,
        security_note="128-bit collision resistance; a bare hash of secret || data can be extended",
        collision_bits=128,
        construction=IteratedHash(
            block="integrity_triton.kernels.sm3:sm3_block",
            pad="integrity_triton.kernels.padding:pad_length_be64",
            iv="integrity_triton.kernels.sm3:SM3_IV",
            constants="integrity_triton.kernels.sm3:SM3_T",
            state_words=8,
            byteorder="big",
            minimum_padding=9,
        ),
        native="integrity_triton.algorithms.openssl:sm3",
        oracle="integrity_triton.algorithms.openssl:sm3",
    ),
)
