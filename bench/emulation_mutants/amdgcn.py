"""Changes of instructions of AMD's assembly."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

from integrity_triton.backends.amdgcn import text
from integrity_triton.backends.amdgcn.effects import destinations, effects
from integrity_triton.backends.amdgcn.kernel import AmdProgram

from .changes import Change, is_integer, other_constants, replaced, swapped

# Pairs of which each replaces the other, and others that are replaced. "or" and "add" of fields that do not
# overlap are the same, so neither replaces the other.
_PAIRS = (
    ("v_add_u32", "v_sub_u32"), ("v_add_nc_u32", "v_sub_nc_u32"), ("v_lshlrev_b32", "v_lshrrev_b32"),
    ("v_add_co_u32", "v_sub_co_u32"), ("v_addc_co_u32", "v_subb_co_u32"),
    ("v_add_co_ci_u32", "v_sub_co_ci_u32"),
    ("s_add_u32", "s_sub_u32"), ("s_add_i32", "s_sub_i32"), ("s_addc_u32", "s_subb_u32"),
    ("s_lshl_b32", "s_lshr_b32"), ("s_lshl_b64", "s_lshr_b64"), ("v_lshlrev_b64", "v_lshrrev_b64"),
    ("s_cbranch_scc0", "s_cbranch_scc1"), ("s_cbranch_vccz", "s_cbranch_vccnz"),
    ("v_mul_lo_u32", "v_mul_hi_u32"), ("v_min_u32", "v_max_u32"), ("v_min_i32", "v_max_i32"),
    ("v_alignbit_b32", "v_alignbyte_b32"),
)  # fmt: skip
_OTHERS = {
    "v_xor_b32": ("v_and_b32", "v_or_b32"), "v_and_b32": ("v_or_b32", "v_xor_b32"),
    "v_or_b32": ("v_and_b32",),
    "s_xor_b32": ("s_and_b32",), "s_and_b32": ("s_or_b32",), "s_or_b32": ("s_and_b32",),
    "v_not_b32": ("v_mov_b32",), "v_add3_u32": ("v_or3_b32",), "v_xor3_b32": ("v_or3_b32",),
    "v_or3_b32": ("v_and_or_b32",), "v_and_or_b32": ("v_or3_b32",), "v_lshl_add_u32": ("v_add_lshl_u32",),
}  # fmt: skip
for _a, _b in _PAIRS:
    _OTHERS[_a] = (_b,)
    _OTHERS[_b] = (_a,)
_COMPARISONS = {"lt": "le", "le": "lt", "gt": "ge", "ge": "gt", "eq": "ne", "ne": "eq", "lg": "eq"}
_MASKS = {"and": ("or",), "or": ("and", "xor"), "xor": ("and",), "andn2": ("and",), "and_not1": ("and",)}
_ORDERED = (
    "v_sub", "v_lshl", "v_lshr", "v_ashr", "s_sub", "s_lshl", "s_lshr", "v_cndmask", "v_bfi", "v_perm",
    "v_alignbit", "v_cmp", "s_cmp", "s_cselect", "v_mfma", "v_wmma", "v_and_or",
)  # fmt: skip
# They have no effect on values here, or the kernel cannot run with another one.
_LEFT = (
    "s_nop", "s_delay_alu", "s_waitcnt_depctr", "s_wait_alu", "s_clause", "s_sleep", "s_setprio", "s_endpgm",
    "s_sendmsg", "s_set_inst", "s_icache_inv", "buffer_wbl2", "buffer_inv", "buffer_gl", "global_inv",
    "global_wb", "s_branch", "s_cbranch_exec", "s_load",
)  # fmt: skip


class AmdCode:
    """Implements :class:`.changes.Code`."""

    def __init__(self, program: AmdProgram) -> None:
        self._program = program.program

    @property
    def entry(self) -> str:
        return self._program.entry

    def blocks(self) -> Sequence[Sequence[text.Instruction]]:
        return self._program.blocks

    def changes(self, block: int, index: int, draw: random.Random) -> Iterator[tuple[str, str]]:
        instruction = self._program.blocks[block][index]
        name = instruction.name
        if name.startswith(("s_waitcnt", "s_wait_")) and not name.startswith(_LEFT):
            yield "wait", ""
            if counts := list(re.finditer(r"\((\d+)\)", instruction.text)):
                one = draw.choice(counts)
                yield (
                    "wait",
                    f"{instruction.text[: one.start(1)]}{int(one[1]) + 1}{instruction.text[one.end(1) :]}",
                )
            return
        if name.startswith("s_barrier"):
            yield "barrier", ""
            return
        if name.startswith(_LEFT) or instruction.parts:
            return
        written, _, rest = instruction.text.partition(" ")
        operands = text._split(rest)

        def with_operands(new: Sequence[str]) -> str:
            return f"{written} {', '.join(new)}"

        masks = re.fullmatch(rf"s_(\w+?)(_saveexec)?_b{self._program.lanes}", name)
        on_masks = text.sets_exec(instruction) or (
            masks is not None and self._program.lanes == 64 and masks[1] in _MASKS
        )
        if on_masks and masks is not None:
            for other in _MASKS.get(masks[1], ()):
                yield "mask", instruction.text.replace(f"s_{masks[1]}", f"s_{other}", 1)
            if name.startswith("s_or") and not masks[2]:
                yield "mask", ""
            return
        for other in _OTHERS.get(name, ()):
            yield "operation", instruction.text.replace(name, other, 1)
        if found := re.fullmatch(r"([sv]_cmpx?k?_)([a-z]+)(_\w+)", name):
            other = _COMPARISONS.get(found[2], "")
            other = "lg" if other == "ne" and name.startswith("s_") else other
            if other:
                yield (
                    "mask" if name[0] == "v" else "operation",
                    instruction.text.replace(name, f"{found[1]}{other}{found[3]}", 1),
                )
        if table := instruction.modifiers.get("bitop3"):
            new = hex(int(table, 0) ^ (1 << draw.randrange(8)))
            yield "operation", instruction.text.replace(f"bitop3:{table}", f"bitop3:{new}")
        if offset := re.search(r"\boffset:(\d+)", instruction.text):
            new = str(max(0, int(offset[1]) + draw.choice((-16, -8, -4, -2, -1, 1, 2, 4, 8, 16))))
            yield "constant", instruction.text.replace(offset[0], f"offset:{new}")
        first = destinations(instruction)
        for at, written_operand in enumerate(operands):
            if at < first:
                continue
            operand, *after = written_operand.split(" ")
            if is_integer(operand):
                new = other_constants(operand, draw)
                yield "constant", with_operands(replaced(operands, at, " ".join([new, *after])))
            parsed = text.parse_operand(operand)
            if parsed.kind == "register" and parsed.half is None and not parsed.negated:
                others = [o for o in self._near(block, index) if self._same(o, parsed)]
                if others:
                    new = " ".join([draw.choice(others).text, *after])
                    yield "operand", with_operands(replaced(operands, at, new))
        if name.startswith(_ORDERED) and len(operands) >= first + 2:
            a, b = operands[first], operands[first + 1]
            if a != b and " " not in a + b:
                yield "operand", with_operands(swapped(operands, first, first + 1))

    def _same(self, one: text.Operand, other: text.Operand) -> bool:
        def kind(operand: text.Operand) -> tuple[str, int]:
            return re.sub(r"[\d\[\]:]+", "", operand.text), operand.count

        return one.number != other.number and kind(one) == kind(other)

    def _near(self, block: int, index: int) -> list[text.Operand]:
        """Registers that the instructions before an instruction name."""
        near = [
            operand
            for instruction in self._program.blocks[block][:index]
            for operand in instruction.operands
            if operand.kind == "register"
            and operand.half is None
            and not (operand.negated or operand.absolute)
        ]
        return near[-40:]

    def _instruction(self, change: Change) -> text.Instruction:
        old = self._program.blocks[change.block][change.index]
        return text.parse_instruction(change.after, old.line, old.source)

    def changed(self, change: Change) -> AmdProgram:
        blocks = [list(block) for block in self._program.blocks]
        blocks[change.block][change.index : change.index + 1] = (
            [self._instruction(change)] if change.after else []
        )
        return AmdProgram(dataclasses.replace(self._program, blocks=blocks))

    def unread(self, change: Change) -> bool:
        lanes = self._program.lanes
        old = self._program.blocks[change.block][change.index]
        written = effects(old, lanes).writes
        if not change.after or not written or text.sets_exec(old):
            return False
        written = written | effects(self._instruction(change), lanes).writes
        todo, seen = [(change.block, change.index + 1, frozenset(written))], set()
        while todo:
            number, first, alive = todo.pop()
            for instruction in self._program.blocks[number][first:]:
                found = effects(instruction, lanes)
                if alive & found.reads:
                    return False
                # Lanes that are masked keep a vector register.
                alive -= frozenset(register for register in found.writes if register >= text.SCALAR)
            for after in self._program.successors(number):
                if alive and (after, alive) not in seen:
                    seen.add((after, alive))
                    todo.append((after, 0, alive))
        return True


def code(program: Any) -> AmdCode:
    return AmdCode(program)
