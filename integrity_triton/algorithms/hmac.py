"""Derives the record of HMAC (RFC 2104, FIPS 198-1) from the record of each hash that HMAC is defined for."""

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
_LEAST_TAG = 10  # RFC 2104, section 5, asks for at least 80 bits, and for at least half of the digest.


def hmac_over(record: Algorithm) -> Algorithm | None:
    """Return the record of HMAC over a hash, or None if HMAC is not defined for it.

    It is not defined for checksums, MACs, hashes of tuples, extendable output without a default length,
    digests that are too short for a tag, and digests longer than a block, since the digest of a long key must
    fit into a block (FIPS 198-1, section 4, step 2).
    """
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
    note = "a MAC and PRF; its strength is limited by the lengths of the key and of the tag"
    if grade is not Security.SECURE:
        note += f"; because of {record.name} it is not recommended for new designs"
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
        collision_bits=4 * size,  # Without the key, no attack better than chance is known.
        parallel=record.parallel,
        keyed="required",
        parameters=(
            Parameter(
                name="key",
                type=bytes,
                min_size=1,
                per_message=True,
                doc=f"secret; {size} random bytes are recommended. A key longer than a block is hashed first",
            ),
            Parameter(
                name="digest_size",
                type=int,
                minimum=max(_LEAST_TAG, -(-size // 2)),
                maximum=size,
                doc=f"length of the tag in bytes; a tag is the start of the digest (RFC 2104, section 5). "
                f"The default is {size}",
            ),
        ),
        construction=Hmac(hash=record.name),
        native=None if record.native is None else f"integrity_triton.backends.native.hmac:{name}",
        oracle=f"oracles.hmac_plain:{name}",
    )
