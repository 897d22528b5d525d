"""Checks, before a kernel runs, that registers of ``wgmma.mma_async`` are only used when they may be.

The instruction reads and writes registers asynchronously (PTX ISA, ``wgmma.mma_async``). So ``wgmma.fence``
has to lie between any other write of such a register and the instruction, and ``wgmma.wait_group`` between
the instruction and any other use of it. The check follows all ways through the program.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..emulation.faults import Race
from .effects import effects
from .parser import Instruction, Module

_OLDEST = 16


@dataclass
class _State:
    """What is known at one point, whichever way led there."""

    pending: dict[str, int] = field(default_factory=dict)
    """How many groups have been committed since a register was last used by a product under way."""
    written: set[str] = field(default_factory=set)
    """Registers that have been written since the last fence."""

    def copy(self) -> _State:
        return _State(dict(self.pending), set(self.written))

    def join(self, other: _State) -> bool:
        """Take over what is known on another way; whether anything changed."""
        changed = not other.written <= self.written
        self.written |= other.written
        for register, age in other.pending.items():
            if age < self.pending.get(register, _OLDEST + 1):
                self.pending[register] = age
                changed = True
        return changed


def check_products(module: Module) -> None:
    """Raises Race if a register is used while a product may be using it."""
    if not any(i.parts[0] == "wgmma" for block in module.blocks for i in block):
        return
    states: dict[int, _State] = {0: _State()}
    todo = [0]
    while todo:
        number = todo.pop()
        state = states[number].copy()
        for instruction in module.blocks[number]:
            _step(state, instruction)
        for after in module.successors(number):
            if after not in states:
                states[after] = state.copy()
                todo.append(after)
            elif states[after].join(state):
                todo.append(after)


def _step(state: _State, instruction: Instruction) -> None:
    reads, writes = effects(instruction)
    if instruction.parts[:2] == ["wgmma", "mma_async"]:
        used = set().union(*({part.name for part in operand.parts} for operand in instruction.operands[:2]))
        unfenced = used & state.written
        if unfenced:
            raise Race(f"{instruction} uses {min(unfenced)}, and no wgmma.fence follows the write of it")
        for register in used:
            state.pending[register] = 0
        return
    if instruction.parts[0] == "wgmma":
        if instruction.parts[1] == "fence":
            state.written.clear()
        elif instruction.parts[1] == "commit_group":
            state.pending = {r: min(age + 1, _OLDEST) for r, age in state.pending.items()}
        else:
            left = instruction.operands[0].value
            state.pending = {r: age for r, age in state.pending.items() if age == 0 or age <= left}
        return
    touched = (reads | writes) & state.pending.keys()
    if touched:
        raise Race(
            f"{instruction} uses {min(touched)}, and no wgmma.wait_group follows the product that does so"
        )
    state.written |= writes
