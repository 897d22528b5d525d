"""MACs of the block cipher AES: CMAC (NIST SP 800-38B) and GMAC (NIST SP 800-38D)."""

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
        security_note="a MAC and PRF for up to 2**48 messages a key (SP 800-38B, appendix B), no hash for "
        "whoever has the key",
        # Of whoever lacks the key.
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
                doc="bytes of the tag, 8 at the least (SP 800-38B, appendix A); 16 if not given",
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
        security_note="a MAC as long as no IV comes twice with a key: two messages with one IV give the key "
        "of GHASH away, and with it forgeries (SP 800-38D, appendix A)",
        # Of whoever lacks the key and sees each IV once.
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
                doc="of at least one byte, never the same twice with a key; 12 bytes are the form to take "
                "(SP 800-38D, section 8.2)",
            ),
            Parameter(
                name="digest_size",
                type=int,
                default=16,
                minimum=12,
                maximum=16,
                doc="bytes of the tag; 16 if not given. Tags of 4 and 8 bytes, which SP 800-38D, appendix C, "
                "leaves to applications that limit their messages, are not supported",
            ),
        ),
        construction=AesGmac(),
        native="integrity_triton.backends.native.aes:gmac_aes",
        oracle="oracles.aes_library:gmac_aes",
    ),
)
