"""Count the instructions that Intel's OpenCL runtime makes of the kernels: ``python -m bench.cpu_instructions
[ALGORITHM]... [--arch skx|core-avx2]... [--json]``. With ``--compiler FOLDER --lanes 8,16,32 --tiles 1,2`` it
counts kernels that it compiles for these numbers of lanes in a sub-group and of messages in a lane.

The runtime builds for processors that are not present, too, so that AVX-512 code (``skx``) can be counted on
any x86 machine. Nothing is executed. For each algorithm this takes the kernel for rows, follows the path of
one block that lies whole in every message, and prints the instructions on it by kind, how many of them need a
unit for vectors, the least that the algorithm needs, and the cycles that llvm-mca predicts, also for each
byte, and as the GB/s of one thread at ``--ghz``. For ``skx`` it takes the kernels for AVX-512. The counts are
for one sub-group. The tools ``objdump`` and ``llvm-mca`` must be installed.
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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from integrity_triton import algorithms
from integrity_triton.aot.compiling import (
    PORTABLE,
    CompileError,
    Target,
    compile_all,
    sidecar,
    specializations,
)
from integrity_triton.backends.opencl import prebuilt
from integrity_triton.launching.launch import form_of

PROCESSORS = {"skx": ("znver4", "icelake-server"), "core-avx2": ("znver3",)}
"""The processors for which llvm-mca predicts, by the architecture that the runtime builds for. LLVM's model
of icelake-server executes three additions of 512 bits in a cycle, where the processor has units for two, so
that its predictions are too low."""
REGISTER_BYTES = {"skx": 64, "core-avx2": 32}
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
        # A function may end with a jump back, so that the last instruction has a target, too.
        for last, following in zip(instructions, [*instructions[1:], None], strict=True):
            if last.target is not None or last.name.startswith("ret"):
                starts |= {
                    a for a in (last.target, following.address if following else None) if a is not None
                }
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
        self,
        loop: Loop,
        turns: int,
        *,
        longest: bool = False,
        leaving: bool = False,
        through: Loop | None = None,
    ) -> list[Instruction]:
        """The shortest or the longest way once around ``loop``, or out of it, among those with the fewest
        gathers, because only the ends of messages are gathered. Ways through the loop ``through`` are
        preferred to those that pass it by.

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
                known[address] = here + min(
                    found,
                    key=lambda way: (
                        through is not None and not any(i.address in through.body for i in way),
                        *_cost(way, longest),
                    ),
                )
            return known[address]

        found = rest(loop.header)
        assert found is not None
        return found

    def hot(self, turns: int, *, longest: bool = False) -> list[Instruction]:
        """The instructions of one block of the message, for whole blocks."""
        innermost = [x for x in self.loops if not any(y.body < x.body for y in self.loops)]
        loop = max(innermost, key=self.vectors)
        if turns == 1:
            return self.path(loop, turns, longest=longest)
        rounds = loop
        loop = min((x for x in self.loops if rounds.body < x.body), key=lambda x: len(x.body))
        return self.path(loop, turns, longest=longest, through=rounds)


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


_WITH_MEMORY = re.compile(
    r"(v?p?(?:add|sub|xor|and|andn|or|ternlog)[dqsp]*) (\$\w+,)?"
    r"([^%$,]*\([^)]*\))(?:\{1to\d+\})?,(%[xyz]mm\d+),(.*)"
)


_TOOLS = (*(f"llvm-mca-{version}" for version in range(30, 13, -1)), "llvm-mca")


def unfolded(text: str) -> str:
    """An instruction in which arithmetic has an operand in memory, as a load and the arithmetic.

    A processor loads such an operand before the others are known. llvm-mca lets the load begin only when they
    are known, which adds 7 cycles to every step of a chain. The load gets a register that nothing else uses,
    so that it takes its port and delays nothing.
    """
    found = _WITH_MEMORY.fullmatch(text)
    if found is None:
        return text
    name, immediate, memory, register, rest = found.groups()
    return f"movq {memory},%mm0\n{name} {immediate or ''}{register},{register},{rest}"


