"""BLAKE3 is specified in J. O'Connor, J.-P. Aumasson, S. Neves, Z. Wilcox-O'Hearn, "BLAKE3", 2020."""

from __future__ import annotations

from .constructions import Blake3Tree
from .parameter import Parameter
from .record import Algorithm, Security

RECORDS = (
    Algorithm(
        name="blake3",
        standard="BLAKE3 specification (2020), section 2",
        digest_size=32,
        block_size=64,
        security=Security.SECURE,
        security_note="128-bit security in every mode; output of more than 32 bytes does not increase it",
        collision_bits=128,
        xof=True,
        seekable=True,
        parallel=True,
        keyed="optional",
        parameters=(
            Parameter(
                name="key",
                type=bytes,
                min_size=32,
                max_size=32,
                per_message=True,
                excludes=("derive_key_context",),
                doc="32 uniformly random bytes; selects the keyed mode, a MAC and PRF",
            ),
            Parameter(
                name="derive_key_context",
                type=str,
                doc="a hard-coded, globally unique string; selects the key derivation mode",
            ),
        ),
        construction=Blake3Tree(),
        native="blake3:blake3",
        native_one_message={"max_threads": -1},  # blake3.AUTO
        oracle="blake3:blake3",
    ),
)
