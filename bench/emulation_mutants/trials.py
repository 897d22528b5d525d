"""Runs the known-answer trials of a kernel's self-test on an emulated backend, with one kernel changed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.algorithms.known_answers import load, pattern
from integrity_triton.backends import registry
from integrity_triton.backends.emulation.backend import EmulatedBackend
from integrity_triton.backends.emulation.faults import Deadlock, EmulationError
from integrity_triton.backends.emulation.program import Block, KernelLaunch, Program, Target
from integrity_triton.drivers.run import Run
from integrity_triton.messages.layout import Ragged
from integrity_triton.self_tests.catalogue import Trial, trials_of

from . import amdgcn, ptx
from .changes import Code

SHORT = "short messages and a long one"
# A mutant may execute so many times the blocks of the kernel as it is, and so many more.
_TIMES, _MORE = 4, 1000
# Kernels load so many bytes at a time where the blocks of an algorithm are smaller.
_LOADED = 64
_SEED = {"seed": 0x9E3779B97F4A7C15}
# The bytes of the known answers' keys are below 33, so that some planes of their bits are zero.
_KEY = {"key": bytes(range(224, 256))}
# Poly1305 cuts messages into rows of 4,096 bytes, of which a program takes 128. A message whose length is no
# multiple of that has its first row in part. It begins near the start of the row in most of these, and the
# long one fills a program. So do those of one whole row, for which the kernel has a loop of its own.
_ROWS = (*(4096 - 16 * (n % 9) - n * 5 % 16 for n in range(140)), 140 * 4096 + 5, *[4096] * 255)


@dataclass(frozen=True)
class Subject:
    """A kernel, and the trials that run it."""

    name: str
    algorithm: str
    kernel: str
    label: str = SHORT
    way: str | None = None
    others: tuple[str, ...] = ()
    """Other algorithms whose kernel is the same compiled text."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    modes: tuple[Mapping[str, Any], ...] = ()
    """Other parameters with which the compiled text is the same, to be added to ``parameters``."""
    lengths: tuple[int, ...] = ()
    """Lengths of messages at which the kernel takes another way, besides those of every batch."""


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("SHA-256", "sha256", "hash_messages"),
        Subject(
            "SHA3-256",
            "sha3_256",
            "hash_messages",
            others=("shake_128", "sha3_224", "sha3_512", "kt128"),
        ),
        Subject("BLAKE3", "blake3", "blake3_chunks"),
        Subject(
            "Poly1305 rows",
            "poly1305",
            "poly1305_rows",
            way="rows",
            parameters={"key": bytes(range(32))},
            modes=(_KEY,),
            lengths=_ROWS,
        ),
        Subject("CRC-32C", "crc32c", "crc_finish"),
        Subject(
            "BLAKE2s",
            "blake2s",
            "hash_messages",
            modes=({"key": bytes(range(32))}, {"last_node": True}),
        ),
        Subject("XXH64", "xxh64", "xxh64_messages", modes=(_SEED,)),
        Subject(
            "XXH3-64", "xxh3_64", "xxh3_messages", modes=(_SEED,), lengths=(*range(138, 260), 1088, 2112)
        ),
        Subject(
            "SipHash-2-4",
            "siphash_2_4",
            "siphash_messages",
            parameters={"key": bytes(range(16))},
            modes=({"digest_size": 16},),
        ),
        Subject(
            "HighwayHash-64",
            "highwayhash_64",
            "highwayhash_messages",
            others=("highwayhash_128", "highwayhash_256"),
            parameters={"key": bytes(range(32))},
        ),
        Subject(
            "CMAC",
            "cmac_aes",
            "hash_messages",
            parameters={"key": bytes(range(16))},
            modes=(_KEY,),
        ),
        Subject(
            "GMAC",
            "gmac_aes",
            "hash_messages",
            parameters={"key": bytes(range(16)), "iv": bytes(12)},
            modes=({"iv": bytes(range(20))},),
        ),
    )
}


