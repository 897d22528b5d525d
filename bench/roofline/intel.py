"""The code of Intel's offline compiler, with the lines of the source: what its GPUs execute of a kernel.

The machine code comes from ``ocloc``, and the listing from ``iga64``. Which line of the source an instruction
comes from stands in the table of lines that the binary of a compilation with ``-g`` contains, which readelf
reads; the instructions are the same without ``-g``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from integrity_triton.aot import compiling
from integrity_triton.backends.opencl.prebuilt import Specialization
from integrity_triton.launching.launch import Launch

from ..intel_code import MissingTool, disassemble, spilled
from .listing import Line

READER = "readelf"
REGISTER_BYTES = {"xpu:acm-g10": 32, "xpu:pvc": 64}
"""The bytes of a register, and of what a vector engine computes at once."""

_INSTRUCTION = re.compile(
    r"/\* \[(?P<place>[0-9A-F]+)\]\s*\*/\s*(?:\((?P<predicate>[^|)]*)\)\s*)?"
    r"(?P<name>[a-z]\w*(?:\.\w+|\.\([^()]*(?:\([^()]*\)[^()]*)*\))*)"
    r"(?:\s+\((?P<lanes>\d+)\|M\d+\))?(?P<operands>[^{/]*)"
)
_MESSAGE = re.compile(r"//.*?\b((?:load|store|atomic)[\w.\[\]]*|fence[\w.]*|barrier|end of thread)")
_PLACE = re.compile(r"^(\S+\.py)\s+(\d+)\s+(0x[0-9a-f]+|0)\b")
_TYPE = re.compile(r":(ub|b|uw|w|ud|d|uq|q|hf|bf|f|df)\b")
_BYTES = {
    "ub": 1,
    "b": 1,
    "uw": 2,
    "w": 2,
    "hf": 2,
    "bf": 2,
    "ud": 4,
    "d": 4,
    "f": 4,
    "uq": 8,
    "q": 8,
    "df": 8,
}
_FLOATS = ("hf", "bf", "f")
_SENDS = ("send", "sends", "sendc", "sendsc")
_JUMPS = ("jmpi", "goto", "join", "if", "else", "endif", "while", "break", "cont", "brc", "brd", "halt")
_OTHERS = ("sync", "nop", "wait")


@dataclass(frozen=True)
class Compiled:
    """What the compilers made of one launch."""

    listing: str
    """The disassembly. A line in front of the instructions that come from a line of the source names it."""
    registers: int
    """The registers of a hardware thread."""
    spilled: int
    """The compiler's number of loads and stores of spilled registers."""
    shared: int