def predicted(path: Iterable[Instruction], processor: str) -> float | None:
    """The cycles that llvm-mca predicts for a path, if it is taken again and again. None without the tool."""
    tool = next(filter(None, map(shutil.which, _TOOLS)), None)
    if tool is None:
        return None
    left_out = ("j", "nop", "cs", "data16", "xchg")
    text = "\n".join(unfolded(i.text) for i in path if not i.name.startswith(left_out))
    turns = 4
    done = subprocess.run(
        [tool, "-mtriple=x86_64", f"-mcpu={processor}", f"-iterations={turns}", "-instruction-info=0",
         "-resource-pressure=0"],
        input=text, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "not a recognized processor" in done.stderr:  # the tool is older than the processor
        return None
    done.check_returncode()
    found = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    assert found is not None
    return int(found[1]) / turns


@dataclass(frozen=True)
class Count:
    algorithm: str
    architecture: str
    lanes: int
    """The number of messages whose blocks the path hashes."""
    shape: str
    """Lanes in a sub-group and messages in a program."""
    block_bytes: int
    kinds: dict[str, int]
    cycles: dict[str, float | None]

    @property
    def total(self) -> int:
        return sum(self.kinds.values())

    @property
    def in_units(self) -> int:
        """The instructions that need a unit for vectors. Copies of registers need none in recent processors,
        and what only loads, stores or counts has units of its own."""
        elsewhere = {"moves", "loads", "stores", "spills", "reloads", "other"}
        return sum(n for kind, n in self.kinds.items() if kind not in elsewhere)

    @property
    def cycles_per_byte(self) -> float | None:
        """By the first processor for which cycles were predicted."""
        found = next((v for v in self.cycles.values() if v is not None), None)
        return None if found is None else found / (self.lanes * self.block_bytes)

    @property
    def least(self) -> int | None:
        """The least instructions for all vectors of the sub-group."""
        if self.algorithm not in LEAST:
            return None
        word = 8 if algorithms.get(self.algorithm).block_size > 64 else 4
        return sum(LEAST[self.algorithm]) * max(1, self.lanes * word // REGISTER_BYTES[self.architecture])

    def summary(self, ghz: float) -> str:
        rate = self.cycles_per_byte
        speed = "" if rate is None else f", {rate:.3f} cycles a byte, {ghz / rate:.2f} GB/s at {ghz:g} GHz"
        return f"{self.algorithm} {self.architecture} {self.shape}: {self.total} instructions{speed}"


def count(name: str, artifact: prebuilt.Prebuilt, architecture: str) -> Count:
    """Count the main kernel of an algorithm for one architecture."""
    sidecar = artifact.sidecar
    code = Code(disassembled(built(artifact.binary, architecture), sidecar["entry"]))
    turns = TURNS.get(name, 1)
    if form_of(sidecar["constants"].get("BLOCK", ""))[1] == "INTERLEAVED":
        turns -= 1  # the rounds after the last words of the schedule come after the loop
    path = code.hot(turns, longest=name in BRANCHES)
    kinds = Counter(i.kind for i in path)
    cycles = {processor: predicted(path, processor) for processor in PROCESSORS[architecture]}
    wide, in_program = sidecar["threads_per_warp"], sidecar["lanes_per_program"]
    lanes = in_program * wide // sidecar["threads_per_program"]
    size = algorithms.get(name).block_size
    return Count(name, architecture, lanes, f"{wide} x {in_program}", size, dict(kinds.most_common()), cycles)


TARGETS = {"skx": "xpu:avx512", "core-avx2": "xpu"}
"""The kernels that ship for each architecture, by the target for which they are compiled."""


def main_kernel(name: str, target: str) -> prebuilt.Specialization:
    """The kernel that hashes aligned rows."""
    main = {"TABLE": False, "STATE_PER_MESSAGE": False, "KEY_PER_MESSAGE": False, "FINAL": True, "ROOTS": 1}
    found = [
        (wanted.constants["ALIGN"] or 1 << 10, wanted)
        for wanted in specializations([algorithms.get(name)], Target.parse(target)).values()
        if "ALIGN" in wanted.constants and all(wanted.constants.get(k, v) == v for k, v in main.items())
    ]
    return max(found, key=lambda pair: pair[0])[1]


def shapes(
    wanted: prebuilt.Specialization, lanes: Iterable[int], tiles: Iterable[int]
) -> list[prebuilt.Specialization]:
    """The kernel with each of these numbers of lanes in a sub-group and of messages in a lane."""
    return [
        replace(
            wanted,
            constants={**wanted.constants, "BLOCK_MSGS": wide * deep * wanted.num_warps},
            threads_per_warp=wide,
        )
        for wide in lanes
        for deep in tiles
    ]


def compiled(
    wanted: Sequence[prebuilt.Specialization], compiler: Path
) -> Iterator[prebuilt.Prebuilt | CompileError]:
    target = Target.parse("xpu")
    for asked in wanted:
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder, "kernel")
            try:
                (result,) = compile_all([asked], target, [output], compiler=compiler)
            except CompileError as error:
                yield error
                continue
            binary = Path(f"{output}.spv").read_bytes()
            yield prebuilt.Prebuilt(asked.name, binary, sidecar(asked, target, result))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.cpu_instructions", description=__doc__)
    parser.add_argument("algorithms", nargs="*", metavar="ALGORITHM", help=f"default: {' '.join(USUAL)}")
    parser.add_argument("--arch", action="append", choices=PROCESSORS, help="default: both")
    parser.add_argument(
        "--target", choices=PORTABLE, help="the set of kernels; default: the one for the architecture"
    )
    parser.add_argument(
        "--ghz", type=float, default=3.0, help="the clock for the predicted speed; default: 3"
    )
    parser.add_argument("--compiler", type=Path, help="the folder of Intel's Triton, for the next options")
    parser.add_argument("--lanes", type=_numbers, help="lanes in a sub-group, such as 8,16,32")
    parser.add_argument("--tiles", type=_numbers, default=[1], help="messages in a lane, such as 1,2")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--build", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        _build()
    if options.lanes and options.compiler is None:
        parser.error("--lanes needs --compiler")
    counts = []
    for name in options.algorithms or USUAL:
        for architecture in options.arch or PROCESSORS:
            wanted = main_kernel(name, options.target or TARGETS[architecture])
            if options.lanes:
                found = compiled(shapes(wanted, options.lanes, options.tiles), options.compiler)
            else:
                found = iter([prebuilt.load(wanted.name)])
            for artifact in found:
                if isinstance(artifact, CompileError):
                    print(f"{name}: {str(artifact).splitlines()[-1]}", file=sys.stderr)
                else:
                    counts.append(count(name, artifact, architecture))
                    print(counts[-1].summary(options.ghz), file=sys.stderr, flush=True)
    if options.json:
        print(
            json.dumps([vars(c) | {"total": c.total, "cycles per byte": c.cycles_per_byte} for c in counts])
        )
    else:
        print(table(counts, options.ghz))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def table(counts: Sequence[Count], ghz: float) -> str:
    kinds = list(dict.fromkeys(kind for c in counts for kind in c.kinds))
    speed = ["cycles", "cycles a byte", f"GB/s at {ghz:g} GHz"]
    lines = [["kernel", "code", "lanes x program", "least", "total", "in units", *speed, *kinds]]
    lines.append(["---", "---", *["---:"] * (len(lines[0]) - 2)])
    for c in counts:
        cycles = ", ".join(f"{v:.0f} {k}" for k, v in c.cycles.items() if v is not None)
        rate = c.cycles_per_byte
        predicted_speed = ["", ""] if rate is None else [f"{rate:.3f}", f"{ghz / rate:.2f}"]
        cells = [c.algorithm, c.architecture, c.shape, c.least, c.total, c.in_units, cycles, *predicted_speed]
        lines.append([str(v or "") for v in [*cells, *(c.kinds.get(kind) for kind in kinds)]])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
