"""Poly1305 is specified in RFC 8439, and Poly1305-AES in D. J. Bernstein, "The Poly1305-AES
message-authentication code", 2005."""

from __future__ import annotations

from .constructions import Poly1305, Poly1305Aes
from .parameter import Parameter
from .record import Algorithm, Security

RECORDS = (
    Algorithm(
        name="poly1305",
        standard="RFC 8439, section 2.5",
        digest_size=16,
        block_size=16,
        security=Security.SECURE,
        security_note=(
            "a one-time MAC: two messages with the same key reveal it; a forgery of at most L bytes is "
            "accepted with probability at most 8 * ceil(L / 16) / 2**106"
        ),
        collision_bits=64,
        parallel=True,
        keyed="required",
        parameters=(
            Parameter(
                name="key",
                type=bytes,
                min_size=32,
                max_size=32,
                per_message=True,
                doc="r and s, 16 bytes each; secret, uniformly random, and used for one message only",
            ),
        ),
        construction=Poly1305(),
        native="integrity_triton.backends.native.poly1305:poly1305",
        oracle="oracles.poly1305_plain:poly1305",
    ),
    Algorithm(
        name="poly1305_aes",
        aliases=("poly1305-aes",),
        standard='D. J. Bernstein, "The Poly1305-AES message-authentication code", 2005',
        digest_size=16,
        block_size=16,
        security=Security.SECURE,
        security_note="a MAC as long as no nonce is used twice with the same key: two messages with the same "
        "nonce reveal r; a forgery of at most L bytes is accepted with probability at most "
        "14 * ceil(L / 16) / 2**106 after up to 2**64 messages",
        collision_bits=64,
        parallel=True,
        keyed="required",
        parameters=(
            Parameter(
                name="key",
                type=bytes,
                min_size=32,
                max_size=32,
                per_message=True,
                doc="k, the key of AES-128, and then r; 16 uniformly random bytes each",
            ),
            Parameter(
                name="nonce",
                type=bytes,
                min_size=16,
                max_size=16,
                required=True,
                per_message=True,
                doc="16 bytes, and never the same twice with one key",
            ),
        ),
        construction=Poly1305Aes(),
        native="integrity_triton.backends.native.poly1305_aes:poly1305_aes",
        oracle="oracles.poly1305_plain:poly1305_aes",
    ),
)
