"""How SP 800-185 turns numbers and strings into bytes of which no two readings are possible."""

from __future__ import annotations


def left_encode(n: int) -> bytes:
    """SP 800-185, section 2.3.1."""
    size = max(1, (n.bit_length() + 7) // 8)
    return bytes([size]) + n.to_bytes(size, "big")


def right_encode(n: int) -> bytes:
    """SP 800-185, section 2.3.1."""
    size = max(1, (n.bit_length() + 7) // 8)
    return n.to_bytes(size, "big") + bytes([size])


def encode_string(data: bytes) -> bytes:
    """SP 800-185, section 2.3.2."""
    return left_encode(8 * len(data)) + data


def bytepad(data: bytes, width: int) -> bytes:
    """SP 800-185, section 2.3.3."""
    padded = left_encode(width) + data
    return padded + bytes(-len(padded) % width)
