"""Compiling kernels for a target, which need not be present: the choice of the kernels and of their
compile-time arguments, the compilation, and the description of its results."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .. import algorithms
from ..algorithms import Algorithm
from ..backends.hip import wavefront_tuning
from ..backends.opencl.prebuilt import Specialization
from ..backends.opencl.processor import SETS
from ..errors import IntegrityTritonError
from ..launching.launch import tuned
from ..self_tests.catalogue import launches

INTEL_COMPILER = "triton-xpu 3.3.0b1"
SIDECAR_FORMAT = 1
OFFLINE_COMPILER = "ocloc"
"""Intel's compiler from SPIR-V to the machine code of a GPU, which graphics drivers contain as well."""
_INSTALL_OFFLINE_COMPILER = (
    f"{OFFLINE_COMPILER}, Intel's compiler for its GPUs, is not installed; "
    "on Debian and Ubuntu: apt-get install intel-opencl-icd libigc1 libigdfcl1"
)
# What Triton asks the driver about a GPU, by the name of the architecture for Intel's offline compiler.
INTEL_GPUS: Mapping[str, Mapping[str, Any]] = {
    # Arc, A-series: registers of 32 bytes
    "acm-g10": {"sub_group_sizes": [8, 16, 32], "has_subgroup_matrix_multiply_accumulate": False},
    # Data Center GPU Max: registers of 64 bytes
    "pvc": {"sub_group_sizes": [16, 32], "has_subgroup_matrix_multiply_accumulate": True},
}

PORTABLE: Mapping[str, str] = {"xpu": SETS["avx2"], "xpu:avx512": SETS["avx512"]}
"""The targets whose SPIR-V is bound to no architecture, with the names of their configurations in
``tuning.json``. Both run on every device that the ``opencl`` backend takes."""


class CompileError(IntegrityTritonError, RuntimeError):
    """Raised if a kernel does not compile or there is no compiler for its target. The message says why."""


@dataclass(frozen=True)
class Target:
    """A device architecture to compile for, such as ``cuda:90``, ``hip:gfx942``, ``xpu:pvc``, or ``xpu`` and
    ``xpu:avx512`` for SPIR-V that is bound to no architecture."""

    name: str
    backend: str
    """Triton's name for the vendor's backend."""
    architecture: int | str | None
    threads_per_warp: int | None
    """None if the tuning data determine it."""
    tuning: str
    """The name under which ``tuning.json`` has the configurations that are used."""
    binaries: tuple[str, ...]
    """The kinds of file that the compiler writes. The first is the one that a driver loads."""
    pointer_alignment: int
    """The alignment in bytes of every pointer argument. The compiler relies on it."""

    @classmethod
    def parse(cls, name: str) -> Target:
        """The target with this name. Raises ValueError if there is none."""
        if name in PORTABLE:
            return cls(name, "xpu", None, None, PORTABLE[name], ("spv",), 4)
        if name.partition(":")[0] == "xpu" and name[4:] in INTEL_GPUS:
            return cls(name, "xpu", name[4:], None, name, ("bin", "spv"), 16)
        if found := re.fullmatch(r"cuda:(\d{2,3})", name):
            return cls(name, "cuda", int(found[1]), 32, "cuda", ("cubin", "ptx"), 16)
        if found := re.fullmatch(r"hip:(gfx[0-9a-f]{3,4})", name):
            # Wavefronts have 64 lanes in the CDNA family and 32 in the RDNA family.
            warp = 64 if found[1].startswith("gfx9") else 32
            return cls(name, "hip", found[1], warp, wavefront_tuning(warp), ("hsaco",), 16)
        raise ValueError(
            f"unknown target {name!r}; targets are cuda:90 or another compute capability, "
            f"hip:gfx942 or another architecture, {', '.join(f'xpu:{gpu}' for gpu in INTEL_GPUS)}, "
            f"{' and '.join(PORTABLE)}"
        )

    @property
    def device(self) -> Mapping[str, Any]:
        """What Triton asks the driver about an Intel GPU, as far as it is known of the target."""
        return INTEL_GPUS.get(str(self.architecture), {})

    @property
    def for_intel_gpu(self) -> bool:
        """Whether the target is the machine code of an Intel GPU."""
        return self.backend == "xpu" and self.architecture is not None


def specializations(
    records: Iterable[Algorithm] | None = None, target: Target | None = None
) -> dict[str, Specialization]:
    """The kernels that are launched for ``records`` (by default all registered algorithms) on a target (by
    default ``xpu``), by the names of their artifacts. There are none for an algorithm without a driver."""
    tuning = (target or Target.parse("xpu")).tuning
    found = {}
    for record in algorithms.all_algorithms() if records is None else records:
        for launch, options in launches(record, tuning):
            wanted = Specialization.of(launch, options)
            found[wanted.name] = wanted
    return found


def prebuilt_specializations() -> dict[str, Specialization]:
    """The kernels that ship for the ``opencl`` backend, of both sets, by the names of their artifacts."""
    usual, other = (Target.parse(name) for name in PORTABLE)
    found: dict[str, Specialization] = {}
    for record in algorithms.all_algorithms():
        of_record = specializations([record], usual)
        found |= of_record
        # To list the launches of an algorithm takes long, and those of most are the same in both sets.
        launched = [(asked.kernel, asked.constants.get("BLOCK")) for asked in of_record.values()]
        if any(tuned(other.tuning, *names) != tuned(usual.tuning, *names) for names in launched):
            found |= specializations([record], other)
    return found


