"""Changes of instructions of NVIDIA's PTX."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

from integrity_triton.backends.ptx import parser
from integrity_triton.backends.ptx.effects import effects
from integrity_triton.backends.ptx.program import PtxProgram

from .changes import Change, is_integer, other_constants, replaced, swapped

# Operations that give another result for nearly all operands. "or" and "add" of fields that do not overlap
# are the same, so neither replaces the other.
_OPERATIONS = {
    "add": ("sub",), "sub": ("add",), "and": ("or", "xor"), "or": ("and",), "xor": ("and", "or"),
    "shl": ("shr",), "shr": ("shl",), "min": ("max",), "max": ("min",), "not": ("mov",),
}  # fmt: skip
_COMPARISONS = {
    "lt": ("le", "ge"), "le": ("lt", "gt"), "gt": ("ge", "le"), "ge": ("gt", "lt"), "eq": ("ne",),
    "ne": ("eq",), "lo": ("ls", "hs"), "ls": ("lo", "hi"), "hi": ("hs", "ls"), "hs": ("hi", "lo"),
}  # fmt: skip
_ORDERED = {"sub": (1, 2), "shl": (1, 2), "shr": (1, 2), "shf": (1, 2), "selp": (1, 2), "setp": (1, 2),
            "prmt": (1, 2), "bfi": (1, 2), "lop3": (1, 3), "mad": (1, 3), "mma": (1, 2)}  # fmt: skip
_WAITS = (
    "cp.async.wait_group", "cp.async.wait_all", "cp.async.commit_group", "wgmma.wait_group", "wgmma.fence",
    "wgmma.commit_group", "fence.proxy",
)  # fmt: skip
# These have no effect on values here, or no other form of them is known to the emulator.
_LEFT = {"ret", "exit", "membar", "prefetch", "cvta", "vote", "redux", "fence", "wgmma"}


class PtxCode:
    """Implements :class:`.changes.Code`."""

    def __init__(self, program: PtxProgram) -> None:
        self._module = program.module

    @property
    def entry(self) -> str:
        return self._module.entry

    def blocks(self) -> Sequence[Sequence[parser.Instruction]]:
        return self._module.blocks

    def changes(self, block: int, index: int, draw: random.Random) -> Iterator[tuple[str, str]]:
        instruction = self._module.blocks[block][index]
        guard = re.match(r"@(!?)(\S+) ", instruction.text)
        before = guard[0] if guard else ""
        op, _, rest = instruction.text[len(before) :].partition(" ")
        operands = parser._split(rest)
        parts = instruction.parts
        if guard:
            yield "mask", f"@{'' if guard[1] else '!'}{guard[2]} " + instruction.text[len(before) :]
            if parts[0] not in parser.ENDS:
                yield "mask", instruction.text[len(before) :]
        if op.startswith(_WAITS):
            yield "wait", ""
            if op.endswith(("wait_group", "sync.aligned")) and operands and is_integer(operands[0]):
                yield "wait", f"{before}{op} {int(operands[0]) + 1}"
            return
        if parts[0] in parser.BARRIERS:
            if "warp" not in parts:
                yield "barrier", ""
            return
        if parts[0] in _LEFT or parts[0] in parser.ENDS or parts[:2] == ["ld", "param"]:
            return

        def with_operands(new: Sequence[str]) -> str:
            return f"{before}{op} {', '.join(new)}"

        for other in self._operations(op, parts, operands, draw):
            yield "operation", before + other
        for at, operand in enumerate(operands):
            if at == 0 and parts[0] not in ("st", "red", "cp"):
                continue
            if is_integer(operand) and not (parts[0] in ("shfl", "lop3", "cp") and at >= 2):
                yield "constant", with_operands(replaced(operands, at, other_constants(operand, draw)))
            if found := re.fullmatch(r"\[(%\w+)(?:\+(-?\d+))?\]", operand.replace(" ", "")):
                step = draw.choice((1, 2, 4, 8, 16))
                moved = f"[{found[1]}+{int(found[2] or 0) + draw.choice((step, -step))}]"
                yield "constant", with_operands(replaced(operands, at, moved))
            registers = re.findall(r"%\w+", operand)
            registers = [name for name in registers if name in self._module.widths]
            if registers:
                name = draw.choice(registers)
                others = [r for r in self._near(block, index) if self._same(r, name)]
                if others:
                    new = re.sub(rf"{name}\b", draw.choice(others), operand)
                    yield "operand", with_operands(replaced(operands, at, new))
        if parts[0] in _ORDERED:
            a, b = _ORDERED[parts[0]]
            if operands[a] != operands[b]:
                yield "operand", with_operands(swapped(operands, a, b))

    def _same(self, one: str, other: str) -> bool:
        return one != other and self._module.widths[one] == self._module.widths[other]

    def _near(self, block: int, index: int) -> list[str]:
        """Registers that the instructions before an instruction read or write."""
        near: list[str] = []
        for instruction in self._module.blocks[block][:index]:
            near += sorted((effects(instruction)[0] | effects(instruction)[1]) & self._module.widths.keys())
        return near[-40:]

    def _operations(
        self, op: str, parts: Sequence[str], operands: Sequence[str], draw: random.Random
    ) -> Iterator[str]:
        rest = ", ".join(operands)
        for other in _OPERATIONS.get(parts[0], ()):
            yield f"{'.'.join([other, *parts[1:]])} {rest}"
        if parts[0] == "setp":
            for other in _COMPARISONS.get(parts[1], ()):
                yield f"{'.'.join(['setp', other, *parts[2:]])} {rest}"
        if parts[0] == "shf":
            yield f"{'.'.join(['shf', 'r' if parts[1] == 'l' else 'l', *parts[2:]])} {rest}"
        if parts[0] == "lop3":
            table = int(operands[4], 0) ^ (1 << draw.randrange(8))
            yield f"{op} {', '.join([*operands[:4], str(table)])}"
        if parts[0] in ("atom", "red"):
            names = ("add", "or", "and", "xor")
            (now,) = (part for part in parts if part in names)
            yield f"{op.replace(f'.{now}', '.' + draw.choice([n for n in names if n != now]))} {rest}"
        if parts[0] == "mma" and parts[-3] in ("s8", "u8"):
            other = "u8" if parts[-3] == "s8" else "s8"
            yield f"{'.'.join([*parts[:-3], other, *parts[-2:]])} {rest}"
        if parts[:2] == ["mul", "lo"] or parts[:2] == ["mad", "lo"]:
            yield f"{op.replace('.lo', '.hi')} {rest}"

    def _instruction(self, change: Change) -> parser.Instruction:
        old = self._module.blocks[change.block][change.index]
        new = parser._instruction(change.after, self._module.widths, self._module.shared, old.line)
        new.used_bytes = old.used_bytes
        return new

    def changed(self, change: Change) -> PtxProgram:
        blocks = [list(block) for block in self._module.blocks]
        blocks[change.block][change.index : change.index + 1] = (
            [self._instruction(change)] if change.after else []
        )
        return PtxProgram(dataclasses.replace(self._module, blocks=blocks))

    def unread(self, change: Change) -> bool:
        old = self._module.blocks[change.block][change.index]
        if not change.after or not effects(old)[1]:
            return False
        written = effects(old)[1] | effects(self._instruction(change))[1]
        todo, seen = [(change.block, change.index + 1, frozenset(written))], set()
        while todo:
            number, first, alive = todo.pop()
            for instruction in self._module.blocks[number][first:]:
                reads, writes = effects(instruction)
                if alive & (reads | {instruction.predicate or ""}):
                    return False
                alive -= frozenset() if instruction.predicate else writes
            for after in self._module.successors(number):
                if alive and (after, alive) not in seen:
                    seen.add((after, alive))
                    todo.append((after, 0, alive))
        return True


def code(program: Any) -> PtxCode:
    return PtxCode(program)
