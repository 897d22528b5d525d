"""Implements the encodings of SP 800-185, which turn numbers and strings into bytes unambiguously."""

from __future__ import annotations


def left_encode(n: int) -> bytes:
    """Encode ``n`` with its length in bytes in front (SP 800-185, section 2.3.1)."""
    size = max(1, (n.bit_length() + 7) // 8)
    return bytes([size]) + n.to_bytes(size, "big")


def right_encode(n: int) -> bytes:
    """Encode ``n`` with its length in bytes at the end (SP 800-185, section 2.3.1)."""
    size = max(1, (n.bit_length() + 7) // 8)
    return n.to_bytes(size, "big") + bytes([size])


def encode_string(data: bytes) -> bytes:
    """Encode a byte string with its length in bits in front (SP 800-185, section 2.3.2)."""
    return left_encode(8 * len(data)) + data


def bytepad(data: bytes, width: int) -> bytes:
    """Put ``width`` in front of ``data`` and fill up with zeros to a multiple of it (SP 800-185, section
    2.3.3)."""
    padded = left_encode(width) + data
    return padded + bytes(-len(padded) % width)
