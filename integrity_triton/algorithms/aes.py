"""Holds the records of the MACs that use the block cipher AES: CMAC (NIST SP 800-38B) and GMAC (NIST SP
800-38D)."""

from __future__ import annotations

from .constructions import AesCmac, AesGmac
from .parameter import Parameter
from .record import Algorithm, Security

_KEY = Parameter(
    name="key",
    type=bytes,
    sizes=(16, 24, 32),
    per_message=True,
    doc="16, 24 or 32 uniformly random bytes, for AES-128, AES-192 or AES-256",
)

RECORDS = (
    Algorithm(
        name="cmac_aes",
        aliases=("cmac-aes", "aes-cmac", "aes_cmac", "omac1-aes"),
        standard="NIST SP 800-38B; RFC 4493 for AES-128",
        digest_size=16,
        block_size=16,
        security=Security.SECURE,
        security_note="a MAC and PRF for up to 2**48 messages per key (SP 800-38B, appendix B); it is not a "
        "collision-resistant hash for someone who knows the key",
        # This holds for an attacker who does not know the key.
        collision_bits=64,
        keyed="required",
        parameters=(
            _KEY,
            Parameter(
                name="digest_size",
                type=int,
                default=16,
                minimum=8,
                maximum=16,
                doc="length of the tag in bytes, at least 8 (SP 800-38B, appendix A); the default is 16",
            ),
        ),
        construction=AesCmac(),
        native="integrity_triton.backends.native.aes:cmac_aes",
        oracle="oracles.aes_library:cmac_aes",
    ),
    Algorithm(
        name="gmac_aes",
        aliases=("gmac-aes", "aes-gmac", "aes_gmac"),
        standard="NIST SP 800-38D, section 3 (GCM without plaintext)",
        digest_size=16,
        block_size=16,
        security=Security.SECURE,
        security_note="a MAC as long as no IV is used twice with the same key: two messages with the same IV "
        "reveal the key of GHASH, which allows forgeries (SP 800-38D, appendix A)",
        # This holds for an attacker who does not know the key and sees each IV once.
        collision_bits=64,
        keyed="required",
        parameters=(
            _KEY,
            Parameter(
                name="iv",
                type=bytes,
                min_size=1,
                required=True,
                per_message=True,
                doc="at least one byte, and never the same twice with one key; 12 bytes are recommended "
                "(SP 800-38D, section 8.2)",
            ),
            Parameter(
                name="digest_size",
                type=int,
                default=16,
                minimum=12,
                maximum=16,
                doc="length of the tag in bytes; the default is 16. Tags of 4 and 8 bytes are not supported; "
                "SP 800-38D, appendix C, allows them only if the messages are limited",
            ),
        ),
        construction=AesGmac(),
        native="integrity_triton.backends.native.aes:gmac_aes",
        oracle="oracles.aes_library:gmac_aes",
    ),
)
