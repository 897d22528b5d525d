"""The kernels in the machine code of Intel GPUs, which Intel's offline compiler makes on any machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

import torch

from integrity_triton import algorithms, cli
from integrity_triton.aot import compiling
from integrity_triton.backends.xpu import XpuBackend
from integrity_triton.drivers.run import Run
from integrity_triton.launching import launch
from integrity_triton.messages.from_caller import batch_messages
from integrity_triton.self_tests.catalogue import Recorder

COMPILER = Path(os.environ.get("INTEGRITY_TRITON_XPU_COMPILER") or Path(sys.prefix, "xpu-compiler"))
TARGETS = [f"xpu:{gpu}" for gpu in compiling.INTEL_GPUS]


@pytest.fixture
def compiler():
    if not (COMPILER / "triton" / "__init__.py").exists():
        pytest.skip(f"absent: no {compiling.INTEL_COMPILER} in {COMPILER}")
    return COMPILER


@pytest.fixture
def offline_compiler():
    if shutil.which(compiling.OFFLINE_COMPILER) is None:
        pytest.skip(f"absent: {compiling.OFFLINE_COMPILER} is not installed")


def of_each_kind(target):
    """One variant of each kernel, with each block function that it is compiled with."""
    found = {}
    for wanted in compiling.specializations(target=target).values():
        found.setdefault(wanted.references, wanted)
    return list(found.values())


def build(wanted, target, folder, compiler):
    outputs = [folder / one.name for one in wanted]
    results = compiling.compile_all(wanted, target, outputs, compiler=compiler)
    for one, output, result in zip(wanted, outputs, results, strict=True):
        assert result["compiler"] == compiling.INTEL_COMPILER
        assert len(Path(f"{output}.bin").read_bytes()) > 1000, one.references
    return outputs


@pytest.mark.parametrize("name", TARGETS)
def test_an_exported_kernel(compiler, offline_compiler, capfd, tmp_path, name):
    where = ["--where", "TABLE=false", "--where", "FINAL=true", "--where", "ALIGN=1"]
    command = ["aot", "xxh64", name, "--kernel", "xxh64_messages", *where, "--compiler", str(compiler)]
    assert cli.main([*command, "-o", str(tmp_path)]) == 0, capfd.readouterr().err
    binary, sidecar, module = sorted(tmp_path.iterdir())
    assert [path.suffix for path in (binary, sidecar, module)] == [".bin", ".json", ".spv"]
    assert len(binary.read_bytes()) > 1000
    described = json.loads(sidecar.read_text())
    assert described["target"] == name
    assert described["binary"] == "bin"
    assert described["entry"].encode() in binary.read_bytes()
    tuned = launch.tuned(name, "integrity_triton.kernels.xxhash:xxh64_messages")
    assert described["threads_per_warp"] == tuned["threads_per_warp"]
    assert described["threads_per_program"] == tuned["threads_per_warp"] * tuned["num_warps"]
    assert described["lanes_per_program"] == tuned["BLOCK_MSGS"]
    registers = tuned.get("grf_mode")
    assert described["build_options"] == (f"-cl-intel-{registers}-GRF-per-thread" if registers else "")
    assert "grf_mode" not in described["constants"]


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", TARGETS)
def test_every_kernel_builds(compiler, offline_compiler, tmp_path, name):
    target = compiling.Target.parse(name)
    build(of_each_kind(target), target, tmp_path, compiler)


@pytest.mark.slow
def test_matrix_units_with_eight_lanes_are_beyond_the_compiler(
    compiler, offline_compiler, monkeypatch, tmp_path
):
    """Why Arc gets no rows of Poly1305. The compiler gives each of eight lanes half of the left operand, and
    ends. Once a version can compile this, the tuning of Arc may have rows again."""
    pvc = compiling.Target.parse("xpu:pvc")
    small = {"BLOCK_MSGS": 16, "BLOCK_K": 32}
    rows = [
        replace(one, constants={**one.constants, **small}, num_warps=1, threads_per_warp=8)
        for one in compiling.specializations([algorithms.get("poly1305")], pvc).values()
        if one.kernel.endswith(":poly1305_rows") and one.constants["ALIGN"] == 16
    ]
    units = {**compiling.INTEL_GPUS["acm-g10"], "has_subgroup_matrix_multiply_accumulate": True}
    monkeypatch.setitem(compiling.INTEL_GPUS, "acm-g10", units)
    with pytest.raises(compiling.CompileError, match="Invalid cast!"):
        build(rows[:1], compiling.Target.parse("xpu:acm-g10"), tmp_path, compiler)


@pytest.mark.parametrize(("name", "rows"), [("xpu:acm-g10", False), ("xpu:pvc", True)])
def test_rows_of_poly1305_are_for_gpus_whose_matrix_units_the_compiler_uses(name, rows):
    target = compiling.Target.parse(name)
    assert target.device["has_subgroup_matrix_multiply_accumulate"] == rows
    record, recorder = algorithms.get("poly1305"), Recorder(target.tuning)
    asked = Run(recorder, record, recorder.launch, "rows")
    asked.execute({"key": bytes(32)}, batch_messages([torch.zeros(70_000, dtype=torch.uint8)]), 16)
    kernels = {one.kernel.partition(":")[2] for one, _ in recorder.recorded.values()}
    assert kernels >= ({"poly1305_rows", "poly1305_matrix"} if rows else {"poly1305_parts"})
    assert not rows or "poly1305_parts" not in kernels
    assert rows or not kernels & {"poly1305_rows", "poly1305_matrix"}


def test_without_the_offline_compiler_the_message_says_how_to_get_it(monkeypatch, capfd, tmp_path):
    monkeypatch.setenv("PATH", "")
    assert cli.main(["aot", "xxh64", "xpu:pvc", "-o", str(tmp_path)]) == 2
    error = capfd.readouterr().err
    assert "ocloc, Intel's compiler for its GPUs, is not installed" in error
    assert "apt-get install intel-opencl-icd" in error
    assert not list(tmp_path.iterdir())


def test_a_gpu_that_is_not_known_is_refused(capfd):
    assert cli.main(["aot", "xxh64", "xpu:none"]) == 2
    error = capfd.readouterr().err
    assert "unknown target 'xpu:none'" in error
    assert "xpu:acm-g10, xpu:pvc, xpu and xpu:avx512" in error


def test_what_the_offline_compiler_says_is_quoted(offline_compiler, tmp_path):
    target = compiling.Target.parse("xpu:pvc")
    module = tmp_path / "module.spv"
    module.write_bytes(b"this is no module")
    wanted = next(iter(compiling.specializations([algorithms.get("xxh64")], target).values()))
    with pytest.raises(
        compiling.CompileError, match=r"ocloc ended with status \d+ for xpu:pvc:\n(.|\n)*spirv"
    ):
        compiling.compile_module(target, wanted, module)
    assert not module.with_suffix(".bin").exists()


# The tuning of the backend


@pytest.mark.parametrize(
    ("sizes", "name"),
    [
        ([[8, 16, 32]], "xpu:acm-g10"),
        ([[16, 32], [16, 32]], "xpu:pvc"),
        ([[8, 16, 32], [16, 32]], "xpu"),
        ([None], "xpu"),
        ([], "xpu"),
    ],
)
def test_the_gpus_determine_the_configurations(monkeypatch, sizes, name):
    devices = [SimpleNamespace(**({} if one is None else {"sub_group_sizes": one})) for one in sizes]
    monkeypatch.setattr(torch.xpu, "device_count", lambda: len(devices))
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda i: devices[i])
    backend = XpuBackend()
    for kernel in launch._tuning()["xpu"]:
        assert backend.tuned(f"module:{kernel}") == launch.tuned(name, f"module:{kernel}")


def test_an_architecture_replaces_what_it_says_otherwise(monkeypatch):
    data = {
        "gpu": {"default": {"A": 1, "B": 1}, "kernel": {"B": 2, "C": 2}, "block": {"C": 3}},
        "gpu:new": {"default": {"A": 5}, "kernel": {"C": 6, "D": 6}},
    }
    monkeypatch.setattr(launch, "_tuning", lambda: data)
    assert launch.tuned("gpu", "m:kernel", "m:block") == {"A": 1, "B": 2, "C": 3}
    assert launch.tuned("gpu:new", "m:kernel", "m:block") == {"A": 5, "B": 2, "C": 3, "D": 6}
    assert launch.tuned("gpu:new", "m:kernel") == {"A": 5, "B": 2, "C": 6, "D": 6}
    assert launch.tuned("gpu:old", "m:other", "m:block") == {"A": 1, "B": 1, "C": 3}


def test_all_options_of_intel_s_compiler_are_tuned():
    """The other members of a configuration are constants of kernels, which are written in capitals."""
    for name in ("xpu", *TARGETS):
        for kernel in launch._tuning()["xpu"]:
            tuned = launch.tuned(name, f"module:{kernel}")
            assert tuned.get("grf_mode") in (None, 128, 256)
            assert {option for option in tuned if option.islower()} <= launch.COMPILER_OPTIONS


OPTIONS = {"num_warps": 4, "threads_per_warp": 16, "grf_mode": 256, "BLOCK_MSGS": 64}
# What triton-xpu's options and compiler look like in its versions.
VERSIONS = """
from dataclasses import dataclass

