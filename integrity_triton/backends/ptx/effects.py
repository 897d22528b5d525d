"""Which registers an instruction reads and writes."""

from __future__ import annotations

from .parser import BARRIERS, ENDS, Instruction, Operand

_NO_RESULT = ENDS | BARRIERS | {"st", "red", "fence", "membar", "stmatrix", "prefetch", "cp", "discard"}


def named_registers(operand: Operand) -> set[str]:
    """The registers that an operand consists of."""
    if operand.kind in ("register", "address") and operand.name:
        return {operand.name}
    return set().union(*(named_registers(part) for part in operand.parts))


def effects(instruction: Instruction) -> tuple[set[str], set[str]]:
    """The registers that an instruction reads, and those that it writes. The predicate is not among them."""
    parts, operands = instruction.parts, instruction.operands
    found = [named_registers(operand) for operand in operands]
    no_result = parts[0] in _NO_RESULT or (parts[0] == "wgmma" and parts[1] != "mma_async")
    if no_result or not operands:
        return set().union(*found), set()
    reads = set().union(*found[1:])
    if parts[0] == "wgmma":
        reads |= found[0]
    return reads, found[0]
