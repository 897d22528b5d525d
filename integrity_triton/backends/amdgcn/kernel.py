"""A kernel in AMD's assembly, ready to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..emulation.faults import EmulationError, Unmodelled
from ..emulation.program import Block, KernelLaunch
from ..emulation.scheduler import DONE, Scheduler
from . import text
from .accesses import is_access
from .effects import block_effects, check_waits, live_after
from .machine import Array, Machine, start
from .matrix import matrix_shape
from .translate import Translated, Translator


class AmdProgram:
    """One kernel, parsed, checked and translated."""

    @classmethod
    def parsed(cls, assembly: str, entry: str) -> AmdProgram:
        """Parse a text. Raises Unmodelled if it is not what Triton writes, and what the constructor
        raises."""
        program = text.parse(assembly)
        if program.entry != entry:
            raise Unmodelled(f"the assembly is of {program.entry}, not of {entry}")
        return cls(program)

    def __init__(self, program: text.Program) -> None:
        """Raises Unmodelled if an instruction is not modelled, and Uninitialised if a register is used before
        the load that fills it was waited for."""
        self.program = program
        self._check_barriers()
        effects_of = [block_effects(block, program.lanes) for block in program.blocks]
        check_waits(program, effects_of)
        live = live_after(program, effects_of)
        translator = Translator(program)
        self._translated: list[Translated] = [
            translator.block(n, effects_of[n], live[n]) for n in range(len(program.blocks))
        ]
        self._pool = translator.pool
        self._for_lanes = frozenset(
            n for n, block in enumerate(program.blocks) if any(map(text.needs_lanes, block))
        )
        self.matrices: Mapping[str, tuple[int, int]] = {
            str(i): shape
            for block in program.blocks
            for i in block
            if (shape := matrix_shape(i.name)) is not None
        }
        self.blocks: Sequence[Block] = [
            Block(block[0].source, block[0].text) if block else Block("", "nothing")
            for block in program.blocks
        ]

    @property
    def entry(self) -> str:
        return self.program.entry

    @property
    def parameters(self) -> int:
        return sum(not argument.hidden for argument in self.program.arguments)

    def _check_barriers(self) -> None:
        """gfx12 divides a barrier into a signal and a wait. They are one barrier here, so between them
        nothing may access memory that other waves see, or branch."""
        signal = None
        for i in (i for block in self.program.blocks for i in block):
            if i.name == "s_barrier_signal":
                signal = i
            elif i.name == "s_barrier_wait":
                signal = None
            elif signal and (
                (is_access(i) and not i.name.startswith("scratch_"))
                or i.name.startswith(("s_branch", "s_cbranch", "s_endpgm"))
            ):
                raise Unmodelled(f"{signal}: {i.name} between the signal and the wait of a barrier")

    def run(self, launch: KernelLaunch) -> None:
        program = self.program
        given = [argument for argument in program.arguments if not argument.hidden]
        if len(given) != len(launch.arguments):
            raise EmulationError(
                f"{self.entry} takes {len(given)} arguments, and the launch has {len(launch.arguments)}"
            )
        size = program.descriptor.get("kernarg_size", 0)
        segment = np.zeros(-(-max(size, 4) // 4) + 4, np.uint32)
        raw = segment.view(np.uint8)
        for argument, value in zip(given, launch.arguments, strict=True):
            data = (value & ((1 << 8 * argument.size) - 1)).to_bytes(argument.size, "little")
            raw[argument.offset : argument.offset + argument.size] = np.frombuffer(data, np.uint8)
        x, y, z = launch.grid
        programs = x * y * z
        at_once = max(1, launch.lanes_at_once // (program.waves * program.lanes))
        launch.memory.lend(segment, "the kernel's arguments")
        with np.errstate(all="ignore"):
            for first in range(0, programs, at_once):
                _run(
                    self.program,
                    self._translated,
                    self._pool,
                    self._for_lanes,
                    launch,
                    segment,
                    first,
                    min(at_once, programs - first),
                )


def _run(
    program: text.Program,
    blocks: Sequence[Translated],
    pool: list[object],
    for_lanes: frozenset[int],
    launch: KernelLaunch,
    segment: Array,
    first: int,
    groups: int,
) -> None:
    """Run ``groups`` work-groups side by side. The blocks ``for_lanes`` have instructions that do nothing
    while EXEC is zero."""
    unproved = set(for_lanes)  # these have not been executed for any lane
    machine = Machine(program, launch, first, groups, list(pool))
    preloaded = start(program, machine, segment)
    unchecked = [(n, machine.registers[n]) for n in preloaded]
    entered = program.labels.get(".LBB0_0", 0) if preloaded else 0
    barriers = any(i.name.startswith("s_barrier") for block in program.blocks for i in block)
    scheduler = Scheduler(
        groups,
        program.waves,
        1,
        seed=launch.seed + first,
        reorder=1 if barriers else 0,
        first_program=first,
    )

    def step(number: int, mask: Array | None) -> tuple[int, Array | None, int]:
        machine.begin(mask, scheduler.stamp)
        if number in unproved and (machine.active is None or machine.active.any()):
            unproved.discard(number)
        launch.coverage.block(number, number not in unproved)
        block = blocks[number]
        if number == entered and unchecked:
            # Firmware that preloads arguments starts here; older firmware runs the blocks before, which load
            # the same.
            here = np.ones(machine.shape[0], bool) if mask is None else mask
            for register, value in unchecked:
                if (np.broadcast_to(machine.registers[register], (len(here), 1))[here] != value).any():
                    raise EmulationError(f"{program.entry} is preloaded with other arguments than it loads")
            unchecked.clear()
        condition = block.run(machine)
        last = block.last
        name = "" if last is None else last.name
        if name == "s_endpgm":
            return DONE, None, 0
        if name in ("s_barrier", "s_barrier_wait"):
            scheduler.barrier(mask)
        if last is not None and name.startswith(("s_branch", "s_cbranch")):
            target = program.labels[last.operands[0].text]
            if condition is None:
                return target, None, 0
            if np.size(condition) == 1:
                return (target if condition else number + 1), None, 0
            return target, condition[:, 0], number + 1
        return number + 1, None, 0

    scheduler.run(step)
