"""Count the instructions that Intel's OpenCL runtime makes of the kernels: ``python -m bench.cpu_instructions
[ALGORITHM]... [--arch skx|core-avx2]... [--json]``.

The runtime builds for processors that are not present, too, so that AVX-512 code (``skx``) can be counted on
any x86 machine. Nothing is executed. For each algorithm this takes the kernel for rows, follows the path of
one block that lies whole in every message, and prints the instructions on it by kind, beside the least that
the algorithm needs, and the cycles that llvm-mca predicts. The counts are for one vector of lanes. The tools
``objdump`` and ``llvm-mca`` must be installed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from integrity_triton import algorithms
from integrity_triton.aot.compiling import specializations
from integrity_triton.backends.opencl import prebuilt

PROCESSORS = {"skx": ("icelake-server",), "core-avx2": ("znver3",)}
"""The processors for which llvm-mca predicts, by the architecture that the runtime builds for."""
USUAL = ("sha256", "sha512", "sm3", "sha1", "md5", "blake3", "blake2s", "blake2b", "sha3_256", "ripemd160")


class Least(NamedTuple):
    """The least instructions of one block with three-input logic, rotations and no spills. Loading the
    message, transposing it and reversing its bytes come in addition."""

    rotations: int
    logic: int
    """With two or three inputs, shifts included."""
    additions: int


# Counted from the standards. "3 + 1 | 2 | 5" means rotations | logic | additions of a step.
LEAST = {
    # FIPS 180-4, section 6.2: a round has both sums (3 rotations and one exclusive or of three each), Ch and
    # Maj, and 7 additions. A word of the schedule has both sigmas (2 rotations, a shift and one exclusive or
    # of three each), and 3 additions.
    "sha256": Least(64 * 6 + 48 * 4, 64 * 4 + 48 * 4, 64 * 7 + 48 * 3 + 8),
    # Section 6.4, with 80 rounds.
    "sha512": Least(80 * 6 + 64 * 4, 80 * 4 + 64 * 4, 80 * 7 + 64 * 3 + 8),
    # Section 6.1: a round has two rotations, one function and 4 additions; a word of the schedule has an
    # exclusive or of four (two instructions) and a rotation.
    "sha1": Least(80 * 2 + 64, 80 + 64 * 2, 80 * 4 + 5),
    # RFC 1321, section 3.4: a step has one function, 4 additions and a rotation.
    "md5": Least(64, 64, 64 * 4 + 4),
    # GB/T 32905-2016, section 5.3: a round has the rotations of A, SS1, B and F and two of P0; FF, GG, SS2,
    # P0 and W'; 8 additions. A word of the schedule has 4 rotations and three exclusive ors of three.
    "sm3": Least(64 * 6 + 52 * 4, 64 * 5 + 52 * 3 + 8, 64 * 8),
    # RFC 7693, section 3.1, and BLAKE3, section 2.2: G has 4 rotations, 4 exclusive ors and 6 additions.
    "blake3": Least(56 * 4, 56 * 4 + 8, 56 * 6),
    "blake2s": Least(80 * 4, 80 * 4 + 8, 80 * 6),
    "blake2b": Least(96 * 4, 96 * 4 + 8, 96 * 6),
    # FIPS 202, section 3.2: theta has 10 exclusive ors for the columns, 5 rotations, and one exclusive or of
    # three for each of 25 words; rho has 24 rotations; chi 25 functions; iota one exclusive or. 17 words of
    # the message are absorbed.
    "sha3_256": Least(24 * 29, 24 * 61 + 17, 0),
    # The RIPEMD-160 paper, appendix A: a step has one function, two rotations and 4 additions.
    "ripemd160": Least(160 * 2, 160, 160 * 4 + 10),
}
# How often the kernels' loops over rounds turn, for those whose rounds are not unrolled.
TURNS = {"sha256": 4, "sha512": 5, "sm3": 3, "sha3_256": 24}
# Each round is in a branch that is always taken.
BRANCHES = {"blake2s", "blake2b"}


class Instruction(NamedTuple):
    address: int
    name: str
    operands: str

    @property
    def target(self) -> int | None:
        """Where a jump leads."""
        found = re.match(r"([0-9a-f]+) <", self.operands) if self.name.startswith("j") else None
        return int(found[1], 16) if found else None

    @property
    def text(self) -> str:
        return f"{self.name} {self.operands}"

    @property
    def kind(self) -> str:
        name, operands = self.name, self.operands
        on_stack = re.search(r"\((%rsp|%rbp)", operands) is not None
        if not re.search(r"%[xyz]mm", operands):
            return "other"
        if re.match(r"v?movn?[tdaulhq]", name):
            if "(" not in operands:
                return "moves"
            if re.search(r"\)(\{.*)?$", operands):
                return "spills" if on_stack else "stores"
            return "reloads" if on_stack else "loads"
        if on_stack:
            return f"{_kind(name)}, operand on the stack"
        return _kind(name)


_KINDS = (
    ("rotations", r"vpro[lr]"),
    ("ternary logic", r"vpternlog"),
    # Without an instruction for it, the elements are inserted one by one.
    ("gathers", r"vp?gather|vpinsr"),
    ("logic", r"v(p?xor|p?andn?|p?or)"),
    ("shifts", r"vps[lr]l|vpsra"),
    ("additions", r"vp(add|sub|mul)"),
    ("masks", r"vp(cmp|min|max|test|movmsk)|v?blendvp|k"),
    ("shuffles", r"v?p?(perm|unpck|shuf|insert|extr|blend|broadcast|align|mov|pack)|valign|vpermi2|vpermt2"),
)


def _kind(name: str) -> str:
    for kind, pattern in _KINDS:
        if re.match(pattern, name):
            return kind
    return "other"


@dataclass
class Block:
    """Instructions without a jump between them."""

    instructions: list[Instruction]
    next: list[int] = field(default_factory=list)
    """The addresses of the blocks that may follow."""


@dataclass(frozen=True)
class Loop:
    header: int
    body: frozenset[int]
    """The addresses of its blocks, those of inner loops included."""


class Code:
    """The control flow of a function."""

    def __init__(self, instructions: Sequence[Instruction]) -> None:
        starts = {instructions[0].address}
        for last, following in pairwise(instructions):
            if last.target is not None or last.name.startswith("ret"):
                starts |= {a for a in (last.target, following.address) if a is not None}
        self.blocks: dict[int, Block] = {}
        for instruction in instructions:
            if instruction.address in starts:
                self.blocks[instruction.address] = Block([])
            self.blocks[next(reversed(self.blocks))].instructions.append(instruction)
        order = list(self.blocks)
        for block, below in zip(self.blocks.values(), [*order[1:], None], strict=True):
            end = block.instructions[-1]
            falls = end.name != "jmp" and not end.name.startswith("ret")
            block.next = [a for a in (end.target, below if falls else None) if a in self.blocks]

    @cached_property
    def loops(self) -> list[Loop]:
        """The natural loops. Those with the same header are one."""
        dominators = self._dominators()
        bodies: dict[int, set[int]] = {}
        before: dict[int, list[int]] = {}
        for address in dominators:  # the others, which align code, are not reached
            for following in self.blocks[address].next:
                before.setdefault(following, []).append(address)
        for address in dominators:
            for header in self.blocks[address].next:
                if header in dominators[address]:
                    body = bodies.setdefault(header, {header})
                    pending = [address]
                    while pending:
                        if (found := pending.pop()) not in body:
                            body.add(found)
                            pending += before[found]
        return [Loop(header, frozenset(body)) for header, body in bodies.items()]

    def _dominators(self) -> dict[int, set[int]]:
        entry = next(iter(self.blocks))
        order, seen = [], set()

        def visit(start: int) -> None:
            stack = [(start, iter(self.blocks[start].next))]
            seen.add(start)
            while stack:
                address, following = stack[-1]
                for new in following:
                    if new not in seen:
                        seen.add(new)
                        stack.append((new, iter(self.blocks[new].next)))
                        break
                else:
                    order.append(address)
                    stack.pop()

        visit(entry)
        order.reverse()
        before: dict[int, list[int]] = {address: [] for address in order}
        for address in order:
            for following in self.blocks[address].next:
                before[following].append(address)
        found = {entry: {entry}}
        changed = True
        while changed:
            changed = False
            for address in order[1:]:
                known = [found[b] for b in before[address] if b in found]
                new = set.intersection(*known) | {address}
                if found.get(address) != new:
                    found[address], changed = new, True
        return found

    def vectors(self, loop: Loop) -> int:
        return sum("mm" in i.operands for address in loop.body for i in self.blocks[address].instructions)

    def path(
        self, loop: Loop, turns: int, *, longest: bool = False, leaving: bool = False
    ) -> list[Instruction]:
        """The shortest or the longest way once around ``loop``, or out of it, among those with the fewest
        gathers, because only the ends of messages are gathered.

        Loops within it are taken ``turns`` times, the last time only until they are left: a loop over rounds
        then has no more words to prepare.
        """
        within = {x.header: x for x in self.loops if x.body < loop.body}
        within = {h: x for h, x in within.items() if not any(x.body < y.body for y in within.values())}
        known: dict[int, list[Instruction] | None] = {}

        def rest(address: int) -> list[Instruction] | None:
            """The instructions from a block to the end of the turn; None if they do not lead there."""
            if address in known:
                return known[address]
            known[address] = None
            if inner := within.get(address):
                here = self.path(inner, 1, longest=True) * (turns - 1) + self.path(inner, 1, leaving=True)
                following = {n for a in inner.body for n in self.blocks[a].next} - inner.body
            else:
                here, following = self.blocks[address].instructions, set(self.blocks[address].next)
            at_end = following - loop.body if leaving else following & {loop.header}
            ways = [rest(n) for n in following & loop.body - {loop.header}]
            found = [way for way in ways if way is not None] + ([[]] if at_end else [])
            if found:
                known[address] = here + min(found, key=lambda way: _cost(way, longest))
            return known[address]

        found = rest(loop.header)
        assert found is not None
        return found

    def hot(self, turns: int, *, longest: bool = False) -> list[Instruction]:
        """The instructions of one block of the message, for whole blocks."""
        innermost = [x for x in self.loops if not any(y.body < x.body for y in self.loops)]
        loop = max(innermost, key=self.vectors)
        if turns > 1:
            loop = min((x for x in self.loops if loop.body < x.body), key=lambda x: len(x.body))
        return self.path(loop, turns, longest=longest)


def _cost(way: Sequence[Instruction], longest: bool) -> tuple[int, int]:
    return sum(i.kind == "gathers" for i in way), -len(way) if longest else len(way)


def built(binary: bytes, architecture: str) -> bytes:
    """What the OpenCL runtime makes of a SPIR-V module for an architecture: an ELF object.

    The runtime reads the architecture from its environment when it starts, so this needs another process.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "bench.cpu_instructions", "--build"],
        input=binary,
        stdout=subprocess.PIPE,
        env={**os.environ, "CL_CONFIG_CPU_TARGET_ARCH": architecture, "PYOPENCL_NO_CACHE": "1"},
        check=True,
    )
    # The binary holds the object after the module and its description.
    return done.stdout[done.stdout.index(b"\x7fELF", 1) :]


