"""The text that Triton's compiler writes for AMD GPUs, parsed into blocks of instructions.

A block is a sequence of instructions in which neither EXEC nor the program counter changes otherwise than by
going on. The syntax is that of LLVM's AMDGPU assembler ("User Guide for AMDGPU Backend" and "Syntax of AMDGPU
Instruction Operands").
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

from ..emulation.faults import Unmodelled

# Numbers of registers, as operands and effects name them. Accumulators and scalar registers follow the vector
# registers.
ACCUMULATOR = 512
SCALAR = 1024
VCC = SCALAR + 106
M0 = SCALAR + 124
SCC = SCALAR + 128
REGISTERS = SCALAR + 129

_CLASSES = {"v": 0, "a": ACCUMULATOR, "s": SCALAR, "ttmp": SCALAR + 108}
_NAMED = {"vcc": (VCC, 2), "vcc_lo": (VCC, 1), "vcc_hi": (VCC + 1, 1), "m0": (M0, 1)}
_ACCESS = re.compile(r"(buffer|global|scratch)_(load|store|atomic)|ds_|s_load")
# Offsets, kinds of addresses, hints for caches, and "lds", with which a load has no destination but LDS.
_ACCESS_MODIFIERS = frozenset(
    [
        *("offset", "offset0", "offset1", "offen", "off", "lds"),
        *("glc", "slc", "dlc", "nt", "sc0", "sc1", "th", "scope"),
    ]
)
_SUFFIXES = ("_e64_dpp", "_sdwa", "_dpp", "_e32", "_e64")


def register_name(number: int) -> str:
    """The assembler's name of a register."""
    for name, (first, count) in _NAMED.items():
        if number == first and count == 1:
            return name
    if number == SCC:
        return "scc"
    for name in ("ttmp", "s", "a", "v"):
        if number >= _CLASSES[name] and (name != "ttmp" or number < VCC + 18):
            return f"{name}{number - _CLASSES[name]}"
    raise AssertionError(number)


@dataclass(frozen=True)
class Operand:
    """An operand, without the modifiers that stand behind it."""

    text: str
    kind: str
    """``register``, ``immediate``, ``exec``, ``scc``, ``off``, ``null`` or ``label``."""
    number: int = 0
    """The first register, or the value of a constant: of a floating-point constant the bits as binary32."""
    count: int = 1
    """The number of registers."""
    real: bool = False
    """Whether a constant is written in floating point."""
    negated: bool = False
    absolute: bool = False
    sign_extended: bool = False
    half: int | None = None
    """0 or 1 where the operand is the lower or the upper half of a register."""

    @property
    def registers(self) -> tuple[int, ...]:
        return tuple(range(self.number, self.number + self.count)) if self.kind == "register" else ()

    @property
    def is_vector(self) -> bool:
        """Whether each lane has a value of its own."""
        return self.kind == "register" and self.number < SCALAR


@dataclass
class Instruction:
    """One instruction. A pair that is issued together (VOPD) is one instruction that has two ``parts``."""

    name: str
    """Without the suffix that names the encoding."""
    form: str
    """``dpp`` or ``sdwa`` where the encoding moves lanes or selects parts of words, or an empty string."""
    operands: tuple[Operand, ...]
    modifiers: dict[str, str]
    text: str
    line: int
    """The line in the text, counted from 1."""
    source: str
    """The line of the kernel's source, or an empty string."""
    parts: tuple[Instruction, ...] = ()

    def __str__(self) -> str:
        where = f"{self.source}; " if self.source else ""
        return f"{self.text} ({where}line {self.line} of the assembly)"


@dataclass(frozen=True)
class Argument:
    """Where a kernel's argument is in its segment, in bytes."""

    offset: int
    size: int
    hidden: bool


