"""Which registers an instruction reads and writes, which values outlive a block, and where a register is used
before the load that fills it has arrived."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..emulation.faults import Uninitialised, Unmodelled
from .text import M0, SCALAR, SCC, VCC, Instruction, Program, register_name

_STORES = ("global_store", "buffer_store", "ds_write", "ds_store", "scratch_store")
_WITHOUT_DESTINATION = (
    *_STORES,
    "s_cmp",
    "s_bitcmp",
    "s_branch",
    "s_cbranch",
    "s_endpgm",
    "s_barrier",
    "s_nop",
    "s_wait",
    "s_sleep",
    "s_sendmsg",
    "s_setprio",
    "s_clause",
    "s_delay_alu",
    "s_set_inst_prefetch",
    "s_icache_inv",
    "buffer_wbl2",
    "buffer_inv",
    "buffer_gl",
    "global_inv",
    "global_wb",
)
_READS_SCC = ("s_addc", "s_subb", "s_add_co_ci", "s_sub_co_ci", "s_cselect", "s_cbranch_scc", "s_cmov")
_KEEPS_SCC = (
    "s_mov",
    "s_cmov",
    "s_cselect",
    "s_mul",
    "s_load",
    "s_ff1",
    "s_ctz",
    "s_clz",
    "s_flbit",
    "s_brev",
    "s_bfm",
    "s_pack",
    "s_sext",
    "s_bitset",
    "s_add_nc",
    "s_sub_nc",
    "s_getreg",
    "s_cvt",
    "s_trunc",
    "s_fmac",
)
_CHANGES_DESTINATION = ("v_fmac", "s_fmac", "s_cmov", "s_addk", "s_mulk", "s_bitset")


def destinations(instruction: Instruction) -> int:
    """How many of the leading operands are written."""
    name, operands = instruction.name, instruction.operands
    if not operands or name.startswith(_WITHOUT_DESTINATION):
        return 0
    if name.startswith("v_cmpx") and len(operands) == 2:
        return 0
    if name.startswith("v_cmp") and len(operands) == 2:
        return 0  # VCC, which is not named
    if fills_lds(instruction):
        return 0
    if "atomic" in name:
        return int(returns(instruction))
    if re.match(r"v_\w+_co_", name) or name.startswith(("v_mad_u64_u32", "v_mad_co_u64_u32")):
        return 2
    return 1


def fills_lds(instruction: Instruction) -> bool:
    """Whether an instruction loads from global memory to LDS."""
    return "lds" in instruction.modifiers or "_load_lds_" in instruction.name


def returns(instruction: Instruction) -> bool:
    """Whether an atomic operation returns the value before."""
    modifiers = instruction.modifiers
    return "sc0" in modifiers or "glc" in modifiers or modifiers.get("th") == "TH_ATOMIC_RETURN"


@dataclass
class Effects:
    """The registers that an instruction reads and writes, SCC among them."""

    reads: set[int] = field(default_factory=set)
    writes: set[int] = field(default_factory=set)
    keeps: set[int] = field(default_factory=set)
    """Registers of which a part keeps its old value, which need not have been written. ``reads`` has them,
    too."""


def effects(instruction: Instruction, lanes: int) -> Effects:
    found = Effects()
    for part in instruction.parts:
        inner = effects(part, lanes)
        found.reads |= inner.reads
        found.writes |= inner.writes
        found.keeps |= inner.keeps
    name, operands = instruction.name, instruction.operands
    count = destinations(instruction)
    for operand in operands[:count]:
        found.writes.update(operand.registers)
    for operand in operands[count:]:
        found.reads.update(operand.registers)
    keeps = (
        (count and operands[0].half is not None)
        or instruction.form == "dpp"
        or instruction.modifiers.get("dst_unused") == "UNUSED_PRESERVE"
        or "d16" in name
        or name.startswith(("v_writelane", "v_permlane"))
        or (lanes == 32 and re.match(r"v_\w+_[ubi]16$", name) and not name.startswith("v_cmp"))
    )
    if keeps and count:
        explicit = {register for operand in operands[count:] for register in operand.registers}
        found.keeps.update(set(operands[0].registers) - explicit)
        found.reads.update(operands[0].registers)
    if name.startswith(("v_mad_u64_u32", "v_mad_co_u64_u32")):
        # Where a product is needed modulo 2^32, compilers leave the upper word of the addend as it is.
        factors = {register for operand in operands[2:4] for register in operand.registers}
        found.keeps.update(set(operands[-1].registers[1:]) - factors)
    if name.startswith("v_writelane"):
        # A tuple of registers of which a part was never written is spilled as a whole.
        found.keeps.update(operands[1].registers)
    if name.startswith(_CHANGES_DESTINATION):
        found.reads.update(operands[0].registers)
    if fills_lds(instruction):
        found.reads.add(M0)
    if name.startswith("v_swap"):
        found.reads.update(operands[0].registers)
        found.writes.update(operands[1].registers)
    if name.startswith("s_bitset"):
        found.writes.update(operands[0].registers)
    vcc = {VCC, VCC + 1} if lanes == 64 else {VCC}
    if name.startswith("s_cbranch_vcc") or (name.startswith("v_cndmask") and len(operands) == 3):
        found.reads |= vcc
    if name.startswith("v_cmp_") and len(operands) == 2:
        found.writes |= vcc
    if name.startswith("s_"):
        if name.startswith(_READS_SCC) or any(operand.kind == "scc" for operand in operands):
            found.reads.add(SCC)
        if name.startswith(("s_cmp", "s_bitcmp")) or (
            count and not name.startswith(_KEEPS_SCC) and not instruction.form
        ):
            found.writes.add(SCC)
    return found


def block_effects(instructions: Iterable[Instruction], lanes: int) -> list[Effects]:
    return [effects(instruction, lanes) for instruction in instructions]


def live_after(program: Program, effects_of: list[list[Effects]]) -> list[set[int]]:
    """The registers whose values each block has to leave behind. A later write of a vector register does not
    end the life of a value, since EXEC may mask it."""
    used: list[set[int]] = []
    ended: list[set[int]] = []
    for block in effects_of:
        reads: set[int] = set()
        writes: set[int] = set()
        for found in block:
            reads |= found.reads - writes
            writes |= found.writes
        used.append(reads)
        ended.append({register for register in writes if register >= SCALAR})
    before = [set(reads) for reads in used]
    after: list[set[int]] = [set() for _ in used]
    changed = True
    while changed:
        changed = False
        for n in reversed(range(len(used))):
            left: set[int] = set().union(*(before[s] for s in program.successors(n)))
            wanted = used[n] | (left - ended[n])
            if left != after[n] or wanted != before[n]:
                after[n], before[n], changed = left, wanted, True
    return after


# Waiting for memory

_WAITS = {  # which kinds of access a counter counts
    "vmcnt": ("load",),
    "lgkmcnt": ("lds", "scalar"),
    "vscnt": ("store",),
    "s_wait_loadcnt": ("load",),
    "s_wait_dscnt": ("lds",),
    "s_wait_kmcnt": ("scalar",),
    "s_wait_storecnt": ("store",),
    "s_wait_loadcnt_dscnt": ("load", "lds"),
    "s_wait_storecnt_dscnt": ("store", "lds"),
}
_IGNORED_WAITS = ("s_waitcnt_depctr", "s_wait_alu", "s_wait_samplecnt", "s_wait_bvhcnt", "s_wait_idle")
_LDS_STORES = -1  # stands for the stores to LDS of a wave, as if they were a register


def limits(instruction: Instruction) -> dict[str, int]:
    """How many accesses of each kind may still be under way after a wait."""
    name, rest = instruction.name, instruction.modifiers["wait"]
    if name.startswith(_IGNORED_WAITS):
        return {}
    pairs: list[tuple[str, int]]
    if name == "s_waitcnt":
        pairs = [(m[1], int(m[2])) for m in re.finditer(r"(\w+)\((\d+)\)", rest)]
        if not pairs or re.sub(r"\w+\(\d+\)|[\s&,]", "", rest):
            raise Unmodelled(f"{instruction}: a wait in this form is not modelled")
    elif name == "s_waitcnt_vscnt":
        pairs = [("vscnt", int(rest.rpartition(",")[2], 0))]
    elif name in ("s_wait_loadcnt_dscnt", "s_wait_storecnt_dscnt"):
        value = int(rest, 0)
        first, _ = _WAITS[name]
        return {first: value >> 8, "lds": value & 0xFF}
    else:
        pairs = [(name, int(rest, 0))]
    limits = {}
    for counter, limit in pairs:
        if counter == "expcnt":
            continue
        if counter not in _WAITS:
            raise Unmodelled(f"{instruction}: the counter {counter} is not modelled")
        for kind in _WAITS[counter]:
            limits[kind] = limit
    return limits


def counted_access(instruction: Instruction, lanes: int) -> str | None:
    """The kind of access that an instruction starts, as the counters have it."""
    name = instruction.name
    if name.startswith("ds_"):
        return "lds"
    if name.startswith("s_load"):
        return "scalar"
    if name.startswith(("global_inv", "global_wb", "buffer_wbl2", "buffer_inv", "buffer_gl")):
        return None
    if name.startswith(("global_", "buffer_", "scratch_", "flat_")):
        stores = name.startswith(_STORES) or ("atomic" in name and not returns(instruction))
        return "store" if stores and lanes == 32 else "load"
    return None


_State = dict[tuple[str, int], int]
"""For each kind of access and each register that it is still to fill: the fewest accesses of that kind that
have started since, on any way to here."""


def check_waits(program: Program, effects_of: list[list[Effects]]) -> None:
    """Raise Uninitialised if a register that a load is still to fill is used on some way through the program,
    or if stores to LDS are under way at a barrier.

    Accesses of one kind end in their order, except scalar loads, which end in any order, so that only a wait
    for all of them says anything."""
    states: list[_State | None] = [None] * len(program.blocks)
    states[0] = {}
    work = [0]
    while work:
        n = work.pop()
        state = dict(states[n] or {})
        for instruction, found in zip(program.blocks[n], effects_of[n], strict=True):
            _step(state, instruction, found, program.lanes)
        for s in program.successors(n):
            known = states[s]
            merged = dict(known or {})
            for key, later in state.items():
                merged[key] = min(merged.get(key, later), later)
            if known is None or merged != known:
                states[s] = merged
                work.append(s)


def _step(state: _State, instruction: Instruction, found: Effects, lanes: int) -> None:
    name = instruction.name
    if name.startswith("s_wait"):
        for kind, limit in limits(instruction).items():
            for key, later in list(state.items()):
                if key[0] == kind and (limit == 0 if kind == "scalar" else later >= limit):
                    del state[key]
        return
    if name in ("s_barrier", "s_barrier_signal") and ("lds", _LDS_STORES) in state:
        raise Uninitialised(
            f"{instruction}: no wait has made sure that the stores to LDS before it have ended"
        )
    started = counted_access(instruction, lanes)
    for kind, register in state:
        if register not in found.reads and register not in found.writes:
            continue
        # Loads of one kind arrive in order, so a later one may fill the same register, or its other half.
        fills_again = kind == started and kind != "scalar" and register in found.writes
        if fills_again and (register not in found.reads or "d16" in name):
            continue
        raise Uninitialised(
            f"{instruction}: no wait has made sure that the load into {register_name(register)} has ended"
        )
    if started is None:
        return
    for key in state:
        # LDS accesses and scalar loads share a counter on all architectures but gfx12.
        if key[0] == started and started != "scalar":
            state[key] += 1
    if name.startswith(("ds_write", "ds_store")):
        state["lds", _LDS_STORES] = 0
    for register in found.writes:
        state[started, register] = 0