def _build() -> None:
    """Build the module on standard input, and write the runtime's binary to standard output."""
    from integrity_triton.backends.opencl import _Runtime

    runtime = _Runtime()
    program = runtime.cl.Program(runtime.context, sys.stdin.buffer.read()).build()
    sys.stdout.buffer.write(program.get_info(runtime.cl.program_info.BINARIES)[0])
    sys.stdout.flush()
    os._exit(0)  # the runtime may crash at its end if it built for another processor


def disassembled(elf: bytes, entry: str) -> list[Instruction]:
    with tempfile.NamedTemporaryFile(suffix=".o") as file:  # objdump reads no pipe
        file.write(elf)
        file.flush()
        done = subprocess.run(
            ["objdump", "-d", "--no-show-raw-insn", file.name], capture_output=True, text=True, check=True
        )
    return parsed(done.stdout, entry)


def parsed(text: str, entry: str) -> list[Instruction]:
    """The instructions of a function in the output of ``objdump -d``."""
    _, found, rest = text.partition(f"<{entry}>:\n")
    if not found:
        raise SystemExit(f"the binary has no function {entry}")
    instructions = []
    for line in rest.partition("\n\n")[0].splitlines():
        if parts := re.match(r"\s*([0-9a-f]+):\t(\S+)\s*(.*?)(?:\s+#.*)?$", line):
            instructions.append(Instruction(int(parts[1], 16), parts[2], parts[3]))
    return instructions


