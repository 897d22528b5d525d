"""Which registers have been written, on every way through a program, when an instruction reads them.

A read of a register that has been written on every way needs no check when the kernel runs. A register that
is read although there is a way on which nothing has written it, or on which only an instruction with a
predicate has, is followed thread by thread (:class:`Written`).

A copy of such a register is no fault: compilers copy values that nothing uses. The copy then counts as not
written either, as does a vector packed of parts of which one was not written, and each part of it. Operands
that an instruction has but whose value it ignores are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..emulation.faults import Uninitialised
from .effects import effects, named_registers
from .parser import Instruction, Module, Operand

if TYPE_CHECKING:
    from .execution import Run

Array = np.ndarray[Any, Any]


def is_copy(instruction: Instruction) -> bool:
    """Whether an instruction only moves registers."""
    return instruction.parts[0] == "mov" and bool(effects(instruction)[0])


def ignored(instruction: Instruction) -> set[str]:
    """Registers among the sources of an instruction whose values do not count."""
    parts, operands = instruction.parts, instruction.operands
    used: list[Operand] = []
    if parts[0] == "prmt" and operands[3].kind == "immediate":
        chosen = {operands[3].value >> (4 * i) & 7 for i in range(4)}
        used = [operands[1 + half] for half in (0, 1) if any(byte >> 2 == half for byte in chosen)]
    elif parts[0] == "lop3" and operands[4].kind == "immediate":
        table = operands[4].value
        used = [
            operand
            for operand, bit in zip(operands[1:4], (4, 2, 1), strict=True)
            if any((table >> i & 1) != (table >> (i ^ bit) & 1) for i in range(8))
        ]
    else:
        return set()
    return effects(instruction)[0] - set().union(*(named_registers(operand) for operand in used))


class DefiniteWrites:
    """What is certain about the registers of a module."""

    def __init__(self, module: Module) -> None:
        self._module = module
        self._known = module.widths.keys()
        self.before: list[set[str] | None] = [None] * len(module.blocks)
        """The registers that have been written on every way to the start of each block; None for a block to
        which no way leads."""
        self.before[0] = set()
        todo = [0]
        while todo:
            number = todo.pop()
            after = set(self.before[number] or ())
            for _ in self.steps(number, after):
                pass
            for following in module.successors(number):
                if following < len(module.blocks):
                    known = self.before[following]
                    joined = set(after) if known is None else known & after
                    if joined != known:
                        self.before[following] = joined
                        todo.append(following)
        self.suspects: set[str] = set()
        """Registers that are read, or copied, where it is not certain that they were written."""
        for number in range(len(module.blocks)):
            for instruction, uncertain in self.steps(number, set(self.before[number] or ())):
                self.suspects |= uncertain
                if uncertain and is_copy(instruction):
                    self.suspects |= effects(instruction)[1]

    def steps(self, number: int, written: set[str]) -> Iterator[tuple[Instruction, set[str]]]:
        """The instructions of a block, each with the registers that it reads and that may not have been
        written. ``written`` are those that have been before the block, and is kept up to date."""
        for instruction in self._module.blocks[number]:
            reads, writes = (found & self._known for found in effects(instruction))
            reads = reads - ignored(instruction)
            if instruction.predicate:
                reads = reads | {instruction.predicate}
            uncertain = reads - written
            yield instruction, uncertain
            if is_copy(instruction) and uncertain:
                written -= writes
            elif not instruction.predicate:
                written |= writes


class Written:
    """Which threads have written each register that is followed."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._by: dict[str, Array] = {}

    def _threads(self, name: str) -> Array:
        return self._by.get(name, np.zeros(self._run.lanes, np.bool_))

    def wrote(self, name: str, mask: Array | None) -> None:
        self._by[name] = np.ones(self._run.lanes, np.bool_) if mask is None else self._threads(name) | mask

    def copied(self, name: str, sources: tuple[str, ...], mask: Array | None) -> None:
        """A register has been copied from others, which need not have been written."""
        whole = np.logical_and.reduce([self._threads(source) for source in sources])
        self._by[name] = whole if mask is None else np.where(mask, whole, self._threads(name))

    def check(self, name: str, mask: Array | None, what: Any) -> None:
        """Raise Uninitialised if a thread in the mask reads a register that it has not written."""
        by = self._threads(name)
        missing = ~by if mask is None else mask & ~by
        if missing.any():
            who = "some of its threads have not written" if by.any() else "nothing has written"
            raise Uninitialised(f"{what} reads {name}, which {who}")
