"""How long kernels take to compile: ``python -m bench.compile_time [ALGORITHM]... [--target T]``. No GPU is
needed.

For every kernel and target, this prints the seconds of a compilation without a cache, the registers of a
thread, and the amount that is spilled. The seconds are processor time of this process and of its assembler,
which depends less on other work of the machine than elapsed time does.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import subprocess
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget

from integrity_triton import algorithms
from integrity_triton.algorithms import Algorithm, load_reference
from integrity_triton.aot.compiling import Target
from integrity_triton.launching.launch import Launch
from integrity_triton.self_tests import catalogue

TARGETS = {
    "cuda:80": GPUTarget("cuda", 80, 32),
    "cuda:90": GPUTarget("cuda", 90, 32),
    "cuda:100": GPUTarget("cuda", 100, 32),
    "hip:gfx942": GPUTarget("hip", "gfx942", 64),
    "hip:gfx1100": GPUTarget("hip", "gfx1100", 32),
}
MOST_SECONDS = 4.0
# Kernels are compiled separately for aligned rows, unaligned messages of any lengths, and pieces of one
# message.
LAYOUTS = ("rows", "ragged", "stream")
# Another value of these constants does not count as another kernel: data, and what depends on the layout.
_DATA = {"REFLECTED"}
_LAYOUT = {
    "TABLE",
    "STATE_PER_MESSAGE",
    "CONSTANTS_PER_MESSAGE",
    "KEY_PER_MESSAGE",
    "FINAL",
    "ALIGN",
    "ROOTS",
    "FOLDED",
    "LANES",
}


@dataclass(frozen=True)
class Build:
    """The compilation of a kernel for one target."""

    kernel: str
    compiled: Any
    seconds: float
    """Processor time."""
    binary: bytes
    registers: int | None
    """The registers of a thread. None if there is no tool that tells their number."""
    spilled: int | None
    """Bytes that a thread keeps in memory for lack of registers; for AMD, the number of vector registers."""


class _Driver:
    """The part of a Triton driver that a compilation needs."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return list(TARGETS.values()).index(self.target)  # Triton caches binaries by device

    def get_current_stream(self, device: int) -> int:
        return 0


def tuning(target: str) -> str:
    """The name of the configurations that are launched on one of TARGETS."""
    return Target.parse(target).tuning


def launches(
    tuning: str, layouts: Collection[str] = ("rows",), *, records: Iterable[Algorithm] | None = None
) -> dict[str, list[tuple[Launch, Mapping[str, int]]]]:
    """The kernels that are launched with the configurations of ``tuning``, each once, by the first algorithm
    that launches it.

    Algorithms of one family run the same kernels, so only one of them is named. ``layouts`` are some of
    :data:`LAYOUTS`. If there is only "rows", the result has one variant of each kernel; otherwise it has
    every variant to which the layouts lead.
    """
    left_out = _DATA if len(layouts) > 1 else _DATA | _LAYOUT
    known = set()
    found: dict[str, list[tuple[Launch, Mapping[str, int]]]] = {}
    for record in algorithms.all_algorithms() if records is None else records:
        # Hashes of tuples encode them to messages and run the sponge's kernels.
        if record.takes_tuples:
            continue
        for launch, options in catalogue.launches(record, tuning, partial(_measured, record, layouts)):
            kept = ((name, value) for name, value in launch.constants.items() if name not in left_out)
            kernel = (launch.kernel, *kept)
            if kernel not in known:
                known.add(kernel)
                found.setdefault(record.name, []).append((launch, options))
    return found


def _measured(record: Algorithm, layouts: Collection[str], trial: catalogue.Trial) -> bool:
    """Whether the kernels of a trial are compiled for these layouts."""
    if record.construction.hmac_of is not None:
        return trial.shape == "chain"  # The other kernels are those of the hash.
    if trial.per_message:
        in_rows = (trial.shape, trial.start) == ("rows", 0)
        return in_rows and "ragged" in layouts and record.keyed == "required"
    layout, start = {"rows": ("rows", 0), "table": ("ragged", 1), "stream": ("stream", 0)}[trial.shape]
    if layout not in layouts or trial.start != start or trial.label.endswith(catalogue.ONE_AT_A_TIME):
        return False
    # A mode needs other kernels, but not for each layout.
    return layout == "rows" or trial.label != catalogue.MODES


@contextlib.contextmanager
def compiling_for(target: str, cache: Path) -> Iterator[None]:
    """Inside this context, Triton compiles for ``target`` and stores the results in the folder ``cache``."""
    config: Any = triton.runtime.driver
    # Reading "active" would look for a GPU. Some versions of Triton have "_active", which avoids that.
    active = config._active if hasattr(config, "_active") else config.active
    folder = os.environ.get("TRITON_CACHE_DIR")
    config.set_active(_Driver(TARGETS[target]))
    os.environ["TRITON_CACHE_DIR"] = str(cache)
    try:
        yield
    finally:
        config.set_active(active)
        if folder is None:
            del os.environ["TRITON_CACHE_DIR"]
        else:
            os.environ["TRITON_CACHE_DIR"] = folder


