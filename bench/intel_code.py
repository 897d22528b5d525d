"""Count the machine code of the kernels for Intel GPUs: ``python -m bench.intel_code --compiler FOLDER``.

Intel's offline compiler makes the code on any machine. What is counted says which configurations spill
registers, and on which pipes the instructions run. It says nothing about time.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from integrity_triton.algorithms import Algorithm
from integrity_triton.aot import compiling
from integrity_triton.backends.opencl.prebuilt import Specialization

RESULTS = Path(__file__).parent / "results" / "intel_code.json"
LABEL = "counted in compiled code, not measured"
TARGETS = tuple(f"xpu:{gpu}" for gpu in compiling.INTEL_GPUS)
DISASSEMBLER = "iga64"
PLATFORMS = {"acm-g10": "12p71", "pvc": "12p72"}
"""The names of the architectures for the disassembler."""
PIPES = {
    "dpas": ("dpas", "dpasw"),
    "send": ("send", "sends", "sendc", "sendsc"),
    "logic": ("and", "or", "xor", "not", "bfn", "csel"),
    "shift": ("shl", "shr", "asr", "rol", "ror", "bfe", "bfi1", "bfi2", "bfrev"),
    "add": ("add", "add3", "addc", "subb", "avg"),
    "multiply": ("mul", "mach", "macl", "mad", "madw", "dp4a"),
    "move": ("mov", "movi", "sel"),
    "compare": ("cmp", "cmpn"),
    "branch": ("goto", "join", "jmpi", "while", "if", "else", "endif", "brc", "brd", "call", "ret", "halt"),
}
_TOGETHER = 8  # kernels that are compiled in one go; starting the compiler takes seconds
_PIPE_OF = {opcode: pipe for pipe, opcodes in PIPES.items() for opcode in opcodes}
_INSTRUCTION = re.compile(r"\s*(?:\([^)]*\)\s*)*([a-z][a-z0-9_]*)(?:\.[\w.]+)*\s*(?:\(|$|\s)")
_SPILLS = re.compile(r"spilled around (\d+)")


class MissingTool(RuntimeError):
    """Raised if a program that counting needs is not installed."""


@dataclass(frozen=True)
class Code:
    """The code of one kernel on one architecture."""

    threads_per_warp: int
    """The lanes of an instruction (SIMD width)."""
    grf_mode: int | None
    """The registers of a hardware thread."""
    num_warps: int
    lanes_per_program: int
    spilled: int
    """The compiler's number of loads and stores of spilled registers."""
    instructions: Mapping[str, int]
    """The number of instructions, by pipe."""
    in_loops: Mapping[str, int]
    """As ``instructions``, of those between the start and the end of a loop."""


def kernel_name(wanted: Specialization) -> str:
    """The kernel's name, followed by that of the block function with which it is compiled, if it takes
    one."""
    return "/".join(reference.partition(":")[2] for reference in wanted.references)


def counted_kernels(
    target: compiling.Target, records: Iterable[Algorithm] | None = None
) -> list[Specialization]:
    """One variant of each kernel that ``records``, by default all algorithms, launch, with each block
    function that it is compiled with: that for rows with the best alignment, at the end of a message."""
    found: dict[str, tuple[Any, Specialization]] = {}
    for wanted in compiling.specializations(records, target).values():
        constants = wanted.constants
        rank = not constants.get("TABLE"), constants.get("ALIGN", 0), bool(constants.get("FINAL"))
        name = kernel_name(wanted)
        if name not in found or rank > found[name][0]:
            found[name] = rank, wanted
    return [found[name][1] for name in sorted(found)]


def spilled(messages: str) -> int:
    """The number of spills that the offline compiler tells of. It tells of none where there are none."""
    return sum(int(number) for number in _SPILLS.findall(messages))


def count_listing(listing: str) -> tuple[dict[str, int], dict[str, int]]:
    """The instructions of a disassembly by pipe: all of them, and those that are in loops."""
    lines = listing.splitlines()
    labels = {line.strip()[:-1]: i for i, line in enumerate(lines) if re.fullmatch(r"\s*L\d+:", line)}
    looped: set[int] = set()
    for i, line in enumerate(lines):
        for label in re.findall(r"\bL\d+\b(?!:)", line):
            if labels.get(label, len(lines)) <= i:  # a branch back
                looped.update(range(labels[label], i + 1))
    every, inside = Counter[str](), Counter[str]()
    for i, line in enumerate(lines):
        if line.strip().startswith("//") or not (found := _INSTRUCTION.match(line)):
            continue
        pipe = _PIPE_OF.get(found[1], "other")
        every[pipe] += 1
        inside[pipe] += i in looped
    return dict(sorted(every.items())), dict(sorted((+inside).items()))