def build(launch: Launch, options: Mapping[str, Any], target: str, compiler: Path) -> Compiled:
    """Compile a launch with the Triton in the folder ``compiler``. Raises MissingTool without readelf."""
    if shutil.which(READER) is None:
        raise MissingTool(f"{READER} is not installed; on Debian and Ubuntu: apt-get install binutils")
    wanted = Specialization.of(launch, options)
    parsed = compiling.Target.parse(target)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "kernel")
        (result,) = compiling.compile_all([wanted], parsed, [output], compiler=compiler, lines=True)
        binary = output.with_suffix(".bin")
        code = disassemble(binary, str(parsed.architecture), places=True)
        # The tables of debuggers are an ELF file within the binary, which is one itself.
        content = binary.read_bytes()
        tables = Path(folder, "tables")
        tables.write_bytes(content[content.index(b"\x7fELF", 4) :])
        command = [READER, "--debug-dump=decodedline", "--wide", str(tables)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert wanted.grf_mode is not None
    return Compiled(with_lines(code, lines), wanted.grf_mode, spilled(result["messages"]), result["shared"])


def with_lines(code: str, lines: str) -> str:
    """A disassembly with the places of its instructions, and the lines of the source from a decoded table."""
    places = {}
    for text in lines.splitlines():
        if found := _PLACE.match(text):
            places[int(found[3], 16)] = f"// {found[1]}:{found[2]}"
    out = []
    for text in code.splitlines():
        found = _INSTRUCTION.match(text.strip())
        if found and (line := places.get(int(found["place"], 16))):
            out.append(line)
        out.append(text)
    return "\n".join(out) + "\n"


def read(listing: str, function_at: Any) -> Iterator[Line]:
    """The lines of a listing, which holds one kernel. The opcode of an instruction is its name, the number of
    its lanes and the widest type among its operands; that of a message is what the message asks for."""
    function = ""
    for text in listing.splitlines():
        stripped = text.strip()
        if stripped.startswith("// ") and ".py:" in stripped:
            file, _, number = stripped[3:].rpartition(":")
            function = function_at(file, int(number))
        elif re.fullmatch(r"L\d+:", stripped):
            yield Line(stripped[:-1], label=True)
        elif found := _INSTRUCTION.match(stripped):
            yield _line(stripped, found, function)


def _line(text: str, found: re.Match[str], function: str) -> Line:
    name, predicate = found["name"].partition(".")[0], found["predicate"] or ""
    lanes = found["lanes"] or "1"
    if name in ("call", "calla", "ret"):
        raise ValueError(f"no rule for {text!r}")
    if name in _SENDS:
        message = _MESSAGE.search(text)
        asked = message[1].replace("end of thread", "end") if message else "message"
        return Line(text, opcode=f"{name} {lanes} {asked}", function=function, falls_through=asked != "end")
    if name in _JUMPS:
        # The first label is where a hardware thread goes on if all its lanes branch, and the second one where
        # those lanes do. They go on at once if they branch back.
        labels = re.findall(r"\bL\d+\b", found["operands"])
        target = labels[-1 if found["name"] == "goto.b" else 0] if labels else None
        always = name in ("jmpi", "goto") and "f" not in predicate
        return Line(
            text,
            opcode=f"{name} {lanes}",
            function=function,
            target=target,
            falls_through=not always,
        )
    kinds = _TYPE.findall(found["operands"]) or ["ud"]
    widest = max(kinds, key=_BYTES.__getitem__)
    kind = kinds[0] if _BYTES[kinds[0]] == _BYTES[widest] else widest
    return Line(text, opcode=f"{name} {lanes} {kind}", function=function)


def pipe(opcode: str) -> str:
    """The pipe of an instruction, by the rules by which Intel's compiler orders them (G4_INST in vISA's
    G4_IR.cpp: isLongPipeInstructionXe, isIntegerPipeInstructionXe, isFloatPipeInstructionXe)."""
    name, _, rest = opcode.partition(" ")
    kind = rest.rpartition(" ")[2]
    if name in _SENDS:
        return "send"
    if name in _JUMPS or name in _OTHERS:
        return "control"
    if name in ("dpas", "dpasw"):
        return "dpas"
    if name == "math":
        return "math"
    if _BYTES[kind] == 8:
        return "long"
    return "float" if kind in _FLOATS else "int"


def passes(opcode: str, register: int) -> int:
    """How often a vector engine computes for an instruction, as many bytes as a register has at once."""
    _, lanes, *kind = opcode.split()
    if pipe(opcode) in ("send", "control", "dpas"):
        return 1
    return max(1, int(lanes) * _BYTES[kind[0]] // register)


_LOAD = re.compile(r"load\.ugm\.d(8|16|32|64)(?:u32)?(?:x(\d+))?(t?)\.(?:a64|a32.*\.bti)")


def _load(opcode: str) -> tuple[int, bool]:
    """The bytes that a message loads from global memory, and whether for the whole hardware thread."""
    name, _, *asked = opcode.split()
    found = _LOAD.match(asked[0]) if name in _SENDS else None
    return (int(found[1]) // 8 * int(found[2] or 1), bool(found[3])) if found else (0, False)


def loaded(opcode: str) -> int:
    """The bytes that a message loads from global memory for each lane."""
    size, by_all = _load(opcode)
    return 0 if by_all else size


def loaded_by_all(opcode: str) -> int:
    """The bytes that a message loads from global memory for the whole hardware thread."""
    size, by_all = _load(opcode)
    return size if by_all else 0
