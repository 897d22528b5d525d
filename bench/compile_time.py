"""What kernels take to compile, without a GPU: ``python -m bench.compile_time [ALGORITHM]... [--target T]``.

Prints for every kernel and target the seconds of a cold compile, the registers of a thread, and what is
spilled. Seconds are of the processor (this process's and its assembler's), which other work on the
machine disturbs less than the clock on the wall.
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
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget

from integrity_triton import algorithms
from integrity_triton.algorithms import Algorithm, load_reference
from integrity_triton.aot.compiling import taking
from integrity_triton.backends.jit import JitBackend
from integrity_triton.drivers import driver_class
from integrity_triton.launching.launch import Launch
from integrity_triton.launching.request import Request
from integrity_triton.messages.from_caller import batch_messages
from integrity_triton.messages.layout import Rows
from integrity_triton.messages.per_message import PerMessage

TARGETS = {
    "cuda:80": GPUTarget("cuda", 80, 32),
    "cuda:90": GPUTarget("cuda", 90, 32),
    "cuda:100": GPUTarget("cuda", 100, 32),
    "hip:gfx942": GPUTarget("hip", "gfx942", 64),
    "hip:gfx1100": GPUTarget("hip", "gfx1100", 32),
}
MOST_SECONDS = 4.0
# What is compiled apart: aligned rows, unaligned messages of any lengths, and pieces of one message.
LAYOUTS = ("rows", "ragged", "stream")
# Constants of kernels that do not make another kernel of it: data, and what depends on the layout.
_DATA = {"REFLECTED"}
_LAYOUT = {"TABLE", "OWN_STATE", "OWN_CONSTANTS", "OWN_KEY", "FINAL", "ALIGN", "ROOTS", "FOLDED", "LANES"}
_SHORT, _HALF = 5120, 1 << 19


@dataclass(frozen=True)
class Build:
    """A kernel as it was compiled for one target."""

    kernel: str
    compiled: Any
    seconds: float
    """Of the processor."""
    binary: bytes
    registers: int | None
    """A thread's; None where there is no tool to tell."""
    spilled: int | None
    """Bytes, or for AMD vector registers, that a thread has in memory."""


