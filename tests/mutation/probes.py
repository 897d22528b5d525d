"""The probes that are run against a mutant: checks of the conformance suite and tests of ``tests/``, in the
interpreter.

Each mutant runs in a process of its own. Outputs are poisoned and guarded as in
``kernels/test_bit_exact.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from _pytest.runner import runtestprotocol

from integrity_triton import algorithms
from integrity_triton.algorithms import known_answers
from integrity_triton.backends import registry
from integrity_triton.conformance.checks import CHECKS
from integrity_triton.conformance.subject import SLOW_EFFORTS, Case, Subject
from integrity_triton.conformance.watch import Watch
from support import GuardedMemory

BACKEND = "interpreter"
SEED = 1
EFFORT = "quick"

_POLY1305 = ("poly1305", "poly1305_limbs", "poly1305_parts", "poly1305_matrix")
# For each device file: the algorithms that reach all of it, whose checks are all run; other algorithms that
# have their own tables; and in ``TESTS``, a pattern for the ids of tests.
ALGORITHMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "aes": (("cmac_aes",), ("poly1305_aes", "gmac_aes")),
    "batch": (("md5", "blake2s", "hmac_sha256", "gmac_aes"), ("sha3_256", "crc32", "cmac_aes", "sha256")),
    "bits": (("md5",), ("sha1", "sha256", "sha512", "blake2b", "blake3", "sha3_256", "siphash_2_4")),
    "blake2": (("blake2s", "blake2b"), ("blake2bp", "blake2sp")),
    "blake2x": (("blake2xb", "blake2xs"), ()),
    "blake3": (("blake3",), ()),
    "blake3_tree": (("blake3",), ()),
    "crc": (("crc32", "crc64_nvme"), ("crc32c",)),
    "ghash": (("gmac_aes",), ()),
    "highwayhash": (("highwayhash_64", "highwayhash_128", "highwayhash_256"), ()),
    "jit": ((), ()),
    "keccak": (("sha3_256", "shake_128"), ("turboshake_128",)),
    "md5": (("md5",), ()),
    "padding": (("md5",), ("sha256", "sha512", "sha3_256", "cmac_aes", "gmac_aes", "kmac_128")),
    "pbkdf2": ((), ()),
    **dict.fromkeys(_POLY1305, (("poly1305",), ())),
    "ripemd160": (("ripemd160",), ()),
    "sha1": (("sha1",), ()),
    "sha2": (("sha256", "sha512"), ("sha224", "sha384", "sha512_224", "sha512_256")),
    "siphash": (("siphash_2_4", "siphash_1_3"), ()),
    "sm3": (("sm3",), ()),
    "xxhash": (("xxh64", "xxh3_64", "xxh3_128"), ()),
}
# Tests of the ways in which a driver hands over messages.
_BATCHES = (
    "many_more_messages|rows_of_whole_and|every_alignment|equal_rows|extendable_output|chunks|shorter_and"
)
TESTS: dict[str, str] = {
    "aes": r"test_aes\.py::test_(the_cipher|keys_of)|test_bit_exact\.py::test_many_more.*cmac"
    r"|test_read_bounds\.py::.*given.*aes",
    "batch": r"test_read_bounds\.py::.*(md5|sha3|gmac)|test_blake3_tree\.py::"
    r"|test_vector_width\.py::test_vectors|test_long\.py::test_(lengths|several|offsets_past.*(md5|sha512|cmac))"
    rf"|test_bit_exact\.py::test_({_BATCHES}).*-(md5|sha256|sha512|crc32|siphash_2_4|xxh64|blake2bp|sha3_256)\b"
    r"|test_checksums\.py::test_(crcs_of|several)",
    "bits": r"test_vector_width\.py::test_vectors|test_read_bounds\.py::.*(md5|tree)",
    "blake2": r"test_block_forms\.py::test_forms.*blake2|"
    r"test_unrolled\.py::.*blake|test_read_bounds\.py::.*given.*blake2[bs]|"
    r"test_long\.py::test_lengths.*blake2|test_blake2\.py::test_(leaves|bound)",
    "blake2x": r"test_blake2\.py::test_bound|test_read_bounds\.py::.*given.*blake2x|"
    rf"test_bit_exact\.py::test_({_BATCHES}|many_long).*blake2x",
    "blake3": r"test_long\.py::test_chunk_counters",
    "blake3_tree": r"test_blake3_tree\.py::|test_read_bounds\.py::.*(blake3|tree)|"
    rf"test_long\.py::test_(chunk|offsets_past.*blake3)|test_vector_width\.py::.*blake3"
    rf"|test_bit_exact\.py::test_({_BATCHES}|edge_lengths|one_message|modes_in).*-blake3\b",
    "crc": r"test_read_bounds\.py::.*crc|test_read_bounds\.py::.*folding|"
    rf"test_checksums\.py::test_(crcs_of|several)|test_bit_exact\.py::test_({_BATCHES}|edge_lengths).*-crc"
    r"|test_long\.py::test_offsets_past.*crc32",
    "ghash": r"test_long\.py::test_lengths.*gmac|test_read_bounds\.py::.*given.*gmac",
    "highwayhash": r"test_read_bounds\.py::.*highway|"
    rf"test_bit_exact\.py::test_({_BATCHES}).*-highway"
    r"|test_long\.py::test_(several|offsets_past).*highw",
    "keccak": r"test_block_forms\.py::test_forms.*keccak|"
    r"test_bit_exact\.py::test_(extendable_output|many_more|many_long).*-(shake_128|sha3_\d+)"
    r"|test_read_bounds\.py::.*given.*(sha|kt)|test_vector_width\.py::.*sha3|test_sponge_tree\.py::test_output_longer",
    "padding": r"test_long\.py::test_lengths|test_tuplehash\.py::test_a_batch",
    "pbkdf2": r"test_kdf\.py::test_(pbkdf2|many_passwords)",
    **dict.fromkeys(
        _POLY1305,
        r"test_poly1305\.py::test_(?!matrix|the_)|test_(vector_width|read_bounds)\.py::.*poly"
        r"|test_long\.py::test_offsets_past.*poly",
    ),
    "sha2": r"test_unrolled\.py::.*sha|test_block_forms\.py::test_forms.*sha\d",
    "sm3": r"test_block_forms\.py::test_forms.*sm3",
    "siphash": r"test_read_bounds\.py::.*siphash|"
    rf"test_bit_exact\.py::test_({_BATCHES}|modes_in).*-siphash|test_long\.py::test_(several|offsets_past).*siph",
    "xxhash": r"test_read_bounds\.py::.*xxh|"
    rf"test_checksums\.py::test_xxhash_|test_bit_exact\.py::test_({_BATCHES}).*-xxh"
    r"|test_long\.py::test_offsets_past.*xxh",
}
FILES = {found + ".py" for tests in TESTS.values() for found in re.findall(r"(test_\w+)\\.py", tests)}


class Failed(Exception):
    """A probe raises it if the mutant fails the probe."""


@dataclass(frozen=True)
class Probe:
    name: str
    kind: str
    """It is equal for checks and tests that differ only in the algorithm or in other parameters."""

    def run(self) -> None:
        """Raise any exception if the mutant fails."""
        raise NotImplementedError


@dataclass(frozen=True)
class Conformance(Probe):
    """A check of the conformance suite for one algorithm, with the effort that the suite uses in the
    interpreter."""

    algorithm: str
    check: str

    def run(self) -> None:
        backend = registry.get(BACKEND)
        memory = GuardedMemory()
        backend.empty = memory.empty  # type: ignore[method-assign]
        for case in self.cases(backend):
            if not case.good:
                raise Failed(case.label)
        memory.check()

    def cases(self, backend: Any) -> Iterator[Case]:
        record = algorithms.get(self.algorithm)
        native = registry.get("native")
        effort = SLOW_EFFORTS[EFFORT]
        subject = Subject(
            record=record,
            backend=BACKEND,
            device=torch.device("cpu"),
            effort=effort,
            known=known_answers.load(record),
            random=np.random.default_rng([SEED, *record.name.encode()]),
            partner="native" if native.unsupported(record) is None else None,
            watch=Watch(backend, [native]),
        )
        if self.check != "short answers":
            return CHECKS[self.check](subject)
        # Messages of one block, among those with the fewest parameters.
        most = max(16, record.block_size - getattr(record.construction, "minimum_padding", 0))
        short = tuple(a for a in subject.plain if a.size <= most)
        assert short and subject.known is not None
        return CHECKS["known answers"](replace(subject, known=replace(subject.known, answers=short)))


@dataclass(frozen=True)
class Test(Probe):
    """A test of ``tests/`` that pytest has collected."""

    item: pytest.Function

    def run(self) -> None:
        if hasattr(self.item.module, "status_of"):
            # A mutant already has a process of its own. The lines that a child of it reaches, and the end of
            # the child, would not be seen.
            self.item.module.status_of = _here
        reports = runtestprotocol(self.item, log=False, nextitem=None)
        for report in reports:
            if report.failed:
                raise Failed(str(report.longrepr).strip().splitlines()[-1][:200])


def _here(work: Callable[[], None]) -> int:
    work()
    return 0


def probes(items: list[pytest.Item]) -> dict[str, list[Probe]]:
    """The probes for each device file. Of the collected tests, those that ``TESTS`` names are taken."""
    found: dict[str, list[Probe]] = {}
    for file, (whole, others) in ALGORITHMS.items():
        mine = found[file] = []
        for name in (*whole, *others):
            checks = ("short answers", *CHECKS) if name in whole else ("short answers", "known answers")
            mine += [Conformance(f"{check} ({name})", check, name, check) for check in checks]
        for item in items:
            place = item.nodeid.removeprefix("tests/")
            if file in TESTS and re.match(TESTS[file], place.removeprefix(f"{item.path.parent.name}/")):
                mine.append(Test(place, place.partition("[")[0], item))
    return found
