"""HighwayHash is specified in J. Alakuijala, B. Cox, J. Wassenberg, "Fast keyed hash/pseudo-random function
using SIMD multiply and permute", 2016."""

from __future__ import annotations

from .constructions import HighwayHash
from .parameter import Parameter
from .record import Algorithm, Security

_NOTE = (
    "proposed by its authors as a PRF; no attack is known, but others have analysed it little, so prefer "
    "SipHash or keyed BLAKE3 for a MAC"
)


def _record(bits: int, rounds: int) -> Algorithm:
    return Algorithm(
        name=f"highwayhash_{bits}",
        aliases=(f"highwayhash-{bits}", f"highwayhash{bits}"),
        standard="HighwayHash (Alakuijala, Cox, Wassenberg, 2016), as the frozen reference implementation",
        digest_size=bits // 8,
        block_size=32,
        security=Security.LEGACY,
        security_note=_NOTE,
        # This is an upper bound, for an attacker who does not know the key.
        collision_bits=bits // 2,
        keyed="required",
        parameters=(
            Parameter(
                name="key",
                type=bytes,
                min_size=32,
                max_size=32,
                per_message=True,
                doc="32 uniformly random bytes",
            ),
        ),
        construction=HighwayHash(rounds=rounds),
        native=None,
        oracle=f"oracles.highwayhash_plain:highwayhash_{bits}",
    )


RECORDS = (_record(64, 4), _record(128, 6), _record(256, 10))
