"""Compiling kernels for a target, which need not be present: the choice of the kernels and of their
compile-time arguments, the compilation, and the description of its results."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import algorithms
from ..algorithms import Algorithm
from ..backends.base import Probe
from ..backends.opencl.prebuilt import Specialization
from ..backends.triton_backend import TritonBackend
from ..drivers import driver_class
from ..errors import IntegrityTritonError
from ..launching.launch import Launch
from ..launching.request import Request
from ..messages.from_caller import batch_messages
from ..messages.layout import Rows
from ..messages.per_message import PerMessage

if TYPE_CHECKING:
    import torch

INTEL_COMPILER = "triton-xpu 3.3.0b1"
SIDECAR_FORMAT = 1
# The size in bytes of a long message. Some algorithms hash long messages with other kernels.
_HALF = 1 << 19


class CompileError(IntegrityTritonError, RuntimeError):
    """Raised if a kernel does not compile or there is no compiler for its target. The message says why."""


@dataclass(frozen=True)
class Target:
    """A device architecture to compile for, such as ``cuda:90``, ``hip:gfx942`` or ``xpu``."""

    name: str
    backend: str
    """Triton's name for the vendor's backend."""
    architecture: int | str | None
    threads_per_warp: int | None
    """None if the tuning data determine it."""
    tuning: str
    """The name of the backend whose tile sizes are used."""
    binaries: tuple[str, ...]
    """The kinds of file that the compiler writes. The first is the one that a driver loads."""
    pointer_alignment: int
    """The alignment in bytes of every pointer argument. The compiler relies on it."""

    @classmethod
    def parse(cls, name: str) -> Target:
        """The target with this name. Raises ValueError if there is none."""
        if name == "xpu":
            return cls(name, "xpu", None, None, "opencl", ("spv",), 4)
        if found := re.fullmatch(r"cuda:(\d{2,3})", name):
            return cls(name, "cuda", int(found[1]), 32, "cuda", ("cubin", "ptx"), 16)
        if found := re.fullmatch(r"hip:(gfx[0-9a-f]{3,4})", name):
            # Wavefronts have 64 lanes in the CDNA family and 32 in the RDNA family.
            warp = 64 if found[1].startswith("gfx9") else 32
            return cls(name, "hip", found[1], warp, "hip", ("hsaco",), 16)
        raise ValueError(
            f"unknown target {name!r}; targets are cuda:90 or another compute capability, "
            "hip:gfx942 or another architecture, and xpu"
        )


class _Recorder(TritonBackend):
    """Prepares launches as a backend does, but records them instead of running anything."""

    summary = "records launches"
    device_types = ("cpu",)
    torch_device_type = "cpu"

    def __init__(self, tuning: str) -> None:
        self.name = self.tuning = tuning  # type: ignore[misc]
        self.recorded: dict[str, Specialization] = {}

    def probe(self) -> Probe:
        return Probe(False, "runs nothing")

    def admit(self, request: Request, launch: Launch, options: Mapping[str, int]) -> None:
        """There is nothing to test."""

    def launch(self, launch: Launch, options: Mapping[str, int]) -> None:
        wanted = Specialization.of(launch, options)
        self.recorded[wanted.name] = wanted


def specializations(
    records: Iterable[Algorithm] | None = None, target: Target | None = None
) -> dict[str, Specialization]:
    """The kernels that are launched for ``records`` (by default all built-in algorithms) on a target (by
    default ``xpu``), by the names of their artifacts."""
    import torch

    recorder = _Recorder((target or Target.parse("xpu")).tuning)
    memory = torch.zeros(2 * _HALF + 32, dtype=torch.uint8)
    memory = memory[-memory.data_ptr() % 16 :]
    for record in algorithms.all_algorithms() if records is None else records:
        if recorder.unsupported(record):
            continue
        for way in driver_class(record).ways or (None,):
            with taking(record, way):
                _record(recorder, record, memory)
    return recorder.recorded


@contextlib.contextmanager
def taking(record: Algorithm, way: str | None) -> Iterator[None]:
    """Inside this context, the driver of ``record`` takes only ``way``; None leaves the choice to the
    driver."""
    kind = driver_class(record)
    before = kind.way
    kind.way = way
    try:
        yield
    finally:
        kind.way = before


def _record(recorder: _Recorder, record: Algorithm, memory: torch.Tensor) -> None:
    """Hash messages of all forms that lead to different compilations of the kernels for ``record``."""
    import torch

    size = record.digest_size or 32
    modes = _modes(record)
    for start in (0, 4, 1):
        data = memory[start : start + 5120]
        one_row = Rows(data, data.data_ptr(), 1, 5120, 5120, 5120)
        rows = Rows(data, data.data_ptr(), 2, 2560, 2560, 5120)
        ragged = batch_messages([data[:2000], data[2000:4000]])
        long = memory[start : start + 2 * _HALF]
        long_rows = Rows(long, long.data_ptr(), 2, _HALF, _HALF, 2 * _HALF)
        long_ragged = batch_messages([long[:_HALF], long[_HALF:]])
        lengths = (size, 4 * record.block_size) if record.xof else (size,)
        for messages in (one_row, rows, ragged, long_rows, long_ragged):
            for mode, length in itertools.product(modes, lengths):
                per_message = {name: PerMessage([value] * messages.count) for name, value in mode.items()}
                recorder.digest_batch(record, per_message or record.trial_parameters(), messages, length)
        for uneven in _keys_of_two_lengths(record):
            recorder.digest_batch(record, uneven, ragged, size)
        if record.construction.hmac_of is not None:
            keys = PerMessage([torch.zeros(16, dtype=torch.uint8)] * 2)
            recorder.mac_chain(record, keys, torch.zeros((2, size), dtype=torch.uint8), 1)
        stream = recorder.stream(record, record.trial_parameters())
        # A stream copies bytes that do not fill a block, and reads whole blocks in place.
        stream.update(data)
        stream.digest(size, 0)


def _modes(record: Algorithm) -> list[dict[str, torch.Tensor]]:
    """Sets of parameters with a value for each message, for which the algorithm runs other kernels. The first
    set is empty."""
    import torch

    modes: list[dict[str, torch.Tensor]] = [{}]
    if record.keyed != "no":
        (key,) = (p for p in record.parameters if p.name == "key")
        given = {"key": b"", **record.trial_parameters()}
        if not given["key"]:
            given["key"] = bytes(key.min_size or key.max_size or 16)
        modes.append({name: torch.zeros(len(value), dtype=torch.uint8) for name, value in given.items()})
    return modes


def _keys_of_two_lengths(record: Algorithm) -> Iterator[dict[str, Any]]:
    """Parameters of two messages whose keys differ in length. There are none if all keys have the same
    length."""
    import torch

    for parameter in record.parameters:
        if parameter.name == "key" and parameter.per_message:
            fewest = parameter.min_size or 1
            sizes = parameter.sizes or (fewest, fewest + 1)
            if len(sizes) > 1 and (parameter.max_size is None or sizes[-1] <= parameter.max_size):
                keys = [torch.zeros(size, dtype=torch.uint8) for size in (sizes[0], sizes[-1])]
                yield {**record.trial_parameters(), "key": PerMessage(keys)}


def compile_all(
    wanted: Sequence[Specialization],
    target: Target,
    outputs: Sequence[Path],
    *,
    compiler: Path | None = None,
    matrix: bool = False,
) -> list[dict[str, Any]]:
    """Compile ``wanted`` for ``target`` in other processes, with the Triton in the folder ``compiler``, or by
    default with the installed Triton.

    The files of each kernel have its path in ``outputs``, with each of ``target.binaries`` appended as a
    suffix. Returns the results that :func:`sidecar` needs, one for each kernel. ``matrix`` says whether the
    Intel device has matrix units.

    Raises CompileError with the compiler's message if the compilation fails.
    """
    if compiler is not None and not (compiler / "triton" / "__init__.py").exists():
        raise CompileError(f"{compiler} holds no Triton")
    jobs = [
        {
            "kernel": w.kernel,
            "constants": dict(w.constants),
            "arguments": w.arguments,
            "num_warps": w.num_warps,
            "target": [target.backend, target.architecture, _warp(w, target)],
            "pointer_alignment": target.pointer_alignment,
            "matrix": matrix,
            "outputs": {kind: f"{output}.{kind}" for kind in target.binaries},
        }
        for w, output in zip(wanted, outputs, strict=True)
    ]
    workers = max(1, min(len(jobs), os.cpu_count() or 1))
    with tempfile.TemporaryDirectory() as cache, ThreadPoolExecutor(workers) as pool:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*([str(compiler)] if compiler else []), *sys.path]),
            "TRITON_DISABLE_LINE_INFO": "1",
            "TRITON_CACHE_DIR": cache,
        }
        environment.pop("TRITON_INTERPRET", None)

        def run(share: list[dict[str, Any]]) -> list[dict[str, Any]]:
            done = subprocess.run(
                [sys.executable, "-m", "integrity_triton.aot.worker"],
                input=json.dumps(share),
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise CompileError(f"compiling for {target.name} failed:\n{done.stderr[-4000:].strip()}")
            results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            if len(results) != len(share):  # a module with device code may have ended the process
                raise CompileError(f"compiling for {target.name} gave {len(results)} of {len(share)} kernels")
            return results

        shares = [jobs[i::workers] for i in range(workers)]
        results = list(pool.map(run, shares))
    return [results[i % workers][i // workers] for i in range(len(jobs))]


def _warp(wanted: Specialization, target: Target) -> int:
    threads = target.threads_per_warp or wanted.threads_per_warp
    assert threads is not None
    return threads


def sidecar(wanted: Specialization, target: Target, result: Mapping[str, Any]) -> dict[str, Any]:
    """The data that a program in any language needs to launch the kernel. docs/guide/aot.md describes
    them."""
    return {
        "format": SIDECAR_FORMAT,
        "target": target.name,
        "binary": target.binaries[0],
        "entry": result["entry"],
        "kernel": wanted.kernel,
        "constants": dict(wanted.constants),
        "arguments": [{"name": name, "type": kind} for name, kind in result["arguments"]],
        "trailing_arguments": result["trailing_arguments"],
        "pointer_alignment": target.pointer_alignment,
        "lanes_per_program": wanted.constants["BLOCK_MSGS"],
        "threads_per_program": wanted.num_warps * _warp(wanted, target),
        "threads_per_warp": _warp(wanted, target),
        "shared_bytes": result["shared"],
        "compiler": result["compiler"],
    }
