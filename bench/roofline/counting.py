"""Counting what one turn of a kernel's hot loop executes, and predicting rates from the counts."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from integrity_triton import algorithms
from integrity_triton.algorithms import load_reference
from integrity_triton.launching.launch import Launch, tuned

from .. import compile_time
from . import intel, minimum
from .devices import Device
from .families import Family
from .listing import Graph, Loop
from .vendors import MULTIPROCESSORS, Vendor, vendor_of

TARGETS = tuple(MULTIPROCESSORS)


class CountError(ValueError):
    """Raised if a listing does not look as a family says."""


@dataclass(frozen=True)
class Turn:
    """What a thread executes for the bytes of one turn of the hot loop."""

    opcodes: Mapping[str, Fraction]
    """How often each instruction is executed."""
    read: Mapping[int, Fraction]
    """How many loads of message bytes there are, by their width in bytes."""
    other: Fraction
    """The bytes of other loads from global memory."""
    turns: int
    """The turns of the source's loop that the compiler made one."""

    @property
    def instructions(self) -> Fraction:
        return sum(self.opcodes.values(), Fraction(0))


def hot_turn(
    graph: Graph,
    rules: Vendor,
    *,
    reads: str,
    expected: Fraction,
    rounds: tuple[str, int] | None = None,
    constants: int = 0,
    shares: Mapping[str, Fraction] | None = None,
) -> Turn:
    """One turn of the loop that hashes: of the loops that load as many bytes of messages as one turn has to,
    the one with the least code that never runs by ``shares``, and of several such, the one that executes the
    fewest instructions for a byte. The others handle the ends of messages.

    ``reads`` is the function of the source whose loads are those of message bytes, and ``expected`` the bytes
    that each thread loads in one turn. ``rounds``, ``constants`` and ``shares`` are those of a
    :class:`Family`.

    Raises CountError if there is no such loop.
    """

    def turns_of_rounds(outer: Loop, inner: Loop) -> tuple[Fraction, int]:
        if rules.waits and any(x.opcode.startswith(rules.waits) for x in graph.lines(inner.blocks)):
            return Fraction(1), 1
        if rounds is None:
            raise CountError(
                f"nobody says how often the loop at block {inner.header} runs within another one"
            )
        name, count = rounds

        def marks(blocks: set[int]) -> int:
            return sum(line.function == name for line in graph.lines(blocks))

        if not marks(inner.blocks):
            raise CountError(f"the inner loop at block {inner.header} executes nothing of {name}")
        # The compiler may have made several turns one, or have taken some of them out of the loop.
        together = 1
        if constants and rules.loaded_by_all:
            together = round(sum(map(rules.loaded_by_all, opcodes_of(inner))) / constants)
        outside = round(marks(outer.own) * together / marks(inner.blocks))
        return Fraction(count - outside, together), together

    def opcodes_of(loop: Loop) -> list[str]:
        return [line.opcode for line in graph.lines(loop.blocks)]

    found = []
    errors = []
    for loop in graph.loops:
        if not any(rules.loaded(x.opcode) and x.function == reads for x in graph.lines(loop.blocks)):
            continue
        try:
            times = graph.times(loop, shares or {}, turns_of_rounds)
        except CountError as error:
            errors.append(error)
            continue
        opcodes: dict[str, Fraction] = defaultdict(Fraction)
        read: dict[int, Fraction] = defaultdict(Fraction)
        other = Fraction(0)
        for i, n in times.items():
            for line in graph.blocks[i].lines:
                opcodes[line.opcode] += n
                width = rules.loaded(line.opcode)
                if width and line.function == reads:
                    read[width] += n
                else:
                    other += width * n
        loaded = sum((width * n for width, n in read.items()), Fraction(0))
        if loaded >= expected:
            turn = Turn(opcodes, read, other, round(loaded / expected))
            found.append((len(graph.lines(loop.blocks - times.keys())), turn.instructions / turn.turns, turn))
    if not found:
        raise errors[0] if errors else CountError(f"no loop loads {expected} bytes of messages for a thread")
    return min(found, key=lambda choice: choice[:2])[2]


@dataclass(frozen=True)
class Count:
    """What was counted for one kernel and target, with four decimals."""

    pipes: Mapping[str, float]
    """Instructions a byte, by pipe."""
    times: Mapping[str, float]
    """Results of 32 bits a byte, by pipe: as ``pipes``, with instructions that take longer counted
    accordingly."""
    matrix: float
    """Operations of matrix units a byte."""
    ratio: float | None
    """Instructions of arithmetic pipes over the operations that the algorithm needs."""
    registers: int
    spilled: int
    occupancy: float
    loaded: float
    """Bytes loaded from global memory for a byte hashed. Tables of constants count for each lane, though they
    come from a cache."""
    lines: tuple[int, int]
    """The lines of memory that a load touches, and those that would hold its bytes."""
    spills: float | None
    """Instructions a byte that save or restore registers in the hot loop. None if it was counted before
    these were."""

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "lines": list(self.lines)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Count:
        return cls(**{**fields, "lines": tuple(fields["lines"])})


