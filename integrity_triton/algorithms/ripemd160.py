"""RIPEMD-160 was specified by Dobbertin, Bosselaers and Preneel in 1996."""

from __future__ import annotations

from .constructions import IteratedHash
from .record import Algorithm, Security

RECORDS = (
    Algorithm(
        name="ripemd160",
        aliases=("ripemd-160", "rmd160"),
        standard="RIPEMD-160 (1996); ISO/IEC 10118-3:2018",
        digest_size=20,
        block_size=64,
        security=Security.LEGACY,
        security_note="no practical attack is known, but 80-bit collision resistance is too weak today",
        collision_bits=80,
        construction=IteratedHash(
            block="integrity_triton.kernels.ripemd160:ripemd160_block",
            pad="integrity_triton.kernels.padding:pad_length_le64",
            iv="integrity_triton.kernels.ripemd160:RIPEMD160_IV",
            state_words=5,
            byteorder="little",
            minimum_padding=9,
        ),
        native="integrity_triton.algorithms.openssl:ripemd160",
        oracle="integrity_triton.algorithms.openssl:ripemd160",
    ),
)
