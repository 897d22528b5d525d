"""What the instructions of a vendor are: their pipes, the bytes that they load, and how a listing is read;
and how many programs the registers and the shared memory of a multiprocessor hold.

Another vendor needs another :class:`Vendor` in :data:`VENDORS`, and its targets in :data:`MULTIPROCESSORS`.
"""

from __future__ import annotations

import ast
import bisect
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import triton

from . import intel
from .listing import Line

KERNELS = Path(__file__).resolve().parents[2] / "kernels"


@dataclass(frozen=True)
class Multiprocessor:
    """A streaming multiprocessor, a compute unit or a pair of these (AMD's workgroup processor), or an Xe
    core: what the warps of a program share, as far as it limits how many there are."""

    schedulers: int
    """Parts of the multiprocessor, each with its own registers."""
    warps: int
    """The most warps of one scheduler."""
    registers: int
    """Registers of one scheduler for one thread's place in a warp."""
    granule: int
    """Registers are given to a thread in multiples of this number."""
    shared: int
    """Bytes of shared memory for all programs."""
    shared_per_program: int
    """Bytes of shared memory that the system takes for each program."""

    def occupancy(self, registers: int, warps: int, shared: int) -> float:
        """The share of the places for warps that are taken by programs with ``registers`` for a thread,
        ``warps`` and ``shared`` bytes."""
        given = -(-max(registers, 1) // self.granule) * self.granule
        each = min(self.warps, self.registers // given)
        if warps < self.schedulers:
            programs = each * self.schedulers // warps
        else:
            # The warps of a program are spread over the schedulers evenly.
            programs = each // -(-warps // self.schedulers)
        if shared:
            programs = min(programs, self.shared // (shared + self.shared_per_program))
        return min(1.0, programs * warps / (self.warps * self.schedulers))


@dataclass(frozen=True)
class Vendor:
    """How to read the listings of a vendor."""

    listing: Callable[[Any], str]
    """The listing of what Triton compiled."""
    lines: Callable[[str, str], Iterator[Line]]
    """The lines of a function, given a listing and the function's name."""
    pipe: Callable[[str], str]
    """The pipe that executes an instruction, given its opcode."""
    weight: Callable[[str], int]
    """How many results of 32 bits a lane of the pipe takes the time of."""
    loaded: Callable[[str], int]
    """The bytes that an instruction loads from global memory for each lane; 0 if it loads none."""
    line: int
    """The bytes of global memory that the caches move together, at least."""
    arithmetic: tuple[str, ...]
    """The pipes on which an algorithm's own operations run."""
    waits: str | None
    """How the instruction begins that a loop repeats to wait for other work."""
    spills: tuple[str, ...]
    """How instructions begin that save or restore a register for lack of them."""
    loaded_by_all: Callable[[str], int] | None = None
    """The bytes that an instruction loads for the whole warp, if compilers make several turns of loops one
    and load constants so."""
    lanes: int | None = None
    """The threads for which a pipe computes results of 32 bits at once, if warps may have another number of
    threads, and if an instruction may be for a part of a warp. The ratio then has such results above the line
    and not instructions, since one instruction may compute on 64 bits, and take twice the time."""


@cache
def _functions(file: str) -> tuple[list[int], list[str]]:
    """The first lines of the functions in a file of the kernels, and their names."""
    path = KERNELS / file
    if not path.exists():
        return [], []
    tree = ast.parse(path.read_text("utf-8"))
    found = sorted((node.lineno, node.name) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return [line for line, _ in found], [name for _, name in found]


def function_at(file: str, line: int) -> str:
    """The name of the device function at a line of a file of the kernels. Empty for any other file."""
    lines, names = _functions(Path(file).name)
    place = bisect.bisect_right(lines, line) - 1
    return names[place] if place >= 0 else ""


# NVIDIA

_SASS = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*([^;]*);")
_SASS_PLACE = re.compile(r'//## File "([^"]+)", line (\d+)( inlined at)?')
_SASS_TARGET = re.compile(r"`\((\.L\w+)\)")


def _sass_listing(compiled: Any) -> str:
    return nvdisasm(compiled.asm["cubin"])


def nvdisasm(cubin: bytes) -> str:
    """The disassembly of a binary, with the lines of the source. Raises FileNotFoundError if this Triton does
    not contain NVIDIA's nvdisasm."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "-c", "-g", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


def _sass_lines(listing: str, name: str) -> Iterator[Line]:
    section, function = False, ""
    for text in listing.splitlines():
        stripped = text.strip()
        if stripped.startswith(".section\t"):
            section = stripped.startswith(f".section\t.text.{name},")
        elif not section:
            continue
        elif place := _SASS_PLACE.search(text):
            function = function_at(place[1], int(place[2]))
        elif stripped.startswith(".L") and stripped.endswith(":"):
            yield Line(stripped[:-1], label=True)
        elif found := _SASS.search(text):
            predicate, opcode, operands = found.groups()
            base = opcode.partition(".")[0]
            # A call to a label within the function is another form of a branch.
            jump = base in ("BRA", "JMP") or opcode.startswith("CALL.REL.NOINC")
            target = _SASS_TARGET.search(operands) if jump else None
            # A branch may also have its condition among its operands.
            always = predicate is None and (not operands.strip().startswith(("P", "!P", "UP", "!UP", "UR")))
            yield Line(
                stripped,
                opcode=opcode,
                function=function,
                target=target[1] if target else None,
                falls_through=not (always and (base in ("EXIT", "RET") or target is not None)),
            )


# The rates of these pipes are in devices.py. The uniform datapath has no published rate; its instructions
# take the place of others when they are issued.
_SASS_PIPES = {
    "fma": "IMAD FFMA FMUL FADD HFMA2",
    "memory": "LDG STG LDS STS LDSM STSM LDGSTS LDL STL LDC ATOM ATOMS ATOMG RED REDG REDAS SHFL ST LD",
    "special": "MUFU I2F F2I POPC FLO BREV I2FP F2F",
    "matrix": "HMMA IMMA IGMMA HGMMA QGMMA UTCIMMA UTCHMMA UTCQMMA UTCMMA LDTM STTM",
    "control": "BRA EXIT RET CALL BSSY BSYNC BAR WARPSYNC NOP DEPBAR LDGDEPBAR MEMBAR FENCE WARPGROUP JMP "
    "YIELD ENDCOLLECTIVE ERRBAR CCTL S2R CS2R ELECT SYNCS ACQBULK NANOSLEEP",
}
_PIPE_OF_SASS = {name: pipe for pipe, names in _SASS_PIPES.items() for name in names.split()}


def _sass_pipe(opcode: str) -> str:
    base = opcode.partition(".")[0]
    if base in _PIPE_OF_SASS:
        return _PIPE_OF_SASS[base]
    return "uniform" if base.startswith("U") or base in ("LDCU", "R2UR", "S2UR", "REDUX") else "alu"


def _sass_weight(opcode: str) -> int:
    # The published rate is that of products of 32 bits. Results of 64 bits are taken as two of them.
    wide = opcode.startswith("IMAD") and (".WIDE" in opcode or ".HI" in opcode)
    return 2 if wide or (".64" in opcode and _sass_pipe(opcode) in ("alu", "fma")) else 1


def _sass_loaded(opcode: str) -> int:
    if opcode.partition(".")[0] not in ("LDG", "LDGSTS"):
        return 0
    width = re.search(r"\.(U8|S8|U16|S16|64|128)\b", opcode)
    return {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}[width[1]] if width else 4


# AMD

_GCN = re.compile(r"^\t([a-z]\w*)\b\s*([^;]*)")
_GCN_PLACE = re.compile(r"^\t\.loc\s+\d+\s+\d+.*;\s*([\w.]+):(\d+)")


def _gcn_listing(compiled: Any) -> str:
    listing: str = compiled.asm["amdgcn"]
    return listing


def _gcn_lines(listing: str, name: str) -> Iterator[Line]:
    inside, function = False, ""
    for text in listing.splitlines():
        if text.startswith(f"{name}:"):
            inside = True
        elif not inside:
            continue
        elif text.startswith(".Lfunc_end"):
            return
        elif place := _GCN_PLACE.match(text):
            function = function_at(place[1], int(place[2]))
        elif text.startswith(".LBB"):
            yield Line(text.partition(":")[0], label=True)
        elif found := _GCN.match(text):
            opcode, operands = found.groups()
            branch = opcode.startswith(("s_branch", "s_cbranch"))
            yield Line(
                text.partition(";")[0].strip(),
                opcode=opcode,
                function=function,
                target=operands.strip() if branch else None,
                falls_through=opcode not in ("s_branch", "s_endpgm", "s_setpc_b64"),
            )


_GCN_CONTROL = (
    *("s_waitcnt", "s_wait_", "s_nop", "s_cbranch", "s_branch", "s_barrier", "s_endpgm", "s_delay_alu"),
    *("s_clause", "s_sendmsg", "s_sleep", "s_setprio", "s_inst_prefetch"),
)


def _gcn_pipe(opcode: str) -> str:
    if opcode.startswith(("v_mfma", "v_wmma", "v_smfmac", "v_swmmac")):
        return "matrix"
    if opcode.startswith("v_"):
        return "valu"
    if opcode.startswith(_GCN_CONTROL):
        return "control"
    if opcode.startswith(("global_", "buffer_", "flat_", "scratch_", "ds_", "s_load", "s_buffer_load")):
        return "memory"
    return "salu"


_GCN_PRODUCTS = ("v_mul_lo_u32", "v_mul_hi_u32", "v_mul_hi_i32", "v_mad_u64_u32", "v_mad_i64_i32")


def _gcn_weight(opcode: str) -> int:
    # AMD's ISA documents give no rates. LLVM's scheduling model of the architectures before
    # (SIFullSpeedModel) gives products of 32 bits four passes, which is taken here for all, as the more
    # cautious value: that of gfx942 has one pass. Shifts of 64 bits are of full rate there (Write64Bit in
    # SIDPGFX942FullSpeedModel).
    return 4 if opcode.startswith(_GCN_PRODUCTS) else 1


def _gcn_loaded(opcode: str) -> int:
    if not opcode.startswith(("global_load", "buffer_load", "flat_load")):
        return 0
    width = re.search(r"_(ubyte|sbyte|u8|i8|ushort|u16|dwordx[234]|dword|b32|b64|b96|b128)(_|$)", opcode)
    sizes = {"ubyte": 1, "sbyte": 1, "u8": 1, "i8": 1, "ushort": 2, "u16": 2, "dword": 4, "b32": 4}
    sizes |= {"dwordx2": 8, "b64": 8, "dwordx3": 12, "b96": 12, "dwordx4": 16, "b128": 16}
    if width is None:
        raise ValueError(f"{opcode} loads an unknown number of bytes")
    return sizes[width[1]]


VENDORS = {
    # Global memory is cached in sectors of 32 bytes (CUDA C++ Best Practices Guide, section "Coalesced Access
    # to Global Memory").
    "cuda": Vendor(
        _sass_listing,
        _sass_lines,
        _sass_pipe,
        _sass_weight,
        _sass_loaded,
        32,
        ("alu", "fma", "special"),
        "SYNCS.PHASECHK",
        ("LDL", "STL"),
    ),
    # The lines of the vector caches have 128 bytes (AMD CDNA 3 and RDNA 3 white papers).
    # Scalar registers are spilled into lanes of vector registers.
    "hip": Vendor(
        _gcn_listing,
        _gcn_lines,
        _gcn_pipe,
        _gcn_weight,
        _gcn_loaded,
        128,
        ("valu",),
        None,
        ("scratch_", "v_readlane", "v_writelane"),
    ),
    # The lines of the caches have 64 bytes (Intel, "oneAPI GPU Optimization Guide"). Counts of spills are the
    # compiler's own: no kernel has any, and the listing does not tell them from other messages.
    **{
        target: Vendor(
            lambda compiled: compiled.listing,
            lambda listing, _name: intel.read(listing, function_at),
            intel.pipe,
            partial(intel.passes, register=register),
            intel.loaded,
            64,
            ("int", "float", "long", "math"),
            None,
            (),
            intel.loaded_by_all,
            register // 4,
        )
        for target, register in intel.REGISTER_BYTES.items()
    },
}


def vendor_of(target: str) -> Vendor:
    """The rules for one of the targets, such as ``cuda:90``."""
    return VENDORS.get(target) or VENDORS[target.partition(":")[0]]


MULTIPROCESSORS = {
    # CUDA C++ Programming Guide, "Technical Specifications per Compute Capability": 65,536 registers, 64
    # warps; 164 KiB of shared memory for 8.0, and 228 KiB for 9.0 and 10.0, of which each program takes 1 KiB
    # more than it asks for. A warp gets registers in units of 256, so a thread in units of 8.
    "cuda:80": Multiprocessor(4, 16, 512, 8, 164 << 10, 1 << 10),
    "cuda:90": Multiprocessor(4, 16, 512, 8, 228 << 10, 1 << 10),
    "cuda:100": Multiprocessor(4, 16, 512, 8, 228 << 10, 1 << 10),
    # LLVM, AMDGPUBaseInfo.cpp: 512 registers in units of 8 and at most 8 waves for gfx90a and later; 1,536 in
    # units of 24 and at most 16 waves for gfx1100 with waves of 32, where the compiler lets a program use
    # both compute units of a pair. 64 KiB of LDS for a compute unit, 128 KiB for a pair (ROCm, "AMD GPU
    # specifications").
    "hip:gfx942": Multiprocessor(4, 8, 512, 8, 64 << 10, 0),
    "hip:gfx1100": Multiprocessor(4, 16, 1536, 24, 128 << 10, 0),
    # Intel, "GPU Occupancy Calculator" (oneAPI-samples): an Xe core has 16 vector engines (Xe-HPG) or 8
    # (Xe-HPC) with 8 hardware threads of 128 registers each, or 4 of 256, and 128 KiB of shared memory.
    "xpu:acm-g10": Multiprocessor(16, 8, 1024, 128, 128 << 10, 0),
    "xpu:pvc": Multiprocessor(8, 8, 1024, 128, 128 << 10, 0),
}
