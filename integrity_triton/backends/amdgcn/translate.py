"""A block of instructions, translated into Python functions that run one after the other.

Every operand is a number in one list of values: registers, then masks of lanes, then constants and
temporaries (see ``machine.py``). A scalar register that instructions use as a mask of lanes is kept as
booleans within a block and as words between blocks. Within a block nothing is masked: a block that does not
run for all lanes gives the others their values back at its end (``Machine.commit``). Only memory accesses,
masks and instructions that look at other lanes consider EXEC.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..emulation.faults import Unmodelled
from . import accesses, crosslane, matrix
from .arithmetic import (
    CLAMPED,
    COMPARISONS,
    SCALAR,
    VECTOR,
    Operation,
    add_with_carry,
    by_truth_table,
    multiply_add,
    subtract_with_borrow,
    u32,
)
from .arithmetic import fused as fused_multiply_add
from .effects import Effects, counted_access, destinations, fills_lds, limits
from .machine import MASKS, POISON, POOL, Machine, Registers
from .text import SCALAR as FIRST_SCALAR
from .text import SCC, VCC, Instruction, Operand, Program

Step = Callable[[Registers, Machine], None]
Fetch = int | Callable[[Registers], Any]
"""Where a source is, or a function that computes it from there."""

_NOTHING = (
    "s_nop",
    "s_wait",
    "s_delay_alu",
    "s_clause",
    "s_sleep",
    "s_setprio",
    "s_sendmsg",
    "s_set_inst_prefetch_distance",
    "s_icache_inv",
    "s_barrier_signal",
    "buffer_wbl2",
    "buffer_inv",
    "buffer_gl0_inv",
    "buffer_gl1_inv",
    "global_inv",
    "global_wb",
)
"""Instructions that change no value: caches are transparent here. Waits are checked before a kernel runs;
those for loads to LDS, which have no register, take effect in :meth:`Translator._count`."""
# Modifiers that change nothing here, or that their instruction reads.
_MODIFIERS = {
    "nt", "sc0", "sc1", "glc", "slc", "dlc", "th", "scope", "offset", "offset0", "offset1", "offen",
    "op_sel", "bitop3", "row_mask", "bank_mask", "bound_ctrl", "fi", "neg_lo", "dst_sel", "dst_unused",
    "src0_sel", "src1_sel", "lds",
}  # fmt: skip
_LOGIC: dict[str, Callable[..., Any]] = {
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "andn2": lambda a, b: a & ~b,
    "and_not1": lambda a, b: a & ~b,
    "orn2": lambda a, b: a | ~b,
    "or_not1": lambda a, b: a | ~b,
    "andn1": lambda a, b: ~a & b,
    "and_not0": lambda a, b: ~a & b,
    "orn1": lambda a, b: ~a | b,
    "or_not0": lambda a, b: ~a | b,
    "nand": lambda a, b: ~(a & b),
    "nor": lambda a, b: ~(a | b),
    "xnor": lambda a, b: ~(a ^ b),
    "mov": lambda a: a,
    "not": lambda a: ~a,
}
_OLD_UPPER_HALF = re.compile(r"v_\w+_[ubi]16$")


@dataclass
class Translated:
    """A block that can run."""

    steps: list[Step]
    needs: dict[int, Instruction]
    """The registers that have to have been written, and the first instruction that reads each."""
    written: tuple[int, ...]
    kept: tuple[int, ...]
    """Those of ``written`` whose values later blocks read."""
    dropped: tuple[int, ...]
    """The others."""
    last: Instruction | None
    condition: Callable[[Registers, Machine], Any] | None
    """For a conditional branch, the waves that take it, ``[waves, 1]``."""

    def run(self, machine: Machine) -> Any:
        """Run for the waves and lanes that the machine has chosen. Returns the condition."""
        values = machine.registers
        for register, user in self.needs.items():
            if values[register] is None or register in machine.partial:
                machine.check_written(register, user)
        machine.save(self.written)
        for step in self.steps:
            step(values, machine)
        found = None if self.condition is None else self.condition(values, machine)
        machine.commit(self.kept, self.dropped)
        return found


def _at(fetch: Fetch) -> Callable[[Registers], Any]:
    if isinstance(fetch, int):
        n = fetch
        return lambda r: r[n]
    return fetch


def _either(condition: Any, a: Any, b: Any) -> Any:
    if np.ndim(condition) == 0:
        return a if condition else b
    return np.where(condition, a, b)


def _old(values: Registers, register: int) -> Any:
    value = values[register]
    return POISON if value is None else value


class Translator:
    """Translates the blocks of one program. ``pool`` collects their constants and temporaries."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.lanes = program.lanes
        self.mask_words = program.lanes // 32
        self.pool: list[Any] = []
        self._constants: dict[int, int] = {}
        self._copies = any(fills_lds(i) for block in program.blocks for i in block)

    # Numbers of values

    def constant(self, value: int) -> int:
        value &= 0xFFFFFFFF
        if value not in self._constants:
            self._constants[value] = self._new(u32(value))
        return self._constants[value]

    def _new(self, value: Any = None) -> int:
        self.pool.append(value)
        return POOL + len(self.pool) - 1

    # Blocks

    def block(self, number: int, effects_of: list[Effects], live: set[int]) -> Translated:
        """Translate a block; ``live`` are the registers that later blocks read. Raises Unmodelled."""
        instructions = self.program.blocks[number]
        self.steps: list[Step] = []
        self._masks: set[int] = set()  # scalar registers whose mask is up to date
        self._stale: set[int] = set()  # those of them whose words are not
        needs: dict[int, Instruction] = {}
        written: set[int] = set()
        wanted_after = self._wanted(effects_of, live)
        for instruction, found, wanted in zip(instructions, effects_of, wanted_after, strict=True):
            for register in found.reads - written - found.keeps:
                needs.setdefault(register, instruction)
            written |= found.writes
            self.wanted = wanted
            try:
                self._instruction(instruction)
                if self._copies:
                    self._count(instruction)
            except Unmodelled as error:
                raise Unmodelled(f"{instruction}: {error}") from None
            except (KeyError, IndexError, ValueError, AttributeError) as error:
                raise Unmodelled(f"{instruction} is not modelled ({error!r})") from error
        last = instructions[-1] if instructions else None
        condition = self._condition(last)
        for register in sorted(self._stale):
            if set(range(register, register + self.mask_words)) & live:
                self._write_words(register)
        needs.pop(SCC, None)
        kept, dropped = tuple(written & live), tuple(written - live)
        return Translated(self.steps, needs, tuple(written), kept, dropped, last, condition)

    def _count(self, i: Instruction) -> None:
        """What an instruction means for loads to LDS that are under way."""
        if i.name.startswith("s_wait"):
            left = limits(i).get("load")
            if left is not None:
                self.steps.append(lambda r, m: m.copies.wait(left, i))
        elif counted_access(i, self.lanes) == "load":
            self.steps.append(lambda r, m: m.copies.count())

    def _wanted(self, effects_of: list[Effects], live: set[int]) -> list[set[int]]:
        """The registers that something after each instruction of a block reads."""
        wanted, found = set(live), []
        for effect in reversed(effects_of):
            found.append(set(wanted))
            wanted -= effect.writes
            wanted |= effect.reads
        return found[::-1]

    def _condition(self, last: Instruction | None) -> Callable[[Registers, Machine], Any] | None:
        if last is None or not last.name.startswith("s_cbranch_"):
            return None
        what = last.name.removeprefix("s_cbranch_")
        if what in ("scc0", "scc1"):
            wanted = what == "scc1"
            return lambda r, m: r[SCC] == wanted
        if what in ("execz", "execnz"):
            wanted = what == "execnz"
            return lambda r, m: m.some_on() == wanted
        if what in ("vccz", "vccnz"):
            wanted = what == "vccnz"
            if VCC in self._masks:
                n = self._mask_place(VCC)
                return lambda r, m: r[n].any(1, keepdims=True) == wanted
            words = [self.word(VCC + k) for k in range(self.mask_words)]
            return lambda r, m: (
                np.logical_or.reduce(np.broadcast_arrays(*(np.atleast_2d(r[n]) for n in words))).astype(bool)
                == wanted
            )
        raise Unmodelled(f"{last}: this branch is not modelled")

    # Scalar registers as words and as masks

    def _mask_place(self, register: int) -> int:
        return MASKS + register - FIRST_SCALAR

    def word(self, register: int) -> int:
        """A register as a word."""
        for base in range(register - self.mask_words + 1, register + 1):
            if base in self._stale:
                self._write_words(base)
        return register

    def _write_words(self, register: int) -> None:
        place = self._mask_place(register)
        self._stale.discard(register)

        def write(r: Registers, m: Machine) -> None:
            words, mask = m.pack(r[place]), m.full(r[place])
            m.unpacked[register] = words, mask
            for k, value in enumerate(words):
                r[register + k] = value

        self.steps.append(write)

    def mask(self, operand: Operand) -> int:
        """A scalar operand as a mask of lanes."""
        if operand.kind == "exec":
            if operand.count != self.mask_words:
                raise Unmodelled("half of EXEC as a mask")
            place = self._new()
            self.steps.append(lambda r, m: r.__setitem__(place, m.exec))
            return place
        if operand.kind == "immediate":
            if operand.number not in (0, -1):
                raise Unmodelled("a constant as a mask")
            return self._new(np.bool_(operand.number == -1))
        if operand.kind != "register" or operand.is_vector:
            raise Unmodelled(f"the operand {operand.text} as a mask")
        register = operand.number
        place = self._mask_place(register)
        if register not in self._masks:
            words = [self.word(register + k) for k in range(self.mask_words)]
            self.steps.append(lambda r, m: r.__setitem__(place, m.unpack(register, [r[n] for n in words])))
            self._masks.add(register)
        return place

    def _forget(self, first: int, count: int) -> None:
        """Registers are about to be written."""
        for base in range(first - self.mask_words + 1, first + count):
            inside = base >= first and base + self.mask_words <= first + count
            if base in self._stale:
                if inside:
                    self._stale.discard(base)
                else:
                    self._write_words(base)
            self._masks.discard(base)

    def _set_mask(self, operand: Operand) -> int:
        """Where an instruction writes a mask."""
        if operand.kind == "null":
            return self._new()
        if operand.kind != "register" or operand.is_vector:
            raise Unmodelled(f"the destination {operand.text} of a mask")
        self._forget(operand.number, self.mask_words)
        self._masks.add(operand.number)
        self._stale.add(operand.number)
        return self._mask_place(operand.number)

    def _on_masks(self, operands: tuple[Operand, ...]) -> bool:
        """Whether a logical operation is done on masks, and not on words."""
        if operands[0].kind == "exec":
            return True
        sources = operands[1:]
        if any(o.kind == "immediate" and o.number not in (0, -1) for o in sources):
            return False
        return any(o.kind == "exec" or (o.kind == "register" and o.number in self._stale) for o in sources)

    # Sources

    def fetch(self, operand: Operand, select: str = "") -> Fetch:
        """A source of one word."""
        if operand.kind == "immediate":
            if operand.negated:
                raise Unmodelled(f"the operand {operand.text}")
            return self.constant(operand.number)
        if operand.kind == "null":
            return self.constant(0)
        if operand.kind == "scc":
            return lambda r: np.asarray(r[SCC]).astype(u32)
        if operand.kind == "exec":
            place, half = self._new(), operand.number
            self.steps.append(lambda r, m: r.__setitem__(place, m.pack(m.exec)[half]))
            return place
        if operand.kind != "register":
            raise Unmodelled(f"the operand {operand.text}")
        n = operand.number if operand.is_vector else self.word(operand.number)
        if operand.half is not None:
            select = f"WORD_{operand.half}"
        out: Fetch = n
        if select not in ("", "DWORD"):
            bits = 8 if select.startswith("BYTE") else 16
            shift, mask = u32(bits * int(select[-1])), u32((1 << bits) - 1)
            if operand.sign_extended:
                top = u32(1 << (bits - 1))
                out = lambda r: (((r[n] >> shift) & mask) ^ top) - top  # noqa: E731
            else:
                out = lambda r: (r[n] >> shift) & mask  # noqa: E731
        if operand.absolute:
            get_magnitude = _at(out)
            out = lambda r: get_magnitude(r) & u32(0x7FFFFFFF)  # noqa: E731
        if operand.negated:
            get_positive = _at(out)
            out = lambda r: get_positive(r) ^ u32(0x80000000)  # noqa: E731
        return out

    def words(self, operand: Operand, count: int) -> list[int]:
        """A source of several words."""
        if operand.kind == "immediate":
            if operand.real and count > 1:
                raise Unmodelled("a constant of 64 bits in floating point")
            return [self.constant(operand.number >> 32 * k) for k in range(count)]
        if operand.kind == "exec":
            single = (Operand(operand.text, "exec", k) for k in range(count))
            return [place for o in single if isinstance(place := self.fetch(o), int)]
        if operand.kind == "null":
            return [self.constant(0)] * count
        if operand.kind != "register" or operand.count < count:
            raise Unmodelled(f"the operand {operand.text} as {count} words")
        if operand.negated or operand.absolute:
            raise Unmodelled(f"the operand {operand.text}")
        return [n if operand.is_vector else self.word(n) for n in operand.registers[:count]]

    def _sources(self, i: Instruction, operands: tuple[Operand, ...], kinds: str) -> list[Fetch]:
        if len(operands) != len(kinds):
            raise Unmodelled(f"{len(operands)} sources")
        found: list[Fetch] = []
        for k, (operand, kind) in enumerate(zip(operands, kinds, strict=True)):
            if kind == "d":
                found += self.words(operand, 2)
            else:
                select = i.modifiers.get(f"src{k}_sel", "") if i.form == "sdwa" else ""
                found.append(self.fetch(operand, select))
        return found

    # Destinations

    def _store(self, i: Instruction, operand: Operand, kind: str = "w") -> Callable[[Registers, Any], None]:
        """A function that writes a result."""
        if operand.kind == "null":
            return lambda r, value: None
        if operand.kind != "register":
            raise Unmodelled(f"the destination {operand.text}")
        n = operand.number
        if not operand.is_vector:
            self._forget(n, 2 if kind == "d" else 1)
        if kind == "d":

            def pair(r: Registers, value: Any) -> None:
                r[n], r[n + 1] = value

            return pair
        upper = None
        if operand.half is not None:
            upper = operand.half == 1
        elif self.lanes == 32 and _OLD_UPPER_HALF.match(i.name):
            upper = False  # RDNA keeps the upper half of the register
        if upper is not None:
            keep, shift = (u32(0xFFFF), u32(16)) if upper else (u32(0xFFFF0000), u32(0))
            mask = ~keep
            return lambda r, value: r.__setitem__(n, (_old(r, n) & keep) | ((value << shift) & mask))
        select = i.modifiers.get("dst_sel", "DWORD") if i.form == "sdwa" else "DWORD"
        if select == "DWORD":
            return lambda r, value: r.__setitem__(n, value)
        bits = 8 if select.startswith("BYTE") else 16
        at = bits * int(select[-1])
        part, place = u32(((1 << bits) - 1) << at), u32(at)
        match i.modifiers.get("dst_unused", "UNUSED_PAD"):
            case "UNUSED_PAD":
                return lambda r, value: r.__setitem__(n, (value << place) & part)
            case "UNUSED_PRESERVE":
                return lambda r, value: r.__setitem__(n, ((value << place) & part) | (_old(r, n) & ~part))
        raise Unmodelled("dst_unused:UNUSED_SEXT")

    # Instructions

    def _instruction(self, i: Instruction) -> None:
        name, operands = i.name, i.operands
        if name == "v_dual":
            self._dual(i)
            return
        if name.startswith(_NOTHING) or name.startswith(("s_branch", "s_cbranch", "s_endpgm", "s_barrier")):
            return
        unknown = {
            key
            for key in i.modifiers
            if key not in _MODIFIERS
            and not (key == "clamp" and name in CLAMPED and i.form != "dpp")
            and not (i.form == "dpp" and key.startswith(("quad_perm", "row_", "wave_")))
        }
        if unknown:
            raise Unmodelled(f"the modifier {', '.join(sorted(unknown))}")
        if matrix.matrix_shape(name) is not None:
            self._matrix(i)
        elif accesses.is_access(i):
            accesses.translate(self, i)
        elif name.startswith("v_cmp"):
            self._compare(i)
        elif name.startswith("v_cndmask"):
            self._conditional_mask(i)
        elif re.match(r"v_\w+_co_", name):
            self._carry(i)
        elif "clamp" in i.modifiers:
            self._vector(i, CLAMPED[name])
        elif name in VECTOR:
            self._vector(i, VECTOR[name])
        elif name.startswith("s_") and "saveexec" in name:
            self._save_exec(i)
        elif name.startswith("s_"):
            self._scalar(i)
        else:
            method = getattr(self, f"_{name}", None)
            if method is None:
                raise Unmodelled("this instruction is not modelled")
            method(i, *operands)

    def _dual(self, i: Instruction) -> None:
        """Both instructions read their sources before either writes."""
        first, second = i.parts
        overwritten = {n for o in first.operands[: destinations(first)] for n in o.registers}
        used = {n for o in second.operands[destinations(second) :] for n in o.registers}
        if not overwritten & used:
            self._instruction(first)
            self._instruction(second)
            return
        # The result of the first waits in a temporary.
        place = self._new()
        (n,) = overwritten
        self._instruction(first)
        write = self.steps.pop()
        old = self._new()

        def keep(r: Registers, m: Machine) -> None:
            r[old] = r[n]
            write(r, m)
            r[place], r[n] = r[n], r[old]

        self.steps.append(keep)
        self._instruction(second)
        self.steps.append(lambda r, m: r.__setitem__(n, r[place]))

    def _moved(self, i: Instruction, sources: list[Fetch]) -> int:
        """Replaces the first source by what DPP moves. Returns where the lanes are that are written."""
        get, moved, lanes, modifiers = _at(sources[0]), self._new(), self._new(), i.modifiers

        def move(r: Registers, m: Machine) -> None:
            r[moved], r[lanes] = crosslane.dpp(m, get(r), modifiers)

        self.steps.append(move)
        sources[0] = moved
        return lanes

    def _apply(
        self, function: Callable[..., Any], sources: list[Fetch], put: Callable[[Registers, Any], None]
    ) -> None:
        gets = [_at(s) for s in sources]
        self.steps.append(lambda r, m: put(r, function(*(get(r) for get in gets))))

    def _vector(self, i: Instruction, operation: Operation) -> None:
        operand = i.operands[0]
        sources = self._sources(i, i.operands[1:], operation.sources)
        f, n = operation.function, operand.number
        lanes = self._moved(i, sources) if i.form == "dpp" else None
        put = self._store(i, operand, operation.result)
        if lanes is not None:
            if operation.result != "w":
                raise Unmodelled("DPP of 64 bits")
            inner = put

            def put(r: Registers, value: Any) -> None:
                inner(r, np.where(r[lanes], value, _old(r, n)))

        plain = (
            lanes is None
            and operation.result == "w"
            and operand.half is None
            and i.form == ""
            and not (self.lanes == 32 and _OLD_UPPER_HALF.match(i.name))
        )
        match sources:
            case [int(a)] if plain:
                self.steps.append(lambda r, m: r.__setitem__(n, f(r[a])))
            case [int(a), int(b)] if plain:
                self.steps.append(lambda r, m: r.__setitem__(n, f(r[a], r[b])))
            case [int(a), int(b), int(c)] if plain:
                self.steps.append(lambda r, m: r.__setitem__(n, f(r[a], r[b], r[c])))
            case _:
                self._apply(f, sources, put)

    def _scalar(self, i: Instruction) -> None:
        name, operands = i.name, i.operands
        if found := re.fullmatch(r"s_cmp(k?)_(\w\w)_([iu]\d+)", name):
            self._scalar_compare(i, found[2], found[3])
            return
        if found := re.fullmatch(r"s_bitcmp([01])_b32", name):
            a, b = (_at(self.fetch(o)) for o in operands)
            wanted = u32(found[1])
            self.steps.append(
                lambda r, m: r.__setitem__(SCC, ((a(r) >> (b(r) & u32(31))) & u32(1)) == wanted)
            )
            return
        whole = re.fullmatch(rf"s_(\w+)_b{self.lanes}", name)
        if whole and whole[1] in _LOGIC and self._on_masks(operands):
            self._mask_logic(i, _LOGIC[whole[1]])
            return
        if operands[0].kind == "exec":
            self._write_exec(i)
            return
        method = getattr(self, f"_{name}", None)
        if method is not None:
            method(i, *operands)
            return
        operation = SCALAR[name]
        sources = self._sources(i, operands[1:], operation.sources)
        put = self._store(i, operands[0], operation.result)
        gets, f, scc = [_at(s) for s in sources], operation.function, operation.scc
        if scc is None or SCC not in self.wanted:
            self.steps.append(lambda r, m: put(r, f(*(get(r) for get in gets))))
            return
        pair = operation.result == "d"

        def run(r: Registers, m: Machine) -> None:
            values = [get(r) for get in gets]
            result = f(*values)
            put(r, result)
            r[SCC] = scc(*result, *values) if pair else scc(result, *values)

        self.steps.append(run)

    def _scalar_compare(self, i: Instruction, relation: str, kind: str) -> None:
        first, second = i.operands
        operation = COMPARISONS[f"{relation}_{kind}"]
        if i.name.startswith("s_cmpk"):
            value = second.number & 0xFFFF
            if kind == "i32":
                value = (value ^ 0x8000) - 0x8000
            second = Operand(second.text, "immediate", value)
        f = operation.function
        gets = [_at(s) for s in self._sources(i, (first, second), operation.sources)]
        self.steps.append(lambda r, m: r.__setitem__(SCC, f(*(get(r) for get in gets))))

    def _mask_logic(self, i: Instruction, function: Callable[..., Any]) -> None:
        destination, *operands = i.operands
        places = [self.mask(o) for o in operands]
        wants_scc = SCC in self.wanted and not i.name.startswith("s_mov")
        if destination.kind == "exec":
            self.steps.append(lambda r, m: m.set_exec(function(*(r[n] for n in places))))
            if wants_scc:
                self.steps.append(lambda r, m: r.__setitem__(SCC, m.exec.any(1, keepdims=True)))
            return
        target = self._set_mask(destination)

        def run(r: Registers, m: Machine) -> None:
            result = m.full(function(*(r[n] for n in places)))
            r[target] = result
            if wants_scc:
                r[SCC] = result.any(1, keepdims=True)

        self.steps.append(run)

    def _write_exec(self, i: Instruction) -> None:
        """An instruction whose destination is EXEC, and whose sources are words."""
        if i.operands[0].count != self.mask_words:
            raise Unmodelled("a half of EXEC as the destination")
        found = re.fullmatch(rf"s_(\w+)_b{self.lanes}", i.name)
        if found is None or found[1] not in _LOGIC:
            raise Unmodelled("EXEC as the destination")
        self._mask_logic(i, _LOGIC[found[1]])

    def _save_exec(self, i: Instruction) -> None:
        found = re.fullmatch(r"s_(\w+)_saveexec_b\d+", i.name)
        function = _LOGIC[found[1]] if found else _LOGIC[i.name]
        destination, operand = i.operands
        source, target = self.mask(operand), self._set_mask(destination)
        wants_scc = SCC in self.wanted

        def run(r: Registers, m: Machine) -> None:
            given, before = r[source], m.exec
            r[target] = before
            after = m.full(function(given, before))
            if wants_scc:
                r[SCC] = after.any(1, keepdims=True)
            m.set_exec(after)

        self.steps.append(run)

    def _s_cselect_b32(self, i: Instruction, d: Operand, a: Operand, b: Operand) -> None:
        first, second = (_at(self.fetch(o)) for o in (a, b))
        put = self._store(i, d)
        self.steps.append(lambda r, m: put(r, _either(r[SCC], first(r), second(r))))

    def _s_cselect_b64(self, i: Instruction, d: Operand, a: Operand, b: Operand) -> None:
        pairs = list(zip(self.words(a, 2), self.words(b, 2), strict=True))
        put = self._store(i, d, "d")
        self.steps.append(lambda r, m: put(r, [_either(r[SCC], r[x], r[y]) for x, y in pairs]))

    def _with_carry(self, i: Instruction, function: Callable[..., Any]) -> None:
        gets = [_at(self.fetch(o)) for o in i.operands[1:]]
        put = self._store(i, i.operands[0])

        def run(r: Registers, m: Machine) -> None:
            value, carry = function(*(get(r) for get in gets), np.asarray(r[SCC], bool))
            put(r, value)
            r[SCC] = carry

        self.steps.append(run)

    def _s_addc_u32(self, i: Instruction, *_: Operand) -> None:
        self._with_carry(i, add_with_carry)

    def _s_subb_u32(self, i: Instruction, *_: Operand) -> None:
        self._with_carry(i, subtract_with_borrow)

    _s_add_co_ci_u32 = _s_addc_u32
    _s_sub_co_ci_u32 = _s_subb_u32

    def _short(self, operand: Operand) -> int:
        """A constant of 16 bits, sign-extended."""
        return self.constant(((operand.number & 0xFFFF) ^ 0x8000) - 0x8000)

    def _s_movk_i32(self, i: Instruction, d: Operand, a: Operand) -> None:
        n, put = self._short(a), self._store(i, d)
        self.steps.append(lambda r, m: put(r, r[n]))

    def _s_addk_i32(self, i: Instruction, d: Operand, a: Operand) -> None:
        self._with_constant(i, "s_add_i32", d, a)

    _s_addk_co_i32 = _s_addk_i32

    def _s_mulk_i32(self, i: Instruction, d: Operand, a: Operand) -> None:
        self._with_constant(i, "s_mul_i32", d, a)

    def _with_constant(self, i: Instruction, name: str, d: Operand, a: Operand) -> None:
        """An instruction on its destination and a constant of 16 bits, as one on two sources."""
        constant = Operand(a.text, "immediate", ((a.number & 0xFFFF) ^ 0x8000) - 0x8000)
        self._scalar(Instruction(name, "", (d, d, constant), {}, i.text, i.line, i.source))

    # Masks of lanes

    def _compare(self, i: Instruction) -> None:
        found = re.fullmatch(r"v_cmp(x?)_(\w+)", i.name)
        assert found is not None
        operation = COMPARISONS[found[2]]
        if i.form == "dpp":
            raise Unmodelled("DPP of a comparison")
        named = i.operands[:-2]
        gets = [_at(s) for s in self._sources(i, i.operands[-2:], operation.sources)]
        f = operation.function
        if found[1]:
            if named and named[0].kind != "exec":
                raise Unmodelled("a comparison that writes EXEC and another register")
            self.steps.append(lambda r, m: m.set_exec(m.exec & f(*(get(r) for get in gets))))
            return
        destination = named[0] if named else Operand("vcc", "register", VCC, self.mask_words)
        target = self._set_mask(destination)
        self.steps.append(lambda r, m: r.__setitem__(target, m.masked(f(*(get(r) for get in gets)))))

    def _conditional_mask(self, i: Instruction) -> None:
        named = i.operands[3] if len(i.operands) == 4 else Operand("vcc", "register", VCC, self.mask_words)
        mask = self.mask(named)
        sources = self._sources(i, i.operands[1:3], "ww")
        lanes = self._moved(i, sources) if i.form == "dpp" else None
        a, b = (_at(s) for s in sources)
        put, n = self._store(i, i.operands[0]), i.operands[0].number

        def run(r: Registers, m: Machine) -> None:
            value = np.where(r[mask], b(r), a(r))
            put(r, value if lanes is None else np.where(r[lanes], value, _old(r, n)))

        self.steps.append(run)

    def _carry(self, i: Instruction) -> None:
        """Additions and subtractions with a carry of each lane."""
        found = re.match(r"v_(add|sub|subrev|addc|subb|subbrev)_co(_ci)?_u32$", i.name)
        if found is None:
            self._multiply_add(i)
            return
        destination, out, *operands = i.operands
        incoming = self.mask(operands[2]) if len(operands) == 3 else self._new(np.False_)
        sources = self._sources(i, tuple(operands[:2]), "ww")
        lanes = self._moved(i, sources) if i.form == "dpp" else None
        if "rev" in found[1]:
            sources.reverse()
        a, b = (_at(s) for s in sources)
        function = add_with_carry if found[1].startswith("add") else subtract_with_borrow
        needed = out.kind == "register" and any(out.number + k in self.wanted for k in range(self.mask_words))
        target = self._set_mask(out) if needed else None
        put, n = self._store(i, destination), destination.number

        def run(r: Registers, m: Machine) -> None:
            value, carry = function(a(r), b(r), r[incoming])
            if target is not None:
                r[target] = m.masked(carry if lanes is None else carry & r[lanes])
            put(r, value if lanes is None else np.where(r[lanes], value, _old(r, n)))

        self.steps.append(run)

    def _multiply_add(self, i: Instruction) -> None:
        if i.name not in ("v_mad_u64_u32", "v_mad_co_u64_u32"):
            raise Unmodelled("this instruction is not modelled")
        destination, out, *operands = i.operands
        *factors, low, high = self._sources(i, tuple(operands), "wwd")
        assert isinstance(high, int)
        n = high
        gets: list[Callable[[Registers], Any]] = [*(_at(s) for s in (*factors, low)), lambda r: _old(r, n)]
        needed = out.kind == "register" and any(out.number + k in self.wanted for k in range(self.mask_words))
        target = self._set_mask(out) if needed else None
        put = self._store(i, destination, "d")

        def run(r: Registers, m: Machine) -> None:
            low, high, carry = multiply_add(*(get(r) for get in gets))
            if target is not None:
                r[target] = m.masked(carry)
            put(r, (low, high))

        self.steps.append(run)

    def _v_mad_u64_u32(self, i: Instruction, *_: Operand) -> None:
        self._multiply_add(i)

    _v_mad_co_u64_u32 = _v_mad_u64_u32

    # Other lanes

    def _v_readfirstlane_b32(self, i: Instruction, d: Operand, a: Operand) -> None:
        n, put = a.number, self._store(i, d)
        self.steps.append(lambda r, m: put(r, crosslane.first_lane(m, n)))

    def _v_readlane_b32(self, i: Instruction, d: Operand, a: Operand, lane: Operand) -> None:
        n, at = a.number, _at(self.fetch(lane))
        put = self._store(i, d)
        self.steps.append(lambda r, m: put(r, crosslane.read_lane(m, n, at(r))))

    def _v_writelane_b32(self, i: Instruction, d: Operand, a: Operand, lane: Operand) -> None:
        given, n, at = self.fetch(a), d.number, _at(self.fetch(lane))
        assert isinstance(given, int)
        value = given
        self.steps.append(lambda r, m: crosslane.write_lane(m, n, _old(r, value), at(r)))

    def _v_permlanex16_b32(self, i: Instruction, d: Operand, a: Operand, low: Operand, high: Operand) -> None:
        n, first, second, modifiers = a.number, _at(self.fetch(low)), _at(self.fetch(high)), i.modifiers
        target = d.number

        def run(r: Registers, m: Machine) -> None:
            r[target] = crosslane.permlanex16(m, n, first(r), second(r), _old(r, target), modifiers)

        self.steps.append(run)

    def _s_fmac_f32(self, i: Instruction, d: Operand, a: Operand, b: Operand) -> None:
        gets = [_at(self.fetch(o)) for o in (a, b, d)]
        put, function = self._store(i, d), VECTOR["v_fma_f32"].function
        self.steps.append(lambda r, m: put(r, function(*(get(r) for get in gets))))

    def _v_s_rcp_f32(self, i: Instruction, d: Operand, a: Operand) -> None:
        get, put, function = _at(self.fetch(a)), self._store(i, d), VECTOR["v_rcp_f32"].function
        self.steps.append(lambda r, m: put(r, function(get(r))))

    def _v_mbcnt_lo_u32_b32(self, i: Instruction, d: Operand, a: Operand, b: Operand) -> None:
        self._count_below(i, 0)

    def _v_mbcnt_hi_u32_b32(self, i: Instruction, d: Operand, a: Operand, b: Operand) -> None:
        self._count_below(i, 32)

    def _count_below(self, i: Instruction, first: int) -> None:
        """The bits of a mask that belong to lower lanes."""
        a, b = (_at(self.fetch(o)) for o in i.operands[1:])
        put, count = self._store(i, i.operands[0]), VECTOR["v_bcnt_u32_b32"].function
        below = np.array([(1 << min(max(lane - first, 0), 32)) - 1 for lane in range(self.lanes)], u32)[None]
        self.steps.append(lambda r, m: put(r, count(a(r) & below, b(r))))

    def _v_fmac_f32(self, i: Instruction, d: Operand, a: Operand, b: Operand) -> None:
        gets = [_at(self.fetch(o)) for o in (a, b, d)]
        n, kind = d.number, np.float32
        self.steps.append(
            lambda r, m: r.__setitem__(n, fused_multiply_add(*(g(r).view(kind) for g in gets)).view(u32))
        )

    def _v_bitop3_b32(self, i: Instruction, d: Operand, a: Operand, b: Operand, c: Operand) -> None:
        """Bit ``4 a + 2 b + c`` of the table in the modifier, for each bit of the sources."""
        table, gets = int(i.modifiers["bitop3"], 0), [_at(self.fetch(o)) for o in (a, b, c)]
        put = self._store(i, d)
        self.steps.append(lambda r, m: put(r, by_truth_table(table, *(get(r) for get in gets))))

    def _v_bitop3_b16(self, i: Instruction, d: Operand, a: Operand, b: Operand, c: Operand) -> None:
        """``_v_bitop3_b32`` of the lower halves. CDNA clears the upper one, as other 16-bit operations do."""
        if "op_sel" in i.modifiers or self.lanes != 64:
            raise Unmodelled("this form is not modelled")
        table, gets = int(i.modifiers["bitop3"], 0), [_at(self.fetch(o)) for o in (a, b, c)]
        put, lower = self._store(i, d), u32(0xFFFF)
        self.steps.append(lambda r, m: put(r, by_truth_table(table, *(get(r) for get in gets)) & lower))

    def _v_swap_b32(self, i: Instruction, a: Operand, b: Operand) -> None:
        x, y = a.number, b.number

        def run(r: Registers, m: Machine) -> None:
            r[x], r[y] = r[y], r[x]

        self.steps.append(run)

    # Matrices

    def _matrix(self, i: Instruction) -> None:
        destination, a, b, c = i.operands
        first, second = list(a.registers), list(b.registers)
        key, name, modifiers = str(i), i.name, i.modifiers
        signs = [x == "1" for x in modifiers.get("neg_lo", "[0,0,0]").strip("[]").split(",")]
        gfx12 = self.program.architecture.startswith("gfx12")
        target, addend, constant = list(destination.registers), list(c.registers), u32(c.number & 0xFFFFFFFF)
        if "op_sel" in modifiers or "op_sel_hi" in modifiers:
            raise Unmodelled("op_sel of a matrix product")

        def run(r: Registers, m: Machine) -> None:
            x, y = ([m.whole(n) for n in registers] for registers in (first, second))
            z = [m.merged(n) for n in addend] or [constant] * len(target)
            if name == matrix.WMMA:
                result = matrix.wmma(m, x, y, z, signs, key, gfx12)
            else:
                result = matrix.mfma(m, name, x, y, z, key)
            for n, value in zip(target, result, strict=True):
                m.set_whole(n, value)
                m.partial.pop(n, None)

        self.steps.append(run)