class _Driver:
    """As much of a Triton driver as compiling asks for."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return list(TARGETS.values()).index(self.target)  # Triton keeps its binaries by device

    def get_current_stream(self, device: int) -> int:
        return 0


class _Recorder(JitBackend):
    """Lays out and launches as the backend of its vendor does, but only writes down the launches."""

    summary = "compiles only"
    device_types = ("cpu",)
    torch_device_type = "cpu"
    device_kind = "nothing"

    def __init__(self, vendor: str, variants: bool) -> None:
        self.name = vendor  # type: ignore[misc]  # whose tuning it takes
        self.variants = variants
        self.asked: dict[Any, tuple[Launch, Mapping[str, int]]] = {}

    def unfit(self) -> str | None:
        return None

    def admit(self, request: Request, launch: Launch, options: Mapping[str, int]) -> None:
        """There is nothing to test."""

    def launch(self, launch: Launch, options: Mapping[str, int]) -> None:
        left_out = _DATA if self.variants else _DATA | _LAYOUT
        kept = ((name, value) for name, value in launch.constants.items() if name not in left_out)
        self.asked.setdefault((launch.kernel, *kept), (launch, options))


def launches(
    vendor: str, layouts: Collection[str] = ("rows",), *, records: Iterable[Algorithm] | None = None
) -> dict[str, list[tuple[Launch, Mapping[str, int]]]]:
    """Every kernel that a vendor's backend launches, each once, under the first algorithm that does.

    Algorithms of one family run the same kernels, so that only one of them is named. ``layouts`` are of
    :data:`LAYOUTS`; with "rows" alone there is one of a kernel's variants, else each that these lead to.
    """
    recorder = _Recorder(vendor, variants=len(layouts) > 1)
    found: dict[str, list[tuple[Launch, Mapping[str, int]]]] = {}
    memory = torch.zeros(2 * _HALF + 32, dtype=torch.uint8)
    memory = memory[-memory.data_ptr() % 16 :]
    for record in algorithms.all_algorithms() if records is None else records:
        # Hashes of tuples run the sponge's kernels, over messages that they make themselves; HMAC its hash's.
        if recorder.unsupported(record) or record.takes_tuples:
            continue
        known = set(recorder.asked)
        if record.construction.hmac_of is not None:
            keys = PerMessage(torch.zeros((2, 16), dtype=torch.uint8))
            first = torch.zeros((2, record.digest_size), dtype=torch.uint8)
            with contextlib.suppress(TypeError):
                recorder.mac_chain(record, keys, first, 1)
        else:
            for way in driver_class(record).ways or (None,):
                with taking(record, way):
                    _launch(recorder, record, memory, layouts)
        new = [asked for name, asked in recorder.asked.items() if name not in known]
        if new:
            found[record.name] = new
    return found


def _launch(recorder: _Recorder, record: Algorithm, memory: torch.Tensor, layouts: Collection[str]) -> None:
    short, long = memory[:_SHORT], memory[: 2 * _HALF]
    size = record.digest_size or 32
    batches: list[Any] = [Rows(short, short.data_ptr(), 2, _SHORT // 2, _SHORT // 2, _SHORT)]
    if record.parallel:  # other kernels may serve long messages
        batches.append(Rows(long, long.data_ptr(), 2, _HALF, _HALF, 2 * _HALF))
    if "ragged" in layouts:
        batches.append(batch_messages([short[1:2000], short[3:3]]))
        if record.parallel:
            batches.append(batch_messages([long[1 : _HALF + 1], long[:_HALF]]))
    parameters = record.trial_parameters()
    for messages in batches:
        recorder.digest_batch(record, parameters, messages, size)
    if "ragged" in layouts and record.keyed == "required":
        own = {k: PerMessage([torch.zeros(len(v), dtype=torch.uint8)] * 2) for k, v in parameters.items()}
        recorder.digest_batch(record, own, batches[0], size)
    if "stream" in layouts:
        stream = recorder.stream(record, parameters)
        stream.update(short)
        stream.update(long[: _HALF if record.parallel else 0])
    if record.xof:
        recorder.digest_batch(record, parameters, batches[0], 4 * record.block_size)


@contextlib.contextmanager
def compiling_for(target: str, cache: Path) -> Iterator[None]:
    """Triton compiles for ``target``, and keeps what it compiles in the folder ``cache``."""
    config: Any = triton.runtime.driver
    # Where Triton has the attribute, reading "active" itself would look for a GPU.
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
    kernel.device_caches.clear()  # what this process compiled before; Triton has no public way
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
    """Something to compile that stays as it is, of a hash function's kind: loads, rounds, stores."""
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
    """Seconds that compiling a fixed kernel takes here and now, by which machines can be compared."""
    for _ in range(2):  # the first loads the compiler
        with tempfile.TemporaryDirectory() as cache, compiling_for(target, Path(cache)):
            _yardstick.device_caches.clear()
            before = _processor_seconds()
            _yardstick.warmup(torch.zeros(1, dtype=torch.uint32), grid=(1,))
            seconds = _processor_seconds() - before
    return seconds


def label(launch: Launch) -> str:
    """A kernel's name with the constants that tell its variants apart."""
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
        # Scalar registers spill into vector registers, which is no way to memory.
        return _first(r"\.vgpr_count:\s+(\d+)", text), _first(r"\.vgpr_spill_count:\s+(\d+)", text)
    text = cuobjdump("-res-usage", compiled.asm["cubin"])
    if text is None:
        return None, None
    return _first(r"REG:(\d+)", text), _first(r"STACK:(\d+)", text) + _first(r"LOCAL:(\d+)", text)


def _first(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"no {pattern} in {text}")
    return int(found[1])


def cuobjdump(option: str, cubin: bytes) -> str | None:
    """What NVIDIA's tool says of a binary; None where Triton does not bring it along."""
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
    parser.add_argument("algorithms", nargs="*", metavar="ALGORITHM", help="default: one of every family")
    parser.add_argument("--target", action="append", choices=TARGETS, help="default: NVIDIA's")
    parser.add_argument("--thorough", action="store_true", help="every layout that is compiled apart")
    options = parser.parse_args()
    targets = options.target or [name for name in TARGETS if name.startswith("cuda")]
    records = [algorithms.get(name) for name in options.algorithms] or None
    print(f"Triton {triton.__version__}; seconds of processor time, registers, spilled")
    print(f"the yardstick takes {yardstick(targets[0]):.2f} s")
    cells: dict[str, dict[str, str]] = {}
    slow = []
    for target in targets:
        layouts = LAYOUTS if options.thorough else LAYOUTS[:1]
        asked = launches(TARGETS[target].backend, layouts, records=records)
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
    print(f"\nover {MOST_SECONDS:.0f} s: {'; '.join(slow) or 'none'}")


if __name__ == "__main__":
    main()
