"""Which registers have been written, on every way through a program, when an instruction reads them.

A read of a register that has been written on every way needs no check when the kernel runs. A register that
is read although there is a way on which nothing has written it, or on which only an instruction with a
predicate has, is followed thread by thread (:class:`Written`).

Arithmetic on such a register is no fault by itself: compilers compute values that nothing uses. In a sum over
the warps of a program, for example, a few threads load from shared memory, and all of them shuffle and add.
The result then counts as not written either, in the threads concerned; ``selp`` looks at the operand that it
selects. A fault is what decides something: an address, a value that is stored, a predicate that guards an
instruction, an operand of an instruction of the whole warp. Operands that an instruction has but whose value
it ignores are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..emulation.faults import Uninitialised
from .arithmetic import PERMUTATIONS
from .effects import effects, named_registers
from .parser import Instruction, Module, Operand

if TYPE_CHECKING:
    from .execution import Run

Array = np.ndarray[Any, Any]


_COMPUTATIONS = {
    "abs", "add", "and", "bfe", "bfi", "brev", "clz", "cvt", "cvta", "div", "fma", "lop3", "mad", "max",
    "min", "mov", "mul", "neg", "not", "or", "popc", "prmt", "rem", "selp", "setp", "shf", "shfl", "shl",
    "shr", "sqrt", "sub", "xor",
}  # fmt: skip


def only_computes(instruction: Instruction) -> bool:
    """Whether an instruction does nothing but to make values of others."""
    return instruction.parts[0] in _COMPUTATIONS


def decisive(instruction: Instruction) -> set[str]:
    """The registers of an instruction that only computes which have to have been written nevertheless."""
    found = {instruction.predicate} if instruction.predicate else set()
    if instruction.parts[0] == "shfl":
        found |= set().union(*(named_registers(operand) for operand in instruction.operands[2:]))
    return found


def selector_of_prmt(instruction: Instruction) -> int | None:
    """The selector of a ``prmt`` in the form that it has without a mode; None if a register holds it."""
    selector = instruction.operands[3]
    if selector.kind != "immediate":
        return None
    mode = instruction.parts[2:]
    return PERMUTATIONS[mode[0]][selector.value & 3] if mode else int(selector.value)


def ignored(instruction: Instruction) -> set[str]:
    """Registers among the sources of an instruction whose values do not count."""
    parts, operands = instruction.parts, instruction.operands
    used: list[Operand] = []
    if parts[0] == "prmt" and (selector := selector_of_prmt(instruction)) is not None:
        chosen = {selector >> (4 * i) & 7 for i in range(4)}
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
                if uncertain and only_computes(instruction):
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
            if only_computes(instruction) and uncertain:
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

    def computed(self, name: str, sources: tuple[str, ...], mask: Array | None) -> None:
        """A register has been computed from others, which need not have been written."""
        self._set(name, np.logical_and.reduce([self._threads(source) for source in sources]), mask)

    def selected(
        self, name: str, sources: tuple[str | None, str | None, str | None], first: Array, mask: Array | None
    ) -> None:
        """A register has been selected from one of two others by a third; None stands for a source that has
        been written."""
        everyone = np.ones(self._run.lanes, np.bool_)
        a, b, chooser = (everyone if source is None else self._threads(source) for source in sources)
        self._set(name, np.where(first, a, b) & chooser, mask)

    def shuffled(self, name: str, source: str, mask: Array | None) -> None:
        """A register has been filled from those of other threads by the last shuffle."""
        self._set(name, self._threads(source)[self._run.shuffled_from], mask)

    def _set(self, name: str, threads: Array, mask: Array | None) -> None:
        self._by[name] = threads if mask is None else np.where(mask, threads, self._threads(name))

    def check(self, name: str, mask: Array | None, what: Any) -> None:
        """Raise Uninitialised if what a thread in the mask reads was not written by it."""
        by = self._threads(name)
        missing = ~by if mask is None else mask & ~by
        if missing.any():
            who = "some of its threads have not written" if by.any() else "nothing has written"
            raise Uninitialised(f"{what} reads {name}, which {who}")