@dataclass
class XPUOptions:
    num_warps: int = 4
    {size}: int = 32
    grf_mode: str = "default"

class XPUBackend:
    def parse_options(self, options):
        return XPUOptions(**options)

    @staticmethod
    def make_spv(src, metadata, options):
        if options.grf_mode == '{large}':
            metadata["build_flags"] = "-cl-intel-256-GRF-per-thread"
"""


@pytest.mark.parametrize(
    ("size", "large"), [("threads_per_warp", "large"), ("warp_size", "large"), ("warp_size", "256")]
)
def test_options_have_the_names_of_the_installed_triton(monkeypatch, tmp_path, size, large):
    triton_backends = pytest.importorskip("triton.backends")
    (tmp_path / "intel_compiler.py").write_text(VERSIONS.format(size=size, large=large))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "intel_compiler", raising=False)
    import intel_compiler

    installed = SimpleNamespace(compiler=intel_compiler.XPUBackend)
    monkeypatch.setitem(triton_backends.backends, "intel", installed)
    named = XpuBackend().compiler_options(OPTIONS)
    assert named == {"num_warps": 4, size: 16, "grf_mode": large, "BLOCK_MSGS": 64}
    monkeypatch.delitem(sys.modules, "intel_compiler")


def test_triton_takes_the_options_that_are_launched(compiler):
    """The real compiler: it must know every option, and pass the register mode to the driver."""
    program = f"""
from integrity_triton.backends.xpu import XpuBackend
from triton.backends import backends
compiler = backends["intel"].compiler
named = XpuBackend().compiler_options({OPTIONS})
del named["BLOCK_MSGS"]
options = compiler.parse_options(None, named)
assert all(getattr(options, name) == value for name, value in named.items()), options
compiler.make_spv.__globals__["intel"].translate_to_spirv = lambda src: (b"", "k")
metadata = dict()
compiler.make_spv("", metadata, options)
assert metadata["build_flags"] == "-cl-intel-256-GRF-per-thread", metadata
"""
    path = os.pathsep.join([str(compiler), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