def disassemble(binary: Path, gpu: str, *, places: bool = False) -> str:
    """The disassembly of what the offline compiler made, and with ``places`` the place of each instruction in
    front of it. Raises MissingTool without the disassembler."""
    if shutil.which(DISASSEMBLER) is None:
        raise MissingTool(
            f"{DISASSEMBLER} is not installed; on Debian and Ubuntu: apt-get install libigc-tools"
        )
    with tempfile.TemporaryDirectory() as folder:
        command = [
            compiling.OFFLINE_COMPILER,
            "disasm",
            "-file",
            str(binary),
            "-device",
            gpu,
            "-dump",
            folder,
        ]
        subprocess.run(command, capture_output=True, check=True)
        (code,) = Path(folder).glob("*_KernelHeap.dat")
        command = [DISASSEMBLER, "-d", f"-p={PLATFORMS[gpu]}", *(["-Xprint-pc"] if places else []), str(code)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def count(wanted: Sequence[Specialization], target: compiling.Target, compiler: Path) -> Iterator[Code]:
    """Compile kernels for a target, and count what became of each of them."""
    gpu = str(target.architecture)
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, one.name) for one in wanted]
        results = compiling.compile_all(wanted, target, outputs, compiler=compiler)
        for one, output, result in zip(wanted, outputs, results, strict=True):
            every, inside = count_listing(disassemble(Path(f"{output}.bin"), gpu))
            yield Code(
                threads_per_warp=result["threads_per_warp"],
                grf_mode=one.grf_mode,
                num_warps=one.num_warps,
                lanes_per_program=one.constants["BLOCK_MSGS"],
                spilled=spilled(result["messages"]),
                instructions=every,
                in_loops=inside,
            )


def offline_compiler_version() -> str:
    """The version of the graphics driver's package that the offline compiler comes from."""
    command = ["dpkg-query", "-W", "-f", "${Package} ${Version}\n", "intel-opencl-icd", "libigc1"]
    if shutil.which(command[0]) is None:
        return "not known"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return ", ".join(done.stdout.split("\n")[:-1]) or "not known"


def described(code: Code) -> str:
    """What was counted, on one line."""
    pipes = ", ".join(f"{pipe} {number}" for pipe, number in code.instructions.items())
    mode = f"SIMD{code.threads_per_warp}, {code.grf_mode or 'any number of'} registers"
    return f"{mode}, {code.spilled} spilled; {pipes}"


def write(kernels: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the counts of kernels, by name and target, to RESULTS."""
    document = {
        "label": LABEL,
        "compilers": [compiling.INTEL_COMPILER, offline_compiler_version()],
        "kernels": dict(sorted(kernels.items())),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.intel_code",
        description="Compile the kernels for Intel GPUs and count their instructions. No GPU is needed, and "
        "nothing is measured.",
    )
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help="by default all")
    parser.add_argument(
        "--compiler", type=Path, required=True, help=f"the folder in which {compiling.INTEL_COMPILER} is"
    )
    parser.add_argument("--target", action="append", choices=TARGETS, help="by default all targets")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    document: dict[str, Any] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    kernels = document.get("kernels", {})
    targets = {name: compiling.Target.parse(name) for name in options.target or TARGETS}
    counted = {name: counted_kernels(target) for name, target in targets.items()}
    known = {kernel_name(one) for chosen in counted.values() for one in chosen}
    if unknown := set(options.kernels) - known:
        parser.error(f"no kernel {', '.join(sorted(unknown))}")
    print(f"Instructions, {LABEL}:")
    for name, target in targets.items():
        chosen = [one for one in counted[name] if not options.kernels or kernel_name(one) in options.kernels]
        for start in range(0, len(chosen), _TOGETHER):
            batch = chosen[start : start + _TOGETHER]
            for one, code in zip(batch, count(batch, target, options.compiler), strict=True):
                kernels.setdefault(kernel_name(one), {})[name] = asdict(code)
                print(f"{name} {kernel_name(one)}: {described(code)}", flush=True)
            if options.write:
                write(kernels)


if __name__ == "__main__":
    main()