@cache
def _launches(algorithm: str, tuning: str) -> list[tuple[Launch, Mapping[str, Any]]]:
    (pairs,) = compile_time.launches(tuning, records=[algorithms.get(algorithm)]).values()
    return pairs


def launch_of(family: Family, target: str) -> tuple[Launch, Mapping[str, Any]]:
    """The launch that is counted: that of aligned rows, with the configuration of the target's backend."""
    pairs = _launches(family.algorithm, compile_time.tuning(target))
    return next(pair for pair in pairs if pair[0].kernel.endswith(f":{family.kernel}"))


def is_launched(family: Family, target: str) -> bool:
    """Whether the backend of the target launches a family's kernel at all."""
    if family.kernel != "poly1305_rows":
        return True
    return bool(tuned(compile_time.tuning(target), "poly1305")["ROWS_FROM"])


def count(family: Family, target: str, compiler: Path | None = None) -> Count:
    """Compile a family's kernel for a target, as the backend launches it, and count. ``compiler`` is the
    folder of the Triton for Intel GPUs, for whose targets it is necessary."""
    launch, options = launch_of(family, target)
    if target in intel.REGISTER_BYTES:
        assert compiler is not None
        return count_compiled(family, target, launch, options, intel.build(launch, options, target, compiler))
    with tempfile.TemporaryDirectory() as cache, compile_time.compiling_for(target, Path(cache)):
        return count_compiled(family, target, launch, options, compile_time.build(launch, options))


def count_compiled(
    family: Family,
    target: str,
    launch: Launch,
    options: Mapping[str, Any],
    built: compile_time.Build | intel.Compiled,
) -> Count:
    """Count what was compiled for a launch."""
    rules = vendor_of(target)
    if isinstance(built, intel.Compiled):
        compiled, shared, warp = built, built.shared, int(options["threads_per_warp"])
    else:
        compiled, shared = built.compiled, built.compiled.metadata.shared
        warp = compile_time.TARGETS[target].warp_size
    threads = options["num_warps"] * warp
    graph = Graph(rules.lines(rules.listing(compiled), launch.kernel.partition(":")[2]))
    turn = hot_turn(
        graph,
        rules,
        reads=family.reads,
        expected=Fraction(family.read_of_turn(launch, options), threads),
        rounds=family.rounds,
        constants=family.constants,
        shares=family.share_of(),
    )
    size = Fraction(family.bytes_of_turn(launch, options) * turn.turns, threads)
    pipes: dict[str, Fraction] = defaultdict(Fraction)
    times: dict[str, Fraction] = defaultdict(Fraction)
    for opcode, n in turn.opcodes.items():
        pipes[rules.pipe(opcode)] += n
        times[rules.pipe(opcode)] += n * rules.weight(opcode) * Fraction(rules.lanes or warp, warp)
    least = minimum.per_byte(family.algorithm)
    counted = pipes if rules.lanes is None else times
    arithmetic = sum((counted[name] for name in rules.arithmetic), Fraction(0)) / size
    spills = sum((n for opcode, n in turn.opcodes.items() if opcode.startswith(rules.spills)), Fraction(0))
    # Masks keep a thread from loading more of a block than it hashes.
    own = min(sum((width * n for width, n in turn.read.items()), Fraction(0)), size)
    assert built.registers is not None
    assert built.spilled is not None
    return Count(
        pipes={name: _rounded(n / size) for name, n in sorted(pipes.items()) if n},
        times={name: _rounded(n / size) for name, n in sorted(times.items()) if n},
        matrix=_matrix(family, launch),
        ratio=None if least is None else _rounded(arithmetic / least),
        registers=built.registers,
        spilled=built.spilled,
        spills=_rounded(spills / size),
        occupancy=round(MULTIPROCESSORS[target].occupancy(built.registers, options["num_warps"], shared), 4),
        loaded=_rounded((own + turn.other) / size),
        lines=family.lines_of_load(max(turn.read), warp, rules.line, options),
    )


def _rounded(number: Fraction) -> float:
    return round(float(number), 4)


def _matrix(family: Family, launch: Launch) -> float:
    if family.kernel != "poly1305_rows":
        return 0.0
    # Each byte is multiplied by one number for each column of the tile.
    return 2.0 * float(load_reference(f"{launch.kernel.partition(':')[0]}:COLUMNS").value)


def rate(counted: Count, device: Device) -> tuple[float, str]:
    """The GB/s that a device cannot exceed by these counts, and what limits them: a pipe, the issue of
    instructions ("issue") or the memory ("memory"). The whole device is assumed to be busy, and latencies to
    be hidden."""
    limits = {"memory": device.bandwidth}
    if counted.matrix:
        limits["matrix"] = 1000 * device.matrix / counted.matrix
    clocks = device.units * device.clock
    for pipe, results in device.results.items():
        if counted.times.get(pipe):
            limits["loads" if pipe == "memory" else pipe] = clocks * results / counted.times[pipe]
    if device.issued is not None:
        limits["issue"] = clocks * device.issued / sum(counted.pipes.values())
    limit = min(limits, key=limits.__getitem__)
    return limits[limit], limit