@dataclass(frozen=True)
class EveryLength:
    """A batch of messages of the lengths that ``lengths_of`` gives, each in memory of its own that starts so
    many bytes behind a multiple of 64. A CPU library has the digests, or kernels that were compiled for CPUs,
    if there is none."""

    algorithm: str
    parameters: Mapping[str, Any]
    start: int = 0
    way: str | None = None
    kind: str = "every"
    more: tuple[int, ...] = ()
    """Lengths besides those of every batch."""
    quarters: int = 4
    """How much of a program's lanes a batch "whole" fills, but for three of them."""

    def lengths_of(self, block: int, lanes: int) -> list[int]:
        """The lengths of the messages, for an algorithm or a kernel that loads so many bytes at a time, and
        whose programs have so many lanes.

        "every": every length up to a little more than two blocks, and some lengths more. "few": three
        messages, so that most lanes of a program have none. "mixed": a long message among short ones.
        "empty": a program has only empty messages. "whole": messages that all have two blocks, and differ in
        what is behind them.
        """
        if self.kind == "few":
            return [block + 1, 1, 0]
        if self.kind == "mixed":
            return [20 * block + 5, *range(1, 17), 0]
        if self.kind == "empty":
            return [*(1 + n % 16 for n in range(lanes)), 0, 0, 0]
        if self.kind == "whole":
            return [2 * block + n % (block + 1) for n in range(lanes * self.quarters // 4 - 3)]
        # The first message is not the empty one, whose digest lanes without a message compute, too.
        lengths = [*range(1, 2 * block + 10), 0]
        return [*lengths, *(n + k for n in (1024, 2048, 4096) for k in (-1, 0, 1, 5)), *self.more]

    def run(self, host: Run, device: torch.device) -> Iterator[tuple[str, bytes, torch.Tensor]]:
        record = algorithms.get(self.algorithm)
        block = max(record.block_size, _LOADED)
        lanes = max(host.launcher.tuned(reference)["BLOCK_MSGS"] for reference in host.driver().references())
        lengths = self.lengths_of(block, lanes)
        messages = []
        for n in lengths:
            memory = torch.full((n + 128,), 0xFF, dtype=torch.uint8)  # around it, which must not count
            first = -memory.data_ptr() % 64 + self.start
            message = memory[first : first + n]
            if n:
                message.copy_(torch.frombuffer(bytearray(pattern(n)), dtype=torch.uint8))
            messages.append(message)
        # What is squeezed out beyond a block depends on all words of the state.
        size = record.size(self.parameters) or 400
        other = "opencl" if record.native is None else "native"
        known = it.hash_batch(messages, self.algorithm, length=size, backend=other, **self.parameters)
        found = host.execute(dict(self.parameters), Ragged(messages, device), size)
        for n, one, two in zip(lengths, known, found, strict=True):
            yield f"{n} bytes", one.numpy().tobytes(), two


@dataclass
class _Steps:
    """Takes the place of a kernel's coverage: the blocks that were executed, and how many of them a launch
    executed at most."""

    blocks: set[int] = field(default_factory=set)
    most: int = 0
    limit: int | None = None
    now: int = 0

    def block(self, number: int, active: bool = True) -> None:
        if active:
            self.blocks.add(number)
        self.now += 1
        self.most = max(self.most, self.now)
        if self.limit is not None and self.now > self.limit:
            raise Deadlock(f"the kernel has not ended after {self.limit} basic blocks")

    def matrix(self, name: str, rows: Any, columns: Any) -> None:
        """Note nothing."""


class Replaceable:
    """A program in whose place another one can run."""

    def __init__(self, original: Program) -> None:
        self.original = self.current = original
        self.steps = _Steps()
        self.ran = False

    @property
    def entry(self) -> str:
        return self.original.entry

    @property
    def parameters(self) -> int:
        return self.original.parameters

    @property
    def blocks(self) -> Sequence[Block]:
        return self.original.blocks

    @property
    def matrices(self) -> Mapping[str, tuple[int, int]]:
        return self.original.matrices

    def run(self, launch: KernelLaunch) -> None:
        self.ran = True
        self.steps.now = 0
        steps: Any = self.steps
        self.current.run(replace(launch, coverage=steps))


class Laboratory:
    """An emulated backend whose kernels can be replaced."""

    def __init__(self, target: str) -> None:
        backend = type(registry.get("ptx" if target.startswith("sm_") else "amdgcn"))()
        assert isinstance(backend, EmulatedBackend)
        self._vendor = ptx if target.startswith("sm_") else amdgcn
        self.programs: list[Replaceable] = []
        given = backend.target(target)
        driver = backend.driver_of(target)
        driver.target = replace(given, program=lambda *text: self._load(given, *text))
        # The JIT keeps kernels by the name of the device.
        driver.get_current_device = lambda: f"laboratory {id(self)}"  # type: ignore[method-assign]
        backend.__dict__["_driver"] = driver
        self._backend = backend

    def _load(self, target: Target, text: str, entry: str) -> Replaceable:
        self.programs.append(Replaceable(target.program(text, entry)))
        return self.programs[-1]

    def code(self, program: Replaceable) -> Code:
        found: Code = self._vendor.code(program.original)
        return found

    def trials(self, subject: Subject) -> list[Trial]:
        record = algorithms.get(subject.algorithm)
        answers = load(record)
        assert answers is not None
        wanted = [
            trial
            for trial in trials_of(record, answers.answers)
            if trial.label.partition(",")[0] == subject.label
            and "one at a time" not in trial.label
            and trial.way == subject.way
            and trial.shape == "table"
            and not trial.per_message
        ]
        return sorted(wanted, key=lambda trial: trial.start)

    def further(self, subject: Subject) -> list[tuple[str, EveryLength]]:
        """Batches of many lengths, with the algorithm of each."""
        own = subject.algorithm
        given = [
            EveryLength(own, subject.parameters, kind=kind, more=subject.lengths)
            for kind in ("few", "mixed", "empty", "every")
        ]
        given += [EveryLength(own, subject.parameters, kind="whole", quarters=n) for n in (4, 3, 2, 1)]
        given += [
            EveryLength(own, {**subject.parameters, **mode}, more=subject.lengths) for mode in subject.modes
        ]
        given += [EveryLength(name, subject.parameters) for name in subject.others]
        return [
            (batch.algorithm, replace(batch, start=start, way=subject.way))
            for batch in given
            for start in ((1, 2, 3, 0, 4) if batch.kind == "every" else (1, 0, 4))
        ]

    def failure(self, algorithm: str, trial: Trial | EveryLength) -> str | None:
        """What is wrong with the results of a trial: the class of a fault, "digest", or None."""
        record = algorithms.get(algorithm)
        host = Run(self._backend, record, self._backend.launch, trial.way)
        try:
            for _, expected, found in trial.run(host, torch.device("cpu")):
                if (found if isinstance(found, bytes) else found.numpy().tobytes()) != expected:
                    return "digest"
        except EmulationError as error:
            return type(error).__name__
        return None


@dataclass
class Baseline:
    """What the trials of a subject run if nothing is changed."""

    seconds: dict[int, float]
    """By the number of the trial."""
    programs: list[tuple[Replaceable, list[int]]]
    """The kernels to change, with the trials that run each, the fastest first."""

    def limit(self) -> None:
        """Let a changed kernel execute no more than some times what it has executed as it is."""
        for program, _ in self.programs:
            program.steps.limit = _TIMES * program.steps.most + _MORE


def baseline(laboratory: Laboratory, subject: Subject, trials: Sequence[Trial]) -> Baseline:
    """Raises RuntimeError if a trial fails."""
    seconds: dict[int, float] = {}
    runs: dict[int, set[int]] = {}
    for again in (False, True):  # the first time it compiles
        for number, trial in enumerate(trials):
            for program in laboratory.programs:
                program.ran = False
            start = time.perf_counter()
            if failed := laboratory.failure(subject.algorithm, trial):
                raise RuntimeError(f"{subject.name}: trial {trial.label} fails as it is: {failed}")
            seconds[number] = time.perf_counter() - start
            if again:
                runs[number] = {k for k, program in enumerate(laboratory.programs) if program.ran}
    found = []
    for k, program in enumerate(laboratory.programs):
        if program.entry == subject.kernel:
            found.append((program, sorted((n for n in runs if k in runs[n]), key=lambda n: seconds[n])))
    return Baseline(seconds, found)
