"""Operations on CRCs that do not need the data."""

from __future__ import annotations

from . import algorithms
from .algorithms.binary_field import reflected
from .messages.parameters import octet_string


def crc_combine(algorithm: str, first: bytes, second: bytes, second_length: int, /) -> bytes:
    """The CRC of two messages joined together, from the digests of both and the second's length in bytes.

    The checksum of a whole upload can be computed in this way from those of its parts. The digests are
    bytes-like or 1-D uint8 tensors.

    Raises ValueError for an algorithm that is not a CRC, a digest of another size, or a negative length, and
    TypeError for a digest that does not consist of bytes or a length that is not an int.
    """
    record = algorithms.get(algorithm)
    field = record.construction.crc_field
    if field is None:
        known = (r.name for r in algorithms.all_algorithms() if r.construction.crc_field is not None)
        raise ValueError(f"{record.name} is not a CRC; the CRCs are {', '.join(known)}")
    first, second = octet_string(first, "first"), octet_string(second, "second")
    if {len(first), len(second)} != {record.digest_size}:
        raise ValueError(f"a {record.name} digest has {record.digest_size} bytes")
    if isinstance(second_length, bool) or not isinstance(second_length, int):
        raise TypeError(f"second_length must be int, not {type(second_length).__name__}")
    if second_length < 0:
        raise ValueError(f"second_length must not be negative, got {second_length}")
    value = reflected(int.from_bytes(first, "big"), field.width)
    # The inversions of register and result cancel out.
    moved = field.multiply(value, field.x_to(8 * second_length))
    combined = reflected(moved, field.width) ^ int.from_bytes(second, "big")
    return combined.to_bytes(record.digest_size, "big")
