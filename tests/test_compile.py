"""Every kernel builds for every GPU target, without a GPU: the host code's own launches, compiled.

Compiling proves neither that a kernel runs nor that it is right; it catches what a vendor's
compiler refuses, spilled registers and lost vector loads.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget

from integrity_triton import algorithms
from integrity_triton._data import batch_messages
from integrity_triton.algorithms import load_reference
from integrity_triton.backends.base import Rows
from integrity_triton.backends.jit import JitBackend
from integrity_triton.backends.triton_host import Launch

TARGETS = {
    "cuda:80": GPUTarget("cuda", 80, 32),
    "cuda:90": GPUTarget("cuda", 90, 32),
    "cuda:100": GPUTarget("cuda", 100, 32),
    "hip:gfx942": GPUTarget("hip", "gfx942", 64),
    "hip:gfx1100": GPUTarget("hip", "gfx1100", 32),
}
BINARY = {"cuda": "cubin", "hip": "hsaco"}


class _Driver:
    """As much of a Triton driver as compiling asks for."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return list(TARGETS.values()).index(self.target)  # Triton keeps its binaries by device

    def get_current_stream(self, device):
        return 0


class CompilingBackend(JitBackend):
    """Lays out and launches as the backend of its vendor does, but stops at the binary."""

    summary = "compiles only"
    device_types = ("cpu",)
    torch_device_type = "cpu"
    device_kind = "nothing"

    def __init__(self, target: GPUTarget) -> None:
        self.name = target.backend  # whose tuning it takes
        self.compiled: dict[str, object] = {}

    def unfit(self) -> str | None:
        return None

    def launch(self, launch: Launch, options: Mapping[str, int]) -> None:
        kernel = load_reference(launch.kernel)
        constants = {
            name: load_reference(value) if isinstance(value, str) else value
            for name, value in launch.constants.items()
        }
        compiled = kernel.warmup(*launch.arguments.values(), grid=(1,), **constants, **options)
        key = f"{launch.kernel.partition(':')[2]} {dict(launch.constants)}"
        self.compiled[key] = compiled


@pytest.fixture
def compiler(request):
    target = TARGETS[request.param]
    config = triton.runtime.driver
    # Where Triton has the attribute, reading "active" itself would look for a GPU.
    saved = config._active if hasattr(config, "_active") else config.active
    config.set_active(_Driver(target))
    yield CompilingBackend(target)
    config.set_active(saved)


CHECKSUMS = ["crc32", "crc64_nvme", "xxh64", "xxh3_128"]

# Each vendor's commonest target gets all variants of the kernels, the others one of each kernel.
THOROUGH = ("cuda:90", "hip:gfx942")


def _launch_everything(backend: CompilingBackend, name: str, thorough: bool) -> None:
    """Every kernel of one algorithm, on the layouts that are compiled apart."""
    record = algorithms.get(name)
    half = 1 << 19
    memory = torch.empty(2 * half + 32, dtype=torch.uint8)
    start = -memory.data_ptr() % 16
    aligned, long = memory[start : start + 5120], memory[start : start + 2 * half]
    rows = Rows(aligned, aligned.data_ptr(), 2, 2560, 2560, 5120)
    size = record.digest_size or 32
    backend.hash_batch(record, {}, rows, size)
    if record.parallel:  # other kernels may serve long messages
        backend.hash_batch(record, {}, Rows(long, long.data_ptr(), 2, half, half, 2 * half), size)
    if thorough:
        ragged = batch_messages([aligned[1:2000], aligned[3:3]])
        backend.hash_batch(record, {}, ragged, size)
        if record.parallel:
            backend.hash_batch(record, {}, batch_messages([memory[1 : half + 1], memory[:half]]), size)
        backend.stream(record, {}).update(aligned)
    if record.xof:
        backend.hash_batch(record, {}, rows, 4 * record.block_size)


@pytest.mark.parametrize("compiler", TARGETS, indirect=True)
@pytest.mark.parametrize(
    "name", ["sha256", "blake3", "blake2b", "blake2s", "blake2bp", "blake2sp", "blake2xb", "blake2xs"]
)  # SHA-224 runs SHA-256's kernels
def test_every_kernel_builds(compiler, name, request):
    _launch_everything(compiler, name, request.node.callspec.params["compiler"] in THOROUGH)
    target = compiler.name
    assert compiler.compiled
    for kernel, compiled in compiler.compiled.items():
        assert len(compiled.asm[BINARY[target]]) > 1000, kernel
        # 64-bit arithmetic whatever the values, or addresses past 2 GiB go wrong.
        signature = compiled.src.signature
        for argument in ("address", "count", "stride", "length", "total", "nodes", "counter"):
            assert signature.get(argument, "i64") == "i64", (kernel, argument, signature)
        if target == "cuda":
            _check_cubin(kernel, compiled)


def _check_cubin(kernel: str, compiled) -> None:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        return
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
        sass = subprocess.run([tool, "-sass", file.name], capture_output=True, text=True, check=True).stdout
    text = usage.stdout + usage.stderr
    assert re.search(r"STACK:0\b", text), f"{kernel} spills: {text}"
    assert re.search(r"LOCAL:0\b", text), f"{kernel} spills: {text}"
    if "'ALIGN': 16" in kernel:
        assert "LDG.E.128" in sass, f"{kernel} has lost its vector loads"


@pytest.mark.parametrize("compiler", ["cuda:90"], indirect=True)
def test_debug_mode_asserts_no_overflow_in_hash_arithmetic(compiler, monkeypatch):
    tuned = compiler.options
    monkeypatch.setattr(compiler, "options", lambda launch: {**tuned(launch), "debug": True})
    _launch_everything(compiler, "blake3", thorough=False)
    for kernel, compiled in compiler.compiled.items():
        assert "uint32 overflow detected for operation add" not in compiled.asm["ttir"], kernel