@dataclass
class Program:
    """A kernel."""

    entry: str
    architecture: str
    lanes: int
    """The lanes of a wave: 64 or 32."""
    waves: int
    """The waves of a work-group."""
    blocks: list[list[Instruction]]
    labels: dict[str, int]
    """The block at which a label stands."""
    descriptor: dict[str, int]
    """The directives ``.amdhsa_*`` that have numbers, without the prefix."""
    arguments: list[Argument]
    group_ids_in_ttmp: bool = field(init=False)
    """Whether a wave finds the number of its work-group in the trap handler's registers."""

    def __post_init__(self) -> None:
        self.group_ids_in_ttmp = self.architecture.startswith("gfx12")

    @property
    def preloaded(self) -> int:
        """How many words of the arguments are in scalar registers when the kernel starts."""
        return self.descriptor.get("user_sgpr_kernarg_preload_length", 0)

    def successors(self, block: int) -> list[int]:
        last = self.blocks[block][-1] if self.blocks[block] else None
        following = [block + 1] if block + 1 < len(self.blocks) else []
        if last is None or not last.name.startswith(("s_endpgm", "s_branch", "s_cbranch")):
            return following
        if last.name == "s_endpgm":
            return []
        target = [self.labels[last.operands[0].text]]
        return target if last.name == "s_branch" else target + following


def parse_operand(text: str) -> Operand:
    inner, negated, absolute, sign_extended = text, False, False, False
    if found := re.fullmatch(r"sext\((.*)\)", inner):
        sign_extended, inner = True, found[1]
    if inner.startswith("-") and not re.match(r"-[\d.]", inner):
        negated, inner = True, inner[1:]
    if inner.startswith("|") and inner.endswith("|"):
        absolute, inner = True, inner[1:-1]

    def register(first: int, count: int, half: int | None = None) -> Operand:
        return Operand(text, "register", first, count, False, negated, absolute, sign_extended, half)

    if found := re.fullmatch(r"v(\d+)\.([lh])", inner):
        return register(int(found[1]), 1, "lh".index(found[2]))
    if found := re.fullmatch(r"(ttmp|[vsa])(\d+)", inner):
        return register(_CLASSES[found[1]] + int(found[2]), 1)
    if found := re.fullmatch(r"(ttmp|[vsa])\[(\d+):(\d+)\]", inner):
        return register(_CLASSES[found[1]] + int(found[2]), int(found[3]) - int(found[2]) + 1)
    if inner in _NAMED:
        return register(*_NAMED[inner])
    if inner in ("exec", "exec_lo", "exec_hi"):
        return Operand(text, "exec", int(inner == "exec_hi"), 2 if inner == "exec" else 1)
    if inner in ("off", "null", "scc"):
        return Operand(text, inner)
    if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)", inner):
        return Operand(text, "immediate", int(inner, 0), negated=negated)
    if re.fullmatch(r"-?\d+\.\d+(e[-+]?\d+)?", inner):
        bits: int = struct.unpack("<I", struct.pack("<f", float(inner)))[0]
        return Operand(text, "immediate", bits, real=True, negated=negated)
    return Operand(text, "label")


def _split(text: str) -> list[str]:
    """Parts between the commas outside of brackets."""
    return [part.strip() for part in re.split(r",(?![^\[(]*[\])])", text) if part.strip()]


def parse_instruction(text: str, line: int = 0, source: str = "") -> Instruction:
    """Parse one instruction, without its comment."""
    pieces = text.split(" :: ")
    if len(pieces) == 2:
        parts = tuple(parse_instruction(p.replace("v_dual_", "v_"), line, source) for p in pieces)
        return Instruction("v_dual", "", (), {}, text, line, source, parts)
    name, _, rest = text.partition(" ")
    if name.startswith(("s_waitcnt", "s_wait_")):
        return Instruction(name, "", (), {"wait": rest}, text, line, source)
    operands: list[Operand] = []
    modifiers: dict[str, str] = {}
    for segment in _split(rest):
        tokens = re.findall(r"\w+:\[[^\]]*\]|\w+\([^)]*\)|\S+", segment)
        operands.append(parse_operand(tokens[0]))
        for token in tokens[1:]:
            key, _, value = token.partition(":")
            modifiers[key] = value
    if _ACCESS.match(name) and (unknown := modifiers.keys() - _ACCESS_MODIFIERS):
        raise Unmodelled(f"{text}: the modifier {min(unknown)} is not modelled")
    form = ""
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            name = name.removesuffix(suffix)
            form = suffix.rpartition("_")[2] if suffix.endswith(("dpp", "sdwa")) else ""
            break
    return Instruction(name, form, tuple(operands), modifiers, text, line, source)


