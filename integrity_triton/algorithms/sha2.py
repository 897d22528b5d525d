"""SHA-224 and SHA-256: FIPS 180-4."""

from __future__ import annotations

from .record import Algorithm, IteratedHash, Security


def _construction(iv: str) -> IteratedHash:
    return IteratedHash(
        block="integrity_triton.kernels.sha2:sha256_block",
        pad="integrity_triton.kernels.padding:pad_length_be64",
        iv=f"integrity_triton.kernels.sha2:{iv}",
        state_words=8,
        byteorder="big",
        minimum_padding=9,
    )


RECORDS = (
    Algorithm(
        name="sha224",
        aliases=("sha-224", "sha2-224", "sha2_224"),
        standard="FIPS 180-4, section 6.3",
        digest_size=28,
        block_size=64,
        security=Security.SECURE,
        security_note="112-bit collision resistance; truncation also stops length extension",
        collision_bits=112,
        construction=_construction("SHA224_IV"),
        native="hashlib:sha224",
        oracle="hashlib:sha224",
    ),
    Algorithm(
        name="sha256",
        aliases=("sha-256", "sha2-256", "sha2_256"),
        standard="FIPS 180-4, section 6.2",
        digest_size=32,
        block_size=64,
        security=Security.SECURE,
        security_note="128-bit collision resistance; a bare hash of secret || data can be extended",
        collision_bits=128,
        construction=_construction("SHA256_IV"),
        native="hashlib:sha256",
        oracle="hashlib:sha256",
    ),
)
