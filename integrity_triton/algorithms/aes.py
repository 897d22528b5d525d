"""MACs of the block cipher AES: CMAC (NIST SP 800-38B)."""

from __future__ import annotations

from .record import AesCmac, Algorithm, Parameter, Security

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
        native="integrity_triton.algorithms.aes_library:cmac_aes",
        oracle="oracles.aes_library:cmac_aes",
    ),
)