def sets_exec(instruction: Instruction) -> bool:
    name, operands = instruction.name, instruction.operands
    if "saveexec" in name or "wrexec" in name or name.startswith("v_cmpx"):
        return True
    return bool(operands) and operands[0].kind == "exec" and not name.startswith(("s_cmp", "s_bitcmp"))


# They act whatever EXEC is: on the lane that they name, on the first one, or on all.
_ANY_EXEC = ("v_readlane", "v_readfirstlane", "v_writelane", "v_mfma")
_LANES = ("v_", "ds_", "global_", "buffer_", "scratch_", "flat_")
_CACHES = ("buffer_wbl2", "buffer_inv", "buffer_gl", "global_inv", "global_wb")


def needs_lanes(instruction: Instruction) -> bool:
    """Whether an instruction has no effect if EXEC is zero."""
    name = instruction.name
    return name.startswith(_LANES) and not name.startswith((*_ANY_EXEC, *_CACHES))


def _ends_block(instruction: Instruction) -> bool:
    return instruction.name.startswith(("s_branch", "s_cbranch", "s_endpgm", "s_barrier")) or sets_exec(
        instruction
    )


def _source(location: str, files: dict[str, str], names: str) -> str:
    """The place that a ``.loc`` directive names, with the places of the calls that were inlined."""
    file, number, *_ = location.split()
    if number == "0":
        return ""
    calls = re.findall(r"@\[ ([^:\s]+):(\d+)", names)
    return ", called from ".join([f"{files.get(file, '?')}:{number}", *(f"{f}:{n}" for f, n in calls)])


def parse(text: str) -> Program:
    """Parse the text of one kernel. Raises :class:`Unmodelled` if it is not what Triton writes."""

    def required(pattern: str, what: str) -> str:
        found = re.search(pattern, text, re.DOTALL)
        if found is None:
            raise Unmodelled(f"the assembly names no {what}")
        return found[1]

    entry = required(r"\.amdhsa_kernel (\S+)", "kernel (.amdhsa_kernel)")
    architecture = required(r'\.amdgcn_target "\S*(gfx[0-9a-f]+)', "target (.amdgcn_target)")
    metadata = required(r"\.amdgpu_metadata(.*?)\.end_amdgpu_metadata", "metadata (.amdgpu_metadata)")
    descriptor = {m[1]: int(m[2]) for m in re.finditer(r"\.amdhsa_(\w+) (\d+)\s", text)}
    numbers = {m[1]: int(m[2]) for m in re.finditer(r"^    \.(\w+):\s*(\d+)$", metadata, re.MULTILINE)}
    arguments = [
        Argument(int(m[1]), int(m[2]), m[3].startswith("hidden_"))
        for m in re.finditer(r"\.offset:\s*(\d+)\s+\.size:\s*(\d+)\s+\.value_kind:\s*(\w+)", metadata)
    ]
    lanes = numbers["wavefront_size"]
    waves = -(-numbers["max_flat_workgroup_size"] // lanes)
    blocks, labels = _blocks(text, entry)
    return Program(entry, architecture, lanes, waves, blocks, labels, descriptor, arguments)


def _blocks(text: str, entry: str) -> tuple[list[list[Instruction]], dict[str, int]]:
    start = text.index(f"\n{entry}:") + 1
    end = text.index("\n.Lfunc_end", start)
    blocks: list[list[Instruction]] = [[]]
    labels: dict[str, int] = {}
    files: dict[str, str] = {}
    source = ""
    for number, line in enumerate(text[start:end].split("\n"), text.count("\n", 0, start) + 1):
        code, _, comment = line.partition(";")
        code = " ".join(code.split())
        if found := re.fullmatch(r'\.file (\d+) (?:"[^"]*" )?"([^"]*)".*', code):
            files[found[1]] = found[2]
        elif code.startswith(".loc "):
            source = _source(code.removeprefix(".loc "), files, comment)
        elif found := re.fullmatch(r"([.$\w]+):", code):
            if not found[1].startswith((".Ltmp", ".Lfunc")):  # labels of debug information
                if blocks[-1]:
                    blocks.append([])
                labels[found[1]] = len(blocks) - 1
        elif code and not code.startswith("."):
            instruction = parse_instruction(code, number, source)
            blocks[-1].append(instruction)
            if _ends_block(instruction):
                blocks.append([])
    if not blocks[-1]:
        blocks.pop()
    return blocks, labels