def build(launch: Launch, options: Mapping[str, Any]) -> Build:
    """Compile one kernel, inside :func:`compiling_for`."""
    kernel = load_reference(launch.kernel)
    kernel.device_caches.clear()  # forgets earlier compilations; Triton has no public way
    constants = {
        name: load_reference(value) if isinstance(value, str) else value
        for name, value in launch.constants.items()
    }
    before = _processor_seconds()
    compiled = kernel.warmup(*launch.arguments.values(), grid=(1,), **constants, **options)
    seconds = _processor_seconds() - before
    binary = compiled.asm["cubin"] if "cubin" in compiled.asm else compiled.asm["hsaco"]
    return Build(label(launch), compiled, seconds, binary, *_usage(compiled))


@triton.jit
def _yardstick(words):  # type: ignore[no-untyped-def]  # Triton reads annotations
    """A kernel that must not change, so that its compilation measures the machine. Like a hash function, it
    has loads, rounds and stores."""
    lane = words + tl.arange(0, 256)
    a, b, c, d = tl.load(lane), tl.load(lane + 256), tl.load(lane + 512), tl.load(lane + 768)
    for turn in tl.static_range(64):
        mixed = (a << 5 | a >> 27) + (b & c ^ d) + turn
        a, b, c, d = d, mixed, b, c
    tl.store(lane, a)
    tl.store(lane + 256, b)
    tl.store(lane + 512, c)
    tl.store(lane + 768, d)


def yardstick(target: str) -> float:
    """The seconds that the compilation of a fixed kernel takes on this machine at this moment. Times from
    different machines can be compared in relation to it."""
    for _ in range(2):  # the first turn loads the compiler
        with tempfile.TemporaryDirectory() as cache, compiling_for(target, Path(cache)):
            _yardstick.device_caches.clear()
            before = _processor_seconds()
            _yardstick.warmup(torch.zeros(1, dtype=torch.uint32), grid=(1,))
            seconds = _processor_seconds() - before
    return seconds


def label(launch: Launch) -> str:
    """The name of a kernel with the constants that distinguish its variants."""
    words = [launch.kernel.partition(":")[2], launch.constants.get("BLOCK", "").partition(":")[2]]
    for name, value in launch.constants.items():
        if isinstance(value, bool):
            words += [name] if value and name not in ("BIG_ENDIAN", "VARIABLE_BLOCK") else []
        elif isinstance(value, int) and name not in ("BLOCK_BYTES", "WORD_BITS", "STATE_WORDS"):
            words.append(f"{name}={value}")
    return " ".join(filter(None, words))


def _processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def _usage(compiled: Any) -> tuple[int | None, int | None]:
    if "amdgcn" in compiled.asm:
        text = compiled.asm["amdgcn"]
        # Scalar registers are spilled into vector registers, not to memory, so they do not count.
        return _first(r"\.vgpr_count:\s+(\d+)", text), _first(r"\.vgpr_spill_count:\s+(\d+)", text)
    text = cuobjdump("-res-usage", compiled.asm["cubin"])
    if text is None:
        return None, None
    return _first(r"REG:(\d+)", text), _first(r"STACK:(\d+)", text) + _first(r"LOCAL:(\d+)", text)


def _first(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"{pattern} matches nothing in {text}")
    return int(found[1])


def cuobjdump(option: str, cubin: bytes) -> str | None:
    """The output of NVIDIA's cuobjdump for a binary. None if this Triton does not contain the tool."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        return None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.compile_time", description=__doc__)
    parser.add_argument(
        "algorithms", nargs="*", metavar="ALGORITHM", help="by default, one algorithm of every family"
    )
    parser.add_argument(
        "--target", action="append", choices=TARGETS, help="by default, all targets of NVIDIA"
    )
    parser.add_argument("--thorough", action="store_true", help="compile for every layout")
    options = parser.parse_args()
    targets = options.target or [name for name in TARGETS if name.startswith("cuda")]
    records = [algorithms.get(name) for name in options.algorithms] or None
    print(f"Triton {triton.__version__}; seconds of processor time, registers, and what is spilled")
    print(f"The yardstick takes {yardstick(targets[0]):.2f} s.")
    cells: dict[str, dict[str, str]] = {}
    slow = []
    for target in targets:
        layouts = LAYOUTS if options.thorough else LAYOUTS[:1]
        asked = launches(tuning(target), layouts, records=records)
        with tempfile.TemporaryDirectory() as cache, compiling_for(target, Path(cache)):
            for launch, config in (pair for pairs in asked.values() for pair in pairs):
                done = build(launch, config)
                cells.setdefault(done.kernel, {})[target] = (
                    f"{done.seconds:.1f} s, {done.registers}, {done.spilled}"
                )
                print(target, done.kernel, cells[done.kernel][target], flush=True)
                if done.seconds > MOST_SECONDS:
                    slow.append(f"{target} {done.kernel}: {done.seconds:.1f} s")
    print()
    for row in (["kernel", *targets], ["---"] * (1 + len(targets))):
        print(f"| {' | '.join(row)} |")
    for kernel, by_target in cells.items():
        print(f"| {' | '.join([kernel, *(by_target.get(target, '') for target in targets)])} |")
    print(f"\nCompilations of more than {MOST_SECONDS:.0f} s: {'; '.join(slow) or 'none'}")


if __name__ == "__main__":
    main()