def predicted(path: Iterable[Instruction], processor: str) -> float | None:
    """The cycles that llvm-mca predicts for a path, if it is taken again and again. None without the tool."""
    tool = next(filter(None, map(shutil.which, ("llvm-mca", "llvm-mca-14"))), None)
    if tool is None:
        return None
    text = "\n".join(i.text for i in path if not i.name.startswith(("j", "nop", "cs", "data16", "xchg")))
    turns = 4
    done = subprocess.run(
        [tool, "-mtriple=x86_64", f"-mcpu={processor}", f"-iterations={turns}", "-instruction-info=0",
         "-resource-pressure=0"],
        input=text, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    assert found is not None
    return int(found[1]) / turns


@dataclass(frozen=True)
class Count:
    algorithm: str
    architecture: str
    lanes: int
    """The number of messages whose blocks the path hashes."""
    block_bytes: int
    kinds: dict[str, int]
    cycles: dict[str, float | None]

    @property
    def total(self) -> int:
        return sum(self.kinds.values())


def count(name: str, artifact: prebuilt.Prebuilt, architecture: str) -> Count:
    """Count the main kernel of an algorithm for one architecture."""
    sidecar = artifact.sidecar
    code = Code(disassembled(built(artifact.binary, architecture), sidecar["entry"]))
    path = code.hot(TURNS.get(name, 1), longest=name in BRANCHES)
    kinds = Counter(i.kind for i in path)
    cycles = {processor: predicted(path, processor) for processor in PROCESSORS[architecture]}
    size = sidecar["constants"].get("BLOCK_BYTES", 64)
    lanes = sidecar["lanes_per_program"] * sidecar["threads_per_warp"] // sidecar["threads_per_program"]
    return Count(name, architecture, lanes, size, dict(kinds.most_common()), cycles)


def artifact(name: str) -> prebuilt.Prebuilt:
    """The kernel that hashes aligned rows."""
    main = {"TABLE": False, "STATE_PER_MESSAGE": False, "KEY_PER_MESSAGE": False, "FINAL": True, "ROOTS": 1}
    found = [
        (wanted.constants["ALIGN"] or 1 << 10, wanted.name)
        for wanted in specializations([algorithms.get(name)]).values()
        if "ALIGN" in wanted.constants and all(wanted.constants.get(k, v) == v for k, v in main.items())
    ]
    return prebuilt.load(max(found)[1])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.cpu_instructions", description=__doc__)
    parser.add_argument("algorithms", nargs="*", metavar="ALGORITHM", help=f"default: {' '.join(USUAL)}")
    parser.add_argument("--arch", action="append", choices=PROCESSORS, help="default: both")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--build", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        _build()
    counts = [
        count(name, artifact(name), architecture)
        for name in options.algorithms or USUAL
        for architecture in options.arch or PROCESSORS
    ]
    print(json.dumps([vars(c) | {"total": c.total} for c in counts]) if options.json else table(counts))


def table(counts: Sequence[Count]) -> str:
    kinds = list(dict.fromkeys(kind for c in counts for kind in c.kinds))
    lines = [["kernel", "code", "lanes", "least", "total", "cycles", *kinds]]
    lines.append(["---", "---", *["---:"] * (len(lines[0]) - 2)])
    for c in counts:
        least = sum(LEAST[c.algorithm]) if c.algorithm in LEAST else None
        cycles = ", ".join(f"{v:.0f} {k}" for k, v in c.cycles.items() if v is not None)
        cells = [c.algorithm, c.architecture, c.lanes, least, c.total, cycles]
        lines.append([str(v or "") for v in [*cells, *(c.kinds.get(kind) for kind in kinds)]])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
