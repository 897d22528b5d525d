"""The kernels that are counted: those whose loop reads the bytes of messages, one for each kind.

The others run once a message or once a batch, on keys, states and digests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from integrity_triton.algorithms import load_reference
from integrity_triton.launching.launch import Launch

# Functions that run for the end of a message, or for a message of another length than its neighbours.
_RARE = (
    *("end_block", "pad_zeros", "_pad_one_bit", "pad_one_bit", "pad_length_be64", "pad_length_le64"),
    *("pad_length_be128", "pad_sponge", "pad_length_ghash", "pad_one", "siphash_pad"),
)


@dataclass(frozen=True)
class Family:
    """A kernel, and what its source says about its loop."""

    algorithm: str
    """The algorithm for which the kernel is compiled."""
    kernel: str
    reads: str = "_load_vectors"
    """The function that loads the bytes of messages."""
    size: int | None = None
    """The bytes of a lane in one turn, if the constants of the launch do not tell them."""
    rounds: tuple[str, int] | None = None
    """For a loop over rounds within the loop over blocks: a function of which each turn runs the same part,
    and how often this part runs for a block."""
    constants: int = 0
    """The bytes of constants that each turn of this loop loads."""
    shares: tuple[tuple[str, Fraction], ...] = ()
    """In how many turns a part runs that may be skipped, by the function from which it comes."""
    neighbours: bool = False
    """Whether the lanes of a warp load bytes next to each other. Otherwise each lane is elsewhere."""

    @property
    def name(self) -> str:
        return self.kernel if self.algorithm == "poly1305" else self.algorithm

    def bytes_of_turn(self, launch: Launch, options: Mapping[str, Any]) -> int:
        """The bytes of messages that a program hashes in one turn of the loop."""
        return self._size(launch, options) * int(options["BLOCK_MSGS"])

    def _size(self, launch: Launch, options: Mapping[str, Any]) -> int:
        if self.size is not None:
            return self.size
        if self.kernel == "crc_fold":
            return 4 * int(load_reference(f"{launch.kernel.partition(':')[0]}:FOLD_WORDS").value)
        if self.kernel == "poly1305_parts":
            return 4 * int(options["WORDS"]) << int(options["ITEM_BITS"])
        if self.kernel == "poly1305_rows":
            return int(options["BLOCK_K"])
        return int(launch.constants["BLOCK_BYTES"])

    def read_of_turn(self, launch: Launch, options: Mapping[str, Any]) -> int:
        """The bytes of messages for which a program has load instructions in one turn of the loop: more than
        it hashes if blocks may be shorter than the kernel's largest."""
        if launch.constants.get("VARIABLE_BLOCK"):
            return int(launch.constants["BLOCK_BYTES"]) * int(options["BLOCK_MSGS"])
        return self.bytes_of_turn(launch, options)

    def share_of(self) -> dict[str, Fraction]:
        return {**dict.fromkeys(_RARE, Fraction(0)), **dict(self.shares)}

    def lines_of_load(
        self, width: int, threads: int, line: int, options: Mapping[str, Any]
    ) -> tuple[int, int]:
        """The lines of ``line`` bytes that a load instruction of a warp touches, if it loads ``width`` bytes
        for each thread, and how many would hold these bytes."""
        together = width
        if self.kernel == "poly1305_rows":
            together = options["BLOCK_K"]  # the threads of a row load its bytes together
        elif self.neighbours:
            together = width * threads
        count = max(1, width * threads // together)
        return count * -(-together // line), -(-width * threads // line)


FAMILIES = (
    # The last of the four, or five, turns of the rounds computes no further words of the schedule.
    Family(
        "sha256",
        "hash_messages",
        rounds=("_sha256_sum1", 4),
        constants=64,
        shares=(("_sha2_schedule", Fraction(3, 4)),),
    ),
    Family(
        "sha512",
        "hash_messages",
        rounds=("_sha2_rounds", 5),
        constants=128,
        shares=(("_sha2_schedule", Fraction(4, 5)),),
    ),
    Family("sha1", "hash_messages"),
    Family("md5", "hash_messages"),
    # The first sixteen rounds are not in the loop. Its last turn computes four words of the schedule, not
    # sixteen.
    Family(
        "sm3", "hash_messages", rounds=("_rounds", 4), constants=64, shares=(("_expand", Fraction(2, 3)),)
    ),
    Family("ripemd160", "hash_messages"),
    Family("sha3_256", "hash_messages", size=136, rounds=("keccak_round", 24), constants=8),
    Family("blake2b", "hash_messages"),
    Family("blake2s", "hash_messages"),
    Family("blake2bp", "hash_messages"),
    Family("blake3", "blake3_chunks", size=64),
    Family("siphash_2_4", "siphash_messages", size=32),
    # A branch of the kernel itself is for messages that are shorter than others.
    Family(
        "highwayhash_64", "highwayhash_messages", size=32, shares=(("highwayhash_messages", Fraction(0)),)
    ),
    Family("xxh64", "xxh64_messages", size=32),
    # Every sixteenth stripe is followed by a scrambling.
    Family("xxh3_64", "xxh3_messages", size=64, shares=(("_scramble", Fraction(1, 16)),)),
    # AES-128: ten rounds, of which the last one is not in the loop.
    Family("cmac_aes", "hash_messages", rounds=("_sub_bytes", 10)),
    Family("gmac_aes", "hash_messages"),
    Family("crc32", "crc_fold", reads="crc_fold", neighbours=True),
    Family("crc64_nvme", "crc_fold", reads="crc_fold", neighbours=True),
    Family("poly1305", "poly1305_messages", size=16),
    Family(
        "poly1305",
        "poly1305_parts",
        reads="_whole_item",
        shares=(("_edge_item", Fraction(0)), ("_edge_step", Fraction(0))),
        neighbours=True,
    ),
    Family("poly1305", "poly1305_rows", reads="_row_bytes"),
)
