"""SHA-2 is specified in FIPS 180-4."""

from __future__ import annotations

from .constructions import IteratedHash
from .record import Algorithm, Security


def _sha256(iv: str) -> IteratedHash:
    return IteratedHash(
        block="integrity_triton.kernels.sha2:sha256_block",
        pad="integrity_triton.kernels.padding:pad_length_be64",
        iv=f"integrity_triton.kernels.sha2:{iv}",
        constants="integrity_triton.kernels.sha2:SHA256_K",
        state_words=8,
        byteorder="big",
        minimum_padding=9,
    )


def _sha512(iv: str) -> IteratedHash:
    return IteratedHash(
        block="integrity_triton.kernels.sha2:sha512_block",
        pad="integrity_triton.kernels.padding:pad_length_be128",
        iv=f"integrity_triton.kernels.sha2:{iv}",
        constants="integrity_triton.kernels.sha2:SHA512_K",
        word_bits=64,
        state_words=8,
        byteorder="big",
        minimum_padding=17,
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
        construction=_sha256("SHA224_IV"),
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
        construction=_sha256("SHA256_IV"),
        native="hashlib:sha256",
        oracle="hashlib:sha256",
    ),
    Algorithm(
        name="sha384",
        aliases=("sha-384", "sha2-384", "sha2_384"),
        standard="FIPS 180-4, section 6.5",
        digest_size=48,
        block_size=128,
        security=Security.SECURE,
        security_note="192-bit collision resistance; truncation also stops length extension",
        collision_bits=192,
        construction=_sha512("SHA384_IV"),
        native="hashlib:sha384",
        oracle="hashlib:sha384",
    ),
    Algorithm(
        name="sha512",
        aliases=("sha-512", "sha2-512", "sha2_512"),
        standard="FIPS 180-4, section 6.4",
        digest_size=64,
        block_size=128,
        security=Security.SECURE,
        security_note="256-bit collision resistance; a bare hash of secret || data can be extended",
        collision_bits=256,
        construction=_sha512("SHA512_IV"),
        native="hashlib:sha512",
        oracle="hashlib:sha512",
    ),
    Algorithm(
        name="sha512_224",
        aliases=("sha512/224", "sha-512/224", "sha512-224", "sha2-512/224"),
        standard="FIPS 180-4, section 6.6",
        digest_size=28,
        block_size=128,
        security=Security.SECURE,
        security_note="112-bit collision resistance; truncation also stops length extension",
        collision_bits=112,
        construction=_sha512("SHA512_224_IV"),
        native="integrity_triton.algorithms.openssl:sha512_224",
        oracle="integrity_triton.algorithms.openssl:sha512_224",
    ),
    Algorithm(
        name="sha512_256",
        aliases=("sha512/256", "sha-512/256", "sha512-256", "sha2-512/256"),
        standard="FIPS 180-4, section 6.7",
        digest_size=32,
        block_size=128,
        security=Security.SECURE,
        security_note="128-bit collision resistance; truncation also stops length extension",
        collision_bits=128,
        construction=_sha512("SHA512_256_IV"),
        native="integrity_triton.algorithms.openssl:sha512_256",
        oracle="integrity_triton.algorithms.openssl:sha512_256",
    ),
)
