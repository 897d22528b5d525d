"""SipHash is specified in J.-P. Aumasson, D. J. Bernstein, "SipHash: a fast short-input PRF", 2012."""

from __future__ import annotations

from .constructions import SipHash
from .parameter import Parameter
from .record import Algorithm, Security

_KEY = Parameter(
    name="key", type=bytes, min_size=16, max_size=16, per_message=True, doc="16 uniformly random bytes"
)
_SIZE = Parameter(
    name="digest_size",
    type=int,
    choices=(8, 16),
    default=8,
    doc="length of the output in bytes, 8 or 16; it changes the whole output. The default is 8",
)


def _record(rounds: tuple[int, int], note: str, native: str | None) -> Algorithm:
    c, d = rounds
    return Algorithm(
        name=f"siphash_{c}_{d}",
        aliases=(f"siphash-{c}-{d}", f"siphash{c}{d}"),
        standard="SipHash (Aumasson, Bernstein, 2012), section 2; 16 bytes as the reference implementation",
        digest_size=8,
        block_size=8,
        security=Security.SECURE,
        security_note=note,
        # This holds for an attacker who does not know the key and for 8 bytes of output.
        collision_bits=32,
        keyed="required",
        parameters=(_KEY, _SIZE),
        construction=SipHash(rounds=rounds),
        native=native,
        oracle=f"oracles.siphash_plain:siphash_{c}_{d}",
    )


RECORDS = (
    _record(
        (2, 4),
        "a PRF of 64 or 128 bits for short messages: a guessed tag is right with probability 2**-64 or "
        "2**-128; it is not a collision-resistant hash for someone who knows the key",
        "integrity_triton.backends.native.siphash:siphash_2_4",
    ),
    _record(
        (1, 3),
        "a PRF for hash tables; its security margin is smaller than the authors recommend for a MAC",
        "integrity_triton.backends.native.siphash:siphash_1_3",
    ),
    _record(
        (4, 8),
        "a PRF of 64 or 128 bits for short messages; the authors' conservative choice",
        None,
    ),
)
