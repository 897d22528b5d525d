"""HMAC over every hash with a digest of a given size (RFC 2104, FIPS 198-1): records out of records."""

from __future__ import annotations

from .constructions import Hmac
from .parameter import Parameter
from .record import Algorithm, Security

_GRADES = {
    Security.SECURE: Security.SECURE,
    Security.LEGACY: Security.LEGACY,
    # Collisions do not break HMAC, but RFC 6151, section 2.3, and others advise against it in new designs.
    Security.BROKEN: Security.LEGACY,
}
_LEAST_TAG = 10  # RFC 2104, section 5: 80 bits, and half of the digest


def hmac_over(record: Algorithm) -> Algorithm | None:
    """The record of HMAC over a hash; None over what HMAC is not defined for: checksums, MACs, hashes of
    tuples, extendable output without a length of its own, and digests longer than a block, which take the
    place of a long key in a block (FIPS 198-1, section 4, step 2)."""
    if (
        record.security not in _GRADES
        or record.keyed == "required"
        or record.takes_tuples
        or record.digest_size < _LEAST_TAG
        or record.digest_size > record.block_size
    ):
        return None
    size = record.digest_size
    grade = _GRADES[record.security]
    note = "a MAC and PRF, as strong as its key and no stronger than its tag"
    if grade is not Security.SECURE:
        note += f"; over {record.name}, not for new designs"
    name = f"hmac_{record.name}"
    return Algorithm(
        name=name,
        aliases=tuple(
            dict.fromkeys(
                f"hmac-{alias}"
                for spelling in (record.name, *record.aliases)
                for alias in (spelling, spelling.replace("_", "-"))
            )
        ),
        standard="RFC 2104; FIPS 198-1",
        digest_size=size,
        block_size=record.block_size,
        security=grade,
        security_note=note,
        collision_bits=4 * size,  # without the key, nothing is known that beats chance
        parallel=record.parallel,
        keyed="required",
        parameters=(
            Parameter(
                name="key",
                type=bytes,
                min_size=1,
                per_message=True,
                doc=f"secret, best {size} random bytes; one longer than a block is hashed first",
            ),
            Parameter(
                name="digest_size",
                type=int,
                minimum=max(_LEAST_TAG, -(-size // 2)),
                maximum=size,
                doc=f"bytes of the tag, the digest's first (RFC 2104, section 5); {size} if not given",
            ),
        ),
        construction=Hmac(hash=record.name),
        native=None if record.native is None else f"integrity_triton.backends.native.hmac:{name}",
        oracle=f"oracles.hmac_plain:{name}",
    )
