"""Ascon-Hash256 (NIST SP 800-232) for integrity_triton, which finds it by its entry point."""

from integrity_triton.algorithms import Algorithm, IteratedHash, Security

ASCON_HASH256 = Algorithm(
    name="ascon_hash256",
    aliases=("ascon-hash256",),
    standard="NIST SP 800-232, section 5.1",
    digest_size=32,
    block_size=8,
    security=Security.SECURE,
    security_note="128-bit collision resistance; a sponge for small processors, slow on large ones",
    collision_bits=128,
    construction=IteratedHash(
        block="integrity_triton_ascon.kernel:ascon_block",
        pad="integrity_triton_ascon.kernel:pad_ascon",
        iv="integrity_triton_ascon.kernel:ASCON_HASH256_IV",
        constants="integrity_triton_ascon.kernel:ASCON_ROUND_CONSTANTS",
        word_bits=64,
        state_words=5,
        byteorder="little",
        minimum_padding=1,
    ),
    oracle="integrity_triton_ascon.oracle:ascon_hash256",
    answers="integrity_triton_ascon:answers.json",
)
