"""Holds the records of CRC-32, CRC-32C and CRC-64/NVME. A digest is the check value in big-endian order."""

from __future__ import annotations

from .constructions import Crc
from .record import Algorithm, Security

_LIBRARY = "integrity_triton.algorithms.checksums"
_NOTE = "detects accidental changes but not deliberate ones: anyone can change data without changing its CRC"

RECORDS = (
    Algorithm(
        name="crc32",
        aliases=("crc-32", "crc32/iso-hdlc", "crc-32/iso-hdlc"),
        standard="ISO/IEC 13239 (HDLC), frame check sequence of 32 bits; RFC 1952, section 8 (gzip)",
        digest_size=4,
        block_size=4,
        security=Security.CHECKSUM,
        security_note=_NOTE,
        collision_bits=0,
        parallel=True,
        construction=Crc(width=32, polynomial=0x04C11DB7),
        native=f"{_LIBRARY}:crc32",
        oracle="oracles.checksums:crc32",
    ),
    Algorithm(
        name="crc32c",
        aliases=("crc-32c", "crc32-c", "crc-32/iscsi"),
        standard="RFC 3720, section 12.1 and appendix B.4 (Castagnoli's polynomial)",
        digest_size=4,
        block_size=4,
        security=Security.CHECKSUM,
        security_note=_NOTE,
        collision_bits=0,
        parallel=True,
        construction=Crc(width=32, polynomial=0x1EDC6F41),
        native=f"{_LIBRARY}:crc32c",
        oracle="oracles.checksums:crc32c",
    ),
    Algorithm(
        name="crc64_nvme",
        aliases=("crc64nvme", "crc64-nvme", "crc-64/nvme", "crc64/nvme"),
        standard="NVM Express NVM Command Set Specification, 64b CRC of the protection information",
        digest_size=8,
        block_size=8,
        security=Security.CHECKSUM,
        security_note=_NOTE,
        collision_bits=0,
        parallel=True,
        construction=Crc(width=64, polynomial=0xAD93D23594C93659),
        native=f"{_LIBRARY}:crc64_nvme",
        oracle="oracles.checksums:crc64_nvme",
    ),
)