def compile_all(
    wanted: Sequence[Specialization],
    target: Target,
    outputs: Sequence[Path],
    *,
    compiler: Path | None = None,
    matrix: bool = False,
    lines: bool = False,
) -> list[dict[str, Any]]:
    """Compile ``wanted`` for ``target`` in other processes, with the Triton in the folder ``compiler``, or by
    default with the installed Triton.

    The files of each kernel have its path in ``outputs``, with each of ``target.binaries`` appended as a
    suffix. Returns the results that :func:`sidecar` needs, one for each kernel, in which "messages" are those
    of Intel's offline compiler. ``matrix`` lets the kernels
    use the matrix units of an Intel device of which the target does not say whether it has any. With
    ``lines``, the binaries say from which line of the source each instruction comes.

    Raises CompileError with the compiler's message if the compilation fails, or if a compiler is missing.
    """
    if compiler is not None and not (compiler / "triton" / "__init__.py").exists():
        raise CompileError(f"{compiler} holds no Triton")
    if target.for_intel_gpu and shutil.which(OFFLINE_COMPILER) is None:
        raise CompileError(_INSTALL_OFFLINE_COMPILER)
    jobs = [
        {
            "kernel": w.kernel,
            "constants": dict(w.constants),
            "arguments": w.arguments,
            "num_warps": w.num_warps,
            "target": [target.backend, target.architecture, _warp(w, target)],
            "pointer_alignment": target.pointer_alignment,
            "device": {"has_subgroup_matrix_multiply_accumulate": matrix, **target.device},
            "portable": not target.for_intel_gpu,
            "outputs": {kind: f"{output}.{kind}" for kind in target.binaries if kind != "bin"},
        }
        for w, output in zip(wanted, outputs, strict=True)
    ]
    workers = max(1, min(len(jobs), os.cpu_count() or 1))
    with tempfile.TemporaryDirectory() as cache, ThreadPoolExecutor(workers) as pool:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*([str(compiler)] if compiler else []), *sys.path]),
            "TRITON_DISABLE_LINE_INFO": "0" if lines else "1",
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
        if target.for_intel_gpu:
            modules = [Path(f"{output}.spv") for output in outputs]
            messages = list(pool.map(partial(compile_module, target, lines=lines), wanted, modules))
        else:
            messages = [""] * len(jobs)
    return [{**results[i % workers][i // workers], "messages": said} for i, said in enumerate(messages)]


def build_options(wanted: Specialization) -> str:
    """The options with which a driver of an Intel GPU has to build the SPIR-V of a kernel."""
    return "" if wanted.grf_mode is None else f"-cl-intel-{wanted.grf_mode}-GRF-per-thread"


def compile_module(target: Target, wanted: Specialization, module: Path, *, lines: bool = False) -> str:
    """Compile a SPIR-V module for an Intel GPU. The machine code gets the module's path with the suffix
    ``.bin``. ``lines`` is as for :func:`compile_all`. Returns the compiler's messages.

    Raises CompileError with these messages if the compilation fails.
    """
    options = " ".join(filter(None, (build_options(wanted), "-g" if lines else "")))
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                OFFLINE_COMPILER,
                "compile",
                *("-spirv_input", "-file", str(module), "-device", str(target.architecture)),
                *("-out_dir", folder, "-output", "kernel"),
                *(("-options", options) if options else ()),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        messages = (done.stdout + done.stderr).strip()
        binary = next(Path(folder).glob("*.bin"), None)
        if done.returncode != 0 or binary is None:
            status = f"{OFFLINE_COMPILER} ended with status {done.returncode} for {target.name}"
            raise CompileError(f"{status}:\n{messages[-4000:]}")
        module.with_suffix(".bin").write_bytes(binary.read_bytes())
    return messages


def _warp(wanted: Specialization, target: Target) -> int:
    threads = target.threads_per_warp or wanted.threads_per_warp
    assert threads is not None
    return threads


def sidecar(wanted: Specialization, target: Target, result: Mapping[str, Any]) -> dict[str, Any]:
    """The data that a program in any language needs to launch the kernel. docs/guide/aot.md describes
    them."""
    described = {
        "format": SIDECAR_FORMAT,
        # Both sets for CPUs share kernels, and each kernel runs on every device of either.
        "target": "xpu" if target.name in PORTABLE else target.name,
        "binary": target.binaries[0],
        "entry": result["entry"],
        "kernel": wanted.kernel,
        "constants": dict(wanted.constants),
        "arguments": [{"name": name, "type": kind} for name, kind in result["arguments"]],
        "trailing_arguments": result["trailing_arguments"],
        "pointer_alignment": target.pointer_alignment,
        "lanes_per_program": wanted.constants["BLOCK_MSGS"],
        "threads_per_program": wanted.num_warps * result["threads_per_warp"],
        "threads_per_warp": result["threads_per_warp"],
        "shared_bytes": result["shared"],
        "compiler": result["compiler"],
    }
    if target.for_intel_gpu:
        described["build_options"] = build_options(wanted)
    return described
